//! `Content-Length`, which says in one number how long a message is.

use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue};

/// A message that does not say in one number how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LengthError {
    /// A value is no number of bytes.
    #[error("Content-Length is no number")]
    NoNumber,
    /// Two values differ.
    #[error("two values of Content-Length differ")]
    Contradiction,
}

/// Returns the value of `Content-Length`, if there is one. Equal values, in one field or in several, become one field with
/// one value: a reader may refuse the others (RFC 9110, section 8.6; RFC 9112, section 6.3).
///
/// # Errors
/// The values differ, or are no numbers. The fields are then as they were.
pub fn single_length(headers: &mut HeaderMap) -> Result<Option<u64>, LengthError> {
    let mut fields = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = fields.next() else { return Ok(None) };
    match (number(first.as_bytes()), fields.next()) {
        (Some(length), None) => Ok(Some(length)),
        _ => collapse(headers).map(Some),
    }
}

fn collapse(headers: &mut HeaderMap) -> Result<u64, LengthError> {
    let fields = headers.get_all(CONTENT_LENGTH).iter();
    let mut values = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    let number = |value: &[u8]| number(value.trim_ascii()).ok_or(LengthError::NoNumber);
    let length = number(values.next().unwrap_or_default())?;
    for value in values {
        if number(value)? != length {
            return Err(LengthError::Contradiction);
        }
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Ok(length)
}

/// Digits alone: the number parser would take a sign.
fn number(text: &[u8]) -> Option<u64> {
    let is_number = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn length(values: &[&'static str]) -> (Result<Option<u64>, LengthError>, Vec<HeaderValue>) {
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("1"));
        for value in values {
            headers.append(CONTENT_LENGTH, HeaderValue::from_static(value));
        }
        let found = single_length(&mut headers);
        assert_eq!(headers["a"], "1");
        (found, headers.get_all(CONTENT_LENGTH).iter().cloned().collect())
    }

    #[test]
    fn equal_values_become_one() {
        assert_eq!(length(&[]), (Ok(None), vec![]));
        for (values, number, left) in [
            (&["5"][..], 5, "5"),
            (&["005"], 5, "005"),
            (&["5", "5"], 5, "5"),
            (&["5, 5"], 5, "5"),
            (&["5,5", " 5 ", "05"], 5, "5"),
            (&["0", "0", "0"], 0, "0"),
            (&["18446744073709551615"], u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(length(values), (Ok(Some(number)), vec![HeaderValue::from_static(left)]), "{values:?}");
        }
    }

    #[test]
    fn other_values_stay_and_are_an_error() {
        use LengthError::{Contradiction, NoNumber};
        for (values, error) in [
            (&["5", "6"][..], Contradiction),
            (&["5, 6"], Contradiction),
            (&["5, 5", "6"], Contradiction),
            (&["+5"], NoNumber),
            (&["-1"], NoNumber),
            (&["0x5"], NoNumber),
            (&[""], NoNumber),
            (&["5,"], NoNumber),
            (&["5", ""], NoNumber),
            (&["5 5"], NoNumber),
            (&["5;5"], NoNumber),
            (&["18446744073709551616"], NoNumber),
        ] {
            let left = values.iter().map(|value| HeaderValue::from_static(value)).collect();
            assert_eq!(length(values), (Err(error), left), "{values:?}");
        }
    }
}

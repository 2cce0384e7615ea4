//! Percent-encodes the bytes of a request target that `http::Uri` does not accept, although clients send them.
//!
//! A path may not have `<`, `>` or a backtick in it, and a query no `"`, `<` or `>` (the parser follows the URL Standard, not
//! RFC 3986). Bytes above ASCII must be UTF-8. Everything else crosses as it came.

/// A byte that [`plain`] stops at: only these can need a closer look.
pub(super) const ODD: [bool; 256] = {
    let mut odd = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        odd[byte] = byte <= b' ' as usize || byte >= 0x7f || matches!(byte as u8, b'"' | b'<' | b'>' | b'`' | b'#');
        byte += 1;
    }
    odd
};

/// Where in a target a byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// At the beginning.
    Start,
    /// In a scheme or an authority, behind so many slashes.
    Authority(u8),
    Path,
    Query,
}

impl Part {
    /// Returns where the byte behind `bytes` is, of which the first is here.
    pub(super) fn after(self, bytes: &[u8]) -> Self {
        let mut part = self;
        for byte in bytes {
            part = match (part, byte) {
                (Self::Query, _) | (_, b'?') => return Self::Query,
                (Self::Path, _) | (Self::Start, b'/') | (Self::Authority(2..), b'/') => Self::Path,
                (Self::Start, _) => Self::Authority(0),
                (Self::Authority(slashes), b'/') => Self::Authority(slashes + 1),
                (Self::Authority(slashes), _) => Self::Authority(slashes),
            };
        }
        part
    }

    /// Whether the parser refuses an ASCII character here that can be percent-encoded.
    fn refuses(self, byte: u8) -> bool {
        match self {
            Self::Start | Self::Authority(_) => false,
            Self::Path => matches!(byte, b'<' | b'>' | b'`'),
            Self::Query => matches!(byte, b'"' | b'<' | b'>'),
        }
    }

    /// Returns how many bytes at the beginning of `bytes` stay as they are: one character, or none.
    pub(super) fn keeps(self, bytes: &[u8]) -> usize {
        match bytes.first() {
            Some(0x80..) if matches!(self, Self::Path | Self::Query) => utf8_length(bytes),
            Some(byte) if !self.refuses(*byte) => 1,
            _ => 0,
        }
    }
}

/// How many bytes at the beginning of `bytes` are free of [`ODD`] ones.
pub(super) fn plain(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| ODD[usize::from(*byte)]).unwrap_or(bytes.len())
}

/// The length of the character above ASCII that `bytes` begin with; 0 if they do not, or not with the whole of it.
fn utf8_length(bytes: &[u8]) -> usize {
    let begin = &bytes[..bytes.len().min(4)];
    let valid = std::str::from_utf8(begin).map_or_else(|error| error.valid_up_to(), |_| begin.len());
    // The bytes behind the first character do not matter.
    (1..=valid).find(|length| bytes.get(*length).is_none_or(|byte| byte & 0xc0 != 0x80)).unwrap_or(0)
}

/// Returns `byte` percent-encoded.
pub(super) fn encoded(byte: u8) -> [u8; 3] {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    [b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]
}

/// What a whole target is, as the parser would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// It crosses as it is.
    Fine,
    /// It means this.
    Encoded(Vec<u8>),
    /// It is refused; this can be logged. Without a text, the parser accepts the target.
    Refused(Option<Vec<u8>>),
}

impl Target {
    /// Looks at the `:path` of a request.
    pub(super) fn of(path: &[u8]) -> Self {
        let has_form = path.first() == Some(&b'/') || path == b"*";
        if !has_form || path.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
            let mut text = if has_form { Vec::new() } else { vec![b'/'] };
            for byte in path {
                if ODD[usize::from(*byte)] { text.extend(encoded(*byte)) } else { text.push(*byte) }
            }
            return Self::Refused(Some(text));
        }
        let (mut text, mut part, mut rest) = (Vec::new(), Part::Start, path);
        while let Some(first) = rest.first() {
            let kept = plain(rest).max(part.keeps(rest));
            let (here, after) = rest.split_at(kept.max(1));
            if kept > 0 {
                text.extend_from_slice(here)
            } else {
                text.extend(encoded(*first))
            }
            (part, rest) = (part.after(here), after);
        }
        match (path.contains(&b'#'), text == path) {
            (true, true) => Self::Refused(None),
            (true, false) => Self::Refused(Some(text)),
            (false, true) => Self::Fine,
            (false, false) => Self::Encoded(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use proptest::prelude::*;

    use super::*;

    fn encoded_as(path: &[u8]) -> Option<String> {
        match Target::of(path) {
            Target::Fine => Some(String::from_utf8_lossy(path).into_owned()),
            Target::Encoded(text) => Some(String::from_utf8(text).unwrap()),
            Target::Refused(_) => None,
        }
    }

    #[test]
    fn only_what_the_parser_refuses_is_encoded() {
        for (path, expected) in [
            (&b"/"[..], Some("/")),
            (b"*", Some("*")),
            (b"/api/v1/query?query=up{job=\"a\"}", Some("/api/v1/query?query=up{job=%22a%22}")),
            (b"/<a>`b`\"c\"|^{}[]\\?`<\">|^{}[]\\", Some("/%3Ca%3E%60b%60\"c\"|^{}[]\\?`%3C%22%3E|^{}[]\\")),
            (b"/%3C%zz%?%", Some("/%3C%zz%?%")),
            ("/é/日?ü".as_bytes(), Some("/é/日?ü")),
            (b"/caf\xe9?a=\xff\xe9b", Some("/caf%E9?a=%FF%E9b")),
            (b"/a\xc3", Some("/a%C3")),
            (b"/a b", None),
            (b"/a\x00", None),
            (b"/a?\x7f", None),
            (b"/a#b", None),
            (b"/<#b", None),
            (b"a", None),
            (b"?a", None),
        ] {
            assert_eq!(encoded_as(path).as_deref(), expected, "{}", path.escape_ascii());
        }
        assert_eq!(Target::of(b"/a#b"), Target::Refused(None));
        assert_eq!(Target::of(b"/a b\n"), Target::Refused(Some(b"/a%20b%0A".to_vec())));
    }

    #[test]
    fn the_parts_of_a_target_are_told_apart() {
        for (text, expected) in [
            ("", Part::Start),
            ("/", Part::Path),
            ("//a", Part::Path),
            ("/a?/", Part::Query),
            ("http://a:80", Part::Authority(2)),
            ("http://a/", Part::Path),
            ("http://a?", Part::Query),
            ("a:443", Part::Authority(0)),
        ] {
            assert_eq!(Part::Start.after(text.as_bytes()), expected, "{text}");
        }
    }

    /// What `text` means, if each `%` that is not followed by two digits stands for itself.
    fn decoded(text: &[u8]) -> Vec<u8> {
        let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let (mut bytes, mut at) = (Vec::new(), 0);
        while let Some(byte) = text.get(at) {
            match (byte, digit(at + 1), digit(at + 2)) {
                (b'%', Some(high), Some(low)) => {
                    bytes.push(u8::try_from(high << 4 | low).unwrap());
                    at += 3;
                }
                _ => {
                    bytes.push(*byte);
                    at += 1;
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_path_is_accepted_afterwards_and_means_the_same(rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let path = [b"/", &rest[..]].concat();
            let text = match Target::of(&path) {
                Target::Fine | Target::Refused(None) => path.clone(),
                Target::Encoded(text) | Target::Refused(Some(text)) => text,
            };
            prop_assert!(text.starts_with(b"/"));
            prop_assert!(PathAndQuery::try_from(&text[..]).is_ok(), "{}", text.escape_ascii());
            prop_assert_eq!(decoded(&text), decoded(&path));
        }
    }
}

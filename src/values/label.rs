//! Client ids and public names: both are DNS labels, because a name becomes the first label of a host name.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::address::ascii_form;

/// Names that no client may claim: the server answers for them itself.
pub const RESERVED_NAMES: [&str; 1] = ["health"];

/// Why a text is not a label. The text itself is repeated, so that the message can stand alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Nothing at all, or more than 63 bytes (RFC 1035, section 2.3.4).
    #[error("`{0}` has {1} characters; a name has 1 to 63")]
    Length(String, usize),
    /// A character outside `a-z`, `0-9` and `-`.
    #[error("`{0}` contains `{1}`; a name is made of a-z, 0-9 and -")]
    Character(String, char),
    /// Letters beyond ASCII, with the form that DNS has for them.
    #[error(
        "`{0}` has letters beyond ASCII; a name is made of a-z, 0-9 and -: use `{1}`, which browsers show as `{0}`"
    )]
    NotAscii(String, String),
    /// A hyphen where a host name may not have one (RFC 1123, section 2.1).
    #[error("`{0}` starts or ends with a hyphen")]
    Hyphen(String),
    /// One of [`RESERVED_NAMES`].
    #[error("`{0}` is reserved: the server answers for it itself")]
    Reserved(String),
}

fn check(text: &str) -> Result<(), LabelError> {
    if text.is_empty() || text.len() > 63 {
        return Err(LabelError::Length(text.chars().take(80).collect(), text.chars().count()));
    }
    if let Some(odd) = text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        let form = ascii_form(text).filter(|form| !odd.is_ascii() && check(form).is_ok());
        return Err(match form {
            Some(form) => LabelError::NotAscii(text.to_owned(), form),
            None => LabelError::Character(text.to_owned(), odd),
        });
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(LabelError::Hyphen(text.to_owned()));
    }
    if RESERVED_NAMES.contains(&text) {
        return Err(LabelError::Reserved(text.to_owned()));
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Box<str>);

        impl $type {
            /// Checks `text`: a DNS label in lower case (1 to 63 of `a-z`, `0-9`, `-`) that is not reserved.
            ///
            /// # Errors
            /// A [`LabelError`] that names the rule `text` breaks.
            pub fn new(text: &str) -> Result<Self, LabelError> {
                check(text)?;
                Ok(Self(text.into()))
            }

            /// The label as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = LabelError;
            fn from_str(text: &str) -> Result<Self, LabelError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = LabelError;
            fn try_from(text: String) -> Result<Self, LabelError> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(label: $type) -> String {
                label.0.into()
            }
        }
    };
}

label! {
    /// The tenant an agent logs in as, e.g. `alice`. It is also the client's first [`Name`].
    ClientId
}

label! {
    /// A public label: `<name>.<domain>`, `/<name>/…`, `X-Tunnel-ID: <name>`.
    Name
}

impl From<ClientId> for Name {
    fn from(id: ClientId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_dns_label_in_lower_case() {
        for good in ["a", "alice", "blog-2", "0", &"x".repeat(63)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        assert!(matches!(Name::new(""), Err(LabelError::Length(_, 0))));
        assert!(matches!(Name::new(&"x".repeat(64)), Err(LabelError::Length(_, 64))));
        assert!(matches!(Name::new("Alice"), Err(LabelError::Character(_, 'A'))));
        assert!(matches!(Name::new("a.b"), Err(LabelError::Character(_, '.'))));
        assert!(matches!(Name::new("-a"), Err(LabelError::Hyphen(_))));
        assert!(matches!(Name::new("a-"), Err(LabelError::Hyphen(_))));
        assert!(matches!(ClientId::new("health"), Err(LabelError::Reserved(_))));
    }

    #[test]
    fn serde_checks_too() {
        assert!(serde_json::from_str::<ClientId>("\"alice\"").is_ok());
        assert!(serde_json::from_str::<ClientId>("\"Al ice\"").is_err());
    }
}

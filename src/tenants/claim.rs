//! What a client may claim, as it is written in `names`.

use std::fmt;
use std::str::FromStr;

use crate::values::{LabelError, Name};

/// One entry of `names`: a name, or all hosts below one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    /// `alice`: the name itself.
    Name(Name),
    /// `*.alice`: the name's service may also answer for every host below it. The name itself is not in it.
    Below(Name),
}

impl FromStr for Claim {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        match text.strip_prefix("*.") {
            Some(name) => Name::new(name).map(Self::Below),
            None => Name::new(text).map(Self::Name),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// As `names` lists them: the names first.
pub(crate) fn claims_of(names: &[Name], wildcards: &[Name]) -> Vec<Claim> {
    let names = names.iter().cloned().map(Claim::Name);
    names.chain(wildcards.iter().cloned().map(Claim::Below)).collect()
}

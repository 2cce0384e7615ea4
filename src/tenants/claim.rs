//! What a client may claim, as it is written in `names`.

use std::fmt;
use std::str::FromStr;

use crate::values::{ClientId, LabelError, Name};

/// One entry of `names`: a name, or all hosts below one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    /// `alice`: the name itself.
    Name(Name),
    /// `*.alice`: the name's service may also answer for every host below it. The name itself is not included.
    Below(Name),
}

impl Claim {
    /// Returns the name, unless the claim is for the hosts below it.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Name(name) => Some(name),
            Self::Below(_) => None,
        }
    }
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

/// Returns the names among `claims`, without those for the hosts below one.
pub fn names_of(claims: &[Claim]) -> Vec<Name> {
    claims.iter().filter_map(Claim::name).cloned().collect()
}

/// Returns what a client may claim by default: its own id.
pub(crate) fn default_names(id: &ClientId) -> Vec<Claim> {
    vec![Claim::Name(id.clone().into())]
}

//! Patterns of host names.

use std::str::FromStr;

/// Which hosts something is for: all (`*`), those below a name (`*.example.com`, any depth, not the name itself), or one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// Every host.
    All,
    /// Every host below this name, which has a dot in front.
    Below(String),
    /// This host.
    Exactly(String),
}

impl HostPattern {
    /// Whether `host` is meant: a name without a port. Case does not count, nor does a final dot.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::All => true,
            Self::Exactly(name) => host.eq_ignore_ascii_case(name),
            Self::Below(suffix) => {
                let at = host.len().checked_sub(suffix.len()).filter(|at| *at > 0);
                at.and_then(|at| host.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            }
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let name = text.strip_prefix("*.").unwrap_or(text);
        match text {
            "*" => Ok(Self::All),
            _ if !name.split('.').all(is_label) => Err(format!(
                "`{text}` is not a pattern of hosts; write *, *.example.com or a name like www.example.com"
            )),
            _ if name.len() < text.len() => Ok(Self::Below(format!(".{}", name.to_ascii_lowercase()))),
            _ => Ok(Self::Exactly(name.to_ascii_lowercase())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_is_for_all_for_some_or_for_one() {
        assert!(pattern("*").matches("anything"));
        let below = pattern("*.Example.com");
        assert!(below.matches("a.example.com") && below.matches("A.B.EXAMPLE.com."));
        assert!(!below.matches("example.com") && !below.matches(".example.com") && !below.matches("badexample.com"));
        let one = pattern("www.example.com");
        assert!(one.matches("WWW.example.com.") && !one.matches("a.www.example.com") && !one.matches("é"));
        for bad in ["", "*.", "a.*", "**", "a..b", "https://a", "a:80", "a/b", "é"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_host_can_be_asked(text in "[a-z.*é-]{0,12}", host in ".{0,20}") {
            if let Ok(pattern) = text.parse::<HostPattern>() {
                pattern.matches(&host);
            }
        }

        #[test]
        fn a_name_matches_itself_and_what_is_above_it(host in "[a-z]{1,5}(\\.[a-z]{1,5}){1,3}") {
            let (_, parent) = host.split_once('.').unwrap();
            let (below, own) = (format!("*.{parent}"), format!("*.{host}"));
            prop_assert!(pattern(&host).matches(&host) && pattern(&below).matches(&host));
            prop_assert!(!pattern(&own).matches(&host));
        }
    }
}

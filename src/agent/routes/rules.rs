//! Which application a request is for: the first rule that fits decides.
//!
//! Path and fields are taken as they crossed, byte for byte: nothing is decoded or normalised, so that no two readers
//! can see different paths. Whatever a request says, it goes to an address that the configuration names.

use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderName, HeaderValue};

use crate::agent::options::{HeaderCondition, Rule};
use crate::protocol::destination::strip_destination;
use crate::protocol::exchange::RequestHead;

/// The field that tells an application which prefix was removed from its paths.
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Returns the index of the first rule that matches.
pub(super) fn first_match(rules: &[Rule], head: &RequestHead) -> Option<usize> {
    let fits = |rule: &Rule| {
        let path_fits = rule.path.as_ref().is_none_or(|path| begins_with(&head.target, path.as_bytes()));
        path_fits && rule.header.as_ref().is_none_or(|condition| is_met(condition, head))
    };
    rules.iter().position(fits)
}

/// Whether the path of `target` begins with `path`, in whole segments.
fn begins_with(target: &[u8], path: &[u8]) -> bool {
    match target.strip_prefix(path) {
        // The empty path still needs one: `*` is none.
        Some([]) => !path.is_empty(),
        Some([next, ..]) => *next == b'/' || (*next == b'?' && !path.is_empty()),
        None => false,
    }
}

fn is_met(condition: &HeaderCondition, head: &RequestHead) -> bool {
    let is_wanted = |found: &[u8]| condition.value.as_ref().is_none_or(|value| value.as_bytes() == found);
    if condition.name != HOST {
        return head.headers.get_all(&condition.name).iter().any(|line| is_wanted(line.as_bytes()));
    }
    head.authority.as_ref().is_some_and(|authority| is_wanted(&host_of(authority).to_ascii_lowercase()))
}

/// An authority without its port.
fn host_of(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) => &authority[..colon],
        _ => authority,
    }
}

/// Removes the prefix `path` from the target, and tells the application.
pub(super) fn strip(head: &mut RequestHead, path: &str) {
    let rest = head.target.slice(path.len()..);
    head.target = match rest.first() {
        Some(b'/') => rest,
        None => Bytes::from_static(b"/"),
        Some(_) => [b"/", rest.as_ref()].into_iter().flatten().copied().collect::<BytesMut>().freeze(),
    };
    // A destination outside the path belongs to another application; this one will refuse it.
    let _ = strip_destination(&head.method, &mut head.headers, path, head.authority.as_deref());
    let before = head.headers.get(FORWARDED_PREFIX).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Ok(prefix) = HeaderValue::try_from(format!("{}{path}", before.trim_end_matches('/'))) {
        head.headers.insert(FORWARDED_PREFIX, prefix);
    }
}

#[cfg(test)]
mod tests {
    use http::uri::PathAndQuery;
    use http::{HeaderMap, Method, Version};
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::exchange::Scheme;

    fn head(target: &str, host: &str, fields: &[(&'static str, &str)]) -> RequestHead {
        let field = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
        RequestHead {
            method: Method::GET,
            scheme: Scheme::Http,
            authority: Some(Bytes::copy_from_slice(host.as_bytes())),
            target: Bytes::copy_from_slice(target.as_bytes()),
            protocol: None,
            version: Version::HTTP_11,
            headers: fields.iter().map(field).collect::<HeaderMap>(),
            has_body: false,
        }
    }

    fn rule(path: Option<&str>, header: Option<(&'static str, Option<&'static str>)>) -> Rule {
        let header = header.map(|(name, value)| HeaderCondition {
            name: HeaderName::from_static(name),
            value: value.map(HeaderValue::from_static),
        });
        Rule { path: path.map(str::to_owned), header, local: "3000".parse().unwrap(), strip_prefix: false }
    }

    #[test]
    fn a_path_fits_in_whole_segments_and_as_it_stands() {
        let fits = |path, target| first_match(&[rule(Some(path), None)], &head(target, "a", &[])).is_some();
        for target in ["/api", "/api/", "/api/x", "/api?q", "/api//", "/api/../x"] {
            assert!(fits("/api", target), "{target}");
        }
        for target in ["/", "/apix", "/API", "/ap", "//api", "/./api", "/%61pi", "/api%2Fx", "/x?/api", "/x/api", "*"] {
            assert!(!fits("/api", target), "{target}");
        }
        for (target, expected) in [("/", true), ("/x", true), ("//", true), ("*", false), ("", false), ("?q", false)] {
            assert_eq!(fits("", target), expected, "{target}");
        }
    }

    #[test]
    fn a_field_fits_by_any_of_its_lines_and_a_host_without_its_port() {
        let fits = |header, head: &RequestHead| first_match(&[rule(None, Some(header))], head).is_some();
        let two = head("/", "Blog.Example:8443", &[("x-version", "1"), ("x-version", "2")]);
        assert!(fits(("x-version", Some("2")), &two) && fits(("x-version", None), &two));
        assert!(!fits(("x-version", Some("12")), &two) && !fits(("x-other", None), &two));
        assert!(fits(("host", Some("blog.example")), &two) && fits(("host", None), &two));
        assert!(!fits(("host", Some("shop.example")), &two));
        assert!(fits(("host", Some("[::1]")), &head("/", "[::1]", &[])));
        let nameless = RequestHead { authority: None, ..two };
        assert!(!fits(("host", None), &nameless));
    }

    #[test]
    fn both_conditions_must_fit_and_the_first_rule_decides() {
        let rules =
            [rule(Some("/api"), Some(("x-version", Some("2")))), rule(Some("/api/v1"), None), rule(Some("/api"), None)];
        let decides = |target, fields: &[(&'static str, &str)]| first_match(&rules, &head(target, "a", fields));
        assert_eq!(decides("/api/v1", &[("x-version", "2")]), Some(0));
        assert_eq!(decides("/api/v1", &[]), Some(1));
        assert_eq!(decides("/api/v2", &[("x-version", "1")]), Some(2));
        assert_eq!(decides("/other", &[("x-version", "2")]), None);
    }

    #[test]
    fn what_is_stripped_is_told() {
        for (target, path, rest) in [
            ("/api", "/api", "/"),
            ("/api/", "/api", "/"),
            ("/api/x?q", "/api", "/x?q"),
            ("/api?q", "/api", "/?q"),
            ("/api//x", "/api", "//x"),
            ("/x", "", "/x"),
        ] {
            let mut head = head(target, "a", &[]);
            strip(&mut head, path);
            assert_eq!(head.target, rest, "{target}");
        }
        let mut head = head("/api/x", "a", &[("x-forwarded-prefix", "/alice/")]);
        strip(&mut head, "/api");
        assert_eq!(head.headers[FORWARDED_PREFIX], "/alice/api");
    }

    /// Paths of few letters, so that rules and requests often meet.
    const PATH: &str = "(/(a|b|ab|%61|\\.\\.)){0,4}";

    proptest! {
        #[test]
        fn a_rule_fits_exactly_when_its_segments_are_the_first(path in PATH, target in PATH, more in "/?(\\?[ab/]{0,3})?") {
            let target = format!("{target}{more}");
            prop_assume!(target.starts_with('/'));
            let fits = first_match(&[rule(Some(&path), None)], &head(&target, "a", &[])).is_some();
            let segments = |text: &str| text.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
            let (asked, wanted) = (segments(target.split('?').next().unwrap()), segments(&path));
            prop_assert_eq!(fits, asked.starts_with(&wanted), "{} {}", path, target);
        }

        #[test]
        fn what_is_left_of_a_target_is_a_path_and_adds_up(path in PATH, rest in "(/[ -~]{0,8})?(\\?[ -~]{0,4})?") {
            let target = format!("{path}{rest}");
            prop_assume!(begins_with(target.as_bytes(), path.as_bytes()));
            let mut head = head(&target, "a", &[]);
            strip(&mut head, &path);
            let left = std::str::from_utf8(&head.target).unwrap();
            prop_assert!(left.starts_with('/'));
            prop_assert!(left == rest || left == format!("/{rest}"), "{} from {}", left, target);
            if PathAndQuery::try_from(target.as_str()).is_ok() {
                prop_assert!(PathAndQuery::try_from(left).is_ok());
            }
        }

        #[test]
        fn any_request_goes_to_one_of_the_rules_or_to_none(
            paths in prop::collection::vec(prop::option::of(PATH), 0..5),
            target in any::<Vec<u8>>(),
            host in any::<Vec<u8>>(),
        ) {
            let rules: Vec<Rule> = paths.iter().map(|path| rule(path.as_deref(), None)).collect();
            let mut head = head("/", "a", &[]);
            (head.target, head.authority) = (target.into(), Some(host.into()));
            let found = first_match(&rules, &head);
            prop_assert!(found.is_none_or(|at| at < rules.len()));
            if let Some(path) = found.and_then(|at| rules[at].path.as_deref()) {
                strip(&mut head, path);
                prop_assert_eq!(head.target.first(), Some(&b'/'));
            }
        }
    }
}

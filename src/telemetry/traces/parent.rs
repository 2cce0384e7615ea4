//! `traceparent` and `tracestate` (W3C Trace Context): of which span a request is part, read from the visitor and told to
//! the application.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of `00-<32 digits>-<16 digits>-<2 digits>`. What later versions say more comes behind a further hyphen.
const LENGTH: usize = 55;

/// The most of `tracestate` that is kept in a span, in bytes (section 3.3.1.5). The application gets all of it.
const LONGEST_STATE: usize = 512;

/// The span of the visitor, if it says one, once and in the right form.
pub(super) fn of(headers: &HeaderMap) -> Option<SpanContext> {
    let mut said = headers.get_all(TRACEPARENT).iter();
    let (trace, span, flags) = read(said.next()?.as_bytes())?;
    // Two of them contradict each other.
    if said.next().is_some() {
        return None;
    }
    Some(SpanContext::new(trace, span, flags, true, state(headers)))
}

/// Reads `traceparent` (section 3.2).
fn read(text: &[u8]) -> Option<(TraceId, SpanId, TraceFlags)> {
    let text = std::str::from_utf8(text).ok()?;
    let (known, more) = text.split_at_checked(LENGTH)?;
    let mut parts = known.split('-');
    let version = digits(parts.next()?, 2)?;
    let trace = TraceId::from(digits(parts.next()?, 32)?);
    let span = SpanId::from(u64::try_from(digits(parts.next()?, 16)?).ok()?);
    let flags = u8::try_from(digits(parts.next()?, 2)?).ok()?;
    let is_whole = match version {
        0 => more.is_empty(),
        255 => false,
        _ => more.is_empty() || more.starts_with('-'),
    };
    let is_valid = is_whole && parts.next().is_none() && trace != TraceId::INVALID && span != SpanId::INVALID;
    // The other flags are of later versions.
    is_valid.then(|| (trace, span, TraceFlags::new(flags) & TraceFlags::SAMPLED))
}

/// A number of exactly so many hexadecimal digits, in lower case.
fn digits(text: &str, count: usize) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let fits = text.len() == count && text.bytes().all(is_digit);
    if fits { u128::from_str_radix(text, 16).ok() } else { None }
}

/// What tracing systems on the way have said of the trace; nothing if it is too long or not in the right form.
fn state(headers: &HeaderMap) -> TraceState {
    let lines: Vec<&str> = headers.get_all(TRACESTATE).iter().filter_map(|value| value.to_str().ok()).collect();
    if lines.is_empty() || lines.iter().map(|line| line.len() + 1).sum::<usize>() > LONGEST_STATE + 1 {
        return TraceState::NONE;
    }
    lines.join(",").parse().unwrap_or(TraceState::NONE)
}

/// Says to the application that `span` has asked it.
pub(super) fn put(span: &SpanContext, continues: bool, headers: &mut HeaderMap) {
    if !continues {
        headers.remove(TRACESTATE);
    }
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags() & TraceFlags::SAMPLED);
    // Digits and hyphens always are a field's value.
    if let Ok(value) = HeaderValue::try_from(format!("00-{trace}-{id}-{flags:02x}")) {
        headers.insert(TRACEPARENT, value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(fields: &[(&'static str, &[u8])]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &[u8])| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap())
        };
        let mut headers = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            headers.append(name, value);
        }
        headers
    }

    fn of_text(text: &str) -> Option<SpanContext> {
        of(&headers(&[("traceparent", text.as_bytes())]))
    }

    #[test]
    fn the_standards_example_is_read() {
        let parent = of_text(GOOD).unwrap();
        assert_eq!(parent.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span_id().to_string(), "00f067aa0ba902b7");
        assert!(parent.is_sampled() && parent.is_remote());
        assert!(!of_text(&GOOD.replace("-01", "-00")).unwrap().is_sampled());
        assert_eq!(of_text(&GOOD.replace("-01", "-ff")).unwrap().trace_flags(), TraceFlags::SAMPLED);
    }

    #[test]
    fn a_later_version_may_say_more() {
        for text in [
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
        ] {
            assert!(of_text(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_is_not_in_the_right_form_is_none() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7-01--",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(of_text(text), None, "{text}");
        }
        assert_eq!(of(&headers(&[("traceparent", GOOD.as_bytes()), ("traceparent", GOOD.as_bytes())])), None);
    }

    #[test]
    fn what_others_say_of_the_trace_is_kept_within_bounds() {
        let with = |lines: &[&[u8]]| {
            let mut fields: Vec<(&'static str, &[u8])> = vec![("traceparent", GOOD.as_bytes())];
            fields.extend(lines.iter().map(|line| ("tracestate", *line)));
            of(&headers(&fields)).unwrap().trace_state().header()
        };
        assert_eq!(with(&[b"a=1", b"b=2"]), "a=1,b=2");
        assert_eq!(with(&[b"no list"]), "");
        let long = format!("a={}", "x".repeat(200));
        assert_eq!(with(&[long.as_bytes(), b"b=1"]).len(), long.len() + 4);
        assert_eq!(with(&[long.as_bytes(), long.replace('a', "b").as_bytes(), long.replace('a', "c").as_bytes()]), "");
    }

    #[test]
    fn another_trace_takes_nothing_of_the_visitors() {
        let span = of_text(GOOD).unwrap();
        let mut fields = headers(&[("traceparent", b"00"), ("traceparent", b"01"), ("tracestate", b"a=1")]);
        put(&span, false, &mut fields);
        assert_eq!((fields.len(), fields[TRACEPARENT].as_bytes()), (1, GOOD.as_bytes()));
        let mut fields = headers(&[("traceparent", GOOD.as_bytes()), ("tracestate", b"a=1"), ("tracestate", b"b=2")]);
        put(&span, true, &mut fields);
        assert_eq!(fields.get_all(TRACESTATE).iter().count(), 2);
    }

    fn field_value() -> impl Strategy<Value = Vec<u8>> {
        let near = "[0-9a-f]{0,3}-[0-9a-fA-F]{30,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}(-.{0,9})?";
        let changed = (0..GOOD.len(), any::<u8>()).prop_map(|(at, byte)| {
            let mut text = GOOD.as_bytes().to_vec();
            text[at] = byte;
            text
        });
        prop_oneof![any::<Vec<u8>>(), near.prop_map(String::into_bytes), changed]
    }

    proptest! {
        #[test]
        fn whatever_is_said_what_goes_on_is_in_the_right_form(
            parents in proptest::collection::vec(field_value(), 0..3),
            states in proptest::collection::vec(any::<Vec<u8>>(), 0..4),
        ) {
            let mut fields = HeaderMap::new();
            let said = parents.into_iter().map(|value| (TRACEPARENT, value));
            for (name, value) in said.chain(states.into_iter().map(|value| (TRACESTATE, value))) {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    fields.append(name, value);
                }
            }
            let parent = of(&fields);
            let trace = parent.as_ref().map_or(TraceId::from(7), SpanContext::trace_id);
            let flags = parent.as_ref().map_or(TraceFlags::default(), SpanContext::trace_flags);
            let ours = SpanContext::new(trace, SpanId::from(9), flags, false, TraceState::NONE);
            put(&ours, parent.is_some(), &mut fields);
            prop_assert_eq!(fields.get_all(TRACEPARENT).iter().count(), 1);
            let told = of(&fields).expect("what was told cannot be read");
            prop_assert_eq!((told.trace_id(), told.span_id(), told.trace_flags()), (trace, SpanId::from(9), flags));
            prop_assert!(parent.is_some() || !fields.contains_key(TRACESTATE));
        }
    }
}

//! What goes in comes out, whatever the pieces; and what is not of this protocol does no harm.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode, Version};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::decode::{Decoder, Event};
use super::exchange::{self, MAX_FIELDS, RequestHead, ResponseHead, Scheme};
use super::frame::{self, HEADER, Kind, MAX_DATA, MAX_HEAD, Reset, Status};
use super::login::ServiceKind;
use super::preface::Preface;
use super::{WireError, control, json, login};
use crate::values::{Name, RequestId};

fn address() -> impl Strategy<Value = SocketAddr> {
    any::<(std::net::IpAddr, u16)>().prop_map(SocketAddr::from)
}

fn scheme() -> impl Strategy<Value = Scheme> {
    prop_oneof![Just(Scheme::Http), Just(Scheme::Https)]
}

fn kind() -> impl Strategy<Value = ServiceKind> {
    prop_oneof![Just(ServiceKind::Http), Just(ServiceKind::Tcp), Just(ServiceKind::Tls)]
}

fn preface(kind: impl Strategy<Value = ServiceKind>) -> impl Strategy<Value = Preface> {
    let name = "[a-z0-9]{1,63}".prop_filter_map("reserved", |name| Name::new(&name).ok());
    (name, address(), address(), kind, any::<u64>()).prop_map(|(service, visitor, server, kind, id)| Preface {
        service,
        visitor,
        server,
        kind,
        request_id: RequestId(id),
    })
}

/// Few names, so that some repeat; values with every byte that a field may have (RFC 9110, section 5.5).
fn fields() -> impl Strategy<Value = HeaderMap> {
    let byte = prop_oneof![Just(b'\t'), b' '..=b'~', 0x80..=0xff_u8];
    let value = vec(byte, 0..40).prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap());
    let name = "[a-c]{1,2}|x-[a-z]{1,20}".prop_map(|name| HeaderName::from_bytes(name.as_bytes()).unwrap());
    vec((name, value), 0..20).prop_map(|pairs| {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(name, value);
        }
        fields
    })
}

fn version() -> impl Strategy<Value = Version> {
    use Version as V;
    prop_oneof![Just(V::HTTP_09), Just(V::HTTP_10), Just(V::HTTP_11), Just(V::HTTP_2), Just(V::HTTP_3)]
}

fn request() -> impl Strategy<Value = RequestHead> {
    let method = "[A-Z!#$%&'*+.^_|~-]{1,20}".prop_map(|text| Method::from_bytes(text.as_bytes()).unwrap());
    let bytes = |most| vec(any::<u8>(), 0..most).prop_map(Bytes::from);
    let optional = (option::of(bytes(60)), option::of(bytes(10)));
    (method, scheme(), optional, bytes(200), version(), fields(), any::<bool>()).prop_map(
        |(method, scheme, (authority, protocol), target, version, headers, has_body)| RequestHead {
            method,
            scheme,
            authority,
            target,
            protocol,
            version,
            headers,
            has_body,
        },
    )
}

fn response(status: std::ops::Range<u16>) -> impl Strategy<Value = ResponseHead> {
    (status, version(), fields()).prop_map(|(status, version, headers)| ResponseHead {
        status: StatusCode::from_u16(status).unwrap(),
        version,
        headers,
        local: None,
        reason: None,
    })
}

fn interim() -> impl Strategy<Value = ResponseHead> {
    response(100..200).prop_filter("101 is final", |head| head.status != StatusCode::SWITCHING_PROTOCOLS)
}

fn last() -> impl Strategy<Value = ResponseHead> {
    let head = prop_oneof![response(101..102), response(200..1000)];
    let reason = vec(prop_oneof![Just(b'\t'), b' '..=b'~', 0x80..=0xff_u8], 0..20);
    (head, option::of((any::<u32>(), option::of(reason)))).prop_map(|(head, more)| ResponseHead {
        local: more.as_ref().map(|(micros, _)| Duration::from_micros((*micros).into())),
        reason: more.and_then(|(_, reason)| reason).map(Bytes::from),
        ..head
    })
}

fn reset() -> impl Strategy<Value = Reset> {
    (1..=10_u8).prop_map(Reset::from_byte)
}

/// What follows a head: data, perhaps trailers, and the end or a reset (perhaps both).
fn rest() -> impl Strategy<Value = Vec<Event>> {
    let data = vec(vec(any::<u8>(), 0..300), 0..5);
    (data, option::of(fields()), any::<bool>(), option::of(reset())).prop_map(|(data, trailers, end, reset)| {
        let data = data.into_iter().map(|data| Event::Data(data.into()));
        let end = (end || reset.is_none()).then_some(Event::End);
        data.chain(trailers.map(|fields| Event::Trailers(Box::new(fields))))
            .chain(end)
            .chain(reset.map(Event::Reset))
            .collect()
    })
}

fn of_request() -> impl Strategy<Value = Vec<Event>> {
    (preface(Just(ServiceKind::Http)), request(), rest()).prop_map(|(preface, head, rest)| {
        [vec![Event::Preface(Box::new(preface)), Event::Request(Box::new(head))], rest].into_iter().flatten().collect()
    })
}

fn of_response() -> impl Strategy<Value = Vec<Event>> {
    let status = (1..=5_u8).prop_map(|byte| Status::from_byte(byte).unwrap());
    (status, vec(interim(), 0..3), last(), rest()).prop_map(|(status, interim, last, rest)| {
        let heads = interim
            .into_iter()
            .map(|head| Event::Informational(Box::new(head)))
            .chain([Event::Response(Box::new(last))]);
        [Event::Status(status)].into_iter().chain(heads).chain(rest).collect()
    })
}

fn encode(events: &[Event]) -> Bytes {
    let mut out = BytesMut::new();
    for event in events {
        match event {
            Event::Preface(preface) => preface.put(&mut out).unwrap(),
            Event::Status(status) => out.put_u8(*status as u8),
            Event::Request(head) => head.put(&mut out).unwrap(),
            Event::Informational(head) | Event::Response(head) => head.put(&mut out).unwrap(),
            Event::Data(data) => {
                out.put_slice(&frame::data_header(data.len()));
                out.put_slice(data);
            }
            Event::Trailers(trailers) => exchange::put_trailers(&mut out, trailers).unwrap(),
            Event::End => frame::put_end(&mut out),
            Event::Reset(reason) => frame::put_reset(&mut out, *reason),
        }
    }
    out.freeze()
}

fn decode(mut decoder: Decoder, pieces: impl Iterator<Item = Bytes>) -> Result<Vec<Event>, WireError> {
    let mut events = Vec::new();
    for mut piece in pieces {
        while let Some(event) = decoder.next(&mut piece)? {
            events.push(event);
        }
        assert!(piece.is_empty(), "None means that the input is used up");
    }
    Ok(events)
}

/// Data is cut wherever the input was: only all of it together can be compared.
fn merge(events: Vec<Event>) -> Vec<Event> {
    let mut merged = Vec::new();
    for event in events {
        match (merged.last_mut(), event) {
            (_, Event::Data(data)) if data.is_empty() => {}
            (Some(Event::Data(before)), Event::Data(data)) => *before = [&before[..], &data[..]].concat().into(),
            (_, event) => merged.push(event),
        }
    }
    merged
}

fn cut(mut wire: Bytes, sizes: &[usize]) -> Vec<Bytes> {
    let mut pieces: Vec<_> = sizes.iter().map(|size| wire.split_to(wire.len().min(*size))).collect();
    pieces.push(wire);
    pieces
}

fn comes_back(decoder: fn() -> Decoder, events: Vec<Event>, sizes: &[usize]) -> Result<(), TestCaseError> {
    let wire = encode(&events);
    let events = merge(events);
    let whole = decode(decoder(), [wire.clone()].into_iter()).map(merge);
    prop_assert_eq!(whole.as_ref(), Ok(&events));
    let bytes = decode(decoder(), cut(wire.clone(), &vec![1; wire.len()]).into_iter()).map(merge);
    prop_assert_eq!(bytes.as_ref(), Ok(&events));
    let random = decode(decoder(), cut(wire, sizes).into_iter()).map(merge);
    prop_assert_eq!(random.as_ref(), Ok(&events));
    Ok(())
}

fn in_order(fields: &HeaderMap) -> Vec<(&str, Vec<&[u8]>)> {
    fields
        .keys()
        .map(|name| (name.as_str(), fields.get_all(name).iter().map(HeaderValue::as_bytes).collect()))
        .collect()
}

proptest! {
    #[test]
    fn requests_come_back_as_they_were(events in of_request(), sizes in vec(0..200_usize, 0..40)) {
        comes_back(|| Decoder::request(MAX_HEAD), events, &sizes)?;
    }

    #[test]
    fn answers_come_back_as_they_were(events in of_response(), sizes in vec(0..200_usize, 0..40)) {
        comes_back(|| Decoder::response(MAX_HEAD), events, &sizes)?;
    }

    /// `HeaderMap` compares without the order of names.
    #[test]
    fn fields_keep_their_order(fields in fields()) {
        let mut out = BytesMut::new();
        exchange::put_trailers(&mut out, &fields).unwrap();
        let back = exchange::parse_trailers(out.freeze().slice(HEADER..)).unwrap();
        prop_assert_eq!(in_order(&back), in_order(&fields));
    }

    #[test]
    fn a_head_that_is_cut_short_is_refused(head in request(), preface in preface(kind()), at in any::<prop::sample::Index>()) {
        for (wire, parse) in [
            (encode(&[Event::Request(Box::new(head))]), (|bytes| RequestHead::parse(bytes).is_err()) as fn(Bytes) -> bool),
            (encode(&[Event::Preface(Box::new(preface))]), |bytes| Preface::parse(bytes).is_err()),
        ] {
            let payload = wire.slice(HEADER..);
            prop_assert!(parse(payload.slice(..at.index(payload.len()))));
        }
    }

    #[test]
    fn bytes_of_any_kind_do_no_harm(bytes in vec(any::<u8>(), 0..600), sizes in vec(0..50_usize, 0..20)) {
        for decoder in [Decoder::request, Decoder::response] {
            let _ = decode(decoder(500), cut(Bytes::from(bytes.clone()), &sizes).into_iter());
        }
        let payload = Bytes::from(bytes);
        let _ = Preface::parse(payload.clone());
        let _ = RequestHead::parse(payload.clone());
        let _ = ResponseHead::parse(Kind::Head, payload.clone());
        let _ = ResponseHead::parse(Kind::Informational, payload.clone());
        let _ = exchange::parse_trailers(payload.clone());
        let _ = json::decode::<login::Hello>(&mut BytesMut::from(&payload[..]));
        let _ = json::decode::<control::Control>(&mut BytesMut::from(&payload[..]));
    }

    /// Bytes that are nearly right reach further than bytes of any kind.
    #[test]
    fn a_changed_byte_does_no_harm(
        events in prop_oneof![of_request(), of_response()],
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut wire = encode(&events).to_vec();
        let at = at.index(wire.len());
        wire[at] = byte;
        for decoder in [Decoder::request, Decoder::response] {
            let _ = decode(decoder(MAX_HEAD), [Bytes::from(wire.clone())].into_iter());
        }
    }
}

#[test]
fn a_head_too_large_is_refused_before_it_is_sent_and_leaves_nothing_behind() {
    let mut out = BytesMut::from("before");
    let mut fields = HeaderMap::new();
    for number in 0..=MAX_FIELDS {
        fields.insert(HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap(), HeaderValue::from_static(""));
    }
    assert_eq!(exchange::put_trailers(&mut out, &fields), Err(WireError::TooLarge("the number of fields")));
    fields.clear();
    fields.insert("x", HeaderValue::from_maybe_shared(Bytes::from(vec![b'x'; MAX_HEAD])).unwrap());
    assert_eq!(exchange::put_trailers(&mut out, &fields), Err(WireError::TooLarge("trailers")));
    fields.clear();
    let method = Method::from_bytes(&[b'M'; 70_000]).unwrap();
    let head = RequestHead {
        method,
        scheme: Scheme::Http,
        authority: None,
        target: Bytes::new(),
        protocol: None,
        version: Version::HTTP_11,
        headers: fields,
        has_body: false,
    };
    assert_eq!(head.put(&mut out), Err(WireError::TooLarge("method")));
    assert_eq!(out, "before");
}

#[test]
fn an_announced_number_of_fields_makes_no_room_by_itself() {
    for (count, error) in
        [(2_u16, WireError::Short), (512, WireError::Short), (513, WireError::TooLarge("the number of fields"))]
    {
        let mut payload = BytesMut::new();
        payload.put_u16(count);
        payload.put_slice(&[0, 1, b'a', 0, 0, 0, 0]);
        assert_eq!(exchange::parse_trailers(payload.freeze()), Err(error));
    }
}

#[test]
fn the_largest_data_frame_has_a_header() {
    assert_eq!(frame::data_header(MAX_DATA), [4, 1, 0, 0]);
    assert_eq!(frame::data_header(0), [4, 0, 0, 0]);
}

/// What a reader of the first version takes is the head up to its fields.
#[test]
fn the_time_of_an_application_follows_the_fields_of_a_final_head() {
    let head = |status, local| {
        let head = ResponseHead { status, version: Version::HTTP_11, headers: HeaderMap::new(), local, reason: None };
        encode(&[Event::Response(Box::new(head))]).slice(HEADER..)
    };
    let read = |kind, payload| ResponseHead::parse(kind, payload).map(|head| head.local);
    let micros = |micros| Some(Duration::from_micros(micros));
    let (plain, timed) = (head(StatusCode::OK, None), head(StatusCode::OK, micros(0x0102_0304)));
    assert_eq!((&timed[..plain.len()], &timed[plain.len()..]), (&plain[..], &[1, 2, 3, 4][..]));
    assert_eq!(read(Kind::Head, plain), Ok(None));
    for (local, comes_back) in [
        (Duration::ZERO, micros(0)),
        (Duration::from_nanos(1_999), micros(1)),
        (Duration::from_secs(4294), micros(4_294_000_000)),
        (Duration::from_secs(4295), micros(u64::from(u32::MAX))),
    ] {
        assert_eq!(read(Kind::Head, head(StatusCode::OK, Some(local))), Ok(comes_back));
    }
    for cut in 1..4 {
        assert_eq!(read(Kind::Head, timed.slice(..timed.len() - cut)), Err(WireError::Short));
    }
    let interim = head(StatusCode::CONTINUE, micros(1));
    assert_eq!(interim, head(StatusCode::CONTINUE, None));
    assert_eq!(read(Kind::Informational, Bytes::from([&interim[..], b"more"].concat())), Ok(None));
}

/// What a reader that knows no phrase takes is the head up to the application's time.
#[test]
fn a_reason_phrase_follows_the_time_of_the_application() {
    let head = |status, local, reason: Option<&[u8]>| {
        let (version, headers, reason) = (Version::HTTP_11, HeaderMap::new(), reason.map(Bytes::copy_from_slice));
        let head = ResponseHead { status, version, headers, local, reason };
        encode(&[Event::Response(Box::new(head))]).slice(HEADER..)
    };
    let time = Some(Duration::from_micros(7));
    let read = |payload| ResponseHead::parse(Kind::Head, payload).map(|head| (head.local, head.reason));
    let (plain, with) = (head(StatusCode::OK, time, None), head(StatusCode::OK, time, Some(b"So \xe9")));
    assert_eq!((&with[..plain.len()], &with[plain.len()..]), (&plain[..], &b"\x00\x04So \xe9"[..]));
    assert_eq!(read(plain), Ok((time, None)));
    assert_eq!(read(with.clone()), Ok((time, Some(Bytes::from_static(b"So \xe9")))));
    let none = head(StatusCode::OK, time, Some(b""));
    assert_eq!(read(none), Ok((time, Some(Bytes::new()))));
    assert_eq!(read(Bytes::from([&with[..], b"more"].concat())), Ok((time, Some(Bytes::from_static(b"So \xe9")))));
    for cut in 1..6 {
        assert_eq!(read(with.slice(..with.len() - cut)), Err(WireError::Short));
    }
    // Not where a reader would take it for the time, and never beside an interim status.
    assert_eq!(head(StatusCode::OK, None, Some(b"Yes")), head(StatusCode::OK, None, None));
    assert_eq!(head(StatusCode::CONTINUE, time, Some(b"Go on")), head(StatusCode::CONTINUE, None, None));
    for bad in [&b"a\r\nSet-Cookie: a=b"[..], b"a\nb", b"a\0", b"\x7f"] {
        let sent = head(StatusCode::OK, time, Some(bad));
        assert_eq!(read(sent), Err(WireError::Invalid("reason phrase")), "{bad:?}");
    }
}

#[test]
fn a_later_version_may_add_to_a_preface_and_to_the_reasons() {
    let preface = Preface {
        service: Name::new("alice").unwrap(),
        visitor: "[2001:db8::1]:5".parse().unwrap(),
        server: "192.0.2.1:80".parse().unwrap(),
        kind: ServiceKind::Tls,
        request_id: RequestId(u64::MAX),
    };
    let mut payload = BytesMut::from(&encode(&[Event::Preface(Box::new(preface.clone()))])[HEADER..]);
    payload.put_slice(b"more");
    assert_eq!(Preface::parse(payload.freeze()), Ok(preface));
    let mut input = Bytes::from_static(&[7, 0, 0, 3, 200, 1, 2]);
    assert_eq!(Decoder::request(1000).next(&mut input), Ok(Some(Event::Reset(Reset::Cancelled))));
}

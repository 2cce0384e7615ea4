//! What comes on a service stream, in either direction: the same events, whatever the pieces.

#![no_main]

use adit::protocol::decode::{Decoder, Event};
use adit::protocol::frame::MAX_HEAD;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

/// The events, with neighbouring data in one: where it is cut is not the decoder's.
fn read(mut decoder: Decoder, data: &[u8], piece: usize) -> (Vec<String>, Vec<u8>) {
    let (mut events, mut body) = (Vec::new(), Vec::new());
    for piece in data.chunks(piece) {
        let mut input = Bytes::copy_from_slice(piece);
        loop {
            match decoder.next(&mut input) {
                Ok(Some(Event::Data(data))) => {
                    body.extend_from_slice(&data);
                    if events.last().is_none_or(|last| last != "data") {
                        events.push("data".to_owned());
                    }
                }
                Ok(Some(event)) => events.push(format!("{event:?}")),
                Ok(None) => break,
                Err(error) => {
                    events.push(error.to_string());
                    return (events, body);
                }
            }
        }
        assert!(input.is_empty(), "all of it is taken before more is wanted");
    }
    (events, body)
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else { return };
    let decoder = || match kind % 4 {
        0 => Decoder::request(MAX_HEAD),
        1 => Decoder::response(MAX_HEAD),
        2 => Decoder::request(1000),
        _ => Decoder::raw_response(),
    };
    let whole = read(decoder(), data, data.len().max(1));
    assert_eq!(whole, read(decoder(), data, 1));
    assert_eq!(whole, read(decoder(), data, usize::from(kind / 4) + 2));
});

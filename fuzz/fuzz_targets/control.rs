//! What comes on a control stream: the same messages, whatever the pieces.

#![no_main]

use adit::protocol::control::Control;
use adit::protocol::json;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fn read(pieces: &[&[u8]]) -> Vec<String> {
    let (mut input, mut read) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match json::decode::<Control>(&mut input) {
                Ok(Some(message)) => read.push(format!("{message:?}")),
                Ok(None) => break,
                Err(error) => {
                    read.push(error.to_string());
                    return read;
                }
            }
        }
        assert!(input.len() < 4 + json::MAX, "an incomplete message is held, and no more");
    }
    read
}

fuzz_target!(|data: &[u8]| {
    let Some((&at, data)) = data.split_first() else { return };
    let whole = read(&[data]);
    let (front, back) = data.split_at(usize::from(at) % (data.len() + 1));
    assert_eq!(whole, read(&[front, back]));
    assert_eq!(whole, read(&data.chunks(1).collect::<Vec<_>>()));
});

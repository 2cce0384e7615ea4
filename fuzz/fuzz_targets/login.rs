//! What a stranger may say first, and what a server may answer. What was understood is understood again.

#![no_main]

use adit::protocol::json::{self, MAX_ANSWER};
use adit::protocol::login::{Answer, Hello};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // Behind a proper length, so that not every other input is refused for that alone.
    let framed = |data: &[u8]| {
        let mut input = BytesMut::from(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes()[..]);
        input.extend_from_slice(data);
        input
    };
    let _ = json::decode::<Hello>(&mut BytesMut::from(data));
    if let Ok(Some(hello)) = json::decode::<Hello>(&mut framed(data)) {
        // A message that was within the limit may be written at more length.
        if let Ok(bytes) = json::encode(&hello) {
            let again: Hello = json::parse(&bytes[4..]).expect("its own words");
            assert_eq!(format!("{hello:?}"), format!("{again:?}"));
        }
    }
    if let Ok(Some(answer)) = json::decode_within::<Answer>(MAX_ANSWER, &mut framed(data))
        && let Ok(bytes) = json::encode_within(MAX_ANSWER, &answer)
    {
        let again: Answer = json::parse(&bytes[4..]).expect("its own words");
        assert_eq!(format!("{answer:?}"), format!("{again:?}"));
    }
});

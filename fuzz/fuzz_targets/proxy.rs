//! A PROXY protocol header ahead of a connection: what it says does not depend on what comes after it.

#![no_main]

use adit::transport::proxy_protocol::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    assert!(data.len() < 4096 || !matches!(whole, Ok(None)), "it never needs more than 4 KiB");
    for length in 0..data.len().min(300) {
        match parse(&data[..length]) {
            Ok(None) => {}
            early => {
                assert_eq!(early, whole, "decided after {length} bytes");
                break;
            }
        }
    }
    if let Ok(Some(header)) = whole {
        assert!(header.length <= data.len() && header.length <= 4096);
        assert_eq!(parse(&data[..header.length]), whole);
        assert_eq!(parse(&data[..header.length - 1]), Ok(None));
    }
});

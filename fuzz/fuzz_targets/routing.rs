//! Where a request goes. Three lines: authority, path, header; nothing in them leads anywhere but to what they name.

#![no_main]

use adit::routing::{Asked, Route, Router, RoutingMode, host_of, is_authority, strip_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let (authority, path, header) = (lines.next(), lines.next().unwrap_or("/"), lines.next());
    let router = Router::new("t.example", [RoutingMode::Subdomain, RoutingMode::Header, RoutingMode::Path]);
    let route = router.route(Asked { authority, path, header });
    assert_eq!(route, router.route(Asked { authority, path, header }));
    if let Some(authority) = authority.filter(|text| is_authority(text.as_bytes())) {
        assert!(authority.contains(host_of(authority)) && !authority.contains(['@', '/', '\\', ' ']));
    }
    let host = authority.map(host_of).unwrap_or_default().to_ascii_lowercase();
    match route {
        Route::Service { name, mode: RoutingMode::Subdomain, below } => {
            let labels = host.trim_end_matches('.').strip_suffix(".t.example").expect("a host below the domain");
            let last = labels.rsplit('.').next();
            assert_eq!((last, below), (Some(name.as_str()), labels.contains('.')));
        }
        Route::Service { name, mode: RoutingMode::Header, below } => {
            let header = header.unwrap_or_default().trim().to_ascii_lowercase();
            assert_eq!((header.as_str(), below), (name.as_str(), false));
        }
        Route::Service { name, mode: RoutingMode::Path, below } => {
            let first = path.split('/').nth(1).unwrap_or_default();
            assert!(!below && first.eq_ignore_ascii_case(name.as_str()));
            let rest = strip_name(path);
            assert!(rest.starts_with('/') && path.ends_with(rest), "{rest}");
        }
        Route::Domain(domain) => assert!(!domain.ends_with(".t.example") && domain != "t.example"),
        Route::AddSlash | Route::Own | Route::Unknown => {}
    }
});

//! The page that a person sees in place of a site.

use super::Failure;
use crate::values::RequestId;

/// Seconds after which a browser asks again: at random, so that the browsers of a popular site do not all come at once.
const RELOAD_S: std::ops::RangeInclusive<u32> = 3..=10;

/// Returns the page for `failure`. `message` may hold text of the visitor's.
pub(super) fn page(failure: &Failure, message: &str, is_navigation: bool, request_id: RequestId) -> String {
    let (status, code) = (failure.status(), failure.code());
    let reason = status.canonical_reason().unwrap_or_default();
    let is_front_page = *failure == Failure::FrontPage;
    let (title, heading, code) = if is_front_page {
        ("Tunnel server".to_owned(), "<h1>Tunnel server</h1>".to_owned(), String::new())
    } else {
        let number = status.as_str();
        let heading = format!("<p class=\"number\">{number}</p><h1>{reason}</h1>");
        (format!("{number} {reason}"), heading, format!("{code} &middot; "))
    };
    let (refresh, again) = if is_navigation && failure.passes_soon() {
        let refresh = format!("<meta http-equiv=\"refresh\" content=\"{}\">", reload_after());
        (refresh, "<p>This page reloads by itself.</p>")
    } else {
        (String::new(), "")
    };
    let owner = if failure.is_in_the_agents_log() {
        format!(
            "<p class=\"owner\">Is this your site? <code>adit http -v</code> (or <code>log.level = \"info\"</code> in \
             <code>agent.toml</code>) logs why, under the request id {request_id}.</p>"
        )
    } else {
        String::new()
    };
    let message = escaped(message);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"robots\" content=\"noindex\">{refresh}<title>{title}</title><style>{STYLE}</style></head>\n\
         <body><main>{heading}<p>{message}</p>{again}{owner}\
         <p class=\"small\">{code}request {request_id}</p></main></body></html>\n"
    )
}

/// Returns a random number of seconds in [`RELOAD_S`]; the longest time if the system has no randomness.
fn reload_after() -> u32 {
    let (first, last) = (*RELOAD_S.start(), *RELOAD_S.end());
    getrandom::u32().map_or(last, |random| first + random % (last - first + 1))
}

/// Returns `text` without markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

// The large digits have space at their left, which the margin takes back: everything begins at one edge.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;min-height:100vh;display:grid;place-items:center;font:1rem/1.5 system-ui,sans-serif;\
background:Canvas;color:CanvasText}\
main{box-sizing:border-box;width:100%;max-width:34rem;padding:2rem;overflow-wrap:anywhere}\
.number{margin:0 0 0 -.055em;font-size:4rem;font-weight:700;line-height:1;opacity:.25}\
h1{margin:.25rem 0 1rem;font-size:1.5rem}\
.owner{opacity:.8;font-size:.9rem}\
.small{margin-top:2rem;font-size:.8rem;opacity:.6;font-family:ui-monospace,monospace}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VisitorRate;

    /// A fixed one: the digits of a random one may be those of a status.
    const ID: RequestId = RequestId(0xab);

    fn shown(failure: &Failure, is_navigation: bool) -> String {
        page(failure, failure.message(), is_navigation, ID)
    }

    #[test]
    fn a_site_that_may_be_back_soon_reloads_for_a_navigation_only() {
        for failure in [Failure::TunnelOffline, Failure::TunnelStalled, Failure::LocalUnreachable, Failure::TunnelLost]
        {
            assert!(!shown(&failure, false).contains("refresh"), "{failure:?}");
            let mut times = std::collections::BTreeSet::new();
            for _ in 0..400 {
                let page = shown(&failure, true);
                let after = page.split("http-equiv=\"refresh\" content=\"").nth(1).unwrap();
                times.insert(after.split('"').next().unwrap().parse::<u32>().unwrap());
            }
            assert_eq!(times.into_iter().collect::<Vec<_>>(), RELOAD_S.collect::<Vec<_>>());
        }
        let rate = VisitorRate::new(std::num::NonZeroU32::MIN, std::num::NonZeroU32::MIN, 64, 8);
        let wait = loop {
            if let Err(wait) = rate.check([127, 0, 0, 1].into()) {
                break wait;
            }
        };
        for failure in [Failure::RateLimited(wait), Failure::UnknownName, Failure::CutByOperator, Failure::FrontPage] {
            assert!(!shown(&failure, true).contains("refresh"), "{failure:?}");
        }
    }

    #[test]
    fn the_owner_learns_where_to_look() {
        let page = shown(&Failure::LocalUnreachable, false);
        assert!(page.contains("<code>adit http -v</code>") && page.contains("<h1>Bad Gateway</h1>"), "{page}");
        assert!(!shown(&Failure::UnknownName, false).contains("adit http"));
    }

    #[test]
    fn the_front_page_shows_no_error() {
        let page = shown(&Failure::FrontPage, true);
        for word in ["not_found", "404", "It works", "Not Found"] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("<h1>Tunnel server</h1>"));
    }

    #[test]
    fn a_name_is_text() {
        let page = page(&Failure::UnknownName, "<b>\"a\" & 'b'</b>", false, ID);
        assert!(page.contains("<p>&lt;b&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/b&gt;</p>"), "{page}");
    }
}

//! The `[traces]` section of `server.toml`: where spans of requests go.

use http::Uri;

use crate::schema::{Key, options};
use crate::values::split_host_port;

options! {
    /// The `[traces]` section. A program that is built without the feature `otlp` takes no endpoint.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TracesOptions {
        /// The collector that gets a span of each request by OTLP over HTTP. Requires a program that was built with the
        /// feature `otlp`, see [below](#traces).
        pub endpoint: Option<String> = endpoint(), restart;
        /// Which part of new traces is exported. A trace that a visitor has begun is exported if its beginning was.
        pub sample: Ratio = Key::new("0 to 1", |entry| entry.fraction()).map(|part| part.map(Ratio::of)).or("1", Ratio::ALL), restart;
    }
}

/// A part of a whole, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio(u32);

impl Ratio {
    /// The whole.
    pub const ALL: Self = Self(1_000_000);

    fn of(fraction: f64) -> Self {
        // Within the bounds of `Entry::fraction` nothing is lost but digits.
        Self((fraction * 1e6).round() as u32)
    }

    /// From 0 to 1.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

fn endpoint() -> Key<Option<String>> {
    Key::new("`http://` or `https://`, without `/v1/traces`", |entry| match cfg!(feature = "otlp") {
        true => entry.parse(collector),
        false => {
            entry.problem(
                "this adit was built without the feature `otlp`: build it with `cargo build --release --features otlp`, \
                 or leave the key out",
            );
            None
        }
    })
}

fn collector(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let has_host = split_host_port(authority).is_ok() && text.parse::<Uri>().is_ok();
    match rest {
        // What is wrong with it may be a secret.
        Some(rest) if rest.contains(['@', '?', '#']) => {
            Err("must be a plain URL, like http://127.0.0.1:4318; what the \
             collector wants to know besides goes into OTEL_EXPORTER_OTLP_HEADERS"
                .to_owned())
        }
        Some(_) if has_host => {
            let text = text.trim_end_matches('/');
            match text.strip_suffix("/v1/traces") {
                Some(before) => Err(format!("is added to by /v1/traces; write only {before}")),
                None => Ok(text.to_owned()),
            }
        }
        _ => Err(format!("`{text}` is not the URL of a collector; write http://host:port or https://host:port")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::schema::{Environment, FileText, Flags, Report, Section as _, merge};

    fn read(text: &str, environment: &Environment) -> Result<TracesOptions, String> {
        let file = FileText { path: "server.toml".into(), text: text.to_owned() };
        let report = Report::new(Some(&file.path), Path::new(""));
        let mut root = report.root(merge(Some(&file), environment, &Flags::new()).unwrap());
        let options = TracesOptions::read(&mut root.section("traces"));
        drop(root);
        report.finish(Some(options)).map_err(|errors| errors.to_string())
    }

    fn traces(text: &str) -> Result<TracesOptions, String> {
        read(&format!("[traces]\n{text}"), &Environment::default())
    }

    #[test]
    fn a_part_is_from_nothing_to_all() {
        for (text, part) in [("", 1.0), ("sample = 1", 1.0), ("sample = 0", 0.0), ("sample = 0.05", 0.05)] {
            let traces = traces(text).unwrap();
            assert_eq!((traces.sample.as_f64(), traces.endpoint), (part, None), "{text}");
        }
        for text in ["sample = 1.1", "sample = -1", "sample = 100", "sample = nan", "sample = '0.1'"] {
            let message = traces(text).unwrap_err();
            assert!(message.contains("traces.sample: must be a fraction"), "{text}: {message}");
        }
        let environment: Environment = [("ADIT__TRACES__SAMPLE", "0.25")].into_iter().collect();
        assert_eq!(read("", &environment).unwrap().sample.as_f64(), 0.25);
    }

    #[test]
    fn a_collector_is_a_plain_url() {
        let url = |text: &str| collector(text).map_err(|message| message.replace('\n', " "));
        assert_eq!(url("http://127.0.0.1:4318"), Ok("http://127.0.0.1:4318".to_owned()));
        assert_eq!(url("https://otlp.example.com/otlp/"), Ok("https://otlp.example.com/otlp".to_owned()));
        assert_eq!(url("http://[::1]:4318/"), Ok("http://[::1]:4318".to_owned()));
        for text in ["127.0.0.1:4318", "grpc://a:4317", "http://", "http:// a", "http://:4318", "", "http://a:b"] {
            assert!(url(text).unwrap_err().contains("write http://host:port"), "{text}");
        }
        for text in ["http://user:secret@a", "http://a/?key=secret", "http://a/#secret"] {
            let message = url(text).unwrap_err();
            assert!(message.contains("OTEL_EXPORTER_OTLP_HEADERS") && !message.contains("secret"), "{message}");
        }
        assert!(url("http://a:4318/v1/traces").unwrap_err().contains("write only http://a:4318"));
    }

    #[test]
    fn only_a_program_with_the_feature_takes_a_collector() {
        let read = traces("endpoint = 'http://127.0.0.1:4318'");
        match cfg!(feature = "otlp") {
            true => assert_eq!(read.unwrap().endpoint.as_deref(), Some("http://127.0.0.1:4318")),
            false => assert!(read.unwrap_err().contains("traces.endpoint: this adit was built without the feature")),
        }
    }
}

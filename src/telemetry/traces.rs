//! Spans of requests, for a collector that speaks OTLP over HTTP. This is what the feature `otlp` builds; without it,
//! `no_traces.rs` stands in, which has the same names and does nothing.
//!
//! [`Traces`] exports; a [`RequestSpan`] is one request, a child of the visitor's own span if the visitor has sent one.
//! `parent` reads and writes `traceparent`; `export` takes batches to the collector, in a thread of its own, so that
//! nothing here ever waits. What does not fit into the queue is dropped.

mod export;
mod parent;

use std::fmt;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span};

use crate::telemetry::options::TracesOptions;

/// The most of a text that a span has, in bytes: a visitor chooses its path.
const LONGEST_TEXT: usize = 1024;

/// Where spans of requests go, if they go anywhere.
#[derive(Default)]
pub struct Traces(Option<Exporting>);

struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Traces").field(&self.0.is_some()).finish()
    }
}

impl Traces {
    /// Begins to export, if `config` names a collector. What the configuration does not say is taken from `OTEL_…`: fields
    /// of the collector's requests, attributes of the resource, the size of queue and batch. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    /// TLS cannot be had, or a variable asks for what is not built in.
    pub fn start(config: &TracesOptions) -> Result<Self, String> {
        let Some(endpoint) = &config.endpoint else { return Ok(Self(None)) };
        let exporter = export::Exporter::new(endpoint)?;
        let new = Sampler::TraceIdRatioBased(config.sample.as_f64());
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_sampler(Sampler::ParentBased(Box::new(new)))
            .with_span_processor(BatchSpanProcessor::builder(exporter).build())
            .build();
        let tracer = provider.tracer("adit");
        Ok(Self(Some(Exporting { provider, tracer })))
    }

    /// Begins the span of a request with these `headers`; one that is sampled is told what is known of it.
    pub fn begin(&self, headers: &HeaderMap, describe: impl FnOnce(&mut Facts<'_>)) -> RequestSpan {
        let Some(exporting) = &self.0 else { return RequestSpan(None) };
        let parent = parent::of(headers);
        let continues = parent.is_some();
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let builder = SpanBuilder::from_name("HTTP").with_kind(SpanKind::Server);
        let mut span = exporting.tracer.build_with_context(builder, &context);
        if span.is_recording() {
            describe(&mut Facts(&mut span));
        }
        RequestSpan(Some(Box::new(Begun { span, continues })))
    }

    /// Exports what waits, within `limit`, and nothing from then on.
    pub async fn stop(&self, limit: Duration) {
        let Some(exporting) = &self.0 else { return };
        let provider = exporting.provider.clone();
        let stopped = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(limit)).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("not all spans have reached the collector within {limit:?}");
        }
    }
}

fn resource() -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name("adit")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detectors(&[Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())]);
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name).build(),
        _ => resource.build(),
    }
}

/// The span of one request. Dropping it ends it.
#[derive(Default)]
pub struct RequestSpan(Option<Box<Begun>>);

struct Begun {
    span: Span,
    /// Whether it belongs to a trace that the visitor has begun.
    continues: bool,
}

impl fmt::Debug for RequestSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = self.0.as_ref().map(|begun| begun.span.span_context());
        f.debug_tuple("RequestSpan").field(&context.map(|context| (context.trace_id(), context.span_id()))).finish()
    }
}

impl RequestSpan {
    /// Of what is not traced.
    pub fn none() -> Self {
        Self(None)
    }

    /// Makes the application's spans children of this one, whether it is sampled or not. What the visitor says of its own
    /// trace (`tracestate`) stays, unless this is another trace.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        if let Some(Begun { span, continues }) = self.0.as_deref() {
            parent::put(span.span_context(), *continues, headers);
        }
    }

    /// Ends it; one that is sampled is told how the request ended.
    pub fn end(self, describe: impl FnOnce(&mut Facts<'_>)) {
        let Some(mut begun) = self.0 else { return };
        if begun.span.is_recording() {
            describe(&mut Facts(&mut begun.span));
        }
        begun.span.end();
    }
}

/// What a span is told.
pub struct Facts<'a>(&'a mut Span);

impl Facts<'_> {
    /// What it is called.
    pub fn name(&mut self, name: &'static str) {
        self.0.update_name(name);
    }

    /// One of few words.
    pub fn word(&mut self, key: &'static str, word: &'static str) {
        self.0.set_attribute(KeyValue::new(key, word));
    }

    /// A text, of which the first 1,024 bytes are kept.
    pub fn text(&mut self, key: &'static str, text: &str) {
        let kept = &text[..text.floor_char_boundary(LONGEST_TEXT)];
        self.0.set_attribute(KeyValue::new(key, kept.to_owned()));
    }

    /// A number.
    pub fn number(&mut self, key: &'static str, value: u64) {
        self.0.set_attribute(KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX)));
    }

    /// What has happened so long ago.
    pub fn event(&mut self, name: &'static str, ago: Duration) {
        let now = SystemTime::now();
        self.0.add_event_with_timestamp(name, now.checked_sub(ago).unwrap_or(now), Vec::new());
    }

    /// The request has failed by the server's fault.
    pub fn failed(&mut self) {
        self.0.set_status(Status::error(""));
    }
}

#[cfg(test)]
mod tests;

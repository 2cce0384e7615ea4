//! What stands in for `traces.rs` in a program that is built without the feature `otlp`: nothing is kept and nothing is
//! done.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::time::Duration;

use http::HeaderMap;

use crate::telemetry::options::TracesOptions;

/// Spans go nowhere.
#[derive(Debug, Default)]
pub struct Traces;

impl Traces {
    /// The configuration refuses a collector before.
    ///
    /// # Errors
    /// None.
    pub fn start(_: &TracesOptions) -> Result<Self, String> {
        Ok(Self)
    }

    /// Begins nothing.
    pub fn begin(&self, _: &HeaderMap, _: impl FnOnce(&mut Facts<'_>)) -> RequestSpan {
        RequestSpan
    }

    /// There is nothing to stop.
    pub async fn stop(&self, _: Duration) {}
}

/// No span.
#[derive(Debug, Default)]
pub struct RequestSpan;

impl RequestSpan {
    /// Of what is not traced.
    pub fn none() -> Self {
        Self
    }

    /// The application gets what the visitor has sent.
    pub fn pass_on(&self, _: &mut HeaderMap) {}

    /// There is nothing to end.
    pub fn end(self, _: impl FnOnce(&mut Facts<'_>)) {}
}

/// What no span is told: there is none of these.
#[derive(Debug)]
pub struct Facts<'a>(Infallible, PhantomData<&'a ()>);

impl Facts<'_> {
    /// What it is called.
    pub fn name(&mut self, _: &'static str) {
        match self.0 {}
    }

    /// One of few words.
    pub fn word(&mut self, _: &'static str, _: &'static str) {
        match self.0 {}
    }

    /// A text.
    pub fn text(&mut self, _: &'static str, _: &str) {
        match self.0 {}
    }

    /// A number.
    pub fn number(&mut self, _: &'static str, _: u64) {
        match self.0 {}
    }

    /// What has happened.
    pub fn event(&mut self, _: &'static str, _: Duration) {
        match self.0 {}
    }

    /// The request has failed.
    pub fn failed(&mut self) {
        match self.0 {}
    }
}

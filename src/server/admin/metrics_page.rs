//! The page that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, prometheus_text};
use prometheus_client::registry::Registry;

use crate::server::lifecycle::Lifecycle;
use crate::server::metrics::failure_code::FailureCode;
use crate::server::metrics::list::{self, Kind, Listed};
use crate::server::metrics::meter::CLASSES;
use crate::server::metrics::{LaneEnd, Limit, LoginMethod, LoginResult, Meter};
use crate::telemetry::{Histogram, LogState, ProcessFigures};

/// All metrics as text, and its type. Walks everything that is connected, and asks the system: not for a thread that
/// serves others.
///
/// # Errors
/// There is no memory for the text.
pub(crate) fn page(lifecycle: &Arc<Lifecycle>) -> Result<(String, &'static str), fmt::Error> {
    lifecycle.agents.remove_unused_meters();
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(Arc::clone(lifecycle))));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok((text, prometheus_text::CONTENT_TYPE))
}

#[derive(Debug)]
struct Page(Arc<Lifecycle>);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        let lifecycle = &self.0;
        write_services(&mut sheet, lifecycle)?;
        write_events(&mut sheet, lifecycle)?;
        write_state(&mut sheet, lifecycle)?;
        write_clients(&mut sheet, lifecycle)?;
        write_guards(&mut sheet, lifecycle)?;
        write_process(&mut sheet, lifecycle)
    }
}

fn write_services(sheet: &mut Sheet<'_>, lifecycle: &Lifecycle) -> fmt::Result {
    // No meter is looked at while the map is locked.
    let mut meters: Vec<Arc<Meter>> =
        lifecycle.runtime.metrics.services.iter().map(|meter| Arc::clone(&meter)).collect();
    meters.sort_by(|one, other| (one.client(), one.name()).cmp(&(other.client(), other.name())));
    let labels = |meter: &'_ Meter| [("client", meter.client().to_string()), ("service", meter.name().to_string())];
    sheet.write(
        &list::REQUESTS,
        meters.iter().flat_map(|meter| {
            let classes = CLASSES.iter().zip(meter.requests.iter()).filter(|(_, count)| *count > 0);
            classes.map(|(class, count)| {
                let [client, service] = labels(meter);
                ([client, service, ("status", (*class).to_owned())], Value::Whole(count))
            })
        }),
    )?;
    let seconds = |meter: &Arc<Meter>| (labels(meter), Value::Part(meter.micros.get() as f64 / 1e6));
    sheet.write(&list::REQUEST_TIME_BY_SERVICE, meters.iter().map(seconds))?;
    let connections = |meter: &Arc<Meter>| (labels(meter), Value::Whole(meter.connections.get()));
    sheet.write(&list::CONNECTIONS_CARRIED, meters.iter().map(connections))?;
    sheet.write(
        &list::BYTES,
        meters.iter().flat_map(|meter| {
            [("in", meter.received.get()), ("out", meter.sent.get())].map(|(direction, bytes)| {
                let [client, service] = labels(meter);
                ([client, service, ("direction", direction.to_owned())], Value::Whole(bytes))
            })
        }),
    )
}

fn write_events(sheet: &mut Sheet<'_>, lifecycle: &Lifecycle) -> fmt::Result {
    let metrics = &lifecycle.runtime.metrics;
    sheet.histogram(&list::REQUEST_TIME, &metrics.totals.time)?;
    sheet.histogram(&list::WAITING, &metrics.totals.waiting)?;
    sheet.histogram(&list::LOCAL, &metrics.totals.local)?;
    let failures = FailureCode::TEXTS.iter().zip(metrics.totals.failures.iter());
    sheet.write(&list::FAILURES, failures.map(|(code, count)| ([("code", *code)], Value::Whole(count))))?;
    sheet.one(&list::CUT, Value::Whole(metrics.totals.cut.get()))?;
    let limits = Limit::WORDS.iter().zip(metrics.limits.iter());
    sheet.write(&list::LIMIT_HITS, limits.map(|(limit, count)| ([("limit", *limit)], Value::Whole(count))))?;
    let logins = LoginMethod::WORDS.iter().zip(&metrics.logins).flat_map(|(shown, results)| {
        let results = LoginResult::WORDS.iter().zip(results.iter());
        results.map(move |(result, count)| ([("shown", *shown), ("result", *result)], Value::Whole(count)))
    });
    sheet.write(&list::LOGINS, logins)?;
    sheet.histogram(&list::LOGIN_TIME, &metrics.login_time)?;
    let ended = LaneEnd::WORDS.iter().zip(metrics.lanes_ended.iter());
    sheet.write(&list::LANES_ENDED, ended.map(|(reason, count)| ([("reason", *reason)], Value::Whole(count))))?;
    sheet.one(&list::LOG_LINES_LOST, Value::Whole(lifecycle.log.get().map_or(0, LogState::lost_lines)))
}

fn write_state(sheet: &mut Sheet<'_>, lifecycle: &Lifecycle) -> fmt::Result {
    let lanes: usize = lifecycle.directory.registry.all().iter().map(|tunnel| tunnel.lanes().len()).sum();
    for (listed, number) in [
        (&list::TUNNELS, lifecycle.directory.registry.len()),
        (&list::LANES, lanes),
        (&list::STREAMS, lifecycle.directory.streams.in_use()),
        (&list::STREAMS_MOST, lifecycle.directory.streams.capacity()),
        (&list::VISITORS, lifecycle.ingress.limits.connections.in_use()),
        (&list::VISITORS_MOST, lifecycle.ingress.limits.connections.capacity()),
        (&list::ADDRESSES, lifecycle.ingress.limits.connections_by_address.addresses()),
        (&list::LOGINS_NOW, lifecycle.agents.login.in_progress.in_use()),
    ] {
        sheet.one(listed, Value::Whole(number as u64))?;
    }
    Ok(())
}

fn write_clients(sheet: &mut Sheet<'_>, lifecycle: &Lifecycle) -> fmt::Result {
    let mut clients: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for meter in &lifecycle.runtime.metrics.services {
        clients.entry(meter.client().to_string()).or_default();
    }
    for tunnel in lifecycle.directory.registry.all() {
        let (tunnels, streams) = clients.entry(tunnel.client().to_string()).or_default();
        *tunnels += 1;
        *streams += tunnel.streams() as u64;
    }
    let client = |client: &String| [("client", client.clone())];
    let tunnels = clients.iter().map(|(id, (tunnels, _))| (client(id), Value::Whole(*tunnels)));
    sheet.write(&list::CLIENT_TUNNELS, tunnels)?;
    let streams = clients.iter().map(|(id, (_, streams))| (client(id), Value::Whole(*streams)));
    sheet.write(&list::CLIENT_STREAMS, streams)
}

fn write_guards(sheet: &mut Sheet<'_>, lifecycle: &Lifecycle) -> fmt::Result {
    let queues =
        [("tokens", lifecycle.agents.login.verifier.load()), ("passwords", lifecycle.ingress.limits.passwords.load())];
    let running = queues.iter().map(|(of, (running, _))| ([("of", *of)], Value::Whole(*running as u64)));
    sheet.write(&list::HASHES_RUNNING, running)?;
    let waiting = queues.iter().map(|(of, (_, waiting))| ([("of", *of)], Value::Whole(*waiting as u64)));
    sheet.write(&list::HASHES_WAITING, waiting)?;
    sheet.one(&list::HELD, Value::Whole(lifecycle.ingress.limits.held_bodies.in_use() as u64))?;
    sheet.one(&list::CLIENTS, Value::Whole(lifecycle.directory.clients.len() as u64))?;
    let file_is_good = lifecycle.agents.client_store.problems().is_none();
    sheet.one(&list::FILE_OK, Value::Whole(file_is_good.into()))?;
    sheet.one(&list::RELOAD_OK, Value::Whole(lifecycle.refused_reload.lock().is_none().into()))?;
    sheet.one(&list::CERTIFICATES_OK, Value::Whole(lifecycle.certificates.problems().is_empty().into()))?;
    let certificates = lifecycle.certificates.active().into_iter();
    let expires = earliest_ends(certificates.map(|shown| ((shown.of, shown.name), shown.expires_unix)));
    let expires = expires.into_iter().map(|((of, name), end)| ([("of", of.to_owned()), ("name", name)], end));
    sheet.write(&list::CERTIFICATE_EXPIRES, expires.map(|(labels, end)| (labels, Value::Whole(end))))?;
    sheet.one(&list::DRAINING, Value::Whole(lifecycle.runtime.shutdown.stop.is_cancelled().into()))?;
    sheet.write(&list::BUILD, [([("version", env!("CARGO_PKG_VERSION"))], Value::Whole(1))])
}

/// Of certificates that are shown in the same place with the same first name (RSA beside ECDSA) the one that ends first: a
/// series has one value.
fn earliest_ends(
    certificates: impl Iterator<Item = ((&'static str, String), u64)>,
) -> BTreeMap<(&'static str, String), u64> {
    let mut ends = BTreeMap::new();
    for (shown, end) in certificates {
        ends.entry(shown).and_modify(|earliest: &mut u64| *earliest = end.min(*earliest)).or_insert(end);
    }
    ends
}

fn write_process(sheet: &mut Sheet<'_>, lifecycle: &Lifecycle) -> fmt::Result {
    let process = ProcessFigures::now();
    for (listed, number) in [
        (&list::RESIDENT, process.resident.map(Value::Whole)),
        (&list::ADDRESS_SPACE, process.addresses.map(Value::Whole)),
        (&list::CPU, process.cpu.map(Value::Part)),
        (&list::THREADS, process.threads.map(Value::Whole)),
        (&list::FILES, process.files.map(Value::Whole)),
        (&list::FILES_MOST, process.most_files.map(Value::Whole)),
        (&list::STARTED, Some(Value::Part(lifecycle.runtime.metrics.started))),
    ] {
        // What the system does not tell is not there at all.
        if let Some(number) = number {
            sheet.one(listed, number)?;
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Whole(u64),
    Part(f64),
}

struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn one(&mut self, listed: &Listed, value: Value) -> fmt::Result {
        self.write(listed, [([("", ""); 0], value)])
    }

    fn write<L: EncodeLabelSet>(
        &mut self,
        listed: &Listed,
        series: impl IntoIterator<Item = (L, Value)>,
    ) -> fmt::Result {
        // The encoder puts the end back.
        let name = listed.name.strip_suffix("_total").unwrap_or(listed.name);
        let mut metric = self.0.encode_descriptor(name, listed.help, None, listed.kind.metric_type())?;
        for (labels, value) in series {
            let mut one = metric.encode_family(&labels)?;
            match (listed.kind, value) {
                (Kind::Counter, Value::Whole(number)) => one.encode_counter::<NoLabelSet, _, u64>(&number, None)?,
                (Kind::Counter, Value::Part(number)) => one.encode_counter::<NoLabelSet, _, u64>(&number, None)?,
                (_, Value::Whole(number)) => one.encode_gauge(&(number as f64))?,
                (_, Value::Part(number)) => one.encode_gauge(&number)?,
            }
        }
        Ok(())
    }

    fn histogram(&mut self, listed: &Listed, histogram: &Histogram) -> fmt::Result {
        let observed = histogram.observed();
        let mut metric = self.0.encode_descriptor(listed.name, listed.help, None, listed.kind.metric_type())?;
        metric.encode_histogram::<NoLabelSet>(observed.sum, observed.count, &observed.buckets, None)
    }
}

//! Every metric with its name, labels and help text. `docs/metrics.md` has the same list.

use prometheus_client::metrics::MetricType;

/// The static description of a metric.
#[derive(Debug)]
pub(crate) struct Listed {
    /// The name on the page; that of a counter ends with `_total`.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    #[cfg(test)]
    pub(crate) labels: &'static [&'static str],
    pub(crate) help: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub(crate) fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal $labels:tt $help:literal;)*) => {
        $(pub(crate) const $id: Listed = Listed {
            name: $name,
            kind: Kind::$kind,
            #[cfg(test)]
            labels: &$labels,
            help: $help,
        };)*

        /// All metrics, in the order of the page.
        #[cfg(test)]
        pub(crate) const ALL: &[&Listed] = &[$(&$id),*];
    };
}

metrics! {
    REQUESTS Counter "adit_requests_total" ["client", "service", "status"]
        "Requests that reached a service and have ended, by the class of the status that the visitor got";
    REQUEST_TIME_BY_SERVICE Counter "adit_service_seconds_total" ["client", "service"]
        "Time that requests to a service took, all of them together";
    CONNECTIONS_CARRIED Counter "adit_service_connections_total" ["client", "service"]
        "Connections to tcp and tls services that have ended";
    BYTES Counter "adit_service_bytes_total" ["client", "service", "direction"]
        "Bytes of bodies and connections, from visitors (in) and to them (out)";
    REQUEST_TIME Histogram "adit_request_seconds" []
        "From the head of a request to the end of its answer";
    WAITING Histogram "adit_request_waiting_seconds" []
        "From the head of a request to the head of its answer, tunnel and application together";
    LOCAL Histogram "adit_request_local_seconds" []
        "From a request's reaching its agent to the head of the application's answer there, as the agent tells it";
    FAILURES Counter "adit_failures_total" ["code"]
        "Requests and connections that the server had to refuse or give up, by X-Adit-Error";
    CUT Counter "adit_cut_total" []
        "Requests and connections that visitors did not wait for, or whose answer broke off";
    LIMIT_HITS Counter "adit_limit_hits_total" ["limit"]
        "Times that somebody came up against a limit";
    LOGINS Counter "adit_logins_total" ["shown", "result"]
        "Logins of agents, by what they showed and what came of it; a ticket is an agent that comes back";
    LOGIN_TIME Histogram "adit_login_seconds" []
        "From an agent's connection to the end of its login, TLS included";
    LANES_ENDED Counter "adit_lanes_ended_total" ["reason"]
        "Connections of agents that have ended";
    LOG_LINES_LOST Counter "adit_log_lines_lost_total" []
        "Lines of the log that could not be written, or that came faster than they could be";
    TUNNELS Gauge "adit_tunnels" []
        "Connected agents";
    LANES Gauge "adit_lanes" []
        "Connections of agents that are logged in";
    STREAMS Gauge "adit_streams" []
        "Requests and connections that are open";
    STREAMS_MOST Gauge "adit_streams_max" []
        "How many of them there may be (limits.streams)";
    VISITORS Gauge "adit_visitor_connections" []
        "Connections of visitors";
    VISITORS_MOST Gauge "adit_visitor_connections_max" []
        "How many of them there may be (limits.connections)";
    ADDRESSES Gauge "adit_visitor_addresses" []
        "Addresses that have a connection";
    LOGINS_NOW Gauge "adit_logins_under_way" []
        "Agents' connections on their way to a login";
    CLIENT_TUNNELS Gauge "adit_client_tunnels" ["client"]
        "Connected agents of a client; 0 for one that has offered a service since the start";
    CLIENT_STREAMS Gauge "adit_client_streams" ["client"]
        "Requests and connections of a client that are open";
    HASHES_RUNNING Gauge "adit_hashes_running" ["of"]
        "Tokens of agents and passwords of visitors that are being compared";
    HASHES_WAITING Gauge "adit_hashes_waiting" ["of"]
        "Tokens and passwords that wait to be compared";
    HELD Gauge "adit_held_body_bytes" []
        "Bytes of bodies that are held until their signature is checked";
    CLIENTS Gauge "adit_clients" []
        "Clients that are listed";
    FILE_OK Gauge "adit_clients_file_ok" []
        "1 if the clients file on the disk counts, 0 if it cannot be used";
    RELOAD_OK Gauge "adit_reload_ok" []
        "1, or 0 since the configuration was to be read again and was refused";
    CERTIFICATES_OK Gauge "adit_certificates_ok" []
        "1, or 0 while the certificates on the disk cannot be taken over, or none can be made";
    CERTIFICATE_EXPIRES Gauge "adit_certificate_expires_timestamp_seconds" ["of", "name"]
        "The last second at which a certificate is good, by where it is shown and its first name";
    DRAINING Gauge "adit_draining" []
        "1 while the server is shutting down";
    BUILD Gauge "adit_build_info" ["version"]
        "1; the label says which program runs";
    RESIDENT Gauge "process_resident_memory_bytes" []
        "Memory of the process";
    ADDRESS_SPACE Gauge "process_virtual_memory_bytes" []
        "Addresses of the process";
    CPU Counter "process_cpu_seconds_total" []
        "Processor time of the process";
    THREADS Gauge "process_threads" []
        "Threads of the process";
    FILES Gauge "process_open_fds" []
        "Open files and sockets of the process";
    FILES_MOST Gauge "process_max_fds" []
        "How many of them there may be";
    STARTED Gauge "process_start_time_seconds" []
        "When the server began, in seconds since 1970";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(listed: &Listed) -> String {
        let kind = listed.kind.metric_type();
        let kind = kind.as_str();
        let labels = listed.labels.iter().map(|label| format!("`{label}`")).collect::<Vec<_>>().join(", ");
        format!("| `{}` | {kind} | {labels} | {} |", listed.name, listed.help)
    }

    #[test]
    fn the_page_about_metrics_lists_all_of_them_and_no_other() {
        let page = include_str!("../../../docs/metrics.md");
        let listed: Vec<&str> =
            page.lines().filter(|line| line.starts_with("| `adit_") || line.starts_with("| `process_")).collect();
        let expected: Vec<String> = ALL.iter().map(|listed| row(listed)).collect();
        assert_eq!(listed, expected, "docs/metrics.md should have:\n{}", expected.join("\n"));
    }

    const RULES: &str = include_str!("../../../docker/prometheus/alerts.yml");

    #[test]
    fn each_alert_has_its_section_and_its_test() {
        let (runbook, tests) =
            (include_str!("../../../docs/runbook.md"), include_str!("../../../docker/prometheus/alerts_test.yml"));
        let alerts: Vec<&str> = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(alerts, sections);
        for alert in &alerts {
            let link = format!("runbook: docs/runbook.md#{}\n", alert.to_lowercase());
            assert!(RULES.contains(&link), "{alert} does not lead to its section");
            assert!(tests.contains(&link), "{alert} is never seen to fire");
        }
    }

    #[test]
    fn rules_and_dashboard_ask_for_nothing_else() {
        let dashboard = include_str!("../../../docker/grafana/adit.json");
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for (file, text) in [("alerts.yml", RULES), ("adit.json", dashboard)] {
            let words = text
                .split(|c: char| !is_word(c))
                .filter(|word| word.starts_with("adit_") || word.starts_with("process_"));
            let words: Vec<&str> = words.collect();
            assert!(words.len() > 15, "{file}: {words:?}");
            for word in words {
                let name =
                    ["_bucket", "_count", "_sum"].iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word);
                assert!(ALL.iter().any(|listed| listed.name == name), "{file} asks for {word}");
            }
        }
    }

    #[test]
    fn names_are_what_prometheus_asks_for() {
        for listed in ALL {
            let is_counter = listed.kind == Kind::Counter;
            assert_eq!(listed.name.ends_with("_total"), is_counter, "{}", listed.name);
            assert!(listed.kind != Kind::Histogram || listed.name.ends_with("_seconds"), "{}", listed.name);
        }
    }
}

//! `[tunnel]`: where agents connect, and the certificate that they see.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{HOUR, MILLISECOND, MINUTE, SECOND, listen};
use crate::schema::{Group, Table, key, options};
use crate::values::{NETWORKS, dns_name, network};

options! {
    /// The `[tunnel]` section.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TunnelOptions {
        /// Where agents connect. `[::]` takes IPv4 too, and means `0.0.0.0` on a machine without IPv6.
        pub listen: SocketAddr = listen(8080), restart;
        /// Peers whose connections begin with a PROXY protocol header, v1 or v2, such as a TCP load balancer in front. It is
        /// required from these and accepted from no other peer.
        pub proxy_protocol_from: Vec<IpNet> = key::list(NETWORKS, network), reload;
        /// Interval between heartbeats on each lane. A lane that receives no byte for three intervals is closed.
        pub heartbeat: Duration = key::duration(10 * SECOND, 100 * MILLISECOND..=5 * MINUTE), reload;
        /// Time limit for TLS handshake and login together.
        pub login_timeout: Duration = key::duration(10 * SECOND, 10 * MILLISECOND..=5 * MINUTE), reload;
        /// How long in-flight requests may take to finish on shutdown, or when a lane is replaced. systemd waits for
        /// it; the sample compose files (`stop_grace_period: 40s`) kill the server earlier if it is longer than 30 s:
        /// raise both.
        pub drain_timeout: Duration = key::duration(30 * SECOND, 10 * MILLISECOND..=24 * HOUR), reload;
        /// Connected agents at once. Beyond that, the server accepts a login only if it replaces a tunnel of the same
        /// client.
        pub max_tunnels: usize = key::number(10_000, 1..=1_000_000), reload;
        /// The certificate that agents see.
        pub tls: TlsOptions, section;
    }
}

options! {
    /// The `[tunnel.tls]` section.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TlsOptions {
        /// The folder of the local CA and its certificates, `ticket.key` and `admin-token`.
        pub dir: PathBuf =
            key::path().or_else("`../certs` from the file; `certs` without one", |report| match report.has_file() {
                true => report.base().join("../certs"),
                false => "certs".into(),
            }), restart;
        /// Further names in the certificate of the local CA. It always has `public.domain`, `localhost`, loopback and
        /// the machine's own addresses.
        pub names: Vec<String> = key::list("DNS names (no wildcards), IP addresses", certificate_name), restart;
        /// The operator's own certificate, instead of one from the local CA.
        pub own: Option<OwnCertificate>, inline;
    }
}

options! {
    /// A certificate and its key.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct OwnCertificate {
        /// A certificate chain of your own, PEM, leaf first. Of several in `public.certificates`, the name that a
        /// visitor asks for decides (SNI; wildcards match one label); the first is the default.
        pub cert: PathBuf = key::path().within(", both or neither").or("none", PathBuf::new()), restart;
        /// Its private key, PEM.
        pub key: PathBuf = key::path().within(", both or neither").or("none", PathBuf::new()), restart;
    }
}

impl Group for OwnCertificate {
    fn given(self, table: &Table<'_>) -> Option<Self> {
        let missing = match [&self.cert, &self.key].map(|path| path.as_os_str().is_empty()) {
            [false, false] => return Some(self),
            [true, true] => return None,
            [true, false] => "cert",
            [false, true] => "key",
        };
        table.problem(missing, "is missing: a certificate of your own needs `cert` and `key`");
        None
    }
}

fn certificate_name(text: &str) -> Result<String, String> {
    if text.parse::<IpAddr>().is_ok() { Ok(text.to_ascii_lowercase()) } else { dns_name(text) }
}

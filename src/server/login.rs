//! The login: from an agent's first words to a value that proves who it is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Shared;
use super::ports::OpenPort;
use super::tunnel::{MAX_LANES, Tunnel};
use crate::access::Access;
use crate::auth::Ticket;
use crate::protocol::VERSION;
use crate::protocol::login::{
    Hello, Join, MAX_CLOCK_SKEW_S, MAX_SERVICES, Proof, PublicService, Refusal, Refused, ServiceKind, ServiceOffer,
};
use crate::routing::RoutingMode;
use crate::values::{ClientId, InstanceId, Name, Secret};

/// How long a ticket lets an agent back in without its token being checked. Refreshed on the control stream.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How many of a client's names a refusal lists.
const LISTED_NAMES: usize = 10;

/// An agent has proved that it acts for this client, and may offer these services. Made here and nowhere else.
#[derive(Debug, Clone)]
#[must_use = "only a registered login can serve"]
pub struct Authenticated {
    client: ClientId,
    instance: InstanceId,
    agent: String,
    services: Vec<ServiceOffer>,
    /// Which visitors get to each of them, in the same order.
    access: Vec<Arc<Access>>,
    /// The public ports of its `tcp` services, open for as long as this lives.
    ports: Vec<Arc<OpenPort>>,
}

impl Authenticated {
    /// A login that never was.
    #[cfg(test)]
    pub(super) fn for_tests(client: &str, instance: InstanceId, names: &[&str]) -> Self {
        let offer = |name: &&str| ServiceOffer::new(Name::new(name).unwrap(), ServiceKind::Http);
        let services: Vec<ServiceOffer> = names.iter().map(offer).collect();
        let access = services.iter().map(|offer| Arc::new(Access::of(offer).unwrap())).collect();
        let client = ClientId::new(client).unwrap();
        Self { client, instance, agent: "test".to_owned(), services, access, ports: Vec::new() }
    }

    /// Who it is.
    pub fn client(&self) -> &ClientId {
        &self.client
    }

    /// Which run of the agent.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// What program it says it is, for logs.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// What it offers; every name is one that the client may claim.
    pub fn services(&self) -> &[ServiceOffer] {
        &self.services
    }

    /// Which visitors get to `name`; `None` if it does not offer that.
    pub fn access_of(&self, name: &Name) -> Option<&Arc<Access>> {
        let at = self.services.iter().position(|service| service.name == *name)?;
        self.access.get(at)
    }
}

/// What a login asks for, and may have.
#[derive(Debug)]
#[must_use]
pub enum Granted {
    /// A tunnel of its own.
    Tunnel(Authenticated),
    /// A further lane of this tunnel.
    Lane(Arc<Tunnel>),
}

fn bad_token() -> Refused {
    Refused::new(
        Refusal::BadToken,
        "the client id or the token is wrong, or was revoked; ask the operator for a new one (`adit token new`)",
    )
}

impl Shared {
    /// Decides on a login. A wrong proof counts against `from`; everything that only its owner may learn is looked at
    /// after the proof.
    pub(super) async fn check_login(self: &Arc<Self>, hello: &Hello, from: IpAddr) -> Result<Granted, Refused> {
        self.check_draining()?;
        if hello.protocol != VERSION {
            let message = format!("the server speaks version {VERSION} of the protocol, the agent {}", hello.protocol);
            return Err(Refused::new(Refusal::Version, message));
        }
        if let Some(missing) = hello.required.first() {
            return Err(Refused::new(
                Refusal::Version,
                format!("the server lacks `{missing}`, which the agent requires"),
            ));
        }
        if let Some(join) = &hello.join {
            return self.check_join(hello, join, from).map(Granted::Lane);
        }
        if let Some(Proof::Token(_)) = hello.proof {
            self.check_failures(from)?;
        }
        if !self.check_proof(hello).await {
            self.failed_logins.failed(from);
            return Err(bad_token());
        }
        // A token takes a moment to check.
        self.check_draining()?;
        check_clock(hello.timestamp)?;
        self.check_services(&hello.client_id, &hello.services)?;
        let access = compile_access(&hello.services)?;
        let ports = self.open_ports(&hello.client_id, &hello.services)?;
        Ok(Granted::Tunnel(Authenticated {
            client: hello.client_id.clone(),
            instance: hello.instance_id,
            agent: describe(hello),
            services: hello.services.clone(),
            access,
            ports,
        }))
    }

    fn check_draining(&self) -> Result<(), Refused> {
        match self.stop.is_cancelled() {
            true => Err(Refused::new(Refusal::Draining, "the server is shutting down; it will be back")),
            false => Ok(()),
        }
    }

    /// Checking a token is costly, and tokens may be guessed. Tickets and lane secrets have 256 bits and are cheap to
    /// check: whoever has one gets in, whatever others have done from the same address.
    fn check_failures(&self, from: IpAddr) -> Result<(), Refused> {
        self.failed_logins.allowed(from).map_err(|wait| Refused {
            retry_after_s: Some(wait.seconds()),
            ..Refused::new(Refusal::TooMany, "too many failed logins from this address; try again later")
        })
    }

    async fn check_proof(&self, hello: &Hello) -> bool {
        let hash = self.clients.token_hash(&hello.client_id);
        match &hello.proof {
            Some(Proof::Ticket(ticket)) => {
                let claimed = Ticket::parse(ticket);
                let client = claimed.and_then(|claimed| self.tickets.verify(&claimed, hash.as_deref(), unix_now()));
                client.is_ok_and(|client| client == hello.client_id)
            }
            Some(Proof::Token(token)) => match self.verifier.verify(token, hash.as_deref()).await {
                Ok(right) => right,
                Err(error) => {
                    tracing::error!(client = %hello.client_id, %error, "the stored token hash cannot be used");
                    false
                }
            },
            // Invitations are not given out yet.
            Some(Proof::Invite(_)) | None => false,
        }
    }

    fn check_join(&self, hello: &Hello, join: &Join, from: IpAddr) -> Result<Arc<Tunnel>, Refused> {
        let tunnel = self.registry.tunnel(&hello.client_id, join.tunnel_id);
        let Some(tunnel) = tunnel.filter(|_| self.clients.token_hash(&hello.client_id).is_some()) else {
            return Err(Refused::new(Refusal::WrongNode, "the tunnel that this lane wants to join is not here"));
        };
        if !tunnel.secret().matches(&join.lane_secret) {
            self.failed_logins.failed(from);
            return Err(bad_token());
        }
        if !tunnel.has_room_for_a_lane() {
            return Err(Refused::new(Refusal::TooMany, format!("the tunnel has {MAX_LANES} lanes already")));
        }
        Ok(tunnel)
    }

    fn check_services(&self, client: &ClientId, services: &[ServiceOffer]) -> Result<(), Refused> {
        let not_allowed = |message: String| Err(Refused::new(Refusal::NotAllowed, message));
        if services.is_empty() || services.len() > MAX_SERVICES {
            return not_allowed(format!("an agent offers 1 to {MAX_SERVICES} services, not {}", services.len()));
        }
        for (i, service) in services.iter().enumerate() {
            let name = &service.name;
            if services[..i].iter().any(|earlier| earlier.name == *name) {
                return not_allowed(format!("two services claim the name `{name}`"));
            }
            if service.kind == ServiceKind::Tls
                && (self.https.is_none() || !self.config.public.routing.contains(&RoutingMode::Subdomain))
            {
                return not_allowed(format!(
                    "the service `{name}` is of the kind tls, which needs `public.https` and routing by subdomain on the server"
                ));
            }
            let allowed = self.clients.names(client);
            if !allowed.contains(name) {
                return not_allowed(format!(
                    "the client `{client}` may not claim the name `{name}`, only: {}; the operator can add it to `names` in the clients file",
                    list(&allowed)
                ));
            }
        }
        Ok(())
    }

    /// Opens the public ports of `tcp` services. Those that are open for the same service already stay so.
    fn open_ports(
        self: &Arc<Self>,
        client: &ClientId,
        services: &[ServiceOffer],
    ) -> Result<Vec<Arc<OpenPort>>, Refused> {
        let allowed = self.clients.tcp_ports(client);
        let open = |service: &ServiceOffer| {
            let of = (client, &service.name);
            let (port, listener) = self.ports.acquire(of, service.remote_port, &allowed).map_err(|why| {
                Refused::new(why.refusal(), format!("the service `{}` gets no port: {why}", service.name))
            })?;
            if let Some(listener) = listener {
                self.serve_port(&port, listener);
            }
            Ok(port)
        };
        services.iter().filter(|service| service.kind == ServiceKind::Tcp).map(open).collect()
    }

    /// A fresh ticket for `client`; `None` if the client is not listed any more.
    pub(super) fn ticket(&self, client: &ClientId) -> Option<Secret> {
        let hash = self.clients.token_hash(client)?;
        Some(self.tickets.issue(client, &hash, unix_now() + TICKET_LIFETIME.as_secs()))
    }

    /// Where visitors reach each service, most useful first.
    pub(super) fn public_services(&self, login: &Authenticated) -> Vec<PublicService> {
        let domain = &self.config.public.domain;
        let urls = |ServiceOffer { name, kind, .. }: &ServiceOffer| match kind {
            ServiceKind::Http => self.public_urls(name),
            ServiceKind::Tcp => {
                let ports = login.ports.iter().filter(|port| port.name == *name);
                ports.map(|port| format!("tcp://{domain}:{}", port.port)).collect()
            }
            ServiceKind::Tls => {
                self.https.iter().map(|https| format!("tls://{name}.{domain}:{}", https.port)).collect()
            }
        };
        let public = |offer| PublicService { name: ServiceOffer::clone(offer).name, public_urls: urls(offer) };
        login.services.iter().map(public).collect()
    }

    fn public_urls(&self, name: &Name) -> Vec<String> {
        let public = &self.config.public;
        if let Some(template) = &public.url {
            return vec![template.replace("{name}", name.as_str())];
        }
        let domain = &public.domain;
        let https = self.https.as_ref().map(|https| ("https", with_port(https.port, 443)));
        let origins = [https, Some(("http", with_port(self.public_port, 80)))];
        let urls = |(scheme, port): (&str, String)| {
            let url = |mode: &RoutingMode| match mode {
                RoutingMode::Subdomain => Some(format!("{scheme}://{name}.{domain}{port}/")),
                RoutingMode::Path => Some(format!("{scheme}://{domain}{port}/{name}/")),
                RoutingMode::Header => None,
            };
            public.routing.iter().filter_map(url).collect::<Vec<_>>()
        };
        origins.into_iter().flatten().flat_map(urls).collect()
    }
}

/// The port as a URL has it: left out if it is the scheme's own.
pub(super) fn with_port(port: u16, default: u16) -> String {
    if port == default { String::new() } else { format!(":{port}") }
}

/// What each service asks of its visitors, ready to be asked.
fn compile_access(services: &[ServiceOffer]) -> Result<Vec<Arc<Access>>, Refused> {
    let compile = |offer: &ServiceOffer| {
        Access::of(offer).map(Arc::new).map_err(|error| {
            let message = format!("the access to the service `{}` cannot be limited like this: {error}", offer.name);
            Refused::new(Refusal::NotAllowed, message)
        })
    };
    services.iter().map(compile).collect()
}

fn check_clock(timestamp: u64) -> Result<(), Refused> {
    let now = unix_now();
    let off = now.abs_diff(timestamp);
    if off <= MAX_CLOCK_SKEW_S {
        return Ok(());
    }
    let direction = if timestamp > now { "ahead of" } else { "behind" };
    let off = humantime::format_duration(Duration::from_secs(off));
    Err(Refused::new(
        Refusal::ClockSkew,
        format!(
            "the agent's clock is {off} {direction} the server's; set it (`timedatectl set-ntp true`) and try again"
        ),
    ))
}

/// The first few names, and how many more there are: a refusal is for a person to read.
fn list(names: &[Name]) -> String {
    let first: Vec<&str> = names.iter().take(LISTED_NAMES).map(Name::as_str).collect();
    match names.len() - first.len() {
        0 => first.join(", "),
        more => format!("{}, … and {more} more", first.join(", ")),
    }
}

fn describe(hello: &Hello) -> String {
    // For logs and notices: no control characters, and no more than a line.
    let text = format!("{} {} ({})", hello.agent.name, hello.agent.version, hello.agent.os);
    text.chars().filter(|c| !c.is_control()).take(100).collect()
}

pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

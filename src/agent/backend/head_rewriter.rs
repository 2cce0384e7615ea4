//! The heads of requests and responses between visitor and backend.

use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::ext::{Protocol, ReasonPhrase};

use crate::agent::backend::address_map::{AddressMap, PublicOrigin};
use crate::agent::backend::body::RequestBody;
use crate::agent::backend::error::BackendError;
use crate::agent::backend::websocket::{self, Handshake};
use crate::agent::options::{HeaderRules, HostHeader, LocalUrl, Service};
use crate::protocol::exchange::RequestHead;
use crate::protocol::fields::remove_identity;
use crate::protocol::frame::Reset;

/// How a request may upgrade the connection, if the backend agrees.
#[derive(Debug)]
pub(in crate::agent) enum UpgradeMode {
    /// It may not.
    No,
    /// By 101, whatever the protocol.
    Upgrade,
    /// By 2xx: the visitor and the backend both use an extended CONNECT.
    Connect,
    /// The visitor uses an extended CONNECT, and the backend knows upgrades.
    ConnectByUpgrade(Handshake),
    /// The visitor uses an upgrade with this key, and the backend knows extended CONNECTs.
    UpgradeByConnect(Option<HeaderValue>),
}

const MALFORMED: Reset = Reset::Protocol;

/// A request as the backend receives it.
pub(in crate::agent) struct BackendRequest {
    pub(in crate::agent) request: Request<RequestBody>,
    pub(in crate::agent) upgrade: UpgradeMode,
    /// What the visitor asked, if it named a host.
    pub(in crate::agent) origin: Option<PublicOrigin>,
}

/// Rewrites the heads of one backend's requests and responses, as its service says.
#[derive(Debug)]
pub(in crate::agent) struct HeadRewriter {
    /// The backend's own `Host`.
    authority: HeaderValue,
    host_header: HostHeader,
    addresses: AddressMap,
    removes_identity: bool,
    /// Whether the backend is asked to close each HTTP/1.1 connection after the response.
    closes: bool,
    request_headers: HeaderRules,
    response_headers: HeaderRules,
}

impl HeadRewriter {
    /// Creates the rewriter of a backend at `url`. Returns `None` if no request can name that.
    pub(in crate::agent) fn new(service: &Service, url: &LocalUrl) -> Option<Self> {
        let authority = url.authority();
        Authority::try_from(authority.as_str()).ok()?;
        Some(Self {
            authority: HeaderValue::try_from(authority).ok()?,
            host_header: service.host_header.clone(),
            addresses: AddressMap::new(service, url),
            removes_identity: service.remove_identity_headers,
            closes: !service.keep_alive,
            request_headers: service.request_headers.clone(),
            response_headers: service.response_headers.clone(),
        })
    }

    /// Turns a visitor's request into the one that the backend receives.
    pub(in crate::agent) fn request(
        &self,
        mut head: Box<RequestHead>,
        body: RequestBody,
        over_http2: bool,
    ) -> Result<BackendRequest, Reset> {
        if self.removes_identity {
            remove_identity(&mut head.headers);
        }
        let origin = self.addresses.request(&mut head);
        self.request_headers.apply(&mut head.headers);
        let host = self.host(&head)?;
        let RequestHead { mut method, target, protocol, mut headers, .. } = *head;
        let mut extended = None;
        let upgrade = match (protocol, over_http2) {
            (Some(protocol), true) => {
                let protocol = std::str::from_utf8(&protocol).map_err(|_| MALFORMED)?;
                extended = Some(Protocol::from(protocol));
                UpgradeMode::Connect
            }
            (Some(protocol), false) if protocol.eq_ignore_ascii_case(websocket::WEBSOCKET.as_bytes()) => {
                method = Method::GET;
                UpgradeMode::ConnectByUpgrade(Handshake::ask(&mut headers).map_err(|_| Reset::LocalBroken)?)
            }
            // Only WebSockets are the same in both.
            (Some(_), false) => return Err(Reset::LocalBroken),
            (None, true) if websocket::is_asked_for(&headers) => {
                method = Method::CONNECT;
                extended = Some(Protocol::from_static(websocket::WEBSOCKET));
                UpgradeMode::UpgradeByConnect(websocket::take_key(&mut headers))
            }
            (None, true) => {
                headers.remove(UPGRADE);
                UpgradeMode::No
            }
            (None, false) if headers.contains_key(UPGRADE) => {
                headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
                UpgradeMode::Upgrade
            }
            (None, false) => {
                if self.closes {
                    headers.insert(CONNECTION, HeaderValue::from_static("close"));
                }
                UpgradeMode::No
            }
        };
        headers.insert(HOST, host);
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = PathAndQuery::from_maybe_shared(target).map_err(|_| MALFORMED)?.into();
        *request.headers_mut() = headers;
        if over_http2 {
            *request.version_mut() = Version::HTTP_2;
        }
        if let Some(protocol) = extended {
            request.extensions_mut().insert(protocol);
        }
        Ok(BackendRequest { request, upgrade, origin })
    }

    fn host(&self, head: &RequestHead) -> Result<HeaderValue, Reset> {
        let asked = || head.authority.clone().and_then(|asked| HeaderValue::from_maybe_shared(asked).ok());
        let own = || Ok(self.authority.clone());
        match &self.host_header {
            HostHeader::Preserve => asked().map_or_else(own, Ok),
            HostHeader::Local => own(),
            HostHeader::Value(value) => HeaderValue::from_str(value).map_err(|_| MALFORMED),
        }
    }

    /// Turns the backend's response to a request for `origin` into the visitor's. Returns whether the connection is
    /// upgraded.
    pub(in crate::agent) fn response<B>(
        &self,
        response: &mut Response<B>,
        upgrade: &UpgradeMode,
        origin: Option<&PublicOrigin>,
    ) -> Result<bool, BackendError> {
        let (status, headers) = (response.status(), response.headers_mut());
        if let Some(origin) = origin {
            self.addresses.response(headers, origin);
        }
        self.response_headers.apply(headers);
        let switches = match upgrade {
            UpgradeMode::No if status == StatusCode::SWITCHING_PROTOCOLS => {
                return Err(BackendError::broken("it upgrades the connection, which nobody has asked for"));
            }
            UpgradeMode::No => false,
            UpgradeMode::Upgrade => status == StatusCode::SWITCHING_PROTOCOLS,
            UpgradeMode::Connect => status.is_success(),
            UpgradeMode::ConnectByUpgrade(handshake) => {
                let agreed = status == StatusCode::SWITCHING_PROTOCOLS && handshake.is_agreed(headers);
                if !agreed && (status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS) {
                    return Err(BackendError::broken("it was asked for a WebSocket and answered with something else"));
                }
                if agreed {
                    *response.status_mut() = StatusCode::OK;
                    response.extensions_mut().remove::<ReasonPhrase>();
                }
                agreed
            }
            UpgradeMode::UpgradeByConnect(key) => {
                if status.is_success() {
                    websocket::agree(headers, key.as_ref());
                    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                }
                status.is_success()
            }
        };
        Ok(switches)
    }
}

//! Keys of a service about the connections to its applications.

use rustls::pki_types::ServerName;

use super::{HTTP, ProxyProtocol, only_for};
use crate::schema::{Table, key};
use crate::transport::tls::LocalTrust;
use crate::values::dns_name;

pub(super) fn proxy_protocol(table: &mut Table<'_>) -> Option<ProxyProtocol> {
    let versions = [("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2)];
    let version = key::choice("a version of the PROXY protocol", &versions).doc(
        "Sends the visitor's address to the application at the start of each connection. Each request to an `http` service \
         then has a connection of its own.",
    );
    table.get("proxy_protocol", version)
}

pub(super) fn server_name(table: &mut Table<'_>, is_https: bool) -> Option<ServerName<'static>> {
    let read = |text: &str| {
        let name = dns_name(text)?;
        ServerName::try_from(name).map_err(|_| format!("`{text}` is not a host name like home.example.com"))
    };
    let name = key::text("a host name", read).without("the name in `host_header`, otherwise the host in `local`").doc(
        "`https://` only: the name that the application is asked for in the TLS handshake (SNI), and for which its \
         certificate is checked. For a proxy at home that serves several names.",
    );
    let server_name = table.get("server_name", name);
    only_for(table, "server_name", server_name.is_some(), is_https, "a local https:// application");
    server_name
}

pub(super) fn keep_alive(table: &mut Table<'_>, is_http: bool) -> bool {
    let keep = key::boolean(true).doc(
        "`http` only: uses a connection to the application for several requests. `false` opens one for each request and asks \
         the application to close it. HTTP/2 always shares its connections.",
    );
    let keep_alive = table.get("keep_alive", keep);
    only_for(table, "keep_alive", !keep_alive, is_http, HTTP);
    keep_alive
}

pub(super) fn trust(table: &mut Table<'_>, given: impl Fn(&Table<'_>, &str)) -> LocalTrust {
    let ca = key::path()
        .within("a PEM file")
        .without("the system's authorities")
        .doc("`https://` only: the authorities that vouch for the application, or its own certificate.");
    let ca = table.get("ca", ca);
    let skip = key::boolean(false).doc("`https://` only: accept any certificate. The agent warns at its start.");
    let skip = table.get("insecure_skip_verify", skip);
    if ca.is_some() {
        given(table, "ca");
    }
    if skip {
        given(table, "insecure_skip_verify");
    }
    match (ca, skip) {
        (None, false) => LocalTrust::System,
        (Some(ca), false) => LocalTrust::CaFile(ca),
        (None, true) => LocalTrust::Anybody,
        (Some(ca), true) => {
            let message = "is given together with ca; keep one of the two, ca if you can";
            table.report().problem(table.key("insecure_skip_verify"), message);
            LocalTrust::CaFile(ca)
        }
    }
}

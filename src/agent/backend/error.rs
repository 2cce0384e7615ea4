//! Why a backend did not answer a request, and what to do about it.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError};

use crate::agent::options::{LocalScheme, LocalUrl, Place};
use crate::link::body::BodyError;
use crate::protocol::exchange::MAX_FIELDS;
use crate::protocol::frame::{MAX_RESPONSE_HEAD, Reset};
use crate::transport::whole::IncompleteError;
use crate::values::without_link;

/// Why a local application has not answered.
#[derive(Debug)]
pub(in crate::agent) struct BackendError {
    /// What the visitor is told.
    pub(in crate::agent) reason: Reset,
    /// What the log says.
    pub(in crate::agent) text: String,
    /// What may be behind it.
    hint: Hint,
}

/// What a self-hoster can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum Hint {
    None,
    /// It speaks TLS, and was spoken to without.
    SpeaksTls,
    /// The same, perhaps: it has said nothing.
    MaySpeakTls,
    /// It does not speak TLS, and was spoken to with it.
    SpeaksNoTls,
    /// It does not speak HTTP/2, and was spoken to with that.
    SpeaksNoHttp2,
    /// Its certificate is not accepted.
    Certificate,
    /// It and the agent have no parameters of TLS in common.
    Handshake,
}

impl BackendError {
    pub(in crate::agent) fn new(reason: Reset, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), hint: Hint::None }
    }

    pub(in crate::agent) fn broken(text: &str) -> Self {
        Self::new(Reset::LocalBroken, text)
    }

    pub(in crate::agent) fn with(self, hint: Hint) -> Self {
        Self { hint, ..self }
    }

    /// A head or trailers that the peer would not take.
    pub(in crate::agent) fn too_large(what: &str) -> Self {
        let limit = MAX_RESPONSE_HEAD / 1024;
        Self::new(Reset::TooLarge, format!("its {what} has more than {limit} KiB or {MAX_FIELDS} fields"))
    }

    /// No connection.
    pub(in crate::agent) fn dial(error: &io::Error) -> Self {
        let reason = match error.kind() {
            _ if is_exhausted(error) => Reset::Exhausted,
            io::ErrorKind::TimedOut => Reset::LocalTimeout,
            _ => Reset::LocalUnreachable,
        };
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::new(reason, refused(why)).with(Hint::Certificate),
            Some(rustls::Error::InvalidMessage(_)) => {
                Self::new(reason, "it does not speak TLS there").with(Hint::SpeaksNoTls)
            }
            Some(
                rustls::Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::ProtocolVersion)
                | rustls::Error::PeerIncompatible(_),
            ) => Self::new(
                reason,
                "they have no version, cipher or kind of certificate in common; the agent takes TLS 1.2 and 1.3, and \
                 certificates with RSA keys of at least 2048 bits, P-256, P-384 or Ed25519",
            )
            .with(Hint::Handshake),
            Some(tls) => Self::new(reason, format!("TLS with it fails: {tls}")),
            None => Self::new(reason, in_words(error)),
        }
    }

    /// A connection, but no answer.
    pub(in crate::agent) fn exchange(error: &(dyn Error + 'static)) -> Self {
        let causes = causes(error);
        let gone = causes.iter().any(|cause| cause.is::<BodyError>());
        let reason = if gone { Reset::Cancelled } else { Reset::LocalBroken };
        Self::new(reason, causes.iter().map(without_link).collect::<Vec<_>>().join(": "))
    }

    /// Returns whether something is wrong with the application or this machine, and not with a visitor or its request.
    pub(in crate::agent) fn is_of_this_side(&self) -> bool {
        let local =
            [Reset::LocalUnreachable, Reset::LocalTimeout, Reset::LocalBroken, Reset::TooLarge, Reset::Exhausted];
        local.contains(&self.reason)
    }

    /// What is wrong with the application at `local`, and what to do: on the command line if it was named `by_flags`.
    pub(in crate::agent) fn words(&self, local: &LocalUrl, by_flags: bool) -> String {
        let (at, why) = (local.shown(), &self.text);
        let instead = |scheme| match &local.place {
            Place::Tcp { .. } => format!("write {scheme}://{}", local.host_and_port()),
            Place::Unix(_) | Place::InProcess => format!("it cannot be {scheme} there"),
        };
        match (self.hint, self.reason) {
            (Hint::Certificate, _) => {
                let remedy = match by_flags {
                    true => "take any with --insecure-skip-verify",
                    false => "name it or its authority with `ca`, or take any with `insecure_skip_verify = true`",
                };
                format!("the certificate of the local application at {at} is not accepted: {why}; {remedy}")
            }
            (Hint::Handshake, _) => {
                let flag = if by_flags { "--insecure-skip-verify" } else { "`insecure_skip_verify = true`" };
                format!(
                    "TLS with the local application at {at} fails: {why}; with {flag} it takes other certificates, too"
                )
            }
            (Hint::SpeaksNoTls, _) => {
                format!("the local application at {at} does not speak TLS; {}", instead("http"))
            }
            (Hint::SpeaksTls, _) => format!("the local application at {at} speaks TLS; {}", instead("https")),
            (Hint::SpeaksNoHttp2, _) if local.scheme() == LocalScheme::H2c => {
                format!("the local application at {at} does not speak HTTP/2 without TLS; {}", instead("http"))
            }
            (Hint::MaySpeakTls, _) => format!(
                "the local application at {at} broke off: {why}; does it speak TLS there? Then {}",
                instead("https")
            ),
            (_, Reset::Exhausted) => format!(
                "no connection to the local application at {at}: this machine or agent has no file descriptors left; raise the \
                 limit (`ulimit -n`, `LimitNOFILE` of systemd), or lower max_streams"
            ),
            (_, Reset::LocalUnreachable) => {
                format!("the local application at {at} cannot be reached; is it running? ({why})")
            }
            (_, Reset::LocalTimeout) => format!("the local application at {at} does not accept connections in time"),
            (_, Reset::TooLarge) => {
                format!("the local application at {at} sends a response that is not delivered: {why}")
            }
            _ => format!("the local application at {at} broke off, or does not speak HTTP: {why}"),
        }
    }
}

impl From<hyper::Error> for BackendError {
    fn from(error: hyper::Error) -> Self {
        Self::exchange(&error)
    }
}

impl From<IncompleteError> for BackendError {
    fn from(error: IncompleteError) -> Self {
        match error {
            IncompleteError::Http(error) => Self::exchange(&error),
            IncompleteError::Reset => Self::broken(&error.to_string()),
        }
    }
}

/// Returns whether the process or the system is out of file descriptors.
fn is_exhausted(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    cfg!(unix) && matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// What the system says, without its number for that.
pub(in crate::agent) fn in_words(error: &io::Error) -> String {
    without_link(error).split(" (os error").next().unwrap_or_default().to_owned()
}

/// An error and what is behind it, one after the other.
pub(in crate::agent) fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut causes = Vec::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        causes.push(cause);
        next = cause.source();
    }
    causes
}

/// Why a certificate is refused, in words for whoever has made it.
fn refused(why: &CertificateError) -> String {
    match why {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it is signed by nobody who is trusted here".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is for another name".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        // Where it comes from has no type here.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "it has signed itself, as an authority of its own".to_owned()
        }
        CertificateError::Other(other) if other.to_string().contains("UnsupportedCertVersion") => {
            "it is of X.509 version 1, which has no names".to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its key or signature is of a kind that cannot be verified: not RSA with at least 2048 bits, P-256, P-384 or \
             Ed25519"
                .to_owned()
        }
        other => format!("it cannot be verified ({other:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_visitor_does_wrong_is_no_trouble_of_the_application() {
        let is_blamed = |reason| BackendError::new(reason, "x").is_of_this_side();
        assert!(
            [Reset::LocalUnreachable, Reset::LocalTimeout, Reset::LocalBroken, Reset::TooLarge, Reset::Exhausted]
                .into_iter()
                .all(is_blamed)
        );
        assert!(![Reset::Cancelled, Reset::Protocol, Reset::RequestBroken].into_iter().any(is_blamed));
    }

    #[test]
    fn words_say_what_to_do_and_nothing_of_the_inside() {
        let words = |local: &str, by_flags, error: BackendError| error.words(&local.parse().unwrap(), by_flags);
        let certificate = || {
            let other = rustls::OtherError(std::sync::Arc::new(io::Error::other("CaUsedAsEndEntity")));
            let tls = rustls::Error::InvalidCertificate(CertificateError::Other(other));
            BackendError::dial(&io::Error::new(io::ErrorKind::InvalidData, tls))
        };
        let flag = words("https://localhost:1", true, certificate());
        assert!(flag.contains("signed itself") && flag.ends_with("take any with --insecure-skip-verify"), "{flag}");
        let key = words("https://localhost:1", false, certificate());
        assert!(key.contains("`ca`") && key.ends_with("`insecure_skip_verify = true`"), "{key}");
        let refused = BackendError::dial(&io::ErrorKind::ConnectionRefused.into());
        assert!(words("80", true, refused).starts_with("the local application at localhost:80 cannot be reached"));
        #[cfg(unix)]
        for number in [23, 24] {
            let error = BackendError::dial(&io::Error::from_raw_os_error(number));
            assert_eq!(error.reason, Reset::Exhausted);
            let exhausted = words("80", false, error);
            assert!(exhausted.contains("no file descriptors left") && exhausted.contains("LimitNOFILE"), "{exhausted}");
        }
        let tls = words("20303", true, BackendError::broken("x").with(Hint::SpeaksTls));
        assert_eq!(tls, "the local application at localhost:20303 speaks TLS; write https://localhost:20303");
    }
}

//! What is wrong with a local application: in words, with what to do about it, and not said again and again.

use std::error::Error;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustls::CertificateError;
use tokio::time::Instant;

use crate::agent::options::{LocalScheme, LocalUrl, Place};
use crate::link::body::BodyError;
use crate::protocol::frame::Reset;
use crate::transport::whole::IncompleteError;

/// Why a local application has not answered.
#[derive(Debug)]
pub(in crate::agent) struct LocalError {
    /// What the visitor is told.
    pub(in crate::agent) reason: Reset,
    /// What the log says.
    pub(in crate::agent) text: String,
    /// What may be behind it.
    hint: Hint,
}

/// What a self-hoster can do something about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
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
}

impl LocalError {
    pub(super) fn new(reason: Reset, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), hint: Hint::None }
    }

    pub(super) fn broken(text: &str) -> Self {
        Self::new(Reset::LocalBroken, text)
    }

    pub(super) fn with(self, hint: Hint) -> Self {
        Self { hint, ..self }
    }

    /// No connection.
    pub(in crate::agent) fn dial(error: &io::Error) -> Self {
        let timed_out = error.kind() == io::ErrorKind::TimedOut;
        let reason = if timed_out { Reset::LocalTimeout } else { Reset::LocalUnreachable };
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(why)) => Self::new(reason, refused(why)).with(Hint::Certificate),
            Some(rustls::Error::InvalidMessage(_)) => {
                Self::new(reason, "it does not speak TLS there").with(Hint::SpeaksNoTls)
            }
            Some(tls) => Self::new(reason, format!("TLS with it fails: {tls}")),
            None => Self::new(reason, in_words(error)),
        }
    }

    /// A connection, but no answer.
    pub(super) fn exchange(error: &(dyn Error + 'static)) -> Self {
        let causes = causes(error);
        let gone = causes.iter().any(|cause| cause.is::<BodyError>());
        let reason = if gone { Reset::Cancelled } else { Reset::LocalBroken };
        Self::new(reason, causes.iter().map(ToString::to_string).collect::<Vec<_>>().join(": "))
    }

    /// Whether it is the application that something is wrong with, and not a visitor or its request.
    pub(super) fn is_of_the_application(&self) -> bool {
        matches!(self.reason, Reset::LocalUnreachable | Reset::LocalTimeout | Reset::LocalBroken)
    }

    /// What is wrong with the application at `local`, and what to do: on the command line if it was named `by_flags`.
    pub(super) fn words(&self, local: &LocalUrl, by_flags: bool) -> String {
        let (at, why) = (local.shown(), &self.text);
        let instead = |scheme| match &local.place {
            Place::Tcp { .. } => format!("write {scheme}://{}", local.host_and_port()),
            Place::Unix(_) => format!("it cannot be {scheme} there"),
        };
        match (self.hint, self.reason) {
            (Hint::Certificate, _) => {
                let remedy = match by_flags {
                    true => "take any with --insecure-skip-verify",
                    false => "name it or its authority with `ca`, or take any with `insecure_skip_verify = true`",
                };
                format!("the certificate of the local application at {at} is not accepted: {why}; {remedy}")
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
            (_, Reset::LocalUnreachable) => {
                format!("the local application at {at} cannot be reached; is it running? ({why})")
            }
            (_, Reset::LocalTimeout) => format!("the local application at {at} does not accept connections in time"),
            _ => format!("the local application at {at} broke off, or does not speak HTTP: {why}"),
        }
    }
}

impl From<hyper::Error> for LocalError {
    fn from(error: hyper::Error) -> Self {
        Self::exchange(&error)
    }
}

impl From<IncompleteError> for LocalError {
    fn from(error: IncompleteError) -> Self {
        match error {
            IncompleteError::Http(error) => Self::exchange(&error),
            IncompleteError::Reset => Self::broken(&error.to_string()),
        }
    }
}

/// What the system says, without its number for that.
pub(super) fn in_words(error: &io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

/// An error and what is behind it, one after the other.
pub(super) fn causes<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
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
        other => {
            tracing::debug!("a certificate is not accepted: {other:?}");
            "it cannot be verified".to_owned()
        }
    }
}

/// How long the same trouble is not said again; twice as long each time.
const FIRST_REMINDER: Duration = Duration::from_secs(60);
const LAST_REMINDER: Duration = Duration::from_secs(60 * 60);

/// How many different troubles of one application are told apart. Of more, nothing is said for a while.
const APART: usize = 4;

/// What is wrong with one application, and what of it was said.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    is_down: AtomicBool,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    each: Vec<Once>,
    /// Whoever has heard of the latest trouble is to hear that it is over.
    is_open: bool,
}

#[derive(Debug)]
struct Once {
    text: String,
    at: Instant,
    wait: Duration,
}

impl Troubles {
    /// Something is wrong; says whether that is news.
    pub(super) fn begins(&self, text: &str, now: Instant) -> bool {
        let mut said = self.said.lock();
        said.each.retain(|once| now.duration_since(once.at) < LAST_REMINDER * 2);
        let is_news = match said.each.iter_mut().find(|once| once.text == text) {
            Some(once) if now.duration_since(once.at) < once.wait => false,
            Some(once) => {
                (once.at, once.wait) = (now, (once.wait * 2).min(LAST_REMINDER));
                true
            }
            None => said.remember(text, now),
        };
        said.is_open |= is_news;
        // Last: whoever sees it, and says that it is over, waits for the lock.
        self.is_down.store(true, Ordering::Relaxed);
        is_news
    }

    /// Nothing is wrong now; says whether that is news. Costs next to nothing if nothing was.
    pub(super) fn ends(&self) -> bool {
        self.is_down.load(Ordering::Relaxed)
            && self.is_down.swap(false, Ordering::Relaxed)
            && std::mem::take(&mut self.said.lock().is_open)
    }
}

impl Said {
    /// Forgets the oldest for it, if that was said long ago.
    fn remember(&mut self, text: &str, now: Instant) -> bool {
        if self.each.len() >= APART {
            let oldest = self.each.iter().enumerate().min_by_key(|(_, once)| once.at).map(|(at, once)| (at, once.at));
            match oldest {
                Some((at, said)) if now.duration_since(said) >= FIRST_REMINDER => drop(self.each.swap_remove(at)),
                _ => return false,
            }
        }
        self.each.push(Once { text: text.to_owned(), at: now, wait: FIRST_REMINDER });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_once_and_then_seldom_however_often_it_comes_and_goes() {
        let (troubles, start) = (Troubles::default(), Instant::now());
        assert!(!troubles.ends(), "nothing was wrong");
        let (mut begun, mut ended) = (Vec::new(), Vec::new());
        for second in 0..1_000 {
            if troubles.begins("refused", start + Duration::from_secs(second)) {
                begun.push(second);
            }
            if troubles.ends() {
                ended.push(second);
            }
        }
        assert_eq!(begun, [0, 60, 180, 420, 900]);
        assert_eq!(ended, begun, "whoever hears of it hears of its end");
    }

    #[test]
    fn another_trouble_is_news_but_not_without_end() {
        let (troubles, start) = (Troubles::default(), Instant::now());
        let news = |text: &str, second| troubles.begins(text, start + Duration::from_secs(second));
        assert!(news("refused", 0) && news("no TLS", 0) && !news("refused", 1) && !news("no TLS", 1));
        let said = (0..1_000).filter(|number| news(&format!("trouble {number}"), 2)).count();
        assert_eq!(said, APART - 2);
        assert!(news("something else", 61), "later there is room again");
        assert!(troubles.ends() && !troubles.ends());
    }

    #[test]
    fn what_a_visitor_does_wrong_is_no_trouble_of_the_application() {
        let is_blamed = |reason| LocalError::new(reason, "x").is_of_the_application();
        assert!([Reset::LocalUnreachable, Reset::LocalTimeout, Reset::LocalBroken].into_iter().all(is_blamed));
        assert!(![Reset::Cancelled, Reset::Protocol, Reset::RequestBroken, Reset::TooLarge].into_iter().any(is_blamed));
    }

    #[test]
    fn words_say_what_to_do_and_nothing_of_the_inside() {
        let words = |local: &str, by_flags, error: LocalError| error.words(&local.parse().unwrap(), by_flags);
        let certificate = || {
            let other = rustls::OtherError(std::sync::Arc::new(io::Error::other("CaUsedAsEndEntity")));
            let tls = rustls::Error::InvalidCertificate(CertificateError::Other(other));
            LocalError::dial(&io::Error::new(io::ErrorKind::InvalidData, tls))
        };
        let flag = words("https://localhost:1", true, certificate());
        assert!(flag.contains("signed itself") && flag.ends_with("take any with --insecure-skip-verify"), "{flag}");
        let key = words("https://localhost:1", false, certificate());
        assert!(key.contains("`ca`") && key.ends_with("`insecure_skip_verify = true`"), "{key}");
        let refused = LocalError::dial(&io::ErrorKind::ConnectionRefused.into());
        assert!(words("80", true, refused).starts_with("the local application at localhost:80 cannot be reached"));
        let tls = words("20303", true, LocalError::broken("x").with(Hint::SpeaksTls));
        assert_eq!(tls, "the local application at localhost:20303 speaks TLS; write https://localhost:20303");
    }
}

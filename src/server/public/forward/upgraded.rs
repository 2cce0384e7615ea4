//! An exchange that has become a connection: an upgrade, or an extended CONNECT.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::super::answer::Failure;
use super::super::ending::Ending;
use super::super::forwarded::Held;
use super::super::ledger::Entry;
use crate::protocol::exchange::ResponseHead;
use crate::transport::copy::both_ways;
use crate::transport::framed::{FrameReader, FrameWriter};

/// Makes of a head that agrees to become a connection the one that the visitor gets; `agreed` is the protocol, in answer
/// to an upgrade.
pub(super) fn agree(head: &mut ResponseHead, agreed: Option<HeaderValue>, is_connect: bool) -> Result<(), Failure> {
    match (head.status, agreed) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(agreed)) if !is_connect => {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, agreed);
            Ok(())
        }
        // HTTP/2 has no 101 (RFC 8441, section 5).
        (StatusCode::SWITCHING_PROTOCOLS, _) => Err(Failure::LocalBroken),
        _ => Ok(()),
    }
}

/// An exchange that has become a connection.
pub(super) struct Upgraded {
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
    pub(super) stream: Held,
    pub(super) entry: Arc<Entry>,
    pub(super) quiet: Duration,
    /// Says that the visitor's connection must not end in order.
    pub(super) cut: Option<Arc<Ending>>,
}

/// Says so when it is dropped, whoever drops it.
struct CutUnlessWhole(Option<Arc<Ending>>);

impl Drop for CutUnlessWhole {
    fn drop(&mut self) {
        if let Some(cut) = &self.0 {
            cut.set_cut(true);
        }
    }
}

impl Upgraded {
    pub(super) async fn run(self, visitor: OnUpgrade) {
        let Self { reader, writer, stream, entry, quiet, cut } = self;
        if let Ok(visitor) = visitor.await {
            let mut visitor = TokioIo::new(visitor);
            // Dropped before the connection is.
            let mut cut = CutUnlessWhole(cut);
            let carried = both_ways(&mut visitor, reader, writer, quiet, |way, bytes| entry.moved(way, bytes)).await;
            if carried.is_ok() {
                entry.complete();
                cut.0 = None;
            }
        }
        drop(stream);
    }
}

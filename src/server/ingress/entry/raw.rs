//! A visitor's connection that is carried byte for byte.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::link::copy::both_ways;
use crate::link::framed::{FrameReader, FrameWriter};
use crate::protocol::WireError;
use crate::protocol::decode::{Decoder, Event};
use crate::protocol::frame;
use crate::protocol::frame::Status;
use crate::protocol::preface::Preface;
use crate::server::directory::offered::Offered;
use crate::server::ingress::Admission;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::forward::response_body::Held;
use crate::server::ingress::observe::exchange;
use crate::server::ingress::observe::exchange::{About, Asked, Entry, Whose};
use crate::server::ingress::pipeline::{Reached, count};
use crate::server::ingress::upstream::failover::Course;
use crate::telemetry::RequestSpan;
use crate::transport::delivery;
use crate::values::RequestId;

/// When a silent visitor is asked by TCP itself whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Carries a connection, of which `ahead` was read already, to its end. If it cannot be carried or breaks off, the
/// visitor's connection ends with a reset: an orderly end would say that all was sent.
pub(crate) async fn serve(admission: Admission, offered: Arc<Offered>, mut socket: TcpStream, ahead: &[u8]) {
    let (peer, name) = (admission.peer, offered.service.name().clone());
    let request_id = RequestId::next();
    let (mut reached, began) = (Reached::Service(Arc::clone(offered.service.meter())), Instant::now());
    let opened = open(&admission, &offered, (request_id, ahead), &mut reached).await;
    let kind = offered.service.kind();
    // What is open does not keep a port open whose service is gone.
    drop(offered);
    let carried = match opened {
        Ok(stream) => stream.carry(&admission, &mut socket).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = carried {
        tracing::debug!(request = %request_id, visitor = %peer, %name, code = failure.code(), "a connection failed");
        count(&admission.ingress, &failure, &reached, 0);
        if let Reached::Service(meter) = &reached
            && exchange::is_read()
        {
            let end = (0, failure.code(), began.elapsed());
            exchange::note((request_id, peer.ip()), Whose::Service(meter), &Asked::Connection(kind), end, 0);
        }
        // Not before the visitor has what came before.
        delivery::all_sent(&socket, admission.settings.config.timeouts.idle).await;
        reset(&socket);
    }
}

/// Ends a connection so that nobody takes it for complete.
pub(crate) fn reset(socket: &TcpStream) {
    // If the system refuses, the visitor sees an ordinary end: there is nothing else to try.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// A stream that an agent has taken on.
struct Carrier {
    reader: FrameReader,
    writer: FrameWriter,
    _stream: Held,
    entry: Arc<Entry>,
}

async fn open(
    admission: &Admission,
    offered: &Arc<Offered>,
    (request_id, ahead): (RequestId, &[u8]),
    reached: &mut Reached,
) -> Result<Carrier, Failure> {
    let Admission { ingress, settings, peer, local, .. } = admission;
    let deadline = settings.config.timeouts.head;
    let (name, kind) = (offered.service.name(), offered.service.kind());
    ingress.limits.requests.check(peer.ip()).map_err(Failure::RateLimited)?;
    // Of all that a service can ask, a connection can only have the right address.
    if !offered.service.access().allows_address(peer.ip()) {
        return Err(Failure::Forbidden);
    }
    offered.tunnel.usage().check().map_err(Failure::SiteRateLimited)?;
    let permit = ingress.directory.stream_for(offered.tunnel.usage()).ok_or(Failure::TunnelBusy)?;
    let about = About {
        request_id,
        visitor: peer.ip(),
        meter: Arc::clone(offered.service.meter()),
        asked: Asked::Connection(kind),
        span: RequestSpan::none(),
    };
    let entry = Entry::open(about, (permit, None, None, ingress.runtime.tasks.exchanges.token()), &ingress.live);
    *reached = Reached::Ledger(None);
    let opened = async {
        let preface = Preface { service: name.clone(), visitor: *peer, server: *local, kind, request_id };
        let mut first = BytesMut::with_capacity(256 + ahead.len());
        preface.put(&mut first).map_err(|_: WireError| Failure::TunnelLost)?;
        frame::put_data(&mut first, ahead);
        let (stream, permit) = Course::new(offered, deadline).open(ingress, &first).await?;
        entry.hold(&stream, permit);
        // From here on, leaving early cuts the stream.
        let stream = Held(stream);
        let writer = FrameWriter::new(stream.0.clone());
        let mut reader = FrameReader::new(stream.0.clone(), Decoder::raw_response());
        match timeout(deadline, reader.event()).await {
            Ok(Ok(Event::Status(Status::Accepted))) => Ok((reader, writer, stream)),
            Ok(Ok(Event::Status(status))) => Err(Failure::of_status(status)),
            Ok(_) => Err(Failure::TunnelLost),
            Err(_) => Err(Failure::TunnelStalled),
        }
    };
    match opened.await {
        Ok((reader, writer, stream)) => Ok(Carrier { reader, writer, _stream: stream, entry }),
        Err(failure) => {
            entry.fail(failure.clone());
            Err(failure)
        }
    }
}

impl Carrier {
    async fn carry(self, admission: &Admission, socket: &mut TcpStream) -> Result<(), Failure> {
        let Self { reader, writer, _stream, entry } = self;
        let watched = SockRef::from(&*socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
        if let Err(error) = watched {
            tracing::debug!(%error, "a visitor that vanishes will be noticed late");
        }
        let quiet = admission.settings.config.timeouts.quiet_stream;
        let meter = |way, bytes| entry.moved(way, bytes);
        match both_ways(socket, reader, writer, quiet, meter).await {
            Ok(()) => {
                entry.complete();
                Ok(())
            }
            Err(error) => {
                let failure = failure_of(&error);
                entry.fail(failure.clone());
                Err(failure)
            }
        }
    }
}

fn failure_of(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Failure::ResponseTimeout,
        _ => Failure::TunnelLost,
    }
}

//! Raw connections: TCP, and TLS that the application terminates, carried byte for byte.

use std::io;
use std::sync::Arc;
use std::time::Duration;

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
use crate::server::ingress::entry::admission::Admission;
use crate::server::ingress::error_page::Failure;
use crate::server::ingress::forward::abort_on_drop::AbortOnDrop;
use crate::server::ingress::observe::exchange::{Exchange, HeldPermits};
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::observe::record::{ExchangeRecord, RequestSummary};
use crate::server::ingress::upstream::failover::Failover;
use crate::transport::delivery;
use crate::values::RequestId;

/// The idle time after which TCP keep-alive probes the visitor.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Carries a connection to its end; `ahead` was read from it already. If it cannot be carried or breaks off, it ends with a
/// reset: a normal close would make it look complete.
pub(crate) async fn serve(admission: Admission, offered: Arc<Offered>, mut socket: TcpStream, ahead: &[u8]) {
    let (peer, name) = (admission.peer, offered.service.name().clone());
    let request_id = RequestId::next();
    let (kind, meter) = (offered.service.kind(), Arc::clone(offered.service.meter()));
    let record = ExchangeRecord::of_connection(request_id, peer.ip(), kind, meter);
    let mut exchange = Exchange::open(&admission.ingress.observers, record);
    let opened = open(&admission, &offered, request_id, ahead, &mut exchange).await;
    // An open connection does not keep the port of a removed service open.
    drop(offered);
    let carried = match opened {
        Ok(stream) => stream.carry(&admission, &mut socket).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = carried {
        tracing::debug!(request = %request_id, visitor = %peer, %name, code = failure.code(), "a connection failed");
        exchange.connection_failed(failure);
        drop(exchange);
        // Not before the visitor has the data before the failure.
        delivery::all_sent(&socket, admission.settings.config.timeouts.idle).await;
        reset(&socket);
    }
}

/// Makes a connection end with a reset.
pub(crate) fn reset(socket: &TcpStream) {
    // If the system refuses, the visitor sees an ordinary end: there is nothing else to try.
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// A stream that an agent has accepted.
struct Carrier {
    reader: FrameReader,
    writer: FrameWriter,
    _stream: AbortOnDrop,
    exchange: Arc<ForwardedExchange>,
}

async fn open(
    admission: &Admission,
    offered: &Arc<Offered>,
    request_id: RequestId,
    ahead: &[u8],
    exchange: &mut Exchange<'_>,
) -> Result<Carrier, Failure> {
    let Admission { ingress, settings, peer, local, .. } = admission;
    let deadline = settings.config.timeouts.head;
    let (name, kind) = (offered.service.name(), offered.service.kind());
    ingress.limits.admit_visitor(peer.ip()).await?;
    // Of the access rules, only addresses apply to a raw connection.
    if !offered.service.access().allows_address(peer.ip()) {
        return Err(Failure::Forbidden);
    }
    ingress.limits.admit_to_service(offered, peer.ip()).await?;
    ingress.limits.admit_to_client(offered).await?;
    let permits = HeldPermits {
        server: ingress.directory.stream_for(offered.tunnel.usage()).ok_or(Failure::TunnelBusy)?,
        address: None,
        in_flight: None,
        open: ingress.runtime.tasks.exchanges.token(),
    };
    let exchange = exchange.forward(permits, || RequestSummary::Connection(kind)).ok_or(Failure::TunnelLost)?;
    let opened = async {
        let preface = Preface { service: name.clone(), visitor: *peer, server: *local, kind, request_id };
        let mut first = BytesMut::with_capacity(256 + ahead.len());
        preface.put(&mut first).map_err(|_: WireError| Failure::TunnelLost)?;
        frame::put_data(&mut first, ahead);
        let (stream, permit) = Failover::new(offered, deadline).open(&*ingress.directory.registry, &first).await?;
        exchange.hold(&stream, permit);
        // From here on, leaving early cuts the stream.
        let stream = AbortOnDrop(stream);
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
        Ok((reader, writer, stream)) => Ok(Carrier { reader, writer, _stream: stream, exchange }),
        Err(failure) => {
            exchange.fail(failure.clone());
            Err(failure)
        }
    }
}

impl Carrier {
    async fn carry(self, admission: &Admission, socket: &mut TcpStream) -> Result<(), Failure> {
        let Self { reader, writer, _stream, exchange } = self;
        let watched = SockRef::from(&*socket).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
        if let Err(error) = watched {
            tracing::debug!(%error, "a visitor that vanishes will be noticed late");
        }
        let quiet = admission.settings.config.timeouts.quiet_stream;
        let meter = |way, bytes| exchange.moved(way, bytes);
        match both_ways(socket, reader, writer, quiet, meter).await {
            Ok(()) => {
                exchange.complete();
                Ok(())
            }
            Err(error) => {
                let failure = failure_of(&error);
                exchange.fail(failure.clone());
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

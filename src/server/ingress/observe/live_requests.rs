//! The exchanges in flight, which the operator can list and end.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use crate::server::ingress::observe::Observer;
use crate::server::ingress::observe::forwarded::ForwardedExchange;
use crate::server::ingress::observe::record::ExchangeRecord;
use crate::values::{ClientId, Name, RequestId};

/// The forwarded exchanges in flight: at most `limits.streams`.
#[derive(Debug, Default)]
pub(crate) struct LiveRequests(DashMap<RequestId, Weak<ForwardedExchange>>);

/// One request or connection in flight.
#[derive(Debug, Clone)]
pub(crate) struct LiveRequest {
    pub(crate) id: RequestId,
    pub(crate) client: ClientId,
    pub(crate) name: Name,
    /// The method of a request, or the kind of a connection.
    pub(crate) method: String,
    /// The path without the query, which may contain secrets. Empty for a connection.
    pub(crate) path: String,
    pub(crate) visitor: IpAddr,
    pub(crate) started: Timestamp,
    /// Once it is known.
    pub(crate) status: Option<StatusCode>,
    /// Bytes of bodies received from the visitor, and sent to it.
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl LiveRequests {
    /// Returns the ids of those whose client is `wanted`, in no order. Walks the whole map.
    pub(crate) fn ids(&self, wanted: impl Fn(&ClientId) -> bool) -> Vec<RequestId> {
        // Dropping an exchange locks the map: collect first, upgrade afterwards.
        let exchanges: Vec<_> = self.0.iter().map(|exchange| Weak::clone(&exchange)).collect();
        let exchanges = exchanges.iter().filter_map(Weak::upgrade);
        let is_wanted =
            |record: &ExchangeRecord| record.service.as_ref().is_some_and(|service| wanted(service.client()));
        exchanges.filter(|exchange| is_wanted(exchange.record())).map(|exchange| exchange.request_id()).collect()
    }

    /// Returns the request as it is now, if it is in flight.
    pub(crate) fn get(&self, id: RequestId) -> Option<LiveRequest> {
        let exchange = self.exchange(id)?;
        let record = exchange.record();
        let (status, received, sent) = exchange.so_far();
        let (method, path) = record.method_and_path();
        let service = record.service.as_ref()?;
        let age = SignedDuration::try_from(record.elapsed()).unwrap_or_default();
        Some(LiveRequest {
            id,
            client: service.client().clone(),
            name: service.name().clone(),
            method: method.to_owned(),
            path: path.to_owned(),
            visitor: record.visitor,
            started: Timestamp::now().checked_sub(age).unwrap_or_default(),
            status,
            received,
            sent,
        })
    }

    /// Ends a request now. The application and the agent see a reset; the visitor sees a broken response, or a failure page
    /// if no response had begun. Returns whether the request was in flight.
    pub(crate) fn cut(&self, id: RequestId) -> bool {
        self.exchange(id).map(|exchange| exchange.cut()).is_some()
    }

    fn exchange(&self, id: RequestId) -> Option<Arc<ForwardedExchange>> {
        // Dropping the last handle locks the map: release the map's guard first.
        let exchange = self.0.get(&id).map(|exchange| Weak::clone(&exchange))?;
        exchange.upgrade()
    }
}

impl Observer for LiveRequests {
    fn forwarded(&self, exchange: &Arc<ForwardedExchange>) {
        self.0.insert(exchange.request_id(), Arc::downgrade(exchange));
    }

    fn ended(&self, record: &mut ExchangeRecord) {
        if record.end.was_forwarded {
            self.0.remove(&record.request_id);
        }
    }
}

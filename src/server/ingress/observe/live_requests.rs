//! What visitors have open at the moment, for the operator to see and to end.

use std::net::IpAddr;
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};

use crate::server::ingress::observe::exchange::Entry;
use crate::values::{ClientId, Name, RequestId};

/// The open entries of the ledger. Each is in it from when it is opened until it is dropped, so there are no more of them
/// than `limits.streams`.
#[derive(Debug, Default)]
pub(crate) struct LiveRequests(DashMap<RequestId, Weak<Entry>>);

/// One request, or connection, that is being served.
#[derive(Debug, Clone)]
pub(crate) struct LiveRequest {
    pub(crate) id: RequestId,
    pub(crate) client: ClientId,
    pub(crate) name: Name,
    /// The method of a request, the kind of a connection.
    pub(crate) method: String,
    /// Without the query, which may hold what nobody else should see. Empty for a connection.
    pub(crate) path: String,
    pub(crate) visitor: IpAddr,
    pub(crate) started: Timestamp,
    /// Once it is known.
    pub(crate) status: Option<StatusCode>,
    /// Bytes of bodies that came from the visitor, and that went to it.
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

impl LiveRequests {
    pub(crate) fn add(&self, entry: &Arc<Entry>) {
        self.0.insert(entry.about().request_id, Arc::downgrade(entry));
    }

    pub(crate) fn remove(&self, id: RequestId) {
        self.0.remove(&id);
    }

    /// The ids of those whose client is `wanted`, in no order. Walks the whole map.
    pub(crate) fn ids(&self, wanted: impl Fn(&ClientId) -> bool) -> Vec<RequestId> {
        // No entry may be dropped while the map is locked: collect first, look afterwards.
        let entries: Vec<_> = self.0.iter().map(|entry| Weak::clone(&entry)).collect();
        let entries = entries.iter().filter_map(Weak::upgrade);
        entries.filter(|entry| wanted(entry.about().meter.client())).map(|entry| entry.about().request_id).collect()
    }

    /// The request as it is now, if it is still being served.
    pub(crate) fn get(&self, id: RequestId) -> Option<LiveRequest> {
        let entry = self.entry(id)?;
        let about = entry.about();
        let (status, received, sent) = entry.so_far();
        let (method, path) = about.asked.words();
        let age = SignedDuration::try_from(entry.started().elapsed()).unwrap_or_default();
        Some(LiveRequest {
            id,
            client: about.meter.client().clone(),
            name: about.meter.name().clone(),
            method: method.to_owned(),
            path: path.to_owned(),
            visitor: about.visitor,
            started: Timestamp::now().checked_sub(age).unwrap_or_default(),
            status,
            received,
            sent,
        })
    }

    /// Ends a request now: the application and the agent see a reset, and the visitor an answer that broke off, or a
    /// failure if none had begun. Says whether it was still being served.
    pub(crate) fn cut(&self, id: RequestId) -> bool {
        self.entry(id).map(|entry| entry.cut()).is_some()
    }

    fn entry(&self, id: RequestId) -> Option<Arc<Entry>> {
        // The guard of the map is gone before the entry can be: dropping the last handle takes it out of the map.
        let entry = self.0.get(&id).map(|entry| Weak::clone(&entry))?;
        entry.upgrade()
    }
}

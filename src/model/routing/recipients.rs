//! Which endpoints are owed events of a kind, as far as it has been read.

use std::collections::HashMap;
use std::sync::Arc;

use super::filters::SlowFilters;
use crate::model::endpoint::EndpointId;
use crate::model::tenant::Tenant;

/// Kinds that are remembered at most; beyond that, all are read again. A kind takes some hundred
/// bytes.
const MOST_KINDS: usize = 50_000;

/// What decides which endpoints an event is owed to, filters apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// To those that subscribe to its type and tenant.
    Published { event_type: String, tenant: Option<String> },
    /// To the one that it names, whatever that subscribes to.
    Named(EndpointId),
    /// To the one that it names, if its filter says so: an announcement of the relay's.
    Announced(EndpointId),
}

/// An endpoint that is owed events of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    pub endpoint: EndpointId,
    /// The revision of the endpoint.
    pub revision: i64,
    /// The endpoint's.
    pub tenant: Option<Tenant>,
    /// Whether events of one ordering key follow one another.
    pub ordered: bool,
    /// Whether its filter is to be asked about each event.
    pub filtered: bool,
    /// Whether it was enabled and well.
    pub flowing: bool,
}

/// What is remembered, and the snapshot in which it was so.
///
/// It holds in the database that it was read from, while no endpoint has changed that this snapshot
/// does not show.
#[derive(Debug, Default)]
pub struct Recipients {
    /// The oldest that anything here was read in, in the text form of `pg_snapshot`.
    snapshot: Option<String>,
    /// How many sessions had been opened by then: in a new one another server may answer.
    sessions: u64,
    by_kind: HashMap<EventKind, Arc<[Recipient]>>,
    /// Filters that take too long.
    pub slow: SlowFilters,
}

impl Recipients {
    /// Forgets all, if sessions were opened since it was read.
    pub fn hold_in(&mut self, sessions: u64) {
        if self.sessions != sessions {
            self.forget();
            self.sessions = sessions;
        }
    }

    /// An endpoint has changed.
    pub fn forget(&mut self) {
        self.snapshot = None;
        self.by_kind.clear();
    }

    /// Nothing has changed up to this later snapshot.
    pub fn holds_in(&mut self, snapshot: String) {
        self.snapshot = Some(snapshot);
    }

    /// Takes in what was read of a kind.
    pub fn learn(&mut self, snapshot: &str, kind: EventKind, recipients: Vec<Recipient>) {
        self.snapshot.get_or_insert_with(|| snapshot.to_owned());
        self.by_kind.insert(kind, recipients.into());
    }

    /// Makes room for more kinds. Returns whether all others were forgotten for it.
    pub fn make_room(&mut self, more: usize) -> bool {
        let is_too_much = self.by_kind.len() + more > MOST_KINDS;
        if is_too_much {
            self.forget();
        }
        is_too_much
    }

    /// Who is owed events of this kind. `None`: it was not read yet.
    #[must_use]
    pub fn of(&self, kind: &EventKind) -> Option<&Arc<[Recipient]>> {
        self.by_kind.get(kind)
    }

    /// The snapshot that it was read in, if anything was.
    #[must_use]
    pub fn snapshot(&self) -> Option<&str> {
        self.snapshot.as_deref()
    }
}

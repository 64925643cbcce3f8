//! The ledger: each event's fate as the application knows it, and every complaint.

use std::collections::BTreeMap;
use std::sync::Mutex;

use jiff::Timestamp;
use posthaste::model::webhook_id::WebhookIds;

use super::events::{Event, WRITERS};

/// An event, as the application knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    #[default]
    Unwritten,
    /// Inserted; how its transaction ends is not known yet.
    Open,
    Committed,
    RolledBack,
}

/// One event's entry.
#[derive(Debug, Clone, Copy, Default)]
pub struct Entry {
    pub fate: Fate,
    /// 0: its insert was not answered.
    pub event_id: i64,
    /// `created_at` in microseconds of Unix time.
    pub created_at: i64,
    /// When COMMIT was sent.
    pub sent_at: i64,
}

/// Entries by serial number, and complaints by kind.
#[derive(Debug)]
pub struct Ledger {
    pub seed: u64,
    webhook_ids: WebhookIds,
    entries: Mutex<Vec<Entry>>,
    complaints: Mutex<BTreeMap<&'static str, Complaint>>,
}

/// One kind of thing that should not be.
#[derive(Debug, Default, Clone)]
pub struct Complaint {
    pub count: u64,
    /// The first few.
    pub cases: Vec<String>,
}

/// Enough to see what they have in common.
const CASES_KEPT: usize = 10;

impl Ledger {
    pub fn new(seed: u64, webhook_ids: WebhookIds) -> Self {
        Self { seed, webhook_ids, entries: Mutex::default(), complaints: Mutex::default() }
    }

    /// As the receivers are to see it.
    pub fn webhook_id(&self, entry: &Entry) -> String {
        let created_at = Timestamp::from_microsecond(entry.created_at);
        self.webhook_ids.of(entry.event_id, created_at.expect("PostgreSQL's time"))
    }

    pub fn event(&self, serial: u32) -> Event {
        Event::of(self.seed, serial)
    }

    /// Changes the entries of these events.
    pub fn change(&self, serials: &[u32], change: impl Fn(&mut Entry)) {
        let mut entries = self.entries.lock().expect("no panic while it is held");
        for &serial in serials {
            let at = serial as usize;
            if entries.len() <= at {
                entries.resize(at + WRITERS as usize, Entry::default());
            }
            change(&mut entries[at]);
        }
    }

    pub fn settle(&self, serials: &[u32], fate: Fate) {
        self.change(serials, |entry| entry.fate = fate);
    }

    pub fn entry(&self, serial: u32) -> Entry {
        let entries = self.entries.lock().expect("no panic while it is held");
        entries.get(serial as usize).copied().unwrap_or_default()
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.entries.lock().expect("no panic while it is held").clone()
    }

    /// Something is not as promised.
    pub fn complain(&self, kind: &'static str, case: impl FnOnce() -> String) {
        let mut complaints = self.complaints.lock().expect("no panic while it is held");
        let complaint = complaints.entry(kind).or_default();
        complaint.count += 1;
        if complaint.cases.len() < CASES_KEPT {
            complaint.cases.push(case());
        }
    }

    pub fn complaints(&self) -> BTreeMap<&'static str, Complaint> {
        self.complaints.lock().expect("no panic while it is held").clone()
    }
}

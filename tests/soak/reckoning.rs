//! The reckoning: every event at every endpoint, what should have come against what came and
//! against what the tables say.
//!
//! **How many duplicates there may be.** A relay sends a claimed delivery once. So each request
//! that arrived belongs to one claim, and each claim that was sent ends as one row of `attempts`:
//! with what came of it, or `interrupted`, if its relay died, lost its claims or was stopped.
//! Hence, for each delivery by itself, there are no more requests than attempts (an attempt that
//! says `sent twice` counts as two, of which the first was broken off, and so does one that another
//! relay wrote down as interrupted, since only the dead relay knew); and an event may have been
//! *accepted* once more than the attempt that says `delivered` only for each attempt whose end
//! no relay could know: interrupted, timed out, or broken off.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Client;

use super::endpoints::{ENDPOINTS, Mood, Spec};
use super::faults::Absences;
use super::inbox::{Inbox, Received};
use super::ledger::{Entry, Fate, Ledger};
use super::rows::{self, Attempt, Totals};

/// How long an event may wait to be routed: what was committed this long before an endpoint was
/// disabled may not have been owed to it any more.
const ROUTED_WITHIN: i64 = 60_000_000;
/// Cases of each kind for which the rows are shown.
const SHOWN: usize = 3;

#[derive(Debug)]
pub struct Reckoning<'a> {
    pub client: &'a Client,
    pub ledger: &'a Ledger,
    pub inboxes: &'a [Inbox],
    pub endpoint_ids: &'a [i64],
    pub absences: &'a Absences,
}

/// The result, besides the complaints.
#[derive(Debug)]
pub struct Figures {
    pub committed: u64,
    pub rolled_back: u64,
    pub endpoints: Vec<OfEndpoint>,
    pub totals: Totals,
}

#[derive(Debug, Default)]
pub struct OfEndpoint {
    pub owed: u64,
    pub requests: u64,
    /// Different events accepted.
    pub accepted: u64,
    pub lost: u64,
    /// Not owed, or of transactions that were rolled back.
    pub strangers: u64,
    /// Acceptances beyond the first of each event.
    pub duplicates: u64,
    /// Of events that came twice, attempts whose end no relay could know.
    pub explained: u64,
    pub dead: u64,
    /// Owed when all was over.
    pub held: u64,
    /// Pairs of events with one key that followed one another in order.
    pub in_order: u64,
    pub out_of_order: u64,
    /// Two different events of a key at once, neither of them a repetition; and all others.
    pub overlaps: u64,
    pub overlaps_repeated: u64,
    pub most_in_flight: u32,
    /// p50, p90, p99 and the most, in microseconds from COMMIT to the first arrival.
    pub latencies: [u64; 4],
}

/// One delivery, as the tables have it.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// Attempts whose request may have arrived.
    sent: u8,
    /// Of these, those whose end no relay could know.
    unclear: u8,
    ends: u8,
    delivered: bool,
    dead: bool,
    /// Relays ended with it time and again, as none of these faults is its doing.
    set_aside: bool,
    live: bool,
}

impl Told {
    fn add(&mut self, attempt: &Attempt) {
        let outcome = attempt.outcome.as_str();
        let unclear = matches!(outcome, "interrupted" | "timed_out" | "unreachable");
        // Its first request was broken off, and the second ended as the attempt says.
        let twice = u8::from(attempt.is_sent_twice || outcome == "interrupted");
        self.sent = self.sent.saturating_add(u8::from(unclear || outcome == "answered") + twice);
        self.unclear = self.unclear.saturating_add(u8::from(unclear) + twice);
        self.ends = self.ends.saturating_add(u8::from(attempt.verdict != "retry"));
        self.delivered |= attempt.verdict == "delivered";
        self.dead |= attempt.verdict == "dead";
        self.set_aside |= attempt.is_set_aside;
    }

    fn is_nothing(self) -> bool {
        self.sent == 0 && self.ends == 0 && !self.live
    }
}

/// By endpoint and serial number.
type AllTold = Vec<Vec<Told>>;

/// Something wrong with one event at one endpoint.
type Wrong = (&'static str, usize, u32);

impl Reckoning<'_> {
    pub async fn make(&self) -> Figures {
        let entries = self.ledger.entries();
        let told = self.read(&entries).await;
        let mut wrongs = Vec::new();
        let mut endpoints = Vec::new();
        for (number, spec) in ENDPOINTS.iter().enumerate() {
            let received = self.inboxes[number].received();
            let look =
                Look { ledger: self.ledger, entries: &entries, number, spec, received: &received };
            let mut figures = look.deliveries(&told[number], self.absences, &mut wrongs);
            if spec.ordered {
                look.order(&mut figures, &mut wrongs);
            }
            endpoints.push(figures);
        }
        self.complain(&entries, wrongs).await;
        rows::check_consistency(self.client, self.ledger).await;
        let count = |fate| entries.iter().filter(|entry| entry.fate == fate).count() as u64;
        let totals = rows::totals(self.client).await;
        let (committed, rolled_back) = (count(Fate::Committed), count(Fate::RolledBack));
        if u64::try_from(totals.events) != Ok(committed) {
            let case = || format!("{committed} events committed, {} are there", totals.events);
            self.ledger.complain("the outbox does not hold what was committed", case);
        }
        Figures { committed, rolled_back, endpoints, totals }
    }

    /// Reads what the tables say.
    async fn read(&self, entries: &[Entry]) -> AllTold {
        let mut serials: HashMap<i64, u32> = HashMap::with_capacity(entries.len());
        for (entry, serial) in entries.iter().zip(0_u32..).filter(|(entry, _)| entry.event_id != 0)
        {
            // A number drawn by a transaction that a crash of the server undid may be drawn again.
            let known = serials.entry(entry.event_id).or_insert(serial);
            if entry.fate == Fate::Committed {
                *known = serial;
            }
        }
        let numbers: HashMap<i64, usize> =
            self.endpoint_ids.iter().enumerate().map(|(number, &id)| (id, number)).collect();
        let mut told: AllTold = vec![vec![Told::default(); entries.len()]; ENDPOINTS.len()];
        let mut find = |event_id: i64, endpoint_id: i64, what: &mut dyn FnMut(&mut Told)| match (
            serials.get(&event_id),
            numbers.get(&endpoint_id),
        ) {
            (Some(&serial), Some(&number)) => what(&mut told[number][serial as usize]),
            _ => self.ledger.complain("a row is of no event or endpoint of ours", || {
                format!("event {event_id}, endpoint {endpoint_id}")
            }),
        };
        rows::each_attempt(self.client, |attempt| {
            find(attempt.event_id, attempt.endpoint_id, &mut |told| told.add(attempt));
        })
        .await;
        rows::each_delivery(self.client, |event_id, endpoint_id| {
            find(event_id, endpoint_id, &mut |told| told.live = true);
        })
        .await;
        told
    }

    /// Tells what is wrong, with the rows of the first of each kind.
    async fn complain(&self, entries: &[Entry], wrongs: Vec<Wrong>) {
        let mut shown: BTreeMap<&str, usize> = BTreeMap::new();
        for (kind, number, serial) in wrongs {
            let entry = entries[serial as usize];
            let shown = shown.entry(kind).or_default();
            *shown += 1;
            let mut case = {
                let received = self.inboxes[number].received();
                format!(
                    "event {} ({}, serial {serial}, key {:?}) at {:?} (endpoint {}): {} requests, {} accepted",
                    entry.event_id,
                    self.ledger.webhook_id(&entry),
                    self.ledger.event(serial).key,
                    ENDPOINTS[number].name,
                    self.endpoint_ids[number],
                    received.arrivals(serial),
                    received.accepted(serial),
                )
            };
            if *shown <= SHOWN {
                case +=
                    &rows::evidence(self.client, entry.event_id, self.endpoint_ids[number]).await;
            }
            self.ledger.complain(kind, || case);
        }
    }
}

/// A look at one endpoint.
struct Look<'a> {
    ledger: &'a Ledger,
    entries: &'a [Entry],
    number: usize,
    spec: &'static Spec,
    received: &'a Received,
}

impl Look<'_> {
    fn deliveries(
        &self,
        told: &[Told],
        absences: &Absences,
        wrongs: &mut Vec<Wrong>,
    ) -> OfEndpoint {
        let received = self.received;
        let mut figures = OfEndpoint {
            requests: received.requests,
            most_in_flight: received.most_in_flight,
            latencies: [0.5, 0.9, 0.99, 1.0].map(|share| received.latencies.quantile(share)),
            ..OfEndpoint::default()
        };
        for ((entry, told), serial) in self.entries.iter().zip(told).zip(0_u32..) {
            let mut wrong = |kind| wrongs.push((kind, self.number, serial));
            let (arrivals, accepted) = (received.arrivals(serial), received.accepted(serial));
            figures.accepted += u64::from(accepted > 0);
            let again = u64::from(accepted.saturating_sub(1));
            figures.duplicates += again;
            figures.explained += if again > 0 { u64::from(told.unclear) } else { 0 };
            if entry.fate == Fate::Open {
                wrong("an event's transaction has no known end");
            }
            if arrivals > told.sent {
                wrong("more requests than attempts");
            }
            if accepted > told.unclear + u8::from(told.delivered) {
                wrong("a duplicate that nothing explains");
            }
            if entry.fate != Fate::Committed || !self.spec.is_owed(&self.ledger.event(serial)) {
                if arrivals > 0 || !told.is_nothing() {
                    figures.strangers += 1;
                    wrong(if entry.fate == Fate::Committed {
                        "delivered to an endpoint that is not owed it"
                    } else {
                        "delivered, and never committed"
                    });
                }
                continue;
            }
            if self.may_have_missed(entry, absences) && told.is_nothing() && arrivals == 0 {
                continue;
            }
            figures.owed += 1;
            figures.dead += u64::from(told.dead);
            figures.held += u64::from(told.live);
            self.judge(*told, serial, &mut figures, &mut wrong);
        }
        figures
    }

    /// One end for each delivery, and the right one.
    fn judge(
        &self,
        told: Told,
        serial: u32,
        figures: &mut OfEndpoint,
        wrong: &mut impl FnMut(&'static str),
    ) {
        let accepted = self.received.accepted(serial) > 0;
        if told.ends + u8::from(told.live) != 1 {
            wrong("a delivery has not exactly one end");
        }
        if told.delivered && !accepted {
            wrong("recorded as delivered, and never accepted");
        }
        let may_be_dead =
            self.spec.is_dead() || self.received.told_gone.contains(&serial) || told.set_aside;
        if !accepted && !may_be_dead {
            figures.lost += 1;
            wrong("lost");
        }
        if told.dead && !may_be_dead {
            wrong("dead by accident");
        }
    }

    /// Whether it was disabled, or may have been, when this was routed.
    fn may_have_missed(&self, entry: &Entry, absences: &Absences) -> bool {
        let at = entry.sent_at;
        self.spec.mood == Mood::Gone
            && absences.iter().any(|&(from, to)| from - ROUTED_WITHIN <= at && at <= to)
    }

    /// Per key: the next event first arrives when the one before it has been accepted.
    fn order(&self, figures: &mut OfEndpoint, wrongs: &mut Vec<Wrong>) {
        let mut last: HashMap<u32, u32> = HashMap::new();
        for (entry, serial) in self.entries.iter().zip(0_u32..) {
            let event = self.ledger.event(serial);
            let Some(key) = event.key else { continue };
            if entry.fate != Fate::Committed || !self.spec.is_owed(&event) {
                continue;
            }
            if let Some(before) = last.insert(key, serial) {
                let (before, this) = (self.received.ticks(before), self.received.ticks(serial));
                if before.accepted > 0 && before.accepted < this.arrived {
                    figures.in_order += 1;
                } else {
                    figures.out_of_order += 1;
                    wrongs.push(("a key's order was broken", self.number, serial));
                }
            }
        }
        for overlap in &self.received.overlaps {
            if overlap.repeated || overlap.earlier == overlap.later {
                figures.overlaps_repeated += 1;
                continue;
            }
            figures.overlaps += 1;
            wrongs.push(("two of a key were in flight at once", self.number, overlap.later));
        }
    }
}

//! What is true, kept beside the database: which events have been committed and in what order, who
//! is owed which, and what each receiver got. Nothing here asks the SQL under test; who may be owed
//! an event is read off the rows of `endpoints`, and matched here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use posthaste::model::delivery::EventId;
use posthaste::model::endpoint::EndpointId;
use posthaste::model::subscription;
use posthaste::store::RelayId;
use posthaste::store::health::Note;

use super::ground::Micros;
use super::operations::Answer;

/// What must hold does not: the list fails, and this says why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken(pub String);

pub type Held<T = ()> = Result<T, Broken>;

/// Says what is broken unless it holds.
pub fn hold(holds: bool, otherwise: impl FnOnce() -> String) -> Held {
    if holds { Ok(()) } else { Err(Broken(otherwise())) }
}

pub type Pair = (EventId, EndpointId);

/// An event of the outbox.
#[derive(Debug, Clone)]
pub struct Event {
    pub id: EventId,
    pub xid: i64,
    pub event_type: String,
    pub tenant: Option<String>,
    pub n: u8,
    pub ordering_key: Option<String>,
    pub to: Option<EndpointId>,
    pub deliver_at: Option<Micros>,
    pub expires_at: Option<Micros>,
}

/// What an endpoint's row says when it is read.
#[derive(Debug, Clone)]
pub struct Subscriber {
    pub id: EndpointId,
    pub enabled: bool,
    pub tenant: Option<String>,
    pub subscriptions: Vec<String>,
    pub ordered: bool,
    /// Only events whose `n` is greater.
    pub more_than: Option<u8>,
}

/// A delivery that is or was owed.
#[derive(Debug, Default)]
pub struct Owed {
    /// How often: once by routing, and each time it was put back.
    pub times: usize,
    /// Not to be claimed before.
    pub not_before: Micros,
    /// Its ordering key, and its place in that line.
    pub line: Option<(String, Place)>,
}

/// Where a delivery stands in its line: between two routing spans, which are the same for one that
/// was routed. What is put back stands behind all that had been routed when it was called for, and
/// before all that began to be routed after it was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    from: usize,
    to: usize,
    event: EventId,
    is_put_back: bool,
}

impl Place {
    /// Whether it certainly comes before another of its line.
    pub fn is_before(&self, other: &Self) -> bool {
        match (self.is_put_back, other.is_put_back) {
            (false, false) => (self.to, self.event) < (other.to, other.event),
            (false, true) => self.to <= other.from,
            (true, false) => self.to < other.from,
            (true, true) => false,
        }
    }
}

/// A delivery that is owed again.
#[derive(Debug, Clone)]
pub struct PutBack {
    pub pair: Pair,
    pub not_before: Micros,
    /// The line whose end it joins; `None`: it stays where it was.
    pub joins: Option<Option<String>>,
    /// All spans up to this one had been routed when it was called for.
    pub behind: usize,
}

/// What a receiver got.
#[derive(Debug)]
pub struct Request {
    pub relay: RelayId,
    pub pair: Pair,
    pub webhook_id: String,
    pub answer: Option<Answer>,
}

/// What a routing statement will do, if it does anything.
#[derive(Debug, Clone)]
pub struct Plan {
    pub events: Vec<EventId>,
    /// With the line where the endpoint is ordered.
    pub owed: Vec<(Pair, Option<String>)>,
    pub unmatched: usize,
    pub more: bool,
    /// Where routing stood.
    from: Cursor,
    cursor: Cursor,
}

/// The events routed are the committed ones up to a point, in order of commit; where a step was
/// full, up to an event of the span in order of transaction and id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    since: usize,
    until: usize,
    after: Option<(i64, EventId)>,
    span: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Truth {
    /// With the place of each in the order of commits, counted from 1.
    pub committed: BTreeMap<EventId, (usize, Event)>,
    pub rolled_back: BTreeSet<EventId>,
    /// Tenant and key of events that have been committed.
    pub keys: BTreeSet<(String, u8)>,
    pub owed: BTreeMap<Pair, Owed>,
    pub requests: Vec<Request>,
    /// How many attempts of a relay were delivered and how many were not, of those it has not
    /// noted.
    tallies: BTreeMap<(RelayId, EndpointId), (u32, u32)>,
    /// What is left of the rate of an endpoint that has one, and when that was so.
    rates: BTreeMap<(RelayId, EndpointId), (f64, Micros)>,
    /// How many events have been routed.
    pub routed: usize,
    cursor: Cursor,
    /// The last span that has begun to be routed.
    planned: usize,
}

impl Event {
    fn is_for(&self, endpoint: &Subscriber) -> bool {
        if let Some(named) = self.to {
            return named == endpoint.id;
        }
        let matches = |pattern: &String| {
            subscription::matches(pattern, &self.event_type)
                && (pattern != "*" || !self.event_type.starts_with("posthaste."))
        };
        endpoint.enabled
            && endpoint.tenant.as_ref().is_none_or(|tenant| self.tenant.as_ref() == Some(tenant))
            && endpoint.subscriptions.iter().any(matches)
            && endpoint.more_than.is_none_or(|least| self.n > least)
    }
}

impl Truth {
    /// These were committed, in one transaction.
    pub fn commit(&mut self, events: Vec<Event>) {
        for event in events {
            let place = self.committed.len() + 1;
            self.committed.insert(event.id, (place, event));
        }
    }

    pub fn event(&self, id: EventId) -> Held<&Event> {
        let known = self.committed.get(&id).map(|(_, event)| event);
        known.ok_or_else(|| Broken(format!("event {id} was never committed, and is delivered")))
    }

    pub fn put_back(&mut self, put_back: PutBack) {
        let PutBack { pair, not_before, joins, behind } = put_back;
        let place = Place { from: behind, to: self.planned, event: pair.0, is_put_back: true };
        let owed = self.owed.entry(pair).or_default();
        owed.times += 1;
        owed.not_before = not_before;
        if let Some(line) = joins {
            owed.line = line.map(|key| (key, place));
        }
    }

    /// The last span that is routed to its end.
    pub fn routed_span(&self) -> usize {
        self.cursor.span - usize::from(self.cursor.after.is_some())
    }

    /// What routing is to do with what is committed now.
    pub fn plan(&mut self, most: usize, endpoints: &[Subscriber]) -> Plan {
        let Cursor { since, until, after, span } = self.cursor;
        let (since, until, span) = match after {
            Some(_) => (since, until, span),
            None => (until, self.committed.len(), span + 1),
        };
        let number = span;
        self.planned = self.planned.max(number);
        let mut span: Vec<&Event> = self
            .committed
            .values()
            .filter(|(place, _)| *place > since && *place <= until)
            .map(|(_, event)| event)
            .filter(|event| after.is_none_or(|after| (event.xid, event.id) > after))
            .collect();
        span.sort_by_key(|event| (event.xid, event.id));
        span.truncate(most);
        let more = span.len() == most;
        let mut owed = Vec::new();
        let mut unmatched = 0;
        for event in &span {
            let pairs = endpoints.iter().filter(|endpoint| event.is_for(endpoint));
            let before = owed.len();
            owed.extend(pairs.map(|endpoint| {
                let line = event.ordering_key.clone().filter(|_| endpoint.ordered);
                ((event.id, endpoint.id), line)
            }));
            unmatched += usize::from(owed.len() == before);
        }
        let last = span.last().map(|event| (event.xid, event.id));
        let after = if more { last } else { None };
        let cursor = Cursor { since, until, after, span: number };
        Plan {
            events: span.iter().map(|event| event.id).collect(),
            owed,
            unmatched,
            more,
            from: self.cursor,
            cursor,
        }
    }

    /// Whether another step was routed since this was planned.
    pub fn is_late(&self, plan: &Plan) -> bool {
        plan.from != self.cursor
    }

    /// The same plan for its first events alone.
    pub fn cut(&self, plan: &Plan, events: usize) -> Plan {
        let mut cut = plan.clone();
        cut.events.truncate(events);
        cut.owed.retain(|((event, _), _)| cut.events.contains(event));
        let is_owed = |event: &&EventId| cut.owed.iter().any(|((owed, _), _)| owed == *event);
        cut.unmatched = cut.events.len() - cut.events.iter().filter(is_owed).count();
        if events < plan.events.len() {
            cut.more = true;
            let last = cut.events.last().map(|id| (self.committed[id].1.xid, *id));
            cut.cursor.after = last.or(self.cursor.after);
        }
        cut
    }

    /// Routing has done it.
    pub fn route(&mut self, plan: &Plan) {
        self.cursor = plan.cursor;
        self.routed += plan.events.len();
        for (pair, line) in &plan.owed {
            let owed = self.owed.entry(*pair).or_default();
            owed.times += 1;
            owed.not_before = self.committed[&pair.0].1.deliver_at.unwrap_or(0);
            let span = plan.cursor.span;
            let place = Place { from: span, to: span, event: pair.0, is_put_back: false };
            owed.line = line.clone().map(|key| (key, place));
        }
    }

    /// An attempt of this relay has ended.
    pub fn tally(&mut self, relay: RelayId, endpoint: EndpointId, is_delivered: bool) {
        let (delivered, not) = self.tallies.entry((relay, endpoint)).or_default();
        *(if is_delivered { delivered } else { not }) += 1;
    }

    /// What a relay notes of an endpoint is what has come of its attempts since it last did.
    pub fn check_note(&mut self, relay: RelayId, note: &Note) -> Held {
        let expected = self.tallies.remove(&(relay, note.endpoint_id)).unwrap_or_default();
        hold((note.successes, note.failures) == expected, || {
            format!("{note:?} is noted of {expected:?}, delivered and not")
        })
    }

    /// A relay begins an attempt at an endpoint of this rate, whose bucket holds one second's
    /// worth.
    pub fn check_rate(
        &mut self,
        (relay, endpoint): (RelayId, EndpointId),
        per_second: f64,
        now: Micros,
    ) -> Held {
        /// The relay and this add up their fractions in different orders.
        const ROUNDING: f64 = 1e-6;
        let most = per_second.max(1.0);
        let (left, at) = self.rates.get(&(relay, endpoint)).copied().unwrap_or((most, now));
        let passed = Duration::from_micros(now.abs_diff(at)).as_secs_f64();
        let left = (left + passed * per_second).min(most) - 1.0;
        self.rates.insert((relay, endpoint), (left, now));
        hold(left > -ROUNDING, || {
            format!("relay {relay} sends faster to endpoint {endpoint} than {per_second} a second")
        })
    }

    pub fn all_is_routed(&self) -> bool {
        self.routed == self.committed.len()
    }

    /// How often a receiver got the same event again.
    pub fn duplicates(&self) -> usize {
        let pairs: BTreeSet<Pair> = self.requests.iter().map(|request| request.pair).collect();
        self.requests.len() - pairs.len()
    }
}

//! The inbox of one endpoint: counts per event and no bodies, so that hours of it fit into
//! memory.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use super::events::Event;

/// One endpoint's.
#[derive(Debug, Default)]
pub struct Inbox(Mutex<Received>);

/// See [`Inbox`]. Vectors are indexed by serial number and as long as they had to be.
#[derive(Debug, Default)]
pub struct Received {
    arrivals: Vec<u8>,
    accepted: Vec<u8>,
    /// When each first arrived and was first accepted, in ticks; of ordered endpoints.
    ticks: Vec<Ticks>,
    ticking: u32,
    /// Answered 410: may be dead.
    pub told_gone: HashSet<u32>,
    pub requests: u64,
    /// From COMMIT to the first arrival, in microseconds.
    pub latencies: Histogram,
    /// By key: serial numbers, and whether they had arrived before.
    in_flight: HashMap<u32, Vec<(u32, bool)>>,
    pub overlaps: Vec<Overlap>,
    now_in_flight: u32,
    pub most_in_flight: u32,
}

/// A clock that counts arrivals and acceptances of an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ticks {
    pub arrived: u32,
    pub accepted: u32,
}

/// Two requests with one ordering key were in flight at once.
#[derive(Debug, Clone, Copy)]
pub struct Overlap {
    pub earlier: u32,
    pub later: u32,
    /// Either of them had arrived before.
    pub repeated: bool,
}

/// A request that is being answered; it is over when this is dropped.
#[derive(Debug)]
pub struct InFlight<'a> {
    inbox: &'a Inbox,
    serial: u32,
    /// Of ordered endpoints.
    key: Option<u32>,
}

impl Inbox {
    pub fn received(&self) -> MutexGuard<'_, Received> {
        self.0.lock().expect("no panic while it is held")
    }

    /// Takes in a request, which arrives this long after COMMIT was sent.
    pub fn arrive(&self, event: &Event, ordered: bool, latency: i64) -> InFlight<'_> {
        let mut received = self.received();
        let serial = event.serial;
        received.requests += 1;
        let before = bump(&mut received.arrivals, serial);
        if before == 0 {
            received.latencies.add(u64::try_from(latency).unwrap_or(0));
        }
        let key = event.key.filter(|_| ordered);
        if let Some(key) = key {
            if before == 0 {
                let now = received.tick();
                received.ticks_of(serial).arrived = now;
            }
            let others = received.in_flight.entry(key).or_default();
            let other = others.last().copied();
            others.push((serial, before > 0));
            if let Some((earlier, again)) = other {
                let repeated = again || before > 0;
                received.overlaps.push(Overlap { earlier, later: serial, repeated });
            }
        }
        received.now_in_flight += 1;
        received.most_in_flight = received.most_in_flight.max(received.now_in_flight);
        InFlight { inbox: self, serial, key }
    }
}

impl InFlight<'_> {
    /// It is about to be accepted. Said before the answer is, or the next request could come first.
    pub fn accept(&self) {
        let mut received = self.inbox.received();
        if bump(&mut received.accepted, self.serial) == 0 && self.key.is_some() {
            let now = received.tick();
            received.ticks_of(self.serial).accepted = now;
        }
    }

    /// It is about to be answered 410.
    pub fn tell_gone(&self) {
        self.inbox.received().told_gone.insert(self.serial);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut received = self.inbox.received();
        received.now_in_flight -= 1;
        if let Some(others) = self.key.and_then(|key| received.in_flight.get_mut(&key))
            && let Some(at) = others.iter().position(|&(serial, _)| serial == self.serial)
        {
            others.swap_remove(at);
        }
    }
}

impl Received {
    /// How many requests with this event came.
    pub fn arrivals(&self, serial: u32) -> u8 {
        self.arrivals.get(serial as usize).copied().unwrap_or(0)
    }

    /// How many of them were answered 2xx.
    pub fn accepted(&self, serial: u32) -> u8 {
        self.accepted.get(serial as usize).copied().unwrap_or(0)
    }

    pub fn ticks(&self, serial: u32) -> Ticks {
        self.ticks.get(serial as usize).copied().unwrap_or_default()
    }

    fn ticks_of(&mut self, serial: u32) -> &mut Ticks {
        let at = serial as usize;
        if self.ticks.len() <= at {
            self.ticks.resize(at + 1, Ticks::default());
        }
        &mut self.ticks[at]
    }

    fn tick(&mut self) -> u32 {
        self.ticking += 1;
        self.ticking
    }
}

/// One more; what was there before. Nothing is counted beyond 255.
fn bump(counts: &mut Vec<u8>, serial: u32) -> u8 {
    let at = serial as usize;
    if counts.len() <= at {
        counts.resize(at + 1, 0);
    }
    let before = counts[at];
    counts[at] = before.saturating_add(1);
    before
}

/// Counts in buckets an eighth apart.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    pub most: u64,
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        let at = bucket(value);
        if self.buckets.len() <= at {
            self.buckets.resize(at + 1, 0);
        }
        self.buckets[at] += 1;
        self.count += 1;
        self.most = self.most.max(value);
    }

    /// The value below which this share of them lies, an eighth too high at most.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    pub fn quantile(&self, share: f64) -> u64 {
        let rank = (self.count as f64 * share).ceil() as u64;
        let mut below = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                return ceiling(at).min(self.most);
            }
        }
        self.most
    }
}

/// Eight buckets from each power of two to the next.
fn bucket(value: u64) -> usize {
    if value < 8 {
        return usize::try_from(value).unwrap_or(0);
    }
    let power = value.ilog2();
    let eighth = usize::try_from(value >> (power - 3)).unwrap_or(8) - 8;
    (power as usize - 2) * 8 + eighth
}

/// The largest value of a bucket.
fn ceiling(at: usize) -> u64 {
    if at < 8 {
        return at as u64;
    }
    let (power, eighth) = (at / 8 + 2, at as u64 % 8);
    ((eighth + 9) << (power - 3)) - 1
}

#[test]
fn a_quantile_is_an_eighth_too_high_at_most() {
    let mut histogram = Histogram::default();
    (0..=1000).for_each(|value| histogram.add(value));
    for (share, exact) in [(0.5, 500), (0.99, 990), (1.0, 1000), (0.001, 1)] {
        let told = histogram.quantile(share);
        assert!(told >= exact && told <= exact + exact / 8 + 1, "{share}: {told}");
    }
}

#[test]
fn two_of_a_key_at_once_are_seen() {
    let (inbox, event) = (Inbox::default(), Event { key: Some(1), ..Event::of(1, 20) });
    let first = inbox.arrive(&event, true, 0);
    let second = inbox.arrive(&Event { serial: 40, ..event.clone() }, true, 0);
    drop((first, second));
    drop(inbox.arrive(&Event { serial: 60, ..event }, true, 0));
    let received = inbox.received();
    let overlaps: Vec<_> = received.overlaps.iter().map(|one| (one.earlier, one.later)).collect();
    assert_eq!(overlaps, [(20, 40)]);
    assert_eq!((received.arrivals(40), received.accepted(40), received.most_in_flight), (1, 0, 2));
}

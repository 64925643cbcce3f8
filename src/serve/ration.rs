//! A bounded good that peers share: places for connections, bytes of memory.
//!
//! While there is enough, everyone has what it takes, also one address alone that has all. When it
//! runs out, it is taken from those that have not earned it, and the one in need has it:
//!
//! * from the address that has most, if that is more than a quarter: at once, if the one in need
//!   has less;
//! * from whatever has been idle for [a while](Ration::of), or else has been sending and took
//!   nothing more for as long: the longest first, of whichever address. So also senders that share
//!   one address, behind a proxy or at the loopback, are not kept out for longer than that; and
//!   where all are honest and too many, those that were first come to their end.
//!
//! From what has proved itself nothing is taken. Its bounds are its owner's affair.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The part of all that an address keeps when others are in need: one in so many.
const SHARE: usize = 4;

/// A bounded good. Clones share it.
#[derive(Debug, Clone)]
pub struct Ration {
    table: Arc<Mutex<RationTable>>,
    most: usize,
    patience: Duration,
}

/// What one connection, or one request, has of it. Dropping it gives all back.
#[derive(Debug)]
pub struct Portion {
    ration: Ration,
    number: u64,
    party: IpAddr,
    is_busy: AtomicBool,
    /// It was taken away, and belongs to another already: its owner is to stop.
    pub is_to_go: CancellationToken,
}

/// What the owner of a portion is doing, from which it follows what may be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    /// It asks nothing.
    Idle,
    /// It is sending, and has proved nothing yet.
    Sending,
    /// It has proved itself, and waits for us.
    Waiting,
}

#[derive(Debug, Default)]
struct RationTable {
    last: u64,
    taken: usize,
    by_party: HashMap<IpAddr, usize>,
    portions: BTreeMap<u64, HeldPortion>,
}

#[derive(Debug)]
struct HeldPortion {
    party: IpAddr,
    has: usize,
    doing: Doing,
    /// Its last step.
    since: Instant,
    is_to_go: CancellationToken,
}

impl Ration {
    /// So much of it. Within `patience` nothing is taken away, unless its address has too much.
    #[must_use]
    pub fn of(most: usize, patience: Duration) -> Self {
        Self { table: Arc::default(), most, patience }
    }

    /// How much of it there is in all.
    #[must_use]
    pub fn most(&self) -> usize {
        self.most
    }

    /// Nothing yet, for a peer at this address, which is idle.
    #[must_use]
    pub fn portion(&self, peer: IpAddr) -> Portion {
        let (party, is_to_go) = (party(peer), CancellationToken::new());
        let mut table = self.table();
        table.last += 1;
        let number = table.last;
        let (doing, since) = (Doing::Idle, Instant::now());
        let entry = HeldPortion { party, has: 0, doing, since, is_to_go: is_to_go.clone() };
        table.portions.insert(number, entry);
        Portion { ration: self.clone(), number, party, is_busy: AtomicBool::new(false), is_to_go }
    }

    /// The table is whole at every moment.
    fn table(&self) -> MutexGuard<'_, RationTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Portion {
    /// Takes more, from others if need be. `false`: there is none to be had, or this portion itself
    /// was taken away.
    #[must_use]
    pub fn take(&self, more: usize) -> bool {
        let Ration { most, patience, .. } = self.ration;
        let mut table = self.ration.table();
        if !table.portions.contains_key(&self.number) {
            return false;
        }
        while table.taken + more > most {
            let Some(victim) = table.victim(self, more, most / SHARE, patience) else {
                return false;
            };
            if let Some(gone) = table.remove(victim) {
                gone.is_to_go.cancel();
            }
        }
        table.taken += more;
        *table.by_party.entry(self.party).or_default() += more;
        if let Some(mine) = table.portions.get_mut(&self.number) {
            mine.has += more;
            mine.since = Instant::now();
        }
        true
    }

    /// Whether its owner has begun something, and was not done when it was last heard of.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Relaxed)
    }

    /// Its owner does this from now on.
    pub fn now(&self, doing: Doing) {
        self.is_busy.store(doing != Doing::Idle, Ordering::Relaxed);
        if let Some(mine) = self.ration.table().portions.get_mut(&self.number) {
            (mine.doing, mine.since) = (doing, Instant::now());
        }
    }
}

impl Drop for Portion {
    fn drop(&mut self) {
        self.ration.table().remove(self.number);
    }
}

impl RationTable {
    /// Whose portion makes room for `more` of this one's.
    fn victim(
        &self,
        needy: &Portion,
        more: usize,
        share: usize,
        patience: Duration,
    ) -> Option<u64> {
        let of_needy = self.by_party.get(&needy.party).copied().unwrap_or_default() + more;
        let greediest = self.by_party.iter().max_by_key(|(_, has)| **has);
        let greediest = greediest.filter(|(_, has)| **has > share).map(|(party, _)| *party);
        let now = Instant::now();
        let may_go = |(number, entry): &(&u64, &HeldPortion)| {
            let is_aged = now.duration_since(entry.since) >= patience;
            **number != needy.number
                && entry.has > 0
                && entry.doing != Doing::Waiting
                && (is_aged || Some(entry.party) == greediest && of_needy <= share)
        };
        let first = |(number, entry): &(&u64, &HeldPortion)| {
            (Some(entry.party) != greediest, entry.doing, entry.since, **number)
        };
        self.portions.iter().filter(may_go).min_by_key(first).map(|(number, _)| *number)
    }

    fn remove(&mut self, number: u64) -> Option<HeldPortion> {
        let gone = self.portions.remove(&number)?;
        self.taken -= gone.has;
        if let Some(has) = self.by_party.get_mut(&gone.party) {
            *has -= gone.has;
            if *has == 0 {
                self.by_party.remove(&gone.party);
            }
        }
        Some(gone)
    }
}

/// Whom an address stands for. In IPv6 one host has a whole network of them (RFC 6177).
fn party(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

    fn at(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn gone(portion: &Portion) -> bool {
        portion.is_to_go.is_cancelled()
    }

    /// So many portions of one, each a moment after the one before.
    async fn portions(ration: &Ration, peer: IpAddr, count: usize, doing: Doing) -> Vec<Portion> {
        let mut all = Vec::new();
        for _ in 0..count {
            let portion = ration.portion(peer);
            portion.now(doing);
            assert!(portion.take(1));
            all.push(portion);
            advance(Duration::from_millis(1)).await;
        }
        all
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_may_have_all_until_another_is_in_need_of_its_share() {
        let ration = Ration::of(8, PATIENCE);
        let sending = portions(&ration, at(1), 8, Doing::Sending).await;
        assert!(!ration.portion(at(1)).take(1), "it has more than its share itself");
        let honest = [ration.portion(at(2)), ration.portion(at(2)), ration.portion(at(2))];
        assert!(honest[0].take(1) && honest[1].take(1));
        assert_eq!(sending.iter().map(gone).collect::<Vec<_>>()[..3], [true, true, false]);
        assert!(!honest[2].take(1), "two are a quarter of eight");
        assert!(!sending[0].take(1), "what was taken away takes nothing more");
        drop(sending);
        assert!(honest[2].take(6));
        assert!(!honest[2].take(1), "eight are eight");
    }

    #[tokio::test(start_paused = true)]
    async fn within_an_address_what_is_idle_goes_first_and_then_what_stands_still() {
        let ration = Ration::of(4, PATIENCE);
        let sending = portions(&ration, at(1), 2, Doing::Sending).await;
        let idle = portions(&ration, at(1), 2, Doing::Idle).await;
        assert!(!ration.portion(at(1)).take(1), "all have just come");
        advance(PATIENCE).await;
        idle[0].now(Doing::Idle);
        let next = ration.portion(at(1));
        assert!(next.take(1));
        assert_eq!([gone(&idle[0]), gone(&idle[1])], [false, true], "the other has just asked");
        assert!(next.take(1));
        assert_eq!([gone(&sending[0]), gone(&sending[1]), gone(&idle[0])], [true, false, false]);
        // What goes on is not stopped, however long it takes.
        drop(next);
        advance(PATIENCE / 2).await;
        assert!(sending[1].take(1));
        advance(PATIENCE / 2).await;
        assert!(ration.portion(at(1)).take(2), "of the one that is idle, and what was given back");
        assert!(!ration.portion(at(1)).take(3) && !gone(&sending[1]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_has_too_much_makes_room_for_its_own_before_others_do() {
        let ration = Ration::of(8, Duration::ZERO);
        let probe = portions(&ration, at(2), 1, Doing::Idle).await;
        let many = portions(&ration, at(1), 7, Doing::Idle).await;
        let next = portions(&ration, at(1), 50, Doing::Idle).await;
        assert!(!gone(&probe[0]) && many.iter().all(gone));
        assert_eq!(next.iter().filter(|one| !gone(one)).count(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_taken_from_what_has_proved_itself() {
        let ration = Ration::of(4, PATIENCE);
        let waiting = portions(&ration, at(1), 4, Doing::Waiting).await;
        advance(PATIENCE * 100).await;
        assert!(!ration.portion(at(2)).take(1));
        assert!(!waiting.iter().any(gone));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_of_ipv6_is_its_network_and_one_of_ipv4_is_the_same_by_both_families() {
        let ration = Ration::of(4, PATIENCE);
        let host = |text: &str| ration.portion(text.parse().unwrap());
        let many = ["2001:db8::1", "2001:db8::2", "2001:db8::3:4", "2001:db8::5"].map(host);
        assert!(many.iter().all(|one| one.take(1)));
        assert!(!host("2001:db8::6").take(1));
        assert!(host("2001:db8:0:1::1").take(1));
        assert_eq!(many.iter().filter(|one| gone(one)).count(), 1);
        assert_eq!(party("::ffff:192.0.2.1".parse().unwrap()), at(1));
    }
}

//! What the statements that claim, record and release do to their tables, each under the name of
//! its file in `sql/queries`. Left out are times, texts and lines; `fidelity` compares the rest
//! with the statements themselves.

use std::collections::BTreeMap;

/// The right to make the next attempt: `claimed_by` and `claim_token`, or the key of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claim {
    pub relay: u8,
    pub token: u8,
}

/// A row of `posthaste.relays`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Registered {
    pub relay: u8,
    /// Its heartbeat is not too old.
    pub is_heard: bool,
    /// A session holds its lock.
    pub is_locked: bool,
}

/// A row of `posthaste.claims`: its deliveries, and the bit of each.
pub type Batch = Vec<(u8, bool)>;

/// A row of `posthaste.attempts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Logged {
    pub delivery: u8,
    pub relay: u8,
    pub interrupted: bool,
}

/// An attempt that is to be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempted {
    pub delivery: u8,
    pub token: u8,
    /// Its place, if it was claimed in a batch.
    pub place: Option<u8>,
    /// It failed, and is to be made again.
    pub again: bool,
}

/// How a claim is compared with the one that is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fence {
    #[default]
    Whole,
    /// A fault: the relay alone.
    WithoutToken,
    /// A fault: a bit may be set twice.
    WithoutBits,
}

/// The tables.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Tables {
    pub relays: Vec<Registered>,
    pub deliveries: BTreeMap<u8, Option<Claim>>,
    pub claims: BTreeMap<Claim, Batch>,
    pub attempts: Vec<Logged>,
    pub fence: Fence,
}

impl Tables {
    fn is_held(&self, delivery: u8, by: Claim) -> bool {
        let held = self.deliveries.get(&delivery).copied().flatten();
        held.is_some_and(|held| match self.fence {
            Fence::WithoutToken => held.relay == by.relay,
            Fence::Whole | Fence::WithoutBits => held == by,
        })
    }

    /// Takes these places from a batch, if they are in it and no bit says that they were taken:
    /// the CTEs `batch`, `emptied` and `shrunk` of record.sql and release.sql.
    fn take(&mut self, by: Claim, places: &[u8]) -> Vec<u8> {
        let Some(batch) = self.claims.get_mut(&by) else { return Vec::new() };
        let mut fresh = Vec::new();
        for place in places {
            let (delivery, recorded) = &mut batch[usize::from(*place)];
            if !*recorded || self.fence == Fence::WithoutBits {
                fresh.push(*delivery);
            }
            *recorded = true;
        }
        if batch.iter().all(|(_, recorded)| *recorded) {
            self.claims.remove(&by);
        }
        fresh
    }

    /// What has no bit is a row again (`posthaste_internal.claimed_in`, and `back`).
    fn put_back(&mut self, deliveries: impl IntoIterator<Item = u8>) {
        for delivery in deliveries {
            self.deliveries.entry(delivery).or_insert(None);
        }
    }

    /// claim.sql: what is due and not claimed, in order.
    pub fn claim(&mut self, by: Claim, most: usize) -> Vec<u8> {
        let due = self.deliveries.iter_mut().filter(|(_, held)| held.is_none()).take(most);
        due.map(|(delivery, held)| {
            *held = Some(by);
            *delivery
        })
        .collect()
    }

    /// `write_step.sql`: all that a step claims is one batch.
    pub fn write_step(&mut self, by: Claim, deliveries: &[u8]) {
        self.claims.insert(by, deliveries.iter().map(|delivery| (*delivery, false)).collect());
    }

    /// record.sql, and `record_one.sql` where one attempt delivered what was claimed alone. Returns
    /// those whose claim was held.
    pub fn record(&mut self, relay: u8, attempts: &[Attempted]) -> Vec<Attempted> {
        let mut held = Vec::new();
        for one in attempts {
            let by = Claim { relay, token: one.token };
            let is_held = match one.place {
                Some(place) => !self.take(by, &[place]).is_empty(),
                None => self.is_held(one.delivery, by),
            };
            if !is_held {
                continue;
            }
            if one.again {
                self.deliveries.insert(one.delivery, None);
            } else {
                self.deliveries.remove(&one.delivery);
            }
            self.attempts.push(Logged { delivery: one.delivery, relay, interrupted: false });
            held.push(*one);
        }
        held
    }

    /// release.sql. Returns how many were the relay's.
    pub fn release(&mut self, relay: u8, claims: &[Attempted]) -> usize {
        let mut released = 0;
        for one in claims {
            let by = Claim { relay, token: one.token };
            if let Some(place) = one.place {
                let given = self.take(by, &[place]);
                released += given.len();
                self.put_back(given);
            } else if self.is_held(one.delivery, by) {
                self.deliveries.insert(one.delivery, None);
                released += 1;
            }
        }
        released
    }

    /// What disown, reap and `release_orphans` have in common: claims that fit are released.
    /// Returns each with the relay that had it.
    fn give_back(&mut self, fits: impl Fn(Claim) -> bool) -> Vec<(u8, u8)> {
        let mut released = Vec::new();
        for (delivery, held) in &mut self.deliveries {
            if let Some(claim) = held.take_if(|claim| fits(*claim)) {
                released.push((*delivery, claim.relay));
            }
        }
        let fitting: Vec<Claim> =
            self.claims.keys().copied().filter(|claim| fits(*claim)).collect();
        for claim in fitting {
            let batch = self.claims.remove(&claim).unwrap_or_default();
            let left: Vec<u8> =
                batch.into_iter().filter(|(_, recorded)| !recorded).map(|(one, _)| one).collect();
            released.extend(left.iter().map(|delivery| (*delivery, claim.relay)));
            self.put_back(left);
        }
        released
    }

    fn interrupt(&mut self, released: &[(u8, u8)]) -> usize {
        let log = |(delivery, relay): &(u8, u8)| Logged {
            delivery: *delivery,
            relay: *relay,
            interrupted: true,
        };
        self.attempts.extend(released.iter().map(log));
        released.len()
    }

    /// disown.sql.
    pub fn disown(&mut self, relay: u8, tokens: &[u8]) -> usize {
        self.give_back(|claim| claim.relay == relay && tokens.contains(&claim.token)).len()
    }

    /// reap.sql: of relays that are not heard of, or whose lock is free.
    pub fn reap(&mut self, me: u8) -> usize {
        let is_dead = |row: &Registered| row.relay != me && !(row.is_heard && row.is_locked);
        let dead: Vec<u8> =
            self.relays.iter().filter(|row| is_dead(row)).map(|row| row.relay).collect();
        self.relays.retain(|row| !dead.contains(&row.relay));
        let released = self.give_back(|claim| dead.contains(&claim.relay));
        self.interrupt(&released)
    }

    /// `release_orphans.sql`: claims of no relay, and of the caller's those that it does not hold.
    pub fn release_orphans(&mut self, me: u8, held: &[u8], newest: u8) -> usize {
        let relays: Vec<u8> = self.relays.iter().map(|row| row.relay).collect();
        let is_unknown = |claim: Claim| {
            claim.relay == me && claim.token < newest && !held.contains(&claim.token)
        };
        let released = self.give_back(|claim| is_unknown(claim) || !relays.contains(&claim.relay));
        self.interrupt(&released)
    }

    /// register.sql: a new row, and its lock.
    pub fn register(&mut self, relay: u8) {
        self.relays.push(Registered { relay, is_heard: true, is_locked: true });
    }

    /// renew.sql and retake.sql: `false` if the row is gone. Either leaves the lock held.
    pub fn renew(&mut self, relay: u8) -> bool {
        let row = self.relays.iter_mut().find(|row| row.relay == relay);
        row.map(|row| row.is_heard = true).is_some()
    }

    /// A session ends, or takes the lock.
    pub fn lock(&mut self, relay: u8, is_locked: bool) {
        if let Some(row) = self.relays.iter_mut().find(|row| row.relay == relay) {
            row.is_locked = is_locked;
        }
    }

    /// deregister.sql.
    pub fn deregister(&mut self, relay: u8) {
        self.relays.retain(|row| row.relay != relay);
    }

    /// Every claim, with its delivery.
    pub fn claimed(&self) -> Vec<(u8, Claim)> {
        let rows = self.deliveries.iter().filter_map(|(one, held)| Some((*one, (*held)?)));
        let bits = |(claim, batch): (&Claim, &Batch)| {
            let claim = *claim;
            let left = batch.iter().filter(|(_, recorded)| !recorded);
            left.map(|(delivery, _)| (*delivery, claim)).collect::<Vec<_>>()
        };
        rows.chain(self.claims.iter().flat_map(bits)).collect()
    }
}

//! A process that runs a relay: what it remembers of its claims, and the statements it may make.

use std::time::{Duration, Instant};

use posthaste::model::dispatch::UncertainClaims;

use crate::models::statements::{Attempted, Claim};

/// A statement, as a relay sends it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Statement {
    Claim(Claim),
    Route(Claim),
    Record(u8, Vec<Attempted>),
    Release(u8, Vec<Attempted>),
    Disown(u8, Vec<u8>),
    Reap(u8),
    ReleaseOrphans { relay: u8, held: Vec<u8>, newest: u8 },
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// Its number in this term. `None`: it does not run.
    pub relay: Option<u8>,
    /// The claims that it believes to hold; each may be sent, and be answered, at any moment.
    held: Vec<Attempted>,
    /// The token of the statement that claimed last.
    newest: u8,
    uncertain: UncertainClaims,
}

/// What distinguishes a process.
pub type Key = (Option<u8>, Vec<Attempted>, u8, Vec<u8>);

impl Process {
    pub fn key(&self) -> Key {
        (self.relay, self.held.clone(), self.newest, self.uncertain_tokens())
    }

    fn uncertain_tokens(&self) -> Vec<u8> {
        self.uncertain.tokens().map(|token| u8::try_from(token).unwrap()).collect()
    }

    /// Whether it may give its lease back.
    pub fn leaves_nothing(&self) -> bool {
        self.held.is_empty() && self.uncertain.is_empty()
    }

    pub fn holds_claim(&self, delivery: u8, token: u8) -> bool {
        self.held.iter().any(|one| (one.delivery, one.token) == (delivery, token))
    }

    /// Whether it records or gives back this claim of its own, sooner or later.
    pub fn knows(&self, delivery: u8, token: u8, has_upkeep: bool) -> bool {
        self.holds_claim(delivery, token)
            || self.uncertain_tokens().contains(&token)
            // Once its next claim has moved `newest` on.
            || has_upkeep
    }

    /// The statements that it may make now; under `token`, those that claim.
    pub fn statements(&self, relay: u8, token: Option<u8>, has_upkeep: bool) -> Vec<Statement> {
        let mut all = vec![Statement::Reap(relay)];
        if let Some(token) = token {
            let by = Claim { relay, token };
            all.extend([Statement::Claim(by), Statement::Route(by)]);
        }
        if !self.uncertain.is_empty() {
            all.push(Statement::Disown(relay, self.uncertain_tokens()));
        }
        if has_upkeep {
            let held = self.held.iter().map(|one| one.token).collect();
            all.push(Statement::ReleaseOrphans { relay, held, newest: self.newest });
        }
        // One of them, and all in one statement.
        let some = (0..self.held.len()).map(|n| vec![self.held[n]]);
        let whole = (self.held.len() > 1).then(|| self.held.clone());
        for claims in some.chain(whole) {
            let again = claims.iter().map(|one| Attempted { again: true, ..*one }).collect();
            all.push(Statement::Record(relay, claims.clone()));
            all.push(Statement::Record(relay, again));
            all.push(Statement::Release(relay, claims));
        }
        all
    }

    /// Takes in the answer, or that there was none.
    pub fn hears(&mut self, statement: &Statement, answer: Option<&[u8]>, now: Instant) {
        match (statement, answer) {
            (Statement::Claim(by) | Statement::Route(by), None) => {
                self.newest = by.token;
                self.uncertain.add(by.token.into(), now);
            }
            (Statement::Claim(by), Some(claimed)) => self.holds(*by, claimed, false),
            (Statement::Route(by), Some(claimed)) => self.holds(*by, claimed, true),
            // Whether they were still its own or not: it drops them.
            (Statement::Record(_, claims) | Statement::Release(_, claims), Some(_)) => {
                let is_of = |one: &Attempted| {
                    claims.iter().any(|of| (of.delivery, of.token) == (one.delivery, one.token))
                };
                self.held.retain(|one| !is_of(one));
            }
            // However late they may still run, it forgets them here: upkeep finds what comes then.
            (Statement::Disown(..), Some(_)) => self.uncertain.disowned(now, Duration::ZERO),
            // Made again, or not.
            (
                Statement::Record(..)
                | Statement::Release(..)
                | Statement::Disown(..)
                | Statement::Reap(_)
                | Statement::ReleaseOrphans { .. },
                _,
            ) => {}
        }
    }

    fn holds(&mut self, by: Claim, claimed: &[u8], is_batch: bool) {
        self.newest = by.token;
        for (place, delivery) in (0..).zip(claimed) {
            let place = is_batch.then_some(place);
            self.held.push(Attempted { delivery: *delivery, token: by.token, place, again: false });
        }
    }
}

//! Visits every state that a small protocol can reach, breadth first, so that what is found wrong
//! is reached by as few steps as can be.

use std::collections::{HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

/// More states than any protocol here has: it would not end.
const MOST_STATES: usize = 2_000_000;

/// A state of a protocol, and what may happen next.
pub trait Protocol: Clone {
    /// Something that may happen.
    type Event: Clone + Debug;
    /// Two states with the same key go on alike.
    type Key: Hash;

    fn key(&self) -> Self::Key;
    /// All that may happen, with the state that follows.
    fn next(&self) -> Vec<(Self::Event, Self)>;
    /// The promise that this state breaks.
    fn broken(&self) -> Option<String>;
}

/// The result of a search.
#[derive(Debug)]
pub struct Explored<E> {
    /// Different states visited.
    pub states: usize,
    /// The promise that is broken, and the events that lead there from the beginning.
    pub counterexample: Option<(String, Vec<E>)>,
}

impl<E: Debug> Explored<E> {
    /// The number of states, none of which breaks a promise.
    ///
    /// # Panics
    /// If one does; or if there are fewer states than `at_least`, and the search shows little.
    #[track_caller]
    pub fn holds(&self, at_least: usize) -> usize {
        assert!(self.counterexample.is_none(), "{:#?}", self.counterexample);
        eprintln!("{} states", self.states);
        assert!(self.states >= at_least, "only {} states: is the model whole?", self.states);
        self.states
    }

    /// The promise that is broken.
    ///
    /// # Panics
    /// If none is.
    #[track_caller]
    pub fn fails(&self) -> &str {
        let found = self.counterexample.as_ref();
        &found.unwrap_or_else(|| panic!("{} states, and none of them is wrong", self.states)).0
    }
}

/// Visits all states that are reached from these.
pub fn explore<P: Protocol>(first: Vec<P>) -> Explored<P::Event> {
    let mut seen = HashSet::new();
    // Where each state came from, and by what.
    let mut origins: Vec<(usize, Option<P::Event>)> = Vec::new();
    let mut waiting = VecDeque::new();
    let mut found: Vec<(usize, Option<P::Event>, P)> =
        first.into_iter().map(|state| (0, None, state)).collect();
    loop {
        for (origin, event, state) in found.drain(..) {
            if !seen.insert(fingerprint(&state.key())) {
                continue;
            }
            let at = origins.len();
            assert!(at < MOST_STATES, "more than {MOST_STATES} states");
            origins.push((origin, event));
            if let Some(promise) = state.broken() {
                return Explored {
                    states: seen.len(),
                    counterexample: Some((promise, path(&origins, at))),
                };
            }
            waiting.push_back((at, state));
        }
        let Some((at, state)) = waiting.pop_front() else { break };
        found.extend(state.next().into_iter().map(|(event, next)| (at, Some(event), next)));
    }
    Explored { states: seen.len(), counterexample: None }
}

fn path<E: Clone>(origins: &[(usize, Option<E>)], mut at: usize) -> Vec<E> {
    let mut path = Vec::new();
    while let (origin, Some(event)) = &origins[at] {
        path.push(event.clone());
        at = *origin;
    }
    path.reverse();
    path
}

/// Of 128 bits: among a million states two have the same one with a chance of 1 in 10^27.
fn fingerprint(key: &impl Hash) -> (u64, u64) {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        key.hash(&mut hasher);
        hasher.finish()
    };
    (half(0), half(1))
}

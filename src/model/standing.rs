//! How the relay stands with its database: what it last did with success, what fails since when,
//! how old its lease is, and how often its terms ended of late. `/ready` and `/status` tell it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::lease::sends_for;

/// Work that the relay cannot deliver without may fail for this long: a database that restarts or
/// is busy is no news for an operator, a statement that fails five times in a row is.
const FAILS_FOR: Duration = Duration::from_secs(10);

/// Terms that ended longer ago are forgotten.
const OF_LATE: Duration = Duration::from_secs(600);

/// So many terms that ended of late are more than one bad night of a host: each of them has sent
/// again what it had in flight.
const TOO_MANY_TERMS: usize = 5;

/// What the relay was doing in its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum During {
    Route,
    Claim,
    /// Reading the endpoints of what was claimed.
    Open,
    Record,
    /// Giving deliveries with an ordering key their turn.
    Order,
    /// Noting how endpoints do.
    Health,
    /// Looking for what is due, and giving back what may have been claimed.
    Poll,
    Wake,
    Heartbeat,
    Upkeep,
    /// Taking the lease for a new term.
    Begin,
}

impl During {
    /// As `/status` has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Claim => "claim",
            Self::Open => "open",
            Self::Record => "record",
            Self::Order => "order",
            Self::Health => "health",
            Self::Poll => "poll",
            Self::Wake => "wake",
            Self::Heartbeat => "heartbeat",
            Self::Upkeep => "upkeep",
            Self::Begin => "begin",
        }
    }

    /// The subject of the sentence that the relay is not ready. `None`: it delivers without.
    fn subject(self) -> Option<&'static str> {
        match self {
            Self::Route => Some("routing"),
            Self::Claim => Some("claiming"),
            Self::Open => Some("reading endpoints"),
            Self::Record => Some("recording"),
            Self::Order
            | Self::Health
            | Self::Poll
            | Self::Wake
            | Self::Heartbeat
            | Self::Upkeep
            | Self::Begin => None,
        }
    }
}

/// A moment on both clocks: the one for durations, the other for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldMoment {
    pub at: Instant,
    pub wall: Timestamp,
}

/// What a statement met. No payloads and no secrets: it is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mishap {
    /// The SQLSTATE, if the database answered.
    pub code: Option<String>,
    pub message: String,
}

/// Failures of one kind of work without a success between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailureRun {
    pub during: During,
    pub since: ToldMoment,
    pub last: ToldMoment,
    /// What the last of them met.
    pub mishap: Mishap,
    /// The event or endpoint that it was found to be about.
    pub concerns: Option<String>,
    /// Whether the work succeeded after them.
    pub is_over: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Standing {
    succeeded: BTreeMap<During, ToldMoment>,
    /// The last run of each kind of work, over or not.
    failures: BTreeMap<During, FailureRun>,
    /// When the lease was renewed, and its length.
    lease: Option<(Instant, Duration)>,
    terms_ended: VecDeque<Instant>,
}

impl Standing {
    pub fn succeeded(&mut self, during: During, now: ToldMoment) {
        self.succeeded.insert(during, now);
        self.has_nothing(during);
    }

    /// There is nothing of this work for this relay now: what failed waits for it no more.
    pub fn has_nothing(&mut self, during: During) {
        if let Some(run) = self.failures.get_mut(&during) {
            run.is_over = true;
        }
    }

    pub fn failed(&mut self, during: During, mishap: Mishap, now: ToldMoment) {
        let before = self.failures.get(&during).filter(|run| !run.is_over);
        let since = before.map_or(now, |run| run.since);
        let run = FailureRun { during, since, last: now, mishap, concerns: None, is_over: false };
        self.failures.insert(during, run);
    }

    /// What the last failure of this work was about.
    pub fn concerns(&mut self, during: During, what: String) {
        if let Some(run) = self.failures.get_mut(&during) {
            run.concerns = Some(what);
        }
    }

    /// The lease of this length was renewed.
    pub fn renewed(&mut self, lease: Duration, at: Instant) {
        self.lease = Some((at, lease));
    }

    /// A term ended other than by a stop. What it still had to record is made again.
    pub fn term_ended(&mut self, now: Instant) {
        self.lease = None;
        self.has_nothing(During::Record);
        self.terms_ended.push_back(now);
        self.terms_ended.retain(|ended| now.saturating_duration_since(*ended) <= OF_LATE);
    }

    /// Terms that ended within the last 10 minutes.
    #[must_use]
    pub fn terms_ended(&self, now: Instant) -> usize {
        let of_late = |ended: &&Instant| now.saturating_duration_since(**ended) <= OF_LATE;
        self.terms_ended.iter().filter(of_late).count()
    }

    /// How long ago the lease was renewed, if it is held.
    #[must_use]
    pub fn lease_age(&self, now: Instant) -> Option<Duration> {
        self.lease.map(|(renewed, _)| now.saturating_duration_since(renewed))
    }

    /// When each kind of work last succeeded.
    pub fn successes(&self) -> impl Iterator<Item = (During, Timestamp)> {
        self.succeeded.iter().map(|(during, at)| (*during, at.wall))
    }

    /// The last error that there was, and since when it is met.
    #[must_use]
    pub fn last_error(&self) -> Option<&FailureRun> {
        self.failures.values().max_by_key(|run| run.last.at)
    }

    /// Why deliveries should not be expected of this relay, in a sentence for an operator.
    #[must_use]
    pub fn objection(&self, now: Instant) -> Option<String> {
        self.failing(now).or_else(|| self.stale_lease(now)).or_else(|| self.restless(now))
    }

    /// The work that has failed for longest.
    fn failing(&self, now: Instant) -> Option<String> {
        let runs = self.failures.values().filter(|run| !run.is_over);
        let told = runs.filter_map(|run| Some((run, run.during.subject()?)));
        let (run, subject) = told.min_by_key(|(run, _)| run.since.at)?;
        let lasted = now.saturating_duration_since(run.since.at);
        (lasted > FAILS_FOR).then(|| {
            let (seconds, since) = (lasted.as_secs(), run.since.wall);
            let message = &run.mishap.message;
            format!("{subject} fails for {seconds} s, since {since:.0}: {message}")
        })
    }

    fn stale_lease(&self, now: Instant) -> Option<String> {
        let (renewed, lease) = self.lease?;
        let age = now.saturating_duration_since(renewed);
        let said = "nothing is sent before it is renewed";
        (age >= sends_for(lease))
            .then(|| format!("the lease was last renewed {} s ago: {said}", age.as_secs()))
    }

    fn restless(&self, now: Instant) -> Option<String> {
        let ended = self.terms_ended(now);
        (ended >= TOO_MANY_TERMS).then(|| {
            format!("{ended} terms of this relay ended within the last 10 minutes, see the log")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const REFUSED: &str = "record attempts: the database refuses it (P0001), see the log";

    fn moments() -> impl Fn(u64) -> ToldMoment {
        let began = Clock.instant();
        move |second| ToldMoment {
            at: began + Duration::from_secs(second),
            wall: Timestamp::from_second(i64::try_from(second).unwrap()).unwrap(),
        }
    }

    fn mishap(code: &str) -> Mishap {
        Mishap { code: Some(code.to_owned()), message: REFUSED.to_owned() }
    }

    #[test]
    fn work_that_fails_for_longer_than_ten_seconds_without_a_success_is_objected_to() {
        use During::{Claim, Heartbeat, Poll, Record, Route, Upkeep, Wake};
        let fails = |subject: &str, lasted: u64, since: u64| {
            let since = Timestamp::from_second(i64::try_from(since).unwrap()).unwrap();
            Some(format!("{subject} fails for {lasted} s, since {since}: {REFUSED}"))
        };
        // The work, its failures and successes (seconds), the time of the look, what is said.
        for (during, failures, successes, look, expected) in [
            (Record, vec![], vec![], 100, None),
            (Record, vec![1], vec![], 11, None),
            (Record, vec![1], vec![], 12, fails("recording", 11, 1)),
            (Record, vec![1, 5, 9], vec![], 12, fails("recording", 11, 1)),
            (Record, vec![1, 5, 9], vec![7], 12, None),
            (Record, vec![1, 5, 9], vec![7], 20, fails("recording", 11, 9)),
            (Record, vec![1, 5, 9], vec![10], 100, None),
            (Route, vec![1], vec![0], 20, fails("routing", 19, 1)),
            (Claim, vec![1], vec![], 20, fails("claiming", 19, 1)),
            (Upkeep, vec![1, 2, 3], vec![], 100, None),
            (Heartbeat, vec![1, 2, 3], vec![], 100, None),
            (Wake, vec![1, 2, 3], vec![], 100, None),
            (Poll, vec![1, 2, 3], vec![], 100, None),
        ] {
            let (moment, mut standing) = (moments(), Standing::default());
            for second in 0..=look {
                if failures.contains(&second) {
                    standing.failed(during, mishap("P0001"), moment(second));
                }
                if successes.contains(&second) {
                    standing.succeeded(during, moment(second));
                }
            }
            let said = standing.objection(moment(look).at);
            assert_eq!(said, expected, "{during:?} {failures:?} {successes:?} {look}");
        }
    }

    #[test]
    fn the_last_error_is_kept_with_its_beginning_after_it_is_over() {
        let (moment, mut standing) = (moments(), Standing::default());
        assert_eq!(standing.last_error(), None);
        standing.failed(During::Record, mishap("P0001"), moment(1));
        standing.failed(During::Upkeep, mishap("42501"), moment(2));
        standing.failed(During::Record, mishap("23514"), moment(3));
        let last = standing.last_error().unwrap().clone();
        assert_eq!((last.during, last.since, last.last), (During::Record, moment(1), moment(3)));
        assert_eq!((last.mishap, last.is_over), (mishap("23514"), false));
        standing.succeeded(During::Record, moment(4));
        assert!(standing.last_error().unwrap().is_over);
        assert_eq!(standing.successes().collect::<Vec<_>>(), [(During::Record, moment(4).wall)]);
    }

    #[test]
    fn a_lease_that_nothing_is_sent_under_is_objected_to_until_it_is_renewed_or_given_up() {
        let (moment, mut standing) = (moments(), Standing::default());
        assert_eq!(standing.lease_age(moment(1).at), None);
        standing.renewed(Duration::from_secs(15), moment(1).at);
        assert_eq!(standing.lease_age(moment(10).at), Some(Duration::from_secs(9)));
        assert_eq!(standing.objection(moment(10).at), None);
        let said = "the lease was last renewed 10 s ago: nothing is sent before it is renewed";
        assert_eq!(standing.objection(moment(11).at).as_deref(), Some(said));
        standing.renewed(Duration::from_secs(15), moment(11).at);
        assert_eq!(standing.objection(moment(11).at), None);
        standing.term_ended(moment(12).at);
        assert_eq!(standing.objection(moment(60).at), None);
    }

    #[test]
    fn five_terms_that_ended_within_ten_minutes_are_too_many() {
        let (moment, mut standing) = (moments(), Standing::default());
        for second in [0, 100, 200, 300] {
            standing.term_ended(moment(second).at);
        }
        assert_eq!(
            (standing.terms_ended(moment(600).at), standing.objection(moment(600).at)),
            (4, None)
        );
        standing.term_ended(moment(600).at);
        let said = "5 terms of this relay ended within the last 10 minutes, see the log";
        assert_eq!(standing.objection(moment(600).at).as_deref(), Some(said));
        assert_eq!(standing.objection(moment(601).at), None);
        assert_eq!(standing.terms_ended(moment(601).at), 4);
    }
}

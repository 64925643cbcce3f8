//! How many requests an endpoint may have in flight: grows while it keeps up, shrinks where more at
//! once only wait, halves when it complains.
//!
//! It keeps up as long as requests take hardly longer than they did when there were few; beyond
//! that one more request only waits, there or here, and costs a connection (*measured*: 100
//! endpoints on a busy machine took half as much again of the relay's processor time with some 15
//! requests each as with 4). TCP Vegas goes by the same delay; here geometric means replace its
//! minimum, since some events are much slower than others.
//!
//! A window first rises with single answers, threefold in the time that one takes, as TCP's slow
//! start doubles. A [round](round::Round) of answers judges what came of it. An endpoint that
//! becomes slower looks at first like one that does things one after the other; what tells them
//! apart is whether more requests at once bring more answers a second ([`Doubt`]).
//!
//! The relay has one window for each endpoint and claims no more than it has room for.
//! [`health`](super::health) decides whether the endpoint may be sent anything at all.

mod remembered;
mod round;

use jiff::Timestamp;

pub use self::remembered::Remembered;
use self::round::{Round, RoundMean};
use super::outcome::{Cause, Outcome};

/// A bound on the requests in flight, never below one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// What the answers so far allow.
    size: u32,
    /// What silence has allowed.
    floor: u32,
    max: u32,
    /// Requests in flight that are allowed without any answer.
    start: u32,
    /// Grows with each decision. What was sent before one says nothing of what came of it.
    era: u32,
    /// Whether single answers let it grow: until it was too large for the first time.
    rising: bool,
    /// How long answers take when few are in flight: the logarithm of milliseconds.
    normal: Option<f64>,
    /// The first answers of which `normal` is made, until there is a round of them.
    first: Option<u32>,
    round: Round,
    doubt: Doubt,
}

/// Whether the size is why answers take long. The endpoint may have become slower by itself, and
/// then a smaller window takes answers away for nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Doubt {
    /// Answers are as fast as they should be.
    #[default]
    None,
    /// It shrank after this round. Are answers as much faster now?
    Shrunk { more: RoundMean },
    /// They were not, so it has its size again. Are there more answers a second? If not, `normal`
    /// holds again.
    Restored { fewer: RoundMean, normal: f64 },
    /// It is the size: no further trial until answers are as fast as they should be.
    Settled,
}

/// A request's note of the moment when it was sent, to be told with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the result of the request is told with it"]
pub struct Sent {
    era: u32,
    fill: Fill,
    /// Requests in flight over all endpoints, itself included.
    in_all: u32,
}

/// How full the window is with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Something else keeps more from being sent, or there is no more.
    Partly,
    /// As much waits as will fill it.
    Soon,
    Full,
}

impl Window {
    /// A window of 2, that allows `start` requests before there is an answer and grows to at most
    /// `max`; a zero is read as 1.
    #[must_use]
    pub fn new(start: u32, max: u32) -> Self {
        let max = max.max(1);
        Self {
            size: BEGIN.min(start).clamp(FEW, max),
            floor: FEW,
            max,
            start,
            era: 0,
            rising: true,
            normal: None,
            first: Some(0),
            round: Round::default(),
            doubt: Doubt::None,
        }
    }

    /// Begins with half of what the endpoint's last window had.
    pub fn recall(&mut self, last: Remembered) {
        self.size = last.size.div_ceil(2).min(self.max).max(self.size);
        (self.normal, self.first) = (Some(last.normal), None);
    }

    /// What the endpoint's next window is to begin with, if anything is known.
    #[must_use]
    pub fn remembered(&self) -> Option<Remembered> {
        let is_known = |normal: &f64| self.first.is_none() && normal.is_finite();
        self.normal.filter(is_known).map(|normal| Remembered { size: self.size, normal })
    }

    /// How many requests may be in flight.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.size.max(self.floor).min(self.max)
    }

    /// How many requests may be in flight before there is an answer.
    #[must_use]
    pub fn start(&self) -> u32 {
        self.start.clamp(FEW, self.max)
    }

    /// Whether it may soon be several times as large.
    #[must_use]
    pub fn is_rising(&self) -> bool {
        self.rising && self.size < self.max
    }

    /// Changes the upper bound, when the endpoint's settings have changed.
    pub fn set_max(&mut self, max: u32) {
        self.max = max.max(1);
        self.size = self.size.min(self.max);
    }

    /// Notes that a request is sent, with which `in_all` are in flight over all endpoints.
    pub fn sent(&mut self, fill: Fill, in_all: u32) -> Sent {
        if self.first.is_some() && self.size <= BEGIN && in_all > QUIET {
            // Two at once would take the waiting that they cause for normal.
            self.size = FEW;
        }
        Sent { era: self.era, fill, in_all }
    }

    /// Notes the result of a request that took `took_ms`, when `in_all` requests were in flight
    /// over all endpoints. Any answer that does not speak of overload shows that the endpoint keeps
    /// up, whatever it says of the event; a request that was never sent, or whose end is unknown,
    /// shows nothing.
    pub fn after(
        &mut self,
        outcome: &Outcome,
        sent: Sent,
        took_ms: f64,
        in_all: u32,
        now: Timestamp,
    ) {
        if congested(outcome) {
            self.on_congestion(sent);
        } else if outcome.answer().is_some() {
            self.on_success(sent, took_ms, in_all, now);
        }
    }

    /// Two more for an answer that did not take much longer than normal, while the window rises;
    /// and a judgement after each round of them.
    pub fn on_success(&mut self, sent: Sent, took_ms: f64, in_all: u32, now: Timestamp) {
        if sent.era != self.era {
            return;
        }
        let took = took_ms.max(LEAST_MS).ln();
        let ours_ms = f64::from(in_all.max(sent.in_all)) * OURS_MS;
        let theirs = took_ms >= ours_ms.max(TURN_MS);
        if let Some(first) = self.first.as_mut().filter(|first| **first < FIRST) {
            *first += 1;
            let normal = self.normal.unwrap_or(took);
            self.normal = Some(normal + (took - normal) / f64::from(*first));
        }
        if sent.fill == Fill::Partly {
            return;
        }
        if self.rising && theirs && self.normal.is_some_and(|normal| longer(took, normal) <= MUCH) {
            self.size = self.size().saturating_add(STEP).min(self.max);
        }
        if sent.fill == Fill::Full
            && let Some(round) = self.round.after(took, self.size(), theirs, now)
        {
            self.judge(round, theirs);
        }
    }

    /// After a round of answers: half as many again if they hardly took longer than few requests
    /// do, unless single answers see to that; fewer if they took much longer.
    fn judge(&mut self, round: RoundMean, theirs: bool) {
        if self.resolves_doubt(round, theirs) {
            return;
        }
        // While all wait for the relay, chance is the same for all of them.
        let margin = if theirs { round.margin() } else { 1.0 };
        let longer = longer(round.mean, self.learnt(round, theirs)) / margin;
        if longer <= MUCH && self.doubt == Doubt::Settled {
            self.doubt = Doubt::None;
        }
        if longer <= HARDLY && !(self.rising && theirs) && self.size < self.max {
            self.resize(self.size.saturating_add(self.size.div_ceil(2)));
        } else if longer > MUCH && self.size > FEW {
            self.rising = false;
            let third = self.size - self.size.div_ceil(3);
            // Where the relay itself may be what they wait for, that passes.
            self.resize(if theirs { fitting(self.size, longer).min(third) } else { third });
            if self.doubt == Doubt::None {
                self.doubt = Doubt::Shrunk { more: round };
            }
        }
    }

    /// Compares a round with the one before the size was changed for the doubt's sake. `true`: it
    /// is changed again.
    fn resolves_doubt(&mut self, round: RoundMean, theirs: bool) -> bool {
        match self.doubt {
            Doubt::Shrunk { more } => {
                self.doubt = Doubt::None;
                // The first answers of an endpoint that has changed are of both kinds, so this is
                // not the last word.
                let restores = theirs && round.size < more.size && more.brings_more_than(round);
                if let Some(normal) = self.normal.filter(|_| restores) {
                    self.normal = Some(round.mean);
                    self.resize(more.size);
                    self.doubt = Doubt::Restored { fewer: round, normal };
                }
                restores
            }
            Doubt::Restored { fewer, normal } => {
                self.doubt = Doubt::None;
                let settled = round.size > fewer.size && !round.brings_more_than(fewer);
                if settled {
                    self.normal = Some(normal);
                    self.resize(fitting(fewer.size, longer(fewer.mean, normal)));
                    self.doubt = Doubt::Settled;
                }
                settled
            }
            Doubt::None | Doubt::Settled => false,
        }
    }

    /// What is normal, after this round too: no more than it took, and where there were few, half
    /// way to it. What the first answers took says nothing if they may have waited for the relay.
    fn learnt(&mut self, round: RoundMean, theirs: bool) -> f64 {
        let is_first = self.first.take().is_some();
        let normal = match self.normal.filter(|_| theirs || !is_first) {
            Some(normal) if normal <= round.mean && self.size > FEW => normal,
            Some(normal) => normal + (round.mean - normal) / 2.0,
            None => round.mean,
        };
        self.normal = Some(normal);
        normal
    }

    /// Whether the window would allow one more request without an answer.
    #[must_use]
    pub fn minds_silence(&self) -> bool {
        self.size() < self.start()
    }

    /// More were wanted, and the endpoint was silent for a while: allows one more, so that one slow
    /// event does not hold up the others.
    pub fn on_silence(&mut self) {
        if self.minds_silence() {
            self.floor = self.size() + 1;
        }
    }

    /// Halves the window, to at least 1. Those that were in flight with the one that failed change
    /// nothing more: one incident, one halving.
    pub fn on_congestion(&mut self, sent: Sent) {
        if sent.era == self.era {
            let half = self.size() / 2;
            (self.rising, self.floor, self.doubt) = (false, FEW, Doubt::None);
            self.resize(half);
        }
    }

    fn resize(&mut self, size: u32) {
        self.size = size.clamp(FEW, self.max);
        self.era = self.era.wrapping_add(1);
        self.round = Round::default();
    }
}

/// At this size, latency is the baseline.
const FEW: u32 = 1;

/// What a window begins with: the least that shows whether more at once wait.
const BEGIN: u32 = 2;

/// With more than this many requests in flight over all endpoints, a window begins with one: what
/// two take would show how busy the relay is.
const QUIET: u32 = 64;

/// More by an answer while the window rises, so that it is threefold when all it held have come.
const STEP: u32 = 2;

/// As many answers tell what is normal to begin with.
const FIRST: u32 = 4;

/// No answer counts as faster: a clock that stood still would have no logarithm.
const LEAST_MS: f64 = 0.001;

/// For each request in flight over all endpoints. A delivery takes about 40 µs of two cores that
/// the relay shares with database and receiver, twice that beside busy neighbours. An answer that
/// takes four times as long as that for all in flight waits for its endpoint, and more at once cost
/// the relay next to nothing.
const OURS_MS: f64 = 0.32;

/// An answer that takes less may have waited for the relay's turn on a processor that it shares,
/// however few are in flight.
const TURN_MS: f64 = 10.0;

/// A difference of this many milliseconds is not waiting: while an endpoint answers at once, its
/// next requests are written while other answers are read.
const NOTHING_MS: f64 = 1.0;

/// Answers may take this factor longer than with few in flight: up to it, more requests at once
/// still get more done.
const HARDLY: f64 = 1.25;
/// Beyond this one, half of a request's time is waiting.
const MUCH: f64 = 2.0;

/// The factor by which the first takes longer than the second, both logarithms of milliseconds.
fn longer(took: f64, normal: f64) -> f64 {
    (took.exp() + NOTHING_MS) / (normal.exp() + NOTHING_MS)
}

/// The size at which answers take [`MUCH`] longer, if they take this much longer at `size` because
/// they wait for one another (Little's law).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a u32: the caller saw that they take longer than that"
)]
fn fitting(size: u32, longer: f64) -> u32 {
    (f64::from(size) * (MUCH / longer).min(1.0)) as u32
}

/// Whether the outcome speaks of an overloaded endpoint, or an overloaded way to it. A name that
/// does not resolve or a bad certificate does not: fewer requests would change nothing.
#[must_use]
pub fn congested(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::TimedOut { .. } => true,
        Outcome::Answered(answer) => matches!(answer.status, 408 | 429 | 500..),
        Outcome::Unreachable { cause, .. } => match cause {
            Cause::ConnectionRefused
            | Cause::Reset
            | Cause::Closed
            | Cause::NoRoute
            | Cause::Proxy
            | Cause::Io => true,
            Cause::Dns
            | Cause::TlsExpired
            | Cause::TlsWrongName
            | Cause::TlsUnknownIssuer
            | Cause::TlsOther
            | Cause::Protocol => false,
        },
        Outcome::Refused { .. } | Outcome::Interrupted => false,
    }
}

#[cfg(test)]
mod tests;

//! Which faults follow one another, and when: drawn from the seed alone, so that a run can be had
//! again.

use std::time::Duration;

use fastrand::Rng;

/// Relay processes at work.
pub const RELAYS: usize = 3;

/// Something that goes wrong. A fault for a relay that is down or frozen already takes the next
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`, and a new process after this time.
    Crash { relay: usize, away: Duration },
    /// SIGSTOP, and SIGCONT after this time.
    Freeze { relay: usize, lasting: Duration },
    /// SIGTERM, and a new process this long after the orderly end.
    Stop { relay: usize, away: Duration },
    /// `pg_terminate_backend` of one of the relays' sessions; which one is drawn.
    CutOne { draw: u32 },
    /// Of all sessions, the application's too.
    CutAll,
    /// PostgreSQL stops in order and starts again.
    RestartFast,
    /// It crashes, and replays its log.
    RestartImmediate,
    /// A login without any grant takes every advisory lock of Posthaste's key spaces, and keeps
    /// them for this time.
    ForeignLocks { lasting: Duration },
}

const LEASE: Duration = Duration::from_secs(13);

/// The faults of one seed, without end.
#[derive(Debug)]
pub struct Plan(Rng);

/// A fault and how long after the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    pub pause: Duration,
    pub fault: Fault,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.0.u64(from..=to))
    }

    fn fault(&mut self) -> Fault {
        let relay = self.0.usize(..RELAYS);
        match self.0.u32(..100) {
            0..15 => Fault::Crash { relay, away: Duration::ZERO },
            15..27 => Fault::Crash { relay, away: self.milliseconds(1_000, 8_000) },
            27..35 => Fault::ForeignLocks { lasting: self.milliseconds(2_000, 20_000) },
            35..50 => Fault::Freeze { relay, lasting: self.milliseconds(1_000, 25_000) },
            50..62 => Fault::Stop { relay, away: self.milliseconds(0, 3_000) },
            62..82 => Fault::CutOne { draw: self.0.u32(..) },
            82..88 => Fault::CutAll,
            88..94 => Fault::RestartFast,
            _ => Fault::RestartImmediate,
        }
    }
}

impl Iterator for Plan {
    type Item = Planned;

    fn next(&mut self) -> Option<Planned> {
        Some(Planned { pause: self.milliseconds(2_000, 5_000), fault: self.fault() })
    }
}

impl Fault {
    /// Where it is counted in the report.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Crash { away: Duration::ZERO, .. } => "kill -9, restarted at once",
            Self::Crash { .. } => "kill -9, restarted later",
            Self::Freeze { lasting, .. } if lasting < LEASE => "frozen for less than the lease",
            Self::Freeze { .. } => "frozen for longer than the lease",
            Self::Stop { .. } => "SIGTERM, restarted",
            Self::CutOne { .. } => "one session cut",
            Self::CutAll => "all sessions cut",
            Self::RestartFast => "PostgreSQL restarted, fast",
            Self::RestartImmediate => "PostgreSQL restarted, immediate",
            Self::ForeignLocks { .. } => "locks held by a stranger",
        }
    }
}

#[test]
fn a_seed_is_a_plan_and_every_kind_of_fault_is_in_it() {
    let plan = |seed| Plan::of(seed).take(300).collect::<Vec<_>>();
    assert_eq!(plan(1), plan(1));
    assert_ne!(plan(1), plan(2));
    let kinds: std::collections::BTreeSet<_> = plan(1).iter().map(|one| one.fault.kind()).collect();
    assert_eq!(kinds.len(), 10);
    let lasting: Duration = plan(1).iter().map(|one| one.pause).sum();
    assert!(lasting < Duration::from_secs(25 * 60), "300 of them fit into half an hour");
}

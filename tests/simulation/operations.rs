//! What may happen, as plain data: one operation is at most one statement, so every interleaving of
//! several relays and transactions is some list of these.
//!
//! An operation that makes no sense where it stands (a commit without a transaction, a step of a
//! relay that is not there) does nothing. So any list is a run, and one with operations left out is
//! one too: that is what shrinking lives on. Numbers that choose among things are taken modulo what
//! there is. `Debug` prints what can be pasted into `pinned.rs`.

use std::fmt;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    // ── applications and people, each on a connection of its own ──
    Begin {
        on: u8,
    },
    /// Several events by one statement. Without a transaction it commits at once.
    Insert {
        on: u8,
        count: u8,
        event: Event,
    },
    Savepoint {
        on: u8,
    },
    RollBackToSavepoint {
        on: u8,
    },
    Commit {
        on: u8,
    },
    RollBack {
        on: u8,
    },
    /// A function that people call, in the transaction if there is one.
    Steer {
        on: u8,
        what: Steering,
    },

    // ── a relay's statements ──
    Start {
        relay: u8,
        size: Size,
    },
    /// Renews the lease, or takes it again after its session was lost.
    Beat {
        relay: u8,
        fate: Fate,
    },
    /// Releases what dead relays held; only after a beat.
    Reap {
        relay: u8,
        fate: Fate,
    },
    /// The dispatcher's next statement, if one is due.
    Turn {
        relay: u8,
        fate: Fate,
    },
    /// The bell rings, and the dispatcher's next statement is made. If it routes, it takes this
    /// many events at most; `FEW`: as many as the dispatcher says.
    Look {
        relay: u8,
        most: u8,
        fate: Fate,
    },
    /// The relay hears a notice. Notices that no list has heard are lost.
    Hear {
        relay: u8,
        notice: Notice,
    },
    /// Writes down so many results at most.
    Record {
        relay: u8,
        most: u8,
        fate: Fate,
    },
    /// Looks at lines in which nobody may have the turn.
    Lines {
        relay: u8,
        fate: Fate,
    },
    /// Strikes an endpoint that is to be struck, or notes how the endpoints do.
    Note {
        relay: u8,
        fate: Fate,
    },
    Upkeep {
        relay: u8,
        fate: Fate,
    },

    // ── what a relay does besides ──
    /// Begins an attempt: the receiver has it now.
    Send {
        relay: u8,
        which: u8,
    },
    /// What the relay hears of an attempt in flight.
    Answer {
        relay: u8,
        which: u8,
        answer: Answer,
    },
    /// Begins to stop; once it has nothing left, another one ends it.
    Stop {
        relay: u8,
    },

    // ── what goes wrong ──
    /// Its process is gone, with all that it knew, and its sessions.
    Crash {
        relay: u8,
    },
    Freeze {
        relay: u8,
    },
    Thaw {
        relay: u8,
    },
    /// The server ends the session that holds its lease.
    LoseSession {
        relay: u8,
    },
    /// A slow statement comes to its end.
    Finish {
        which: u8,
    },
    /// The connection of a slow statement breaks: whoever waits is told of an error, and the
    /// statement goes on.
    BreakOff {
        which: u8,
    },

    // ── and else ──
    Pass {
        seconds: u32,
    },
    /// Asks `check_consistency()`.
    Check,
}

/// What notices tell a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Events were inserted.
    Rung,
    /// A function of steering was called.
    Steered,
    /// Another relay has come upon deliveries that are due.
    Due,
    /// The session that hears the others has ended.
    SessionEnded,
}

/// How large a relay's settings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The defaults.
    Usual,
    /// Some requests in flight, some events per statement.
    Small,
    /// One request in flight, one event per statement, hardly any memory.
    Least,
}

/// What becomes of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Fine,
    /// It runs, and the relay is told of an error.
    AnswerLost,
    /// It does not run, and the relay is told of an error.
    NotRun,
    /// It stops at a place, with its snapshot taken and its locks held, until it is let go on.
    Slow(Gate),
}

/// Where a slow statement stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Before it began: it has no snapshot yet.
    Beginning,
    /// About to append the routing cursor.
    Routing,
    /// About to change deliveries.
    Deliveries,
    /// Having chosen the first delivery, about to change it.
    Row,
    /// About to append attempts.
    Attempts,
}

/// An event. [`PLAIN`] is the least of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    pub tenant: Option<Tenant>,
    /// What filters ask for.
    pub n: u8,
    pub ordering_key: Option<u8>,
    pub idempotency_key: Option<u8>,
    /// Names this endpoint alone.
    pub to: Option<u8>,
    /// `deliver_at`, in seconds from now.
    pub after: Option<u32>,
    /// `expires_at`, likewise.
    pub until: Option<u32>,
}

pub const PLAIN: Event = Event {
    kind: Kind::Paid,
    tenant: None,
    n: 0,
    ordering_key: None,
    idempotency_key: None,
    to: None,
    after: None,
    until: None,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `order.paid`
    Paid,
    /// `order.sent`
    Sent,
    /// `user.left`
    Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tenant {
    A,
    B,
}

/// What people do by calling a function, or by SQL on `endpoints`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    Retry {
        event: u8,
        endpoint: u8,
    },
    Replay {
        endpoint: u8,
        states: States,
    },
    Cancel {
        event: u8,
        endpoint: Option<u8>,
    },
    CancelEndpoint {
        endpoint: u8,
    },
    Disable {
        endpoint: u8,
    },
    Enable {
        endpoint: u8,
    },
    Delete {
        endpoint: u8,
    },
    /// One that gets everything.
    Add,
    /// Subscribes it to orders alone, or to all again.
    Subscribe {
        endpoint: u8,
        to_all: bool,
    },
    /// From then on its events of a key are one line, or no longer.
    Order {
        endpoint: u8,
        ordered: bool,
    },
    Unblock {
        endpoint: u8,
        skip: bool,
    },
    Rotate {
        endpoint: u8,
    },
    Test {
        endpoint: u8,
    },
}

/// Which deliveries are replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum States {
    Dead,
    Ended,
    Never,
}

/// What the receiver does, and what the relay hears of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Accepted,
    /// The receiver took it and said so; the connection broke before the relay heard.
    AcceptedUnheard,
    Failed,
    /// 429 with a `Retry-After`.
    Busy,
    /// 422.
    Unwanted,
    /// 409: a rule counts it as delivered.
    Known,
    /// 410: a rule disables the endpoint.
    Gone,
    /// 418: a rule deletes the endpoint.
    Extinct,
    TimedOut,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == PLAIN {
            return f.write_str("PLAIN");
        }
        f.write_str("Event { ")?;
        let mut field = |name: &str, value: &dyn fmt::Debug, told: bool| {
            if told { write!(f, "{name}: {value:?}, ") } else { Ok(()) }
        };
        field("kind", &self.kind, self.kind != PLAIN.kind)?;
        field("tenant", &self.tenant, self.tenant.is_some())?;
        field("n", &self.n, self.n != 0)?;
        field("ordering_key", &self.ordering_key, self.ordering_key.is_some())?;
        field("idempotency_key", &self.idempotency_key, self.idempotency_key.is_some())?;
        field("to", &self.to, self.to.is_some())?;
        field("after", &self.after, self.after.is_some())?;
        field("until", &self.until, self.until.is_some())?;
        f.write_str("..PLAIN }")
    }
}

impl Kind {
    pub fn event_type(self) -> &'static str {
        match self {
            Self::Paid => "order.paid",
            Self::Sent => "order.sent",
            Self::Left => "user.left",
        }
    }
}

impl Tenant {
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

impl Answer {
    /// Whether the delivery is delivered by it, as the relay heard it.
    pub fn is_accepted(self) -> bool {
        matches!(self, Self::Accepted | Self::Known)
    }
}

impl States {
    pub fn sql(self) -> &'static str {
        match self {
            Self::Dead => "{dead}",
            Self::Ended => "{dead,cancelled,delivered}",
            Self::Never => "{never}",
        }
    }
}

impl Operation {
    /// Its name, for counting.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '{']).next().unwrap_or_default().to_owned()
    }

    /// What becomes of its statement, if it is a relay's.
    pub fn fate(&mut self) -> Option<&mut Fate> {
        match self {
            Self::Beat { fate, .. }
            | Self::Reap { fate, .. }
            | Self::Turn { fate, .. }
            | Self::Look { fate, .. }
            | Self::Record { fate, .. }
            | Self::Lines { fate, .. }
            | Self::Note { fate, .. }
            | Self::Upkeep { fate, .. } => Some(fate),
            _ => None,
        }
    }
}

//! What a simulated relay knows of one endpoint: a queue, a window, its health. As `relay::lanes`, but
//! that nobody works here: the operation list says when something is sent.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use posthaste::model::delivery::Delivery;
use posthaste::model::endpoint::{Endpoint, EndpointId, OnDead};
use posthaste::model::health::{Allowance, Health, HealthPolicy, Sign, Ticket, Transition};
use posthaste::model::outcome::Outcome;
use posthaste::model::rules::{Rule, RuleRow, RuleSet};
use posthaste::model::schedule::Schedule;
use posthaste::model::share::Share;
use posthaste::model::verdict::{self, Decision, Verdict, VerdictPolicy};
use posthaste::model::window::Window;
use posthaste::store::endpoints::KnownEndpoint;
use posthaste::store::health::Note;

const INITIAL_WINDOW: u32 = 2;
const MAX_CONCURRENCY: u32 = 4;
const CLAIMS_PER_WINDOW: i32 = 2;
const RETRY_AFTER_CAP: Duration = Duration::from_secs(3600);
/// Chance is the operation list's.
const DRAW: f64 = 0.0;

static RULES: LazyLock<RuleSet> = LazyLock::new(|| {
    let rule = |status: u16, action: &str| {
        let row = RuleRow {
            name: format!("{status}"),
            status: Some(status..=status),
            action: action.to_owned(),
            ..RuleRow::default()
        };
        Rule::new(row).expect("the simulation's rules are rules")
    };
    RuleSet::new(vec![rule(410, "disable_endpoint"), rule(418, "delete_endpoint")])
});

/// Soon paused, and disabled within what a list can last.
static HEALTH: LazyLock<HealthPolicy> = LazyLock::new(|| HealthPolicy {
    failure_threshold: 2,
    first_pause: Duration::from_secs(20),
    longest_pause: Duration::from_secs(120),
    disable_after: Some(Duration::from_secs(1200)),
    ..HealthPolicy::default()
});

/// A request whose end has not been seen.
#[derive(Debug)]
pub struct InFlight {
    /// Its number among all requests.
    pub request: usize,
    pub delivery: Delivery,
    pub ticket: Ticket,
    pub began: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    pub id: EndpointId,
    endpoint: Endpoint,
    secrets_until: Option<Timestamp>,
    pub health: Health,
    window: Window,
    /// Whether this relay has a part of the endpoint's limits; otherwise others serve it.
    pub serves: bool,
    pub queue: VecDeque<Delivery>,
    /// Queued, in flight, or not yet recorded.
    pub claimed: i32,
    pub in_flight: u32,
    pub closed: bool,
    successes: u32,
    failures: u32,
}

impl Lane {
    pub fn open(known: KnownEndpoint, share: Share) -> Self {
        let mut lane = Self {
            id: known.endpoint.id,
            endpoint: known.endpoint,
            secrets_until: known.secrets_until,
            health: known.health,
            window: Window::new(INITIAL_WINDOW, MAX_CONCURRENCY),
            serves: true,
            queue: VecDeque::new(),
            claimed: 0,
            in_flight: 0,
            closed: false,
            successes: 0,
            failures: 0,
        };
        lane.divide(share);
        lane
    }

    pub fn reopen(&mut self, known: KnownEndpoint, share: Share) {
        self.closed = false;
        self.health = known.health;
        self.secrets_until = known.secrets_until;
        self.endpoint = known.endpoint;
        self.divide(share);
    }

    /// Takes this relay's part of the endpoint's limits.
    pub fn divide(&mut self, share: Share) {
        let max = self.endpoint.max_concurrency.unwrap_or(MAX_CONCURRENCY);
        let part = share.of(self.id, max, None);
        self.serves = part.is_some();
        if let Some(part) = part {
            self.window.set_max(part.max_concurrency);
        }
    }

    pub fn is_current(&self, revision: i64, present: Timestamp) -> bool {
        self.endpoint.revision == revision && self.secrets_until.is_none_or(|until| present < until)
    }

    /// How many more deliveries may be claimed for it.
    pub fn room(&self, present: Timestamp) -> i32 {
        if self.closed || !self.serves {
            return 0;
        }
        let most = match self.health.may_send(present) {
            Allowance::Freely => {
                i32::try_from(self.window.size()).unwrap_or(i32::MAX) * CLAIMS_PER_WINDOW
            }
            Allowance::OneProbe => 1,
            Allowance::FreshProbe | Allowance::No { .. } => 0,
        };
        (most - self.claimed).max(0)
    }

    pub fn push(&mut self, delivery: Delivery) {
        self.claimed += 1;
        self.queue.push_back(delivery);
    }

    /// Whether it has something to send, and a worker for it.
    pub fn is_ready(&self) -> bool {
        !self.queue.is_empty() && self.in_flight < self.window.size()
    }

    pub fn judge(&self, delivery: &Delivery, outcome: &Outcome, present: Timestamp) -> Verdict {
        let schedule = Schedule::default();
        let schedule = schedule.for_endpoint(&self.endpoint);
        let policy =
            VerdictPolicy { rules: &RULES, schedule: &schedule, retry_after_cap: RETRY_AFTER_CAP };
        let age = present.duration_since(delivery.due_at);
        let attempt = verdict::AttemptFacts {
            number: delivery.attempt_count + 1,
            age: Duration::try_from(age).unwrap_or_default(),
            host: "receiver.example",
            event_type: &delivery.event_type,
        };
        verdict::judge(outcome, &policy, &attempt, present, DRAW)
    }

    /// Whether a verdict makes its line wait.
    pub fn blocks(&self, delivery: &Delivery, decision: Decision) -> bool {
        decision == Decision::Dead
            && delivery.ordering_key.is_some()
            && self.endpoint.on_dead == OnDead::Block
    }

    /// Takes in what came of an attempt.
    pub fn ended(
        &mut self,
        ticket: Ticket,
        outcome: &Outcome,
        decision: Decision,
        present: Timestamp,
    ) -> Option<Transition> {
        // So long that the window grows with each.
        self.window.after(outcome, 100.0, self.in_flight, present);
        self.in_flight -= 1;
        let delivered = decision == Decision::Delivered;
        self.successes += u32::from(delivered);
        self.failures += u32::from(!delivered);
        let sign = Sign::of(outcome, decision);
        self.health.after(ticket, sign, present, &HEALTH, DRAW)
    }

    /// What has come of it since last asked.
    pub fn note(&mut self) -> Option<Note> {
        let (successes, failures) = (self.successes, self.failures);
        (self.successes, self.failures) = (0, 0);
        (successes + failures > 0).then(|| Note {
            endpoint_id: self.id,
            successes,
            failures,
            duration_ms: 1.0,
            health: self.health.clone(),
        })
    }
}

//! What a simulated relay has of one endpoint: the crate's own lane, and how attempts there are
//! judged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use posthaste::config::Config;
use posthaste::model::delivery::Delivery;
use posthaste::model::endpoint::{Endpoint, EndpointId, OnDead};
use posthaste::model::health::Transition;
use posthaste::model::lane::{AttemptEnd, LaneLimits, LaneState, RequestNote};
use posthaste::model::outcome::Outcome;
use posthaste::model::schedule::Schedule;
use posthaste::model::share::{EndpointShare, Share};
use posthaste::model::verdict::{self, Verdict, VerdictPolicy};
use posthaste::relay::{Claim, Held};
use posthaste::store::endpoints::KnownEndpoint;
use posthaste::store::health::Note;

use super::settings::{HEALTH, RULES};

/// Chance is the operation list's.
const DRAW: f64 = 0.0;

/// A request whose end has not been seen.
#[derive(Debug)]
pub struct InFlight {
    /// Its number among all requests.
    pub request: usize,
    pub claim: Claim,
    pub note: RequestNote,
    pub began: Instant,
}

impl InFlight {
    pub fn endpoint(&self) -> EndpointId {
        self.claim.delivery.endpoint_id
    }
}

/// See the module.
#[derive(Debug)]
pub struct Lane {
    pub state: LaneState<Claim>,
    endpoint: Endpoint,
    /// Claims that are in it: queued, in flight or not yet recorded.
    held: Arc<Held>,
    /// When it was last handed a claim, or an attempt ended.
    pub used_at: Instant,
    /// Nothing has come of it that is not noted. (A relay notes every second, long before it
    /// forgets a lane.)
    pub is_noted: bool,
}

impl Lane {
    pub fn open(known: KnownEndpoint, config: &Config, share: Share, now: Instant) -> Self {
        let limits = limits(&known, config);
        let KnownEndpoint { endpoint, health, window, .. } = known;
        let initial_window = config.delivery.initial_window;
        let mut state = LaneState::new(limits, initial_window, health, share, now);
        if let Some(learnt) = window {
            state.recall(learnt);
        }
        Self { state, endpoint, held: Arc::default(), used_at: now, is_noted: true }
    }

    pub fn reopen(&mut self, known: KnownEndpoint, config: &Config, share: Share, now: Instant) {
        let limits = limits(&known, config);
        self.state.reopen(limits, known.health, share, now);
        self.endpoint = known.endpoint;
    }

    pub fn id(&self) -> EndpointId {
        self.endpoint.id
    }

    pub fn claimed(&self) -> usize {
        self.held.claims()
    }

    /// Counts a claim until that is dropped.
    pub fn enter(&self, claim: &mut Claim) {
        claim.enter(&self.held, None);
    }

    pub fn push(&mut self, mut claim: Claim, now: Instant) {
        self.enter(&mut claim);
        self.used_at = now;
        self.state.push(claim);
    }

    pub fn max_concurrency(&self) -> Option<u32> {
        self.endpoint.max_concurrency
    }

    pub fn rate_limit(&self) -> Option<f64> {
        self.endpoint.rate_limit
    }

    /// This relay's part of the endpoint's limits.
    pub fn part(&self, share: Share, config: &Config) -> Option<EndpointShare> {
        let most = self.endpoint.max_concurrency.unwrap_or(config.delivery.max_concurrency);
        share.of(self.endpoint.id, most, self.endpoint.rate_limit)
    }

    pub fn judge(
        &self,
        delivery: &Delivery,
        outcome: &Outcome,
        config: &Config,
        present: Timestamp,
    ) -> Verdict {
        let schedule = Schedule::default();
        let schedule = schedule.for_endpoint(&self.endpoint);
        let retry_after_cap = config.retry.retry_after_cap;
        let policy = VerdictPolicy { rules: &RULES, schedule: &schedule, retry_after_cap };
        let age = present.duration_since(delivery.due_at);
        let attempt = verdict::AttemptFacts {
            number: delivery.attempt_count + 1,
            age: Duration::try_from(age).unwrap_or_default(),
            host: "receiver.example",
            event_type: &delivery.event_type,
        };
        verdict::judge(outcome, &policy, &attempt, present, DRAW)
    }

    pub fn on_dead(&self) -> OnDead {
        self.endpoint.on_dead
    }

    pub fn finished(
        &mut self,
        end: AttemptEnd<'_>,
        present: Timestamp,
        now: Instant,
    ) -> Option<Transition> {
        (self.used_at, self.is_noted) = (now, false);
        self.state.finished(end, present, &HEALTH, DRAW)
    }

    /// What has come of it since last asked.
    pub fn note(&mut self) -> Option<Note> {
        self.is_noted = true;
        let endpoint_id = self.id();
        let (tally, health) = self.state.take_tally()?;
        Some(Note {
            endpoint_id,
            successes: tally.successes,
            failures: tally.failures,
            duration_ms: tally.duration_ms,
            health,
            window: self.state.remembered(),
        })
    }
}

/// As `relay::attempt` reads them.
fn limits(known: &KnownEndpoint, config: &Config) -> LaneLimits {
    let endpoint = &known.endpoint;
    LaneLimits {
        endpoint: endpoint.id,
        revision: endpoint.revision,
        secrets_until: known.secrets_until,
        max_concurrency: endpoint.max_concurrency.unwrap_or(config.delivery.max_concurrency),
        rate_limit: endpoint.rate_limit,
    }
}

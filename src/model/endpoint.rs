//! A place that is owed events, as the relay needs it to make a request. Read from
//! `posthaste.endpoints` and `posthaste.endpoint_secrets` by the store; checked once there.

use std::time::Duration;

use super::secret::Secret;
use super::tenant::Tenant;

/// `posthaste.endpoints.id`.
pub type EndpointId = i64;

/// An endpoint's settings. `None` means the relay's default.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub id: EndpointId,
    /// Changes with every change of the endpoint or its secrets: a cached copy of another revision
    /// must not be used.
    pub revision: i64,
    pub tenant: Option<Tenant>,
    pub url: String,
    pub body_format: BodyFormat,
    /// The endpoint's own headers, sent after ours; they can replace none of ours.
    pub headers: Vec<(String, String)>,
    /// `whsec_…` and `whsk_…` texts that have not expired; every one signs.
    pub secrets: Vec<Secret>,
    /// In total, for one attempt.
    pub timeout: Option<Duration>,
    /// At least 1.
    pub max_attempts: Option<u32>,
    /// Fixed delays between attempts, in place of the formula.
    pub schedule: Option<Vec<Duration>>,
    /// At least 1.
    pub max_concurrency: Option<u32>,
    /// Attempts a second; greater than 0.
    pub rate_limit: Option<f64>,
    /// The fate of the deliveries behind a dead one.
    pub on_dead: OnDead,
}

impl Endpoint {
    /// An endpoint whose row cannot be read: only id and revision are known.
    #[must_use]
    pub fn unread(id: EndpointId, revision: i64) -> Self {
        Self {
            id,
            revision,
            tenant: None,
            url: String::new(),
            body_format: BodyFormat::default(),
            headers: Vec::new(),
            secrets: Vec::new(),
            timeout: None,
            max_attempts: None,
            schedule: None,
            max_concurrency: None,
            rate_limit: None,
            on_dead: OnDead::default(),
        }
    }
}

/// Whether an ordering key goes on when one of its deliveries is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDead {
    /// The key waits until an operator decides.
    #[default]
    Block,
    /// The next delivery follows.
    Skip,
}

/// How the body is made from the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyFormat {
    /// `{"type","timestamp","data"}`, as Standard Webhooks has it.
    #[default]
    Standard,
    /// `{"event","payload"}`.
    EventPayload,
    /// The payload as inserted.
    Raw,
    /// `CloudEvents` 1.0 in structured mode.
    CloudEvents,
}

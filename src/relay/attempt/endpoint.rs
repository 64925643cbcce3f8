//! An endpoint made ready to be sent to: parsed, checked and with its keys scheduled, once per
//! revision.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use jiff::Timestamp;

use super::headers;
use crate::config::DeliverySettings;
use crate::model::body;
use crate::model::endpoint::{Endpoint, EndpointId};
use crate::model::lane::LaneLimits;
use crate::model::outcome::{Outcome, Refusal};
use crate::model::schedule::Schedule;
use crate::outbound::target::Target;
#[cfg(test)]
use crate::relay::fault;
use crate::signing::sign::Signer;

/// See the module.
#[derive(Debug)]
pub(in crate::relay) struct ReadyEndpoint {
    pub(in crate::relay) endpoint: Endpoint,
    /// `Err`: the endpoint cannot be sent to, and why.
    pub(super) sending: Result<Sending, Outcome>,
    pub(super) schedule: Schedule,
    max_concurrency: u32,
    /// In total, for one attempt.
    pub(super) timeout: Duration,
    /// A secret expires then, and the endpoint is to be read again.
    secrets_until: Option<Timestamp>,
    /// The endpoint is said to have changed since.
    pub(in crate::relay) is_outdated: AtomicBool,
}

/// The parts of a request that come from its endpoint.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) target: Target,
    pub(super) host: String,
    pub(super) signer: Signer,
    /// The relay's own that are always the same, then the endpoint's.
    pub(super) headers: HeaderMap,
}

/// Settings for an endpoint that has none of its own.
#[derive(Debug, Clone, Copy)]
pub(in crate::relay) struct Defaults<'a> {
    pub(super) settings: &'a DeliverySettings,
    pub(super) schedule: &'a Schedule,
}

impl ReadyEndpoint {
    /// Of an endpoint as it was read. One that cannot be sent to is ready as well, to have what it
    /// is owed refused.
    pub(in crate::relay) fn new(
        defaults: Defaults<'_>,
        endpoint: Endpoint,
        secrets_until: Option<Timestamp>,
    ) -> Self {
        #[cfg(test)]
        fault::inject("opening", &endpoint.url);
        let sending = Sending::new(&endpoint, &defaults.settings.user_agent)
            .map_err(|detail| Outcome::Refused { why: Refusal::BadEndpoint, detail });
        Self::with(defaults, endpoint, secrets_until, sending)
    }

    /// Of an endpoint that nothing can be sent to: what is owed to it is refused, for this reason.
    pub(in crate::relay) fn unusable(
        defaults: Defaults<'_>,
        id: EndpointId,
        revision: i64,
        (why, detail): (Refusal, String),
    ) -> Self {
        let refused = Err(Outcome::Refused { why, detail });
        Self::with(defaults, Endpoint::unread(id, revision), None, refused)
    }

    fn with(
        defaults: Defaults<'_>,
        endpoint: Endpoint,
        secrets_until: Option<Timestamp>,
        sending: Result<Sending, Outcome>,
    ) -> Self {
        let Defaults { settings, schedule } = defaults;
        Self {
            sending,
            schedule: schedule.for_endpoint(&endpoint).into_owned(),
            max_concurrency: endpoint.max_concurrency.unwrap_or(settings.max_concurrency),
            timeout: endpoint.timeout.unwrap_or(settings.timeout),
            secrets_until,
            is_outdated: AtomicBool::new(false),
            endpoint,
        }
    }

    /// Of the endpoint's URL; empty where it cannot be sent to.
    pub(in crate::relay) fn host(&self) -> &str {
        self.sending.as_ref().map_or("", |sending| &sending.host)
    }

    /// The settings that bound the endpoint's lane.
    pub(in crate::relay) fn limits(&self) -> LaneLimits {
        LaneLimits {
            endpoint: self.endpoint.id,
            revision: self.endpoint.revision,
            secrets_until: self.secrets_until,
            max_concurrency: self.max_concurrency,
            rate_limit: self.endpoint.rate_limit,
        }
    }
}

impl Sending {
    fn new(endpoint: &Endpoint, user_agent: &str) -> Result<Self, String> {
        let target = Target::parse(&endpoint.url).map_err(|error| error.to_string())?;
        let signer = Signer::new(&endpoint.secrets).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(body::content_type(endpoint.body_format)),
        );
        if let Ok(agent) = HeaderValue::from_str(user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        headers::add(&mut headers, &endpoint.headers).map_err(|error| error.to_string())?;
        let host = target.host().to_string();
        Ok(Self { target, host, signer, headers })
    }
}

//! A bug that one event or one endpoint meets is theirs alone. Without this, the panic would end the
//! worker, the term and, since the next term meets it too, all work of the relay.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt as _;

use crate::panics::said;

/// Does this; if it panics, says so in a sentence that may be stored. What it shares with others must be
/// whole at every moment, as what is behind our locks is.
pub(super) fn caught<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    AssertUnwindSafe(work).catch_unwind().map(|done| done.map_err(|panic| in_words(panic.as_ref())))
}

/// The same for what waits for nothing.
pub(super) fn caught_at_once<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| in_words(panic.as_ref()))
}

fn in_words(panic: &(dyn std::any::Any + Send)) -> String {
    format!("the relay panicked: {}", said(panic))
}

/// A bug, where the tests want one: whatever is named so panics.
#[cfg(test)]
pub(super) fn inject(name: &str) {
    assert_ne!(name, tests::BUG, "a secret");
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use jiff::Timestamp;

    use super::super::attempt::{Line, ReadyEndpoint, deliver};
    use super::super::shared::{Parts, Shared};
    use super::*;
    use crate::clock::{Clock, Present};
    use crate::config::{Sources, load};
    use crate::model::delivery::Delivery;
    use crate::model::endpoint::Endpoint;
    use crate::model::outcome::{Outcome, Refusal};
    use crate::model::rules::RuleSet;
    use crate::model::share::Share;
    use crate::model::verdict::Decision;
    use crate::observe::status::Status;
    use crate::outbound::addresses::AddressRules;
    use crate::outbound::client::{Client, ClientSettings};
    use crate::outbound::resolve::Resolver;
    use crate::stopper::Stopper;
    use crate::store::relays::Registration;
    use crate::store::{Database, Store};

    pub(in crate::relay) const BUG: &str = "a.bug";

    /// A term that never asks its database anything.
    pub(in crate::relay) fn term() -> Arc<Shared> {
        let url = "postgres://localhost/nowhere";
        let flags = vec![("database.url".to_owned(), url.to_owned())];
        let config = load(&Sources { flags, ..Sources::default() }).unwrap();
        let second = Duration::from_secs(1);
        let database = Database::parse(url, None, None, second).unwrap();
        let rules = AddressRules::new(&[], &[], vec![]);
        let resolver = Resolver::fixed([std::net::Ipv4Addr::LOCALHOST.into()]);
        Arc::new(Shared::new(Parts {
            config: Arc::new(config),
            store: Store::open(database, 1, second).unwrap(),
            client: Client::new(ClientSettings::new(rules, resolver)).unwrap(),
            clock: Present::default(),
            metrics: Arc::default(),
            status: Status::new(Clock, Stopper::new()),
            registration: Registration::nowhere(),
            share: Share::among(&[1], 1),
            rules: RuleSet::default(),
            results: tokio::sync::mpsc::channel(8).0,
            sessions: tokio_util::task::TaskTracker::new(),
            history: Arc::default(),
        }))
    }

    pub(in crate::relay) fn delivery(event_type: &str) -> Delivery {
        Delivery {
            event_id: 7,
            endpoint_id: 3,
            claim_token: 1,
            attempt_count: 0,
            endpoint_revision: 1,
            event_type: event_type.to_owned(),
            event_created_at: Timestamp::UNIX_EPOCH,
            ordering_key: None,
            payload: bytes::Bytes::from_static(b"{}"),
            headers: Vec::new(),
            due_at: Clock.now(),
        }
    }

    #[tokio::test]
    async fn a_bug_that_one_event_meets_refuses_it_and_the_next_one_goes_its_way() {
        let shared = term();
        let mut endpoint = Endpoint::unread(3, 1);
        endpoint.url = "https://example.com/".to_owned();
        let ready = ReadyEndpoint::new(&shared, endpoint, None);
        let mut line = Line::default();
        let unlucky = delivery(BUG);
        let fault = deliver(&shared, &ready, &unlucky, &mut line).await.unwrap_err();
        let sent = fault.sent(&shared, &ready, &unlucky);
        let detail = "the relay panicked: assertion `left != right` failed".to_owned();
        assert_eq!(sent.outcome, Outcome::Refused { why: Refusal::Fault, detail });
        assert!(matches!(sent.verdict.decision, Decision::Retry { .. }));
        assert!(shared.metrics.render().contains("posthaste_faults_total 1"));
        // It gets as far as the name, which leads to where nothing may be sent.
        let next = deliver(&shared, &ready, &delivery("order.paid"), &mut line).await.unwrap();
        let is_judged =
            matches!(next.outcome, Outcome::Refused { why: Refusal::ForbiddenAddress, .. });
        assert!(is_judged, "{:?}", next.outcome);
    }

    #[tokio::test]
    async fn a_panic_is_a_sentence_and_what_comes_after_it_goes_on() {
        let panics = async {
            tokio::task::yield_now().await;
            panic!("size overflows MAX_SIZE")
        };
        let expected = Err("the relay panicked: size overflows MAX_SIZE".to_owned());
        assert_eq!(caught::<()>(panics).await, expected);
        assert_eq!(caught(async { 7 }).await, Ok(7));
        assert_eq!(caught_at_once::<()>(|| panic!("size overflows MAX_SIZE")), expected);
        assert_eq!(caught_at_once(|| 7), Ok(7));
    }
}

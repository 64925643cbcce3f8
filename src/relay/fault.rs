//! Keeps a bug that an event or an endpoint meets to that one. Otherwise the panic would end the
//! worker, the term and, since the next term meets it too, all work of the relay.

use std::panic::{AssertUnwindSafe, catch_unwind};

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use crate::panics::said;

/// Does the work; if it panics, returns a sentence that may be stored. State that the work shares
/// with other tasks must be whole at every moment, as the state behind the relay's locks is.
pub(super) fn caught<T>(work: impl Future<Output = T>) -> impl Future<Output = Result<T, String>> {
    AssertUnwindSafe(work).catch_unwind().map(|done| done.map_err(|panic| in_words(panic.as_ref())))
}

/// The same for work that waits for nothing.
pub(super) fn caught_at_once<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| in_words(panic.as_ref()))
}

/// Ends the term if this panics. A relay that stands half still would look alive and hold its
/// claims; a new term takes up what the old one held.
pub(super) fn guarded<T>(
    over: CancellationToken,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let guard = over.drop_guard();
    // Not `async`: that would keep room for the work twice, 3 KB for each worker.
    work.map(move |done| {
        guard.disarm();
        done
    })
}

/// A panic in a sentence that may be stored.
pub(super) fn in_words(panic: &(dyn std::any::Any + Send)) -> String {
    format!("the relay panicked: {}", said(panic))
}

/// A bug, where the tests want one: the work at this place panics over what ends with the place's
/// name after the bug's.
#[cfg(test)]
pub(super) fn inject(place: &str, over: &str) {
    let place_of_bug = over.rsplit_once(tests::BUG).map(|(_, place)| place);
    assert_ne!(place_of_bug, Some(place), "a secret");
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::clock::Clock;
    use crate::model::delivery::Delivery;

    /// What a bug is met by: its place's name follows.
    pub(in crate::relay) const BUG: &str = "a.bug.of.";

    pub(in crate::relay) fn delivery(event_type: &str) -> Delivery {
        Delivery {
            event_id: 7,
            endpoint_id: 3,
            claim_token: 1,
            batch: None,
            attempt_count: 0,
            endpoint_revision: 1,
            event_type: event_type.to_owned(),
            event_created_at: Timestamp::UNIX_EPOCH,
            ordering_key: None,
            payload: bytes::Bytes::from_static(b"{}"),
            headers: Vec::new(),
            is_suspect: false,
            due_at: Clock.now(),
        }
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

    #[tokio::test]
    async fn a_station_that_panics_ends_the_term_and_one_that_ends_does_not() {
        let over = CancellationToken::new();
        let stations = tokio_util::task::TaskTracker::new();
        assert_eq!(stations.spawn(guarded(over.clone(), async { 7 })).await.ok(), Some(7));
        assert!(!over.is_cancelled());
        let broken = stations.spawn(guarded(over.clone(), async { panic!("a bug") }));
        assert!(broken.await.is_err_and(|error: tokio::task::JoinError| error.is_panic()));
        assert!(over.is_cancelled());
    }
}

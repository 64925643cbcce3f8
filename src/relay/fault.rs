//! A bug that one event or one endpoint meets is theirs alone. Without this, the panic would end the
//! worker, the tenure and, since the next tenure meets it too, all work of the relay.

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

#[cfg(test)]
mod tests {
    use super::*;

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

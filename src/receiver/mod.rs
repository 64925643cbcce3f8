//! `posthaste receive`: a receiver to try Posthaste with.
//!
//! It prints each webhook, says whether its signature is right and whether it came before, and
//! fails on demand. The [`listener`] serves the demo's endpoints too.

mod script;
mod show;

pub mod listener;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::{HeaderMap, StatusCode};

use self::listener::{ReceiverAnswer, ReceiverListener, Taken};
pub use self::script::{ReceiverFault, ReceiverScript};
use self::show::ShownWebhook;
pub use self::show::{OutputForm, Signature};
use crate::clock::Clock;
use crate::signing::verify::Verifier;
use crate::stopper::Stopper;

/// `webhook-id`s that are remembered. An id that comes again after as many others is taken for new.
const IDS_MAX: usize = 100_000;

/// How to receive.
#[derive(Debug)]
pub struct Receiving {
    /// `None`: signatures are not checked.
    pub verifier: Option<Verifier>,
    pub script: ReceiverScript,
    pub form: OutputForm,
    /// Ends after this number of requests.
    pub count: Option<u64>,
    /// The longest body that is taken, in bytes.
    pub body_max: usize,
}

/// Prints every webhook to `output` and answers it, until the stop or the count.
///
/// # Errors
/// If the output cannot be written to. One whose reader is gone ends the receiving in order.
pub async fn receive(
    listener: ReceiverListener,
    receiving: Receiving,
    output: impl io::Write + Send + 'static,
    stopper: &Stopper,
) -> Result<(), io::Error> {
    let done = Stopper::new();
    let body_max = receiving.body_max;
    let desk = Arc::new(Desk {
        receiving,
        requests: AtomicU64::new(0),
        notebook: Mutex::new(Notebook { ids: Ids::default(), output, failed: None }),
        done: done.clone(),
    });
    let handler = {
        let desk = Arc::clone(&desk);
        move |taken| {
            let desk = Arc::clone(&desk);
            async move { desk.answer(taken).await }
        }
    };
    let told = async {
        tokio::select! {
            () = stopper.stopping() => done.stop(),
            () = done.stopping() => {}
        }
    };
    tokio::join!(listener.serve(body_max, handler, &done), told);
    let failed = desk.notebook.lock().unwrap_or_else(PoisonError::into_inner).failed.take();
    match failed {
        Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Looks at webhooks, one after the other.
struct Desk<W> {
    receiving: Receiving,
    /// Requests that came, those beyond the count included.
    requests: AtomicU64,
    notebook: Mutex<Notebook<W>>,
    done: Stopper,
}

/// The ids that the desk has seen, and its output.
struct Notebook<W> {
    ids: Ids,
    output: W,
    failed: Option<io::Error>,
}

impl<W: io::Write> Desk<W> {
    async fn answer(&self, taken: Taken) -> ReceiverAnswer {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let count = self.receiving.count.unwrap_or(u64::MAX);
        if number > count {
            return ReceiverAnswer::HangUp;
        }
        let signature = self.signature(&taken);
        let answer = match (&taken.body, signature) {
            (None, _) => ReceiverAnswer::Status(StatusCode::PAYLOAD_TOO_LARGE),
            (_, Signature::Wrong(_)) => ReceiverAnswer::Status(StatusCode::UNAUTHORIZED),
            (_, Signature::Right | Signature::Unchecked) => self.receiving.script.answer(number),
        };
        self.show(number, &taken, signature, answer);
        tokio::time::sleep(self.receiving.script.delay).await;
        if number == count {
            // The answer is still sent: the listener lets it end.
            self.done.stop();
        }
        answer
    }

    fn signature(&self, taken: &Taken) -> Signature {
        match (&self.receiving.verifier, &taken.body) {
            (Some(verifier), Some(body)) => {
                match verifier.verify(&taken.headers, body, Clock.now()) {
                    Ok(_) => Signature::Right,
                    Err(refusal) => Signature::Wrong(refusal),
                }
            }
            _ => Signature::Unchecked,
        }
    }

    /// Written and flushed as one, so that requests do not mix.
    fn show(&self, number: u64, taken: &Taken, signature: Signature, answer: ReceiverAnswer) {
        let mut notebook = self.notebook.lock().unwrap_or_else(PoisonError::into_inner);
        let first = webhook_id(&taken.headers).and_then(|id| notebook.ids.first(id, number));
        let seen = ShownWebhook { number, at: Clock.now(), taken, signature, first, answer };
        let text = self.receiving.form.write(&seen);
        let written = notebook.output.write_all(text.as_bytes());
        if let Err(error) = written.and_then(|()| notebook.output.flush()) {
            notebook.failed = Some(error);
            self.done.stop();
        }
    }
}

fn webhook_id(headers: &HeaderMap) -> Option<&str> {
    headers.get("webhook-id")?.to_str().ok()
}

/// Which request brought an id first.
#[derive(Debug, Default)]
struct Ids {
    first: HashMap<String, u64>,
    order: VecDeque<String>,
}

impl Ids {
    /// The number of the request that brought this id before, if one did.
    fn first(&mut self, id: &str, number: u64) -> Option<u64> {
        if let Some(&first) = self.first.get(id) {
            return Some(first);
        }
        if self.order.len() == IDS_MAX {
            self.order.pop_front().map(|oldest| self.first.remove(&oldest));
        }
        self.order.push_back(id.to_owned());
        self.first.insert(id.to_owned(), number);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_came_before_is_known_and_the_oldest_is_forgotten() {
        let mut ids = Ids::default();
        assert_eq!(ids.first("a", 1), None);
        assert_eq!(ids.first("a", 2), Some(1));
        for number in 0..IDS_MAX {
            assert_eq!(ids.first(&number.to_string(), 3), None);
        }
        assert_eq!((ids.first.len(), ids.order.len()), (IDS_MAX, IDS_MAX));
        assert_eq!(ids.first("a", 4), None);
    }
}

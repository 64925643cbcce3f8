//! Asks for a stop. Every task has the same token, watches it and ends in its own order. The
//! meaning of signals is decided here; the process's exit belongs to `main`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A stop that may have been asked for. Clones are the same stop.
#[derive(Debug, Clone, Default)]
pub struct Stopper(CancellationToken);

impl Stopper {
    /// A stop that has not been asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks every task to stop. There is no way back.
    pub fn stop(&self) {
        self.0.cancel();
    }

    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until a stop is asked for. May be dropped and waited for again: nothing is missed.
    pub async fn stopping(&self) {
        self.0.cancelled().await;
    }
}

/// SIGINT and SIGTERM of this process.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on the signals no longer end the process by themselves.
    ///
    /// # Errors
    ///
    /// If the system refuses to install a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Asks for a stop at the first signal. Returns at the second, when the operator does not want
    /// to wait for it any longer, with the exit code that shells give to that signal's death.
    pub async fn watch(mut self, stopper: &Stopper) -> u8 {
        let name = if self.next().await == INTERRUPTED { "SIGINT" } else { "SIGTERM" };
        tracing::info!(signal = name, "stopping; a second signal exits at once");
        stopper.stop();
        self.next().await
    }

    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}

/// 128 and the signal's number, as shells have it.
const INTERRUPTED: u8 = 128 + 2;
const TERMINATED: u8 = 128 + 15;

#[cfg(test)]
mod tests {
    use rustix::process::{Signal, getpid, kill_process};

    use super::{Signals, Stopper};

    fn raise(signal: Signal) {
        kill_process(getpid(), signal).unwrap();
    }

    #[tokio::test]
    async fn the_first_signal_asks_for_a_stop_and_the_second_ends_the_wait() {
        let stopper = Stopper::new();
        let signals = Signals::listen().unwrap();
        let operator = async {
            assert!(!stopper.is_stopping());
            raise(Signal::TERM);
            stopper.stopping().await;
            raise(Signal::INT);
        };
        let (code, ()) = tokio::join!(signals.watch(&stopper), operator);
        assert_eq!(code, 130);
    }

    #[tokio::test]
    async fn every_clone_learns_of_a_stop_even_when_it_asks_late() {
        let stopper = Stopper::new();
        let clone = stopper.clone();
        stopper.stop();
        clone.stopping().await;
        assert!(clone.is_stopping());
    }
}

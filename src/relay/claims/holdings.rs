//! How much of what the relay has claimed is not recorded yet, and under which tokens.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What this relay has claimed and not recorded.
#[derive(Debug, Default)]
pub(in crate::relay) struct Holdings {
    count: AtomicUsize,
    bytes: AtomicUsize,
    /// Of the events of one claim statement after the other.
    mean_bytes: AtomicUsize,
    tokens: Mutex<Tokens>,
}

/// Under which tokens it is held.
#[derive(Debug, Clone, Default)]
pub(in crate::relay) struct Tokens {
    /// Those that still hold something, and how much.
    pub(in crate::relay) held: HashMap<i64, usize>,
    /// Of the statement that claims now or claimed last. What it has claimed is not here yet.
    pub(in crate::relay) newest: i64,
}

impl Holdings {
    /// A statement is about to claim under this token; all before it has been [taken](Self::take).
    pub(in crate::relay) fn begin(&self, token: i64) {
        self.tokens().newest = token;
    }

    pub(in crate::relay) fn take(&self, token: i64, count: usize, bytes: usize) {
        *self.tokens().held.entry(token).or_default() += count;
        self.count.fetch_add(count, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mean = bytes / count.max(1);
        // Quick to believe in larger ones, slow in smaller ones.
        let before = self.mean_bytes.load(Ordering::Relaxed);
        let after = if mean > before { mean } else { before - (before - mean) / 4 };
        self.mean_bytes.store(after, Ordering::Relaxed);
    }

    /// These, by token and bytes, are recorded or released.
    pub(in crate::relay) fn give_back(&self, settled: impl Iterator<Item = (i64, usize)>) {
        let (mut count, mut all_bytes) = (0, 0);
        let mut tokens = self.tokens();
        for (token, bytes) in settled {
            count += 1;
            all_bytes += bytes;
            if let Entry::Occupied(mut held) = tokens.held.entry(token) {
                *held.get_mut() -= 1;
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
        self.count.fetch_sub(count, Ordering::Relaxed);
        self.bytes.fetch_sub(all_bytes, Ordering::Relaxed);
    }

    /// The tokens at this moment.
    pub(in crate::relay) fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::relay) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    pub(in crate::relay) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(in crate::relay) fn mean_bytes(&self) -> usize {
        self.mean_bytes.load(Ordering::Relaxed)
    }
}

//! Which connections of the relay's own listener stay when there are too many: the one that has
//! asked nothing for longest makes room, so that idle ones do not keep a probe out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Those that are connected. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct GuestList {
    guests: Arc<Mutex<Guests>>,
    most: usize,
}

#[derive(Debug, Default)]
struct Guests {
    /// The number of the last connection or request.
    last: u64,
    /// By the number of their last request, or of their connection before the first one.
    here: BTreeMap<u64, CancellationToken>,
}

/// One connection. Dropping it takes it off the list.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Mutex<Guests>>,
    asked: Mutex<u64>,
    /// Another one needs its room.
    pub(super) is_to_go: CancellationToken,
}

impl GuestList {
    pub(super) fn of(most: usize) -> Self {
        Self { guests: Arc::default(), most }
    }

    /// Lets a connection in. If that is one too many, the one idle for longest is to go.
    pub(super) fn admit(&self) -> Guest {
        let is_to_go = CancellationToken::new();
        let mut guests = locked(&self.guests);
        let number = guests.enter(is_to_go.clone());
        while guests.here.len() > self.most {
            if let Some((_, idle)) = guests.here.pop_first() {
                idle.cancel();
            }
        }
        Guest { guests: Arc::clone(&self.guests), asked: Mutex::new(number), is_to_go }
    }
}

impl Guests {
    fn enter(&mut self, is_to_go: CancellationToken) -> u64 {
        self.last += 1;
        self.here.insert(self.last, is_to_go);
        self.last
    }
}

impl Guest {
    /// It has asked something, and is now the last to go.
    pub(super) fn asks(&self) {
        let (mut asked, mut guests) = (locked(&self.asked), locked(&self.guests));
        if let Some(is_to_go) = guests.here.remove(&asked) {
            *asked = guests.enter(is_to_go);
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let asked = *locked(&self.asked);
        locked(&self.guests).here.remove(&asked);
    }
}

/// The values behind these locks are whole at every moment.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_that_has_asked_nothing_for_longest_makes_room() {
        let admission = GuestList::of(2);
        let (first, second) = (admission.admit(), admission.admit());
        first.asks();
        let third = admission.admit();
        let gone = |guest: &Guest| guest.is_to_go.is_cancelled();
        assert_eq!((gone(&first), gone(&second), gone(&third)), (false, true, false));
        second.asks();
        drop(second);
        drop(third);
        let fourth = admission.admit();
        assert_eq!((gone(&first), gone(&fourth)), (false, false));
        assert_eq!(locked(&admission.guests).here.len(), 2);
    }
}

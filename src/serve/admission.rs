//! Which connections of the relay's own listener stay when there are too many: the one that has
//! asked nothing for longest makes room, so that idle ones do not keep a probe out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The connections that are open. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct AdminConnections {
    table: Arc<Mutex<AdminConnectionTable>>,
    most: usize,
}

#[derive(Debug, Default)]
struct AdminConnectionTable {
    /// The number of the last connection or request.
    last: u64,
    /// By the number of their last request, or of their connection before the first one.
    here: BTreeMap<u64, CancellationToken>,
}

/// One connection. Dropping it takes it off the list.
#[derive(Debug)]
pub(super) struct AdminConnection {
    table: Arc<Mutex<AdminConnectionTable>>,
    asked: Mutex<u64>,
    /// Another one needs its room.
    pub(super) is_to_go: CancellationToken,
}

impl AdminConnections {
    pub(super) fn of(most: usize) -> Self {
        Self { table: Arc::default(), most }
    }

    /// Lets a connection in. If that is one too many, the one idle for longest is to go.
    pub(super) fn admit(&self) -> AdminConnection {
        let is_to_go = CancellationToken::new();
        let mut table = locked(&self.table);
        let number = table.enter(is_to_go.clone());
        if table.here.len() > self.most
            && let Some((_, idle)) = table.here.pop_first()
        {
            idle.cancel();
        }
        AdminConnection { table: Arc::clone(&self.table), asked: Mutex::new(number), is_to_go }
    }
}

impl AdminConnectionTable {
    fn enter(&mut self, is_to_go: CancellationToken) -> u64 {
        self.last += 1;
        self.here.insert(self.last, is_to_go);
        self.last
    }
}

impl AdminConnection {
    /// It has asked something, and is now the last to go.
    pub(super) fn asks(&self) {
        let (mut asked, mut table) = (locked(&self.asked), locked(&self.table));
        if let Some(is_to_go) = table.here.remove(&asked) {
            *asked = table.enter(is_to_go);
        }
    }
}

impl Drop for AdminConnection {
    fn drop(&mut self) {
        let asked = *locked(&self.asked);
        locked(&self.table).here.remove(&asked);
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
        let connections = AdminConnections::of(2);
        let (first, second) = (connections.admit(), connections.admit());
        first.asks();
        let third = connections.admit();
        let gone = |one: &AdminConnection| one.is_to_go.is_cancelled();
        assert_eq!((gone(&first), gone(&second), gone(&third)), (false, true, false));
        second.asks();
        drop(second);
        drop(third);
        let fourth = connections.admit();
        assert_eq!((gone(&first), gone(&fourth)), (false, false));
        assert_eq!(locked(&connections.table).here.len(), 2);
    }
}

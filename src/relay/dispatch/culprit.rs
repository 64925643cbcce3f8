//! What follows from a step of routing that fails: the event that it fails for is found and set
//! aside, and routing goes on with the next. [`RouteSuspects`](crate::model::dispatch) decides.

use std::time::Duration;

use jiff::Timestamp;

use super::Dispatcher;
use super::filters::ALONE;
use crate::model::dispatch::{RouteBlame, RouteBy, RouteFailure};
use crate::model::endpoint::EndpointId;
use crate::model::standing::During;
use crate::relay::effects::EffectOn;
use crate::store::set_aside::{
    NextEvent, Passed, ask_filter, filters_of_event, next_event, set_aside_event,
};
use crate::store::{Store, StoreError};

/// While the event is sought that routing fails for, no statement may take longer: the others wait.
const PATIENCE: Duration = Duration::from_secs(2);
/// To route one event by one endpoint after the other.
const BY_ENDPOINT: Duration = Duration::from_secs(10);

impl Dispatcher {
    /// The store as routing uses it: in a hurry, while it seeks what it fails for.
    pub(super) fn routing_store(&self) -> Store {
        let store = &self.database.store;
        if self.state.is_searching() { store.within(PATIENCE) } else { store.clone() }
    }

    /// A step of at most this many events has failed.
    pub(super) async fn route_failed(&mut self, events: u32, by: RouteBy, error: &StoreError) {
        let is_of_some_row = error.may_be_of_some_row();
        let kind = is_of_some_row.then(|| error.kind());
        // Where the database has refused a statement, it has claimed nothing.
        let is_uncertain = !is_of_some_row || error.sqlstate().is_none();
        let failure =
            RouteFailure { kind: kind.as_deref(), is_overdue: error.is_overdue(), is_uncertain };
        if is_uncertain {
            self.term.set_uncertain(true);
        }
        let blame = self.state.route_failed(events, by, failure, self.clock.instant());
        if blame == RouteBlame::Again {
            return self.database.failed(&self.term, &self.metrics, During::Route, error);
        }
        self.database.noted(&self.metrics, During::Route, error);
        let Some(floor) = self.state.floor() else { return };
        let done = match blame {
            RouteBlame::Alone => self.ask_which(floor).await,
            RouteBlame::Event(event) => self.set_aside(event, floor, error).await,
            RouteBlame::Again | RouteBlame::Fewer => Ok(()),
        };
        if let Err(error) = done {
            self.look_failed(&error);
        }
    }

    /// Asks which event it is that a step has failed with, alone.
    async fn ask_which(&mut self, floor: Timestamp) -> Result<(), StoreError> {
        let store = self.database.store.within(PATIENCE);
        let next = next_event(&store, self.term.relay, floor).await?;
        self.state.alone_is(next);
        Ok(())
    }

    /// Sets an event aside, and goes on with the next.
    async fn set_aside(
        &mut self,
        event: NextEvent,
        floor: Timestamp,
        error: &StoreError,
    ) -> Result<(), StoreError> {
        let without = self.slow_filters(event).await?;
        let (store, relay) = (self.database.store.within(BY_ENDPOINT), self.term.relay);
        // What takes too long would take as long here, unless filters are the reason.
        let is_worth_it = !error.is_overdue() || !without.is_empty();
        let by_endpoint = (is_worth_it, without.as_slice());
        let mut passed = set_aside_event(&store, relay, floor, event.id, error, by_endpoint).await;
        if passed.as_ref().is_err_and(StoreError::may_be_of_some_row) {
            passed = set_aside_event(&store, relay, floor, event.id, error, (false, &[])).await;
        }
        let Some(Passed { step, floor, xmin: _ }) = passed? else {
            self.state.set_aside(None, self.clock.instant());
            return Ok(());
        };
        self.history.take_in(step, &self.database, &self.metrics);
        self.metrics.set_aside.increment(1);
        self.database.status.concerns(During::Route, format!("event {}", event.id));
        tracing::error!(
            event = event.id,
            error = error.in_full(),
            "an event cannot be routed and is set aside (see posthaste.set_aside); others go on"
        );
        self.lines.all();
        self.state.set_aside(Some(floor), self.clock.instant());
        Ok(())
    }

    /// The endpoints whose filter cannot be asked about this event in time.
    async fn slow_filters(&mut self, event: NextEvent) -> Result<Vec<EndpointId>, StoreError> {
        let store = self.database.store.within(PATIENCE);
        let filters = match filters_of_event(&store, event).await {
            Ok(filters) => filters,
            // It cannot be read: that is no filter's fault.
            Err(error) if error.may_be_of_some_row() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut slow = Vec::new();
        for endpoint in filters {
            let now = self.clock.instant();
            if self.recipients.slow.is_unasked(endpoint, now) {
                slow.push(endpoint);
                continue;
            }
            match ask_filter(&store, event, endpoint, ALONE).await {
                Ok(()) => self.recipients.slow.answered([endpoint]),
                Err(error) if error.is_overdue() && !error.is_locked_out() => {
                    self.recipients.slow.took_too_long(endpoint, &error.in_full(), now);
                    slow.push(endpoint);
                }
                Err(error) if error.may_be_of_some_row() => {}
                Err(error) => return Err(error),
            }
        }
        self.disable_slow();
        Ok(slow)
    }

    /// Disables the endpoints whose filter has taken too long too often.
    pub(super) fn disable_slow(&mut self) {
        for (endpoint, why) in self.recipients.slow.take_blamed() {
            let reason = format!("its filter takes too long, again and again: {why}");
            self.database.status.concerns(During::Route, format!("endpoint {endpoint}"));
            self.effects.apply_soon(EffectOn { endpoint, delete: false, reason });
        }
    }
}

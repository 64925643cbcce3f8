//! Finds the event for which routing fails. A step routes many events in one statement, so one that
//! the database or the relay cannot deal with would hold up all that follow, for ever. A step that
//! fails is therefore tried with half as many events, down to a single one; if that fails twice
//! alike, its event is set aside.

use std::time::Duration;

use crate::model::delivery::NextEvent;

/// Events that are set aside one after the other without a pause. More of them in a row may be the
/// database's affair rather than theirs …
const IN_A_ROW: u32 = 16;
/// … so that each further one waits for this.
const PAUSE: Duration = Duration::from_secs(1);

/// The search for it.
#[derive(Debug, Clone)]
pub struct RouteSuspects {
    /// Events that the next step may take.
    most: u32,
    /// What the last step met, if it failed.
    failed: Option<String>,
    /// The one event that the last step was about.
    alone: Option<NextEvent>,
    /// How many have been set aside since a step succeeded.
    in_a_row: u32,
}

/// How a step of routing failed.
#[derive(Debug, Clone, Copy)]
pub struct RouteFailure<'a> {
    /// Of an error that one of the events may be the reason of.
    pub kind: Option<&'a str>,
    /// It took too long.
    pub is_overdue: bool,
    /// It may have claimed something all the same.
    pub is_uncertain: bool,
}

/// Follows from a step of routing that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteBlame {
    /// The same is tried again: the error may have passed.
    Again,
    /// Fewer events are tried.
    Fewer,
    /// One event alone has failed for the first time: which is it?
    Alone,
    /// This event has failed twice alike, alone, and is set aside.
    Event(NextEvent),
}

impl Default for RouteSuspects {
    fn default() -> Self {
        Self { most: u32::MAX, failed: None, alone: None, in_a_row: 0 }
    }
}

impl RouteSuspects {
    /// Begins with single events: the last term was ended by a bug.
    pub(super) fn be_careful(&mut self) {
        self.most = 1;
    }

    #[cfg(test)]
    pub(super) fn of_at_most(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    /// Events that the next step may take.
    #[must_use]
    pub fn most(&self) -> u32 {
        self.most
    }

    /// Whether steps have failed and none has succeeded since.
    #[must_use]
    pub fn is_searching(&self) -> bool {
        self.failed.is_some()
    }

    /// A step has succeeded. Twice as many events may be in the next.
    pub fn succeeded(&mut self) {
        self.failed = None;
        self.alone = None;
        self.in_a_row = 0;
        self.most = self.most.saturating_mul(2);
    }

    /// A step of `tried` events at most has met an error of this kind, and one of them may be the
    /// reason. `is_overdue`: it took too long, which each further step would take as well.
    pub fn failed(&mut self, tried: u32, kind: &str, is_overdue: bool) -> RouteBlame {
        let before = self.failed.replace(kind.to_owned());
        let is_alike = before.as_deref() == Some(kind);
        if tried > 1 {
            self.alone = None;
            self.most = if is_overdue { 1 } else { tried / 2 };
            return if before.is_some() || is_overdue {
                RouteBlame::Fewer
            } else {
                RouteBlame::Again
            };
        }
        self.most = 1;
        match self.alone {
            Some(event) if is_alike => RouteBlame::Event(event),
            _ => RouteBlame::Alone,
        }
    }

    /// The one event that a step failed with.
    pub fn alone_is(&mut self, event: Option<NextEvent>) {
        self.alone = event;
    }

    /// The event was set aside, or another one is next by now. How long to wait before the next
    /// step.
    pub fn set_aside(&mut self) -> Duration {
        self.alone = None;
        self.failed = None;
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row > IN_A_ROW { PAUSE } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::model::delivery::EventId;

    fn next(id: EventId) -> NextEvent {
        NextEvent { id, created_at: Timestamp::UNIX_EPOCH }
    }

    /// Routes `events` of which those in `bad` fail, as the dispatcher does. Returns what was set
    /// aside, and in how many steps.
    fn route(mut events: Vec<EventId>, bad: &[EventId]) -> (Vec<EventId>, usize) {
        let (mut suspects, mut aside, mut steps) = (RouteSuspects::default(), Vec::new(), 0);
        while !events.is_empty() {
            steps += 1;
            assert!(steps < 500, "{events:?} {suspects:?}");
            let tried = suspects.most().min(500);
            let step = &events[..events.len().min(tried as usize)];
            if !step.iter().any(|event| bad.contains(event)) {
                events.drain(..step.len());
                suspects.succeeded();
                continue;
            }
            match suspects.failed(tried, "P0001", false) {
                RouteBlame::Again | RouteBlame::Fewer => {}
                RouteBlame::Alone => suspects.alone_is(events.first().copied().map(next)),
                RouteBlame::Event(event) => {
                    assert_eq!(events.remove(0), event.id);
                    aside.push(event.id);
                    suspects.set_aside();
                }
            }
        }
        (aside, steps)
    }

    #[test]
    fn the_events_that_fail_are_set_aside_and_all_others_are_routed() {
        assert_eq!(route((1..=1000).collect(), &[]), (vec![], 2));
        let (aside, steps) = route((1..=1000).collect(), &[1, 2, 700]);
        assert_eq!(aside, [1, 2, 700]);
        assert!(steps < 60, "{steps}");
        let all: Vec<_> = (1..=40).collect();
        assert_eq!(route(all.clone(), &all).0, all);
    }

    #[test]
    fn an_event_is_set_aside_only_if_it_fails_alone_and_twice_alike() {
        let mut suspects = RouteSuspects::default();
        assert_eq!(suspects.failed(2, "22000", false), RouteBlame::Again);
        assert_eq!(suspects.failed(1, "22000", false), RouteBlame::Alone);
        suspects.alone_is(Some(next(7)));
        assert_eq!(suspects.failed(1, "40001", false), RouteBlame::Alone);
        suspects.alone_is(Some(next(7)));
        suspects.succeeded();
        assert_eq!(suspects.failed(1, "22000", false), RouteBlame::Alone);
        suspects.alone_is(Some(next(7)));
        assert_eq!(suspects.failed(1, "22000", false), RouteBlame::Event(next(7)));
        suspects.set_aside();
        assert_eq!(suspects.failed(1, "22000", false), RouteBlame::Alone);
    }

    #[test]
    fn what_takes_too_long_is_tried_alone_at_once() {
        let mut suspects = RouteSuspects::default();
        assert_eq!(suspects.failed(500, "57014", true), RouteBlame::Fewer);
        assert_eq!(suspects.most(), 1);
    }

    #[test]
    fn many_in_a_row_wait_for_one_another() {
        let mut suspects = RouteSuspects::default();
        let pauses: Vec<_> = (0..=IN_A_ROW).map(|_| suspects.set_aside()).collect();
        assert_eq!((pauses[0], pauses[15], pauses[16]), (Duration::ZERO, Duration::ZERO, PAUSE));
        suspects.succeeded();
        assert_eq!(suspects.set_aside(), Duration::ZERO);
    }
}

//! The relay: performs the steps of the crate's dispatcher, as `src/relay/dispatch/mod.rs`,
//! `wake.rs` and `src/store/bell.rs` do.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use posthaste::model::dispatch::{
    Dispatch, DispatchSettings, Facts, LookedAhead, RouteBy, RouteFailure, RoutedStep, Step,
};

use super::world::{Event, Fault, Lock, World, forgetful};
use crate::models::ledger::{Fate, Read};

/// Pauses between looks grow in five steps up to this poll interval. A statement that failed ends
/// at once.
pub const SETTINGS: DispatchSettings = DispatchSettings {
    batch: 500,
    poll_interval: Duration::from_millis(2),
    statement_timeout: Duration::ZERO,
    listens: true,
};
/// Five intervals, and a tenth of jitter.
const LONGEST_REST: Duration = Duration::from_millis(11);
/// Longer than any timer takes: the process was stopped meanwhile.
const LONG: Duration = Duration::from_secs(5);

/// What the relay is about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doing {
    Nothing,
    Reconnect,
    Route(bool),
    Silence,
    /// The lock is let go of first …
    Arm,
    /// … and then it is asked who may have skipped the bell.
    AskForSkippers,
    Rests,
}

impl World {
    /// Asks the dispatcher for its next step. Those that nothing else has to do with are performed.
    pub fn decide(&mut self) {
        loop {
            // Lanes have room.
            let facts = Facts { hears: self.hears, room_of_fed: 500, ..Facts::default() };
            let now = self.now;
            self.doing = match self.dispatch.next(now, &facts) {
                Step::Disown => {
                    self.dispatch.disowned(0, now);
                    continue;
                }
                Step::CheckBell => {
                    self.hears = self.session.is_some();
                    continue;
                }
                Step::Poll => {
                    self.polls += 1;
                    self.dispatch.polled(0.5, now);
                    continue;
                }
                Step::ReadFloor => {
                    self.dispatch.floor_is(Timestamp::UNIX_EPOCH);
                    continue;
                }
                Step::RouteAhead => {
                    self.dispatch.looked_ahead(LookedAhead::NoTenants, now, now);
                    continue;
                }
                Step::BackOff => continue,
                Step::Reconnect => Doing::Reconnect,
                Step::Route { by, .. } => Doing::Route(by == RouteBy::Few),
                Step::Silence => Doing::Silence,
                Step::Arm => Doing::Arm,
                Step::Rest { until, .. } => self.rest(until),
                Step::TellOthers | Step::Claim => unreachable!("nothing is due"),
            };
            return;
        }
    }

    fn rest(&mut self, until: Instant) -> Doing {
        if until.saturating_duration_since(self.now) > LONGEST_REST {
            self.wrong = Some("no timer is armed");
        }
        self.until = until.max(self.now);
        Doing::Rests
    }

    /// What the relay may do next.
    pub fn of_relay(&self, all: &mut Vec<(Event, Self)>) {
        match self.doing {
            Doing::Nothing => {}
            Doing::Rests => {
                if self.is_to_listen {
                    let mut world = self.clone();
                    world.is_to_listen = false;
                    all.push((Event::Step("listen"), world));
                }
                if self.rung {
                    self.then(all, Event::IsRung, |world| {
                        world.rung = false;
                        world.dispatch.rang(world.now);
                    });
                }
                self.then(all, Event::TimerEnds, |world| world.now = world.until);
                if self.limits.is_late {
                    self.then(all, Event::WakesLate, |world| world.now += LONG);
                }
            }
            Doing::Reconnect => self.reconnect(all),
            Doing::Route(few) => self.look(few, all),
            Doing::Silence => self.then(all, Event::Step("silence"), |world| {
                world.session = world.session.map(|lock| match lock {
                    Lock::Free => Lock::Waits,
                    other => other,
                });
                world.grant();
            }),
            Doing::Arm => self.let_go(all),
            Doing::AskForSkippers => self.ask_for_skippers(all),
        }
    }

    /// What follows when the relay has performed a step, and decided on the next.
    fn then(&self, all: &mut Vec<(Event, Self)>, event: Event, perform: impl FnOnce(&mut Self)) {
        let mut world = self.clone();
        perform(&mut world);
        world.decide();
        all.push((event, world));
    }

    fn reconnect(&self, all: &mut Vec<(Event, Self)>) {
        self.then(all, Event::Step("listen"), |world| {
            world.is_to_listen = world.limits.fault == Some(Fault::LooksBeforeListening);
            world.session = Some(Lock::Free);
            world.hears = true;
            world.dispatch.reconnected(true, world.now);
        });
        if self.limits.failures > 0 {
            self.then(all, Event::Fails("listen"), |world| {
                world.limits.failures -= 1;
                world.session = None;
                world.hears = false;
                world.dispatch.reconnected(false, world.now);
            });
        }
    }

    /// One look at the outbox. What commits after its snapshot is as if it committed after the
    /// look: nothing of the look depends on it.
    fn look(&self, few: bool, all: &mut Vec<(Event, Self)>) {
        let by = if few { RouteBy::Few } else { RouteBy::Steps };
        let fail = |world: &mut Self| {
            (world.limits.failures, world.polls) = (world.limits.failures - 1, 0);
            let lost = RouteFailure { kind: None, is_overdue: false, is_uncertain: true };
            let _ = world.dispatch.route_failed(500, by, lost, world.now);
        };
        if self.other.is_some() {
            return self.then(all, Event::Step("leave it to the other"), |world| {
                world.polls = 0;
                world.dispatch.routed(None, world.now, world.now);
            });
        }
        if few && self.ledger.after.is_some() {
            return self.then(all, Event::Step("leave it to steps"), |world| {
                world.dispatch.unusual(RouteBy::Few, world.now);
            });
        }
        let read = self.ledger.read(self.limits.most);
        assert!(!few || read.more || self.ledger.read_few().as_ref() == Some(&read.found));
        self.then(all, Event::Step("look"), |world| {
            world.write(&read);
            world.polls = 0;
            world.dispatch.routed(Some(world.routed(&read)), world.now, world.now);
        });
        if self.limits.failures > 0 {
            self.then(all, Event::Fails("look"), fail);
            self.then(all, Event::Fails("hear of a look"), |world| {
                world.write(&read);
                fail(world);
            });
        }
    }

    fn write(&mut self, read: &Read) {
        self.ledger.write(read);
        if self.limits.fault == Some(Fault::ForgetsTheOpen) {
            self.ledger.until = forgetful(&self.ledger.until);
        }
        self.route(&read.found);
    }

    fn routed(&self, read: &Read) -> RoutedStep {
        let found = self.transactions.iter().filter(|one| read.found.contains(&one.xid));
        let events = found.map(|one| one.events).sum();
        let is_end_of_span = read.taken_up && !read.more;
        RoutedStep {
            events,
            deliveries: events,
            more: read.more,
            closes_span: is_end_of_span && self.limits.fault != Some(Fault::TakesAnOldSpanForAll),
            xmin: read.xmin.into(),
            floor: Timestamp::UNIX_EPOCH,
            ..RoutedStep::default()
        }
    }

    fn let_go(&self, all: &mut Vec<(Event, Self)>) {
        if self.session.is_none() {
            return self.then(all, Event::Fails("arm"), Self::arm_in_vain);
        }
        let mut world = self.clone();
        if self.limits.fault == Some(Fault::AsksBeforeLettingGo) && self.asked.is_none() {
            world.asked = Some(world.number_above_all());
            return all.push((Event::Step("ask who skipped the bell"), world));
        }
        world.session = Some(Lock::Free);
        world.doing = Doing::AskForSkippers;
        all.push((Event::Step("let go of the lock"), world));
    }

    fn ask_for_skippers(&self, all: &mut Vec<(Event, Self)>) {
        if self.session.is_none() {
            return self.then(all, Event::Fails("arm"), Self::arm_in_vain);
        }
        self.then(all, Event::Step("ask who skipped the bell"), |world| {
            let skippers = match world.limits.fault {
                Some(Fault::ForgetsSkippers) => 0,
                Some(Fault::AsksForXmax) => world.ledger.now().xmax,
                _ => world.asked.take().unwrap_or_else(|| world.number_above_all()),
            };
            world.dispatch.armed(Some(skippers.into()), world.now);
        });
    }

    /// `SKIPPERS` of src/store/bell.rs: a number of its own is above all that were given before.
    fn number_above_all(&mut self) -> u8 {
        let own = self.ledger.begin();
        self.ledger.end(own, Fate::Aborted);
        own
    }

    fn arm_in_vain(&mut self) {
        (self.hears, self.asked) = (false, None);
        self.dispatch.armed(None, self.now);
    }
}

/// The dispatcher in words, each moment as whether it has come. How far away it is makes no
/// difference: either the next timer ends, or time goes on until all have. Left out are the bells
/// that rang (fewer than ten) and how long another manner of routing is used.
pub fn relative(dispatch: &Dispatch, now: Instant) -> String {
    const BEGINS: &str = "Instant { tv_sec: ";
    let now = nanos(format!("{now:?}").strip_prefix(BEGINS).unwrap()).0;
    let text = format!("{dispatch:?}");
    let mut parts = text.split(BEGINS);
    let mut said = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (then, rest) = nanos(part);
        if then > now && !said.ends_with("unusual_until: ") {
            said.push_str("to come");
        }
        said.push_str(rest);
    }
    let bells = said.find("bells: [").unwrap();
    let end = bells + said[bells..].find(']').unwrap();
    assert!(said[bells..end].matches(',').count() < 9, "ten bells may wake the relay");
    said.replace_range(bells..end, "");
    said
}

/// An instant's digits, and what comes after it.
fn nanos(said: &str) -> (i128, &str) {
    let (instant, rest) = said.split_once(" }").unwrap();
    let (seconds, nanos) = instant.split_once(", tv_nsec: ").unwrap();
    (seconds.parse::<i128>().unwrap() * 1_000_000_000 + nanos.parse::<i128>().unwrap(), rest)
}

//! The relays: real processes, each in a seat of its own, started again when they end. What they
//! used and counted is read from them while they live.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex as Held};
use std::time::{Duration, Instant};

use posthaste::clock::Clock;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::ledger::Ledger;
use super::plan::RELAYS;
use crate::support::Relay;

/// Settings that differ from the defaults: pauses and grace short enough for a run of minutes, and
/// logs that hold what matters.
const SETTINGS: [(&str, &str); 7] = [
    ("health.first_pause", "1s"),
    ("health.longest_pause", "5s"),
    ("relay.grace", "5s"),
    ("delivery.timeout", "5s"),
    ("delivery.response_body_limit", "256B"),
    ("database.startup_timeout", "30s"),
    ("log.level", "warn"),
];
/// Between two looks at each relay.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A relay that does not answer in this time is frozen or busy.
const ANSWERS_WITHIN: Duration = Duration::from_millis(500);
/// One that ends this soon has not found its database.
const STARTING: Duration = Duration::from_secs(40);
/// Grace for the requests, grace for the results, and some for a busy machine.
const STOPS_WITHIN: Duration = Duration::from_secs(30);

/// Counters that are summed up over all processes.
pub const COUNTED: [&str; 4] = [
    "posthaste_relay_takeovers_total",
    "posthaste_claims_lost_total",
    "posthaste_claims_released_total",
    "posthaste_database_errors_total",
];

/// All relays.
#[derive(Debug)]
pub struct Fleet {
    pub seats: Vec<Arc<Mutex<Seat>>>,
    url: String,
    directory: PathBuf,
    ledger: Arc<Ledger>,
    tally: Held<Tally>,
}

/// Where one relay sits. A fault holds the lock while it does something to it.
#[derive(Debug)]
pub struct Seat {
    number: usize,
    relay: Option<Relay>,
    began: Instant,
    counted: [f64; COUNTED.len()],
}

/// Resources and counts of the relays, over all processes.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By seat, in KiB.
    pub most_memory: BTreeMap<usize, u64>,
    pub processes: u32,
    /// Gave up while starting, because there was no database.
    pub gave_up: u32,
    /// As [`COUNTED`]; what a killed relay counted in its last half second is missing.
    pub counted: [f64; COUNTED.len()],
    /// Of the orderly stops, the longest.
    pub longest_stop: Duration,
}

impl Fleet {
    pub fn new(url: String, directory: PathBuf, ledger: &Arc<Ledger>) -> Self {
        let seat = |number| Seat {
            number,
            relay: None,
            began: Clock.instant(),
            counted: [0.0; COUNTED.len()],
        };
        Self {
            seats: (0..RELAYS).map(|number| Arc::new(Mutex::new(seat(number)))).collect(),
            url,
            directory,
            ledger: Arc::clone(ledger),
            tally: Held::default(),
        }
    }

    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no panic while it is held").clone()
    }

    fn note(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.lock().expect("no panic while it is held"));
    }

    pub fn log(&self, seat: usize) -> PathBuf {
        self.directory.join(format!("relay-{seat}.log"))
    }

    /// A relay that no fault is at: this one, or the next.
    pub fn idle(&self, from: usize) -> Option<OwnedMutexGuard<Seat>> {
        let order = (0..RELAYS).map(|n| (from + n) % RELAYS);
        let mut free = order.filter_map(|n| Arc::clone(&self.seats[n]).try_lock_owned().ok());
        free.find(|seat| seat.relay.is_some())
    }

    /// Starts all relays, and waits until they are ready.
    pub async fn begin(&self) {
        for seat in &self.seats {
            self.start_ready(&mut *seat.lock().await).await;
        }
    }

    /// Starts a process, and waits until it is ready.
    pub async fn start_ready(&self, seat: &mut Seat) {
        self.start(seat);
        seat.relay.as_mut().expect("it has just been started").ready().await;
    }

    /// Starts a process, and does not wait for it to be ready.
    pub fn start(&self, seat: &mut Seat) {
        let builder = Relay::on(&self.url).set("relay.name", &format!("soak {}", seat.number));
        let builder = SETTINGS.iter().fold(builder, |with, (key, value)| with.set(key, value));
        seat.relay = Some(builder.log_to(self.log(seat.number)).spawn());
        seat.began = Clock.instant();
        self.note(|tally| tally.processes += 1);
    }

    pub fn freeze(&self, seat: &Seat) {
        seat.relay.iter().for_each(Relay::freeze);
    }

    pub fn thaw(&self, seat: &Seat) {
        seat.relay.iter().for_each(Relay::thaw);
    }

    pub async fn kill(&self, seat: &mut Seat) {
        if let Some(mut relay) = seat.relay.take() {
            if let Some(status) = relay.ended() {
                return self.ended_by_itself(seat, &relay, status);
            }
            self.look_at(seat, &relay).await;
            relay.kill().await;
            self.close_count(seat);
        }
    }

    /// SIGTERM, and waits for the orderly end.
    pub async fn stop(&self, seat: &mut Seat) {
        let Some(mut relay) = seat.relay.take() else { return };
        if let Some(status) = relay.ended() {
            return self.ended_by_itself(seat, &relay, status);
        }
        self.look_at(seat, &relay).await;
        let began = Clock.instant();
        relay.signal("TERM");
        match timeout(STOPS_WITHIN, relay.exit()).await {
            Ok(status) if status.success() => {}
            Ok(status) => self.ledger.complain("a stopped relay did not end well", || {
                format!("soak {}: {status}; its log is {}", seat.number, relay_log(self, seat))
            }),
            Err(_) => {
                self.ledger.complain("a relay would not stop", || {
                    format!("soak {}: not within {STOPS_WITHIN:?} after SIGTERM", seat.number)
                });
                relay.kill().await;
            }
        }
        self.note(|tally| tally.longest_stop = tally.longest_stop.max(Clock.since(began)));
        self.close_count(seat);
    }

    /// Looks after the relays until it is dropped: reads what they use, and starts again what has
    /// ended by itself, as a supervisor would.
    pub async fn look_after(&self) {
        loop {
            for seat in &self.seats {
                let Ok(mut seat) = seat.try_lock() else { continue };
                let Some(mut relay) = seat.relay.take() else { continue };
                if let Some(status) = relay.ended() {
                    self.ended_by_itself(&mut seat, &relay, status);
                    self.start(&mut seat);
                } else {
                    self.look_at(&mut seat, &relay).await;
                    seat.relay = Some(relay);
                }
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn ended_by_itself(&self, seat: &mut Seat, relay: &Relay, status: ExitStatus) {
        self.close_count(seat);
        if status.code() == Some(1) && Clock.since(seat.began) < STARTING {
            self.note(|tally| tally.gave_up += 1);
            return;
        }
        self.ledger.complain("a relay ended by itself", || {
            let log = relay.log();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            let signal = status.signal();
            format!(
                "soak {}: {status} (signal {signal:?}); its log ends with {last:?}",
                seat.number
            )
        });
    }

    async fn look_at(&self, seat: &mut Seat, relay: &Relay) {
        if let Some(most) = most_memory(relay.pid()) {
            self.note(|tally| {
                let known = tally.most_memory.entry(seat.number).or_default();
                *known = most.max(*known);
            });
        }
        if let Ok(Some((200, text))) = timeout(ANSWERS_WITHIN, relay.get("/metrics")).await {
            seat.counted = COUNTED.map(|name| summed(&text, name));
        }
    }

    fn close_count(&self, seat: &mut Seat) {
        let counted = std::mem::take(&mut seat.counted);
        self.note(|tally| {
            for (sum, value) in tally.counted.iter_mut().zip(counted) {
                *sum += value;
            }
        });
    }
}

fn relay_log(fleet: &Fleet, seat: &Seat) -> String {
    fleet.log(seat.number).display().to_string()
}

/// The most memory that a process ever had, in KiB (Linux).
pub fn most_memory(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A metric over all its labels.
fn summed(text: &str, name: &str) -> f64 {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.rsplit_once(' ')?.1.parse::<f64>().ok()
    });
    values.sum()
}

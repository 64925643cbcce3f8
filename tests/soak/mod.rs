//! The soak: real relays under random faults, for minutes or hours, and then a reckoning of every
//! event at every endpoint.
//!
//! `make soak MINUTES=30` runs it. Three relays deliver what twenty connections insert to endpoints
//! of all moods, while every few seconds something is killed, frozen, cut off or restarted,
//! PostgreSQL included. Then the faults stop, the endpoints become healthy, and what is owed
//! drains. What is checked, and against what:
//!
//! * **what the application knows**: which transactions committed, and which events were in them;
//! * **our own reading** of subscriptions, tenants and filters, not the one in SQL;
//! * **what arrived**: each request was checked as it came, to the byte;
//! * **what the tables say**: attempts, deliveries and `check_consistency()`.
//!
//! The seed decides the faults and the events, and is printed. Times are not decided by it, so a
//! run cannot be had again exactly; its logs, and the rows of what went wrong, stay in
//! `target/soak`.

#![expect(unreachable_pub, reason = "`pub` means for the other modules of the soak")]

mod endpoints;
mod events;
mod faults;
mod fleet;
mod inbox;
mod ledger;
mod plan;
mod receivers;
mod reckoning;
mod report;
mod rows;
mod writers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthaste::clock::Clock;
use posthaste::sandbox::postgres::{Cluster, ClusterOptions};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::endpoints::{ENDPOINTS, Mood};
use self::faults::{Absences, Counts, Operator, STRANGER, Session};
use self::fleet::Fleet;
use self::ledger::Ledger;
use self::plan::Plan;
use self::receivers::{Receivers, Serving};
use self::writers::{JOURNAL, Writing};
use crate::support::database;

const MINUTES: f64 = 5.0;
const EVENTS_A_SECOND: f64 = 500.0;

/// Short recoveries, since PostgreSQL crashes all the time, and a bound on what the log takes.
const POSTGRES: [&str; 6] = [
    "shared_buffers = 512MB",
    "max_connections = 200",
    "checkpoint_timeout = 30s",
    "max_wal_size = 2GB",
    "wal_compression = on",
    "log_min_messages = fatal",
];

/// A drain that stands still this long, or takes this long, will not come to an end.
const MOVES_WITHIN: Duration = Duration::from_secs(90);
const DRAINS_WITHIN: Duration = Duration::from_secs(15 * 60);
/// A start, the time that a relay gives others to come back, a lease and a heartbeat.
const BURIES_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SAY_EVERY: Duration = Duration::from_secs(15);

/// The wishes of the command line, by way of the environment.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    pub lasting: Duration,
    pub seed: u64,
    pub events_a_second: f64,
}

/// All that is at work.
struct Soak {
    wanted: Wanted,
    directory: PathBuf,
    cluster: Cluster,
    ledger: Arc<Ledger>,
    fleet: Arc<Fleet>,
    serving: Serving,
    /// By the order of [`ENDPOINTS`].
    endpoint_ids: Vec<i64>,
}

/// Everything that happened, for the report.
#[derive(Debug)]
pub struct Course {
    pub faults: Counts,
    pub absences: Absences,
    pub faulty_for: Duration,
    pub drained_in: Option<Duration>,
    /// The most deliveries that were owed at once, of those seen.
    pub longest_queue: i64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: make soak"]
async fn soak_under_faults_nothing_is_lost_and_no_duplicate_unexplained() {
    let wanted = Wanted::read();
    let violations = Box::pin(async {
        let mut soak = Soak::begin(wanted).await;
        let course = soak.go().await;
        soak.reckon(&course).await
    });
    assert_eq!(violations.await, 0, "see the report above; the logs are kept beside it");
}

impl Wanted {
    #[expect(clippy::disallowed_methods, reason = "a test has no other settings")]
    fn read() -> Self {
        let number = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let float = |name: &str, otherwise: f64| {
            number(name).map_or(otherwise, |text| text.parse().expect("a number"))
        };
        Self {
            lasting: Duration::from_secs_f64(60.0 * float("SOAK_MINUTES", MINUTES)),
            seed: number("SOAK_SEED")
                .map_or_else(|| fastrand::u64(..1_000_000), |text| text.parse().expect("a seed")),
            events_a_second: float("SOAK_RATE", EVENTS_A_SECOND),
        }
    }
}

impl Soak {
    async fn begin(wanted: Wanted) -> Self {
        eprintln!("soak: {:?}, seed {}", wanted.lasting, wanted.seed);
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in target");
        let directory = target.join("soak");
        drop(std::fs::remove_dir_all(&directory));
        std::fs::create_dir_all(&directory).expect("make the report's directory");
        let settings = POSTGRES.map(str::to_owned).to_vec();
        let options = ClusterOptions { fsync: true, settings, ..ClusterOptions::default() };
        let cluster = Cluster::start(options).await.expect("start PostgreSQL");
        let url = cluster.url();
        database::migrate(&url).await;
        let receivers = Receivers::bind().await.expect("take an address for each endpoint");
        let session = Session::open(&url).await.expect("connect");
        let webhook_ids = rows::webhook_ids(&session.client).await;
        let ledger = Arc::new(Ledger::new(wanted.seed, webhook_ids));
        session.client.batch_execute(JOURNAL).await.expect("make the application's table");
        let stranger = format!("create role {STRANGER} login");
        session.client.batch_execute(&stranger).await.expect("make a login without any grant");
        let mut endpoint_ids = Vec::new();
        let mut secrets = Vec::new();
        for (spec, address) in ENDPOINTS.iter().zip(&receivers.addresses) {
            let (id, secret) = rows::add_endpoint(&session.client, spec, *address).await;
            endpoint_ids.push(id);
            secrets.push(secret);
        }
        let serving = receivers.serve(&secrets, &ledger);
        let fleet = Arc::new(Fleet::new(url, directory.clone(), &ledger));
        Self { wanted, directory, cluster, ledger, fleet, serving, endpoint_ids }
    }

    /// Faults, and then the drain.
    async fn go(&mut self) -> Course {
        let began = Clock.instant();
        self.fleet.begin().await;
        let enough = CancellationToken::new();
        let mut beside = JoinSet::new();
        let fleet = Arc::clone(&self.fleet);
        beside.spawn(async move { fleet.look_after().await });
        let writing = Arc::new(Writing {
            url: self.cluster.url(),
            ledger: Arc::clone(&self.ledger),
            events_a_second: self.wanted.events_a_second,
            enough: CancellationToken::new(),
        });
        let writers = writers::write(&writing);
        let mut operator = JoinSet::new();
        let moments = [0.3, 0.7].map(|share| began + self.wanted.lasting.mul_f64(share));
        operator.spawn(self.operator().work(moments.to_vec(), enough.clone()));
        beside.spawn(say(self.cluster.url(), Arc::clone(&self.ledger)));

        let until = began + self.wanted.lasting;
        let plan = Plan::of(self.wanted.seed);
        let faults = faults::run(plan, until, &self.fleet, &mut self.cluster).await;
        let faulty_for = Clock.since(began);
        eprintln!("soak: the faults are over");
        writing.enough.cancel();
        writers.join_all().await;
        self.serving.shared.healed.send_replace(true);
        let (drained_in, longest_queue) = self.drain().await;
        enough.cancel();
        let absences = operator.join_all().await.into_iter().next().unwrap_or_default();
        beside.shutdown().await;
        self.stop().await;
        Course { faults, absences, faulty_for, drained_in, longest_queue }
    }

    /// Stops the relays. One that may have claimed more than it knows of leaves its row for the
    /// next to reap, so there is a next one.
    async fn stop(&self) {
        for seat in &self.fleet.seats {
            self.fleet.stop(&mut *seat.lock().await).await;
        }
        let mut last = self.fleet.seats[0].lock().await;
        self.fleet.start_ready(&mut last).await;
        if !rows::reaped(&self.cluster.url(), BURIES_WITHIN).await {
            let case = || format!("after {BURIES_WITHIN:?} there were rows of others");
            self.ledger.complain("a relay that ended was not reaped", case);
        }
        self.fleet.stop(&mut last).await;
    }

    fn operator(&self) -> Operator {
        let gone = ENDPOINTS.iter().position(|spec| spec.mood == Mood::Gone);
        Operator {
            url: self.cluster.url(),
            endpoint_id: self.endpoint_ids[gone.expect("one endpoint has that mood")],
            receivers: Arc::clone(&self.serving.shared),
            ledger: Arc::clone(&self.ledger),
        }
    }

    /// Waits until only what is owed to the dead is left. None: it stood still before.
    async fn drain(&self) -> (Option<Duration>, i64) {
        let began = Clock.instant();
        let dead: Vec<i64> = ENDPOINTS
            .iter()
            .zip(&self.endpoint_ids)
            .filter_map(|(spec, id)| spec.is_dead().then_some(*id))
            .collect();
        let (mut least, mut most, mut moved): (i64, i64, Instant) = (i64::MAX, 0, began);
        while Clock.since(moved) < MOVES_WITHIN && Clock.since(began) < DRAINS_WITHIN {
            if let Some(left) = rows::left(&self.cluster.url(), &dead).await {
                if left == 0 {
                    return (Some(Clock.since(began)), most);
                }
                if left < least {
                    (least, moved) = (left, Clock.instant());
                }
                most = most.max(left);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let case = || format!("{least} deliveries were left after {:?}", Clock.since(began));
        self.ledger.complain("what is owed does not drain", case);
        for row in rows::stuck(&self.cluster.url(), &dead).await {
            self.ledger.complain("what is owed does not drain", || row);
        }
        (None, most)
    }

    /// Checks everything, prints and keeps the report. Returns how much was wrong.
    async fn reckon(self, course: &Course) -> u64 {
        let session = Session::open(&self.cluster.url()).await.expect("connect");
        let reckoning = reckoning::Reckoning {
            client: &session.client,
            ledger: &self.ledger,
            inboxes: &self.serving.shared.inboxes,
            endpoint_ids: &self.endpoint_ids,
            absences: &course.absences,
        };
        let began = Clock.instant();
        let figures = reckoning.make().await;
        eprintln!("soak: reckoned up in {:.1} s", Clock.since(began).as_secs_f64());
        for seat in 0..plan::RELAYS {
            rows::check_log(&self.ledger, &self.fleet.log(seat));
        }
        let server_log = self.cluster.log().unwrap_or_default();
        drop(std::fs::write(self.directory.join("postgres.log"), server_log));
        let sizes =
            rows::sizes(&session.client, &self.cluster.directory().join("data/pg_wal")).await;
        let tally = self.fleet.tally();
        let report = report::Report {
            wanted: self.wanted,
            course,
            figures: &figures,
            tally: &tally,
            sizes: &sizes,
            complaints: self.ledger.complaints(),
        };
        report.show();
        report.keep(&self.directory);
        report.violations()
    }
}

/// Says now and then how it goes.
async fn say(url: String, ledger: Arc<Ledger>) {
    let began = Clock.instant();
    loop {
        tokio::time::sleep(SAY_EVERY).await;
        let Some(session) = Session::open(&url).await else { continue };
        let events = ledger.entries().iter().filter(|entry| entry.sent_at > 0).count();
        let owed = "select count(*) from posthaste.live_deliveries";
        if let Ok(row) = session.client.query_one(owed, &[]).await {
            let (seconds, owed) = (Clock.since(began).as_secs(), row.get::<_, i64>(0));
            eprintln!("soak: {seconds} s, {events} events, {owed} deliveries owed");
        }
    }
}

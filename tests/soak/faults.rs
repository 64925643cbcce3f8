//! Does what the plan says, to the relays, to their sessions and to PostgreSQL; and the operator,
//! who enables again what a 410 has disabled.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use posthaste::clock::Clock;
use posthaste::sandbox::postgres::{Cluster, StopMode};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use super::endpoints::{ENDPOINTS, Mood};
use super::fleet::{Fleet, Seat};
use super::ledger::Ledger;
use super::plan::{Fault, Plan};
use super::receivers::Shared;

/// A server that is being started may find its port taken for a moment.
const STARTS_TRIED: u32 = 5;
const RELAYS_SESSIONS: &str = "select pid from pg_stat_activity \
     where application_name = 'posthaste' and datname = current_database() order by pid";
const ALL_SESSIONS: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
     where backend_type = 'client backend' and pid <> pg_backend_pid()";

/// A login without any grant.
pub const STRANGER: &str = "soak_stranger";
/// Those that Posthaste has one of each, and those of the leases that are there and of the next.
/// Without waiting: what a relay holds already is the relay's.
const TAKE_LOCKS: &str = "select pg_try_advisory_lock(1886352244, n) from generate_series(0, 20) n; \
     select pg_try_advisory_lock(1885893228, n) from generate_series(0, 2000) n";

/// How often each kind of fault was done, and left out because there was no target.
#[derive(Debug, Default)]
pub struct Counts {
    pub done: BTreeMap<&'static str, u32>,
    pub left_out: u32,
    /// How long PostgreSQL was away, the longest time.
    pub longest_restart: Duration,
}

/// Makes faults until the time is over; when this returns, every relay runs and so does PostgreSQL.
pub async fn run(plan: Plan, until: Instant, fleet: &Arc<Fleet>, cluster: &mut Cluster) -> Counts {
    let mut counts = Counts::default();
    let mut going_on = JoinSet::new();
    for planned in plan {
        tokio::time::sleep(planned.pause).await;
        if Clock.instant() >= until {
            break;
        }
        let done = match planned.fault {
            Fault::Crash { relay, .. }
            | Fault::Freeze { relay, .. }
            | Fault::Stop { relay, .. } => fleet.idle(relay).map(|seat| {
                let (fleet, fault) = (Arc::clone(fleet), planned.fault);
                going_on.spawn(async move { befall(&fleet, seat, fault).await });
            }),
            Fault::ForeignLocks { lasting } => {
                let url = cluster.url();
                going_on.spawn(async move { hold_locks(&url, lasting).await });
                Some(())
            }
            Fault::CutOne { draw } => cut_one(&cluster.url(), draw).await,
            Fault::CutAll => cut_all(&cluster.url()).await,
            Fault::RestartFast | Fault::RestartImmediate => {
                let fast = planned.fault == Fault::RestartFast;
                let mode = if fast { StopMode::Fast } else { StopMode::Immediate };
                let began = Clock.instant();
                restart(cluster, mode).await;
                counts.longest_restart = counts.longest_restart.max(Clock.since(began));
                Some(())
            }
        };
        match done {
            Some(()) => *counts.done.entry(planned.fault.kind()).or_default() += 1,
            None => counts.left_out += 1,
        }
        while going_on.try_join_next().is_some() {}
    }
    going_on.join_all().await;
    counts
}

/// Does the fault to one relay, until it runs again.
async fn befall(fleet: &Fleet, mut seat: tokio::sync::OwnedMutexGuard<Seat>, fault: Fault) {
    match fault {
        Fault::Crash { away, .. } => {
            fleet.kill(&mut seat).await;
            tokio::time::sleep(away).await;
            fleet.start(&mut seat);
        }
        Fault::Freeze { lasting, .. } => {
            fleet.freeze(&seat);
            tokio::time::sleep(lasting).await;
            fleet.thaw(&seat);
        }
        Fault::Stop { away, .. } => {
            fleet.stop(&mut seat).await;
            tokio::time::sleep(away).await;
            fleet.start(&mut seat);
        }
        Fault::CutOne { .. }
        | Fault::CutAll
        | Fault::RestartFast
        | Fault::RestartImmediate
        | Fault::ForeignLocks { .. } => {}
    }
}

async fn cut_one(url: &str, draw: u32) -> Option<()> {
    let session = Session::open(url).await?;
    let pids = session.client.query(RELAYS_SESSIONS, &[]).await.ok()?;
    let victim: i32 = pids.get(draw as usize % pids.len().max(1))?.get(0);
    let cut = "select pg_terminate_backend($1)";
    session.client.query_one(cut, &[&victim]).await.ok().map(drop)
}

async fn cut_all(url: &str) -> Option<()> {
    let session = Session::open(url).await?;
    session.client.query(ALL_SESSIONS, &[]).await.ok().map(drop)
}

/// Takes what a stranger can take of Posthaste's locks, and keeps it until the time is over or the
/// session is cut.
async fn hold_locks(url: &str, lasting: Duration) {
    let Some(session) = Session::open_as(url, STRANGER).await else { return };
    if session.client.batch_execute(TAKE_LOCKS).await.is_ok() {
        tokio::time::sleep(lasting).await;
    }
}

async fn restart(cluster: &mut Cluster, mode: StopMode) {
    let mut tried = 0;
    let mut done = cluster.restart(mode).await;
    while let Err(error) = done {
        tried += 1;
        assert!(tried < STARTS_TRIED, "PostgreSQL does not start again: {error}");
        done = cluster.start_again().await;
    }
}

/// A session of the superuser, for a few statements.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    _driver: JoinSet<()>,
}

impl Session {
    /// None if the server is away.
    pub async fn open(url: &str) -> Option<Self> {
        Self::connect(url.parse().ok()?).await
    }

    /// As a login of its own.
    async fn open_as(url: &str, login: &str) -> Option<Self> {
        let mut config: tokio_postgres::Config = url.parse().ok()?;
        config.user(login);
        Self::connect(config).await
    }

    async fn connect(config: tokio_postgres::Config) -> Option<Self> {
        let (client, connection) = config.connect(NoTls).await.ok()?;
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        Some(Self { client, _driver: driver })
    }
}

/// When the endpoint that is gone now and then was disabled, in microseconds of Unix time: from the
/// first 410 until it was enabled again.
pub type Absences = Vec<(i64, i64)>;

/// Lets an endpoint say 410 at these moments, and enables it when it has been disabled. Goes on
/// until it is told that it is enough, since a late 410 may disable it once more.
pub struct Operator {
    pub url: String,
    pub endpoint_id: i64,
    pub receivers: Arc<Shared>,
    pub ledger: Arc<Ledger>,
}

impl Operator {
    const LOOK_EVERY: Duration = Duration::from_millis(500);
    /// The other relays have to notice first.
    const NOTICES_AFTER: Duration = Duration::from_secs(3);
    /// The relays may all be down or frozen for a while.
    const DISABLED_WITHIN: Duration = Duration::from_secs(90);

    pub async fn work(
        self,
        moments: Vec<Instant>,
        enough: tokio_util::sync::CancellationToken,
    ) -> Absences {
        let mut absences = Absences::new();
        let mut moments = moments.into_iter().peekable();
        let mut since: Option<(i64, Instant)> = None;
        while !enough.is_cancelled() {
            tokio::time::sleep(Self::LOOK_EVERY).await;
            let now = Clock.instant();
            if moments.next_if(|at| *at <= now).is_some() {
                since = Some((Clock.now().as_microsecond(), now));
                self.receivers.gone.store(true, Ordering::Relaxed);
            }
            match self.is_enabled().await {
                Some(false) => {
                    tokio::time::sleep(Self::NOTICES_AFTER).await;
                    self.receivers.gone.store(false, Ordering::Relaxed);
                    let from = since.map_or_else(|| Clock.now().as_microsecond(), |(at, _)| at);
                    while !enough.is_cancelled() && self.enable().await.is_none() {
                        tokio::time::sleep(Self::LOOK_EVERY).await;
                    }
                    absences.push((from, Clock.now().as_microsecond()));
                    since = None;
                }
                _ if since.is_some_and(|(_, at)| Clock.since(at) > Self::DISABLED_WITHIN) => {
                    let name = ENDPOINTS.iter().find(|spec| spec.mood == Mood::Gone);
                    let case = || format!("{name:?} says 410 and is not disabled");
                    self.ledger.complain("a rule had no effect", case);
                    since = None;
                    self.receivers.gone.store(false, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        absences
    }

    async fn is_enabled(&self) -> Option<bool> {
        let session = Session::open(&self.url).await?;
        let statement = "select enabled from posthaste.endpoints where id = $1";
        Some(session.client.query_one(statement, &[&self.endpoint_id]).await.ok()?.get(0))
    }

    async fn enable(&self) -> Option<()> {
        let session = Session::open(&self.url).await?;
        let statement = "select posthaste.enable_endpoint($1)";
        session.client.query_one(statement, &[&self.endpoint_id]).await.ok().map(drop)
    }
}

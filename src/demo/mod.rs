//! `posthaste demo`: all of Posthaste in less than half a minute, on a database of its own.
//!
//! A shop takes orders and writes events in the same transactions, for four endpoints: one is
//! always up, one fails most of the time, one is slow and one is down; the relay is killed in the
//! middle. At the end the demo compares three witnesses ([`check`]), and fails if they disagree.
//!
//! The private PostgreSQL and its watchdog are those of [`sandbox`](crate::sandbox).

mod check;
mod screen;

pub mod receiver;
pub mod shop;

use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use self::check::Account;
pub use self::check::PromiseResult;
use self::receiver::{Mood, Receiver};
use self::screen::{Progress, Screen, TICK};
use self::shop::{Ledger, Shop};
use crate::clock::Clock;
use crate::sandbox::postgres::{Cluster, ClusterOptions, StopMode};
use crate::sandbox::relay::RelayProcess;
use crate::stopper::Stopper;

/// How long the shop is open.
const OPEN_FOR: Duration = Duration::from_secs(10);
/// How many clients take orders.
const CLIENTS: u32 = 3;
/// When the relay is killed, after the shop has opened.
const KILLED_AFTER: Duration = Duration::from_secs(5);
/// How long the last deliveries may take after the shop has closed.
const SETTLED_WITHIN: Duration = Duration::from_secs(40);

const ENDPOINTS: &str = include_str!("sql/endpoints.sql");
const SECRETS: &str = include_str!("sql/secrets.sql");
const PENDING: &str = include_str!("sql/pending.sql");
const ACCOUNTS: &str = include_str!("sql/accounts.sql");
const ENDPOINT_STATUS: &str = include_str!("sql/endpoint_status.sql");
const JOURNEY: &str = include_str!("sql/journey.sql");
const WAITING: &str = include_str!("sql/waiting.sql");

/// An endpoint of the demo, as `sql/endpoints.sql` registers it.
struct Subscriber {
    path: &'static str,
    subscription: &'static str,
    /// None: it is down.
    mood: Option<Mood>,
    label: &'static str,
}

const SUBSCRIBERS: [Subscriber; 4] = [
    Subscriber {
        path: "/analytics",
        subscription: "*",
        mood: Some(Mood::Good),
        label: "analytics  always up           ",
    },
    Subscriber {
        path: "/billing",
        subscription: "order.paid",
        mood: Some(Mood::Flaky),
        label: "billing    fails 2 of 3        ",
    },
    Subscriber {
        path: "/support",
        subscription: "order.cancelled",
        mood: Some(Mood::Slow),
        label: "support    takes 300 ms        ",
    },
    Subscriber {
        path: "/partner",
        subscription: "order.created",
        mood: None,
        label: "partner    is down             ",
    },
];

/// Options of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Where PostgreSQL's server programs are; looked for if not given.
    #[arg(long = "pg-bin", value_name = "DIRECTORY")]
    pub binaries: Option<PathBuf>,
    /// No colours, even on a terminal.
    #[arg(long = "no-color", action = clap::ArgAction::SetFalse)]
    pub color: bool,
}

/// The result of the demo; returned only if every promise was kept.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Events committed by the shop.
    pub events: usize,
    /// Orders that the shop rolled back.
    pub rolled_back: usize,
    /// Webhooks accepted by the endpoints that are up, each counted once.
    pub delivered: usize,
    pub findings: Vec<PromiseResult>,
    /// From the first line to the last.
    pub took_ms: u64,
}

/// Why the demo has failed.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("run a private PostgreSQL")]
    Cluster(#[from] crate::sandbox::postgres::ClusterError),
    #[error("run the endpoints")]
    Receiver(#[from] receiver::ReceiverError),
    #[error("run the relay")]
    Relay(#[from] crate::sandbox::relay::RelayProcessError),
    #[error("ask the database")]
    Database(#[from] tokio_postgres::Error),
    #[error("the demo broke {0} of its promises")]
    Broken(usize),
    #[error("interrupted")]
    Interrupted,
}

/// Runs the demo, on standard output.
///
/// # Errors
/// If it cannot run, if a promise was broken, or when it is stopped.
pub async fn run(options: DemoOptions, stopper: Stopper) -> Result<Report, DemoError> {
    tokio::select! {
        // Dropping it ends the relay, the server and all that listens.
        shown = show(options) => shown,
        () = stopper.stopping() => Err(DemoError::Interrupted),
    }
}

async fn show(options: DemoOptions) -> Result<Report, DemoError> {
    let began = Clock.instant();
    let mut screen = Screen::new(options.color);
    screen.title("Posthaste: insert a row in your transaction, and the webhook arrives.");
    let mut stage = Stage::set(&mut screen, options).await?;
    let ledger = stage.play(&mut screen).await?;
    stage.explain(&mut screen).await?;
    let findings = stage.check(&mut screen, &ledger).await?;
    let delivered = stage.delivered();
    stage.end().await?;

    let took = Clock.since(began);
    screen.blank();
    screen.note(&format!("All of this took {:.0} s and left nothing behind.", took.as_secs_f64()));
    let broken = findings.iter().filter(|finding| !finding.kept).count();
    if broken > 0 {
        return Err(DemoError::Broken(broken));
    }
    Ok(Report {
        events: ledger.committed.len(),
        rolled_back: ledger.rolled_back.len(),
        delivered,
        findings,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    })
}

/// All participants. Fields are dropped in this order: the relay before the database it works on.
struct Stage {
    relay: Option<RelayProcess>,
    client: Client,
    _connection: JoinSet<()>,
    receiver: Receiver,
    cluster: Cluster,
}

impl Stage {
    /// Steps one to three: a database, the endpoints, a relay.
    async fn set(screen: &mut Screen, options: DemoOptions) -> Result<Self, DemoError> {
        let cluster_options =
            ClusterOptions { binaries: options.binaries, fsync: true, ..ClusterOptions::default() };
        let cluster = Cluster::start(cluster_options).await?;
        screen.step(&format!(
            "A private PostgreSQL on port {}; `posthaste migrate` makes the schema.",
            cluster.port()
        ));
        crate::sandbox::relay::migrate(&cluster.url(), cluster.directory()).await?;
        let (client, connection) = tokio_postgres::connect(&cluster.url(), NoTls).await?;
        let mut driver = JoinSet::new();
        // An error of the connection shows with the client's next statement.
        driver.spawn(async move { drop(connection.await) });
        client.batch_execute(shop::ORDERS).await?;

        let moods: Vec<(&str, Mood)> =
            SUBSCRIBERS.iter().filter_map(|s| Some((s.path, s.mood?))).collect();
        let receiver = Receiver::start(&moods).await?;
        screen.step("Four endpoints; each says what it wants to hear of.");
        let endpoints = ENDPOINTS
            .replace("<receiver>", &receiver.url())
            .replace("<refusing>", &receiver.refusing_url()?);
        screen.sql(&endpoints);
        client.batch_execute(&endpoints).await?;
        for row in client.query(SECRETS, &[]).await? {
            let (url, secret): (&str, &str) = (row.get("url"), row.get("secret"));
            if let Some(subscriber) = SUBSCRIBERS.iter().find(|s| url.ends_with(s.path)) {
                receiver.trust(subscriber.path, secret)?;
            }
        }

        screen.step("The relay: one process, `posthaste run`, with DATABASE_URL set.");
        let relay = Some(RelayProcess::start(&cluster.url(), cluster.directory()).await?);
        Ok(Self { relay, client, _connection: driver, receiver, cluster })
    }

    /// Step four: orders are taken, the relay is killed, everything settles.
    async fn play(&mut self, screen: &mut Screen) -> Result<Ledger, DemoError> {
        screen.step(&format!(
            "A shop takes orders for {} s. An event is one more insert in its own transaction; one \
             in ten is rolled back.",
            OPEN_FOR.as_secs()
        ));
        screen.sql("begin;");
        screen.sql(shop::PLACE_ORDER);
        screen.sql(shop::WRITE_EVENT);
        screen.sql("commit;  -- or rollback");
        screen.blank();
        let mut progress = Progress::new(SUBSCRIBERS.iter().map(|s| s.label.to_owned()));
        let mut shop = Shop::open(&self.cluster.url(), CLIENTS, OPEN_FOR);

        self.watch(&shop, &mut progress, Clock.instant(), KILLED_AFTER).await?;
        if let Some(relay) = self.relay.take() {
            relay.kill().await?;
        }
        progress.note("kill -9 of the relay, in the middle of it; another one is started");
        self.relay =
            Some(RelayProcess::start(&self.cluster.url(), self.cluster.directory()).await?);
        let rest = OPEN_FOR.saturating_sub(KILLED_AFTER);
        self.watch(&shop, &mut progress, Clock.instant(), rest).await?;
        shop.closed().await?;

        let closed = Clock.instant();
        while self.unsettled(&shop.ledger()).await? && Clock.since(closed) < SETTLED_WITHIN {
            self.watch(&shop, &mut progress, Clock.instant(), TICK).await?;
        }
        progress.finish();
        Ok(shop.ledger())
    }

    /// Shows the progress, for this long.
    async fn watch(
        &self,
        shop: &Shop,
        progress: &mut Progress,
        from: std::time::Instant,
        length: Duration,
    ) -> Result<(), DemoError> {
        let mut ticks = tokio::time::interval(TICK);
        ticks.tick().await;
        while Clock.since(from) < length {
            ticks.tick().await;
            let (ledger, pending) = (shop.ledger(), self.pending().await?);
            let states = SUBSCRIBERS.iter().map(|subscriber| {
                let waiting = pending_at(&pending, subscriber);
                let word = if waiting > 0 { format!("{waiting} pending") } else { String::new() };
                let accepted = self.receiver.accepted(subscriber.path);
                (accepted, ledger.owed(subscriber.subscription), word)
            });
            progress.tell(&states.collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Whether an endpoint that is up has yet to receive an event, or the database to record it.
    async fn unsettled(&self, ledger: &Ledger) -> Result<bool, DemoError> {
        let pending = self.pending().await?;
        Ok(SUBSCRIBERS.iter().filter(|subscriber| subscriber.mood.is_some()).any(|subscriber| {
            self.receiver.accepted(subscriber.path) < ledger.owed(subscriber.subscription)
                || pending_at(&pending, subscriber) > 0
        }))
    }

    async fn pending(&self) -> Result<Vec<(String, i64)>, DemoError> {
        let rows = self.client.query(PENDING, &[]).await?;
        Ok(rows.iter().map(|row| (row.get("url"), row.get("pending"))).collect())
    }

    /// Step five: questions in SQL.
    async fn explain(&self, screen: &mut Screen) -> Result<(), DemoError> {
        screen.step("SQL is where one looks. How is every endpoint doing?");
        self.ask(screen, ENDPOINT_STATUS).await?;
        screen.step("What became of an event that had a hard time?");
        self.ask(screen, JOURNEY).await?;
        screen.step("Why has something not arrived yet?");
        self.ask(screen, WAITING).await
    }

    async fn ask(&self, screen: &Screen, statement: &str) -> Result<(), DemoError> {
        screen.sql(statement);
        screen.blank();
        screen.table(&self.client.simple_query(statement).await?);
        Ok(())
    }

    /// Step six: the witnesses are compared.
    async fn check(
        &self,
        screen: &mut Screen,
        ledger: &Ledger,
    ) -> Result<Vec<PromiseResult>, DemoError> {
        screen.step("Was every promise kept? The shop, the endpoints and the database are asked.");
        let rows = self.client.query(ACCOUNTS, &[]).await?;
        let count = |row: &tokio_postgres::Row, column: &str| {
            usize::try_from(row.get::<_, i64>(column)).unwrap_or(0)
        };
        let accounts: Vec<Account> = SUBSCRIBERS
            .iter()
            .filter_map(|subscriber| {
                let row =
                    rows.iter().find(|row| row.get::<_, &str>("url").ends_with(subscriber.path))?;
                Some(Account {
                    subscription: subscriber.subscription,
                    down: subscriber.mood.is_none(),
                    inbox: self.receiver.inbox(subscriber.path),
                    delivered: count(row, "delivered"),
                    waiting: count(row, "waiting"),
                    owed: count(row, "owed"),
                })
            })
            .collect();
        let findings = check::judge(ledger, &accounts);
        for finding in &findings {
            screen.finding(finding.kept, &finding.promise);
        }
        Ok(findings)
    }

    fn delivered(&self) -> usize {
        SUBSCRIBERS.iter().map(|subscriber| self.receiver.accepted(subscriber.path)).sum()
    }

    /// Ends all participants in order, as a deployment would.
    async fn end(mut self) -> Result<(), DemoError> {
        if let Some(relay) = self.relay.take() {
            relay.stop().await?;
        }
        self.cluster.stop(StopMode::Fast).await?;
        Ok(())
    }
}

fn pending_at(pending: &[(String, i64)], subscriber: &Subscriber) -> i64 {
    pending.iter().find(|(url, _)| url.ends_with(subscriber.path)).map_or(0, |&(_, count)| count)
}

//! The application: connections that insert events at a steady rate, one to five in a transaction
//! together with a row of their own, and roll a tenth of them back.
//!
//! When a connection breaks while it waits for the answer to COMMIT, the application does not know
//! what became of its transaction. Its own row tells: it is there exactly if the transaction
//! committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use posthaste::clock::Clock;
use tokio::task::JoinSet;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, NoTls, Statement, Transaction};
use tokio_util::sync::CancellationToken;

use super::events::{Event, WRITERS};
use super::ledger::{Fate, Ledger};

/// The application's own table.
pub const JOURNAL: &str = "create schema application; \
     create table application.journal (serial bigint primary key, doubted boolean not null)";
const INSERT: &str = "insert into posthaste.outbox (event_type, payload, tenant, ordering_key) \
     values ($1, $2::text::json, $3, $4) \
     returning id, (extract(epoch from created_at) * 1000000)::bigint";
/// Waits for a transaction with this row to end, if there is one.
const DOUBT: &str = "insert into application.journal values ($1, true) on conflict do nothing";

const MOST_PER_TRANSACTION: u32 = 5;
/// One in so many transactions is rolled back; one in so many events stands behind a savepoint that
/// is released, and as many behind one that is rolled back.
const ROLLED_BACK: u32 = 10;
const UNDONE: u32 = 20;
/// A writer that had no connection writes the events it missed, up to this much.
const CATCH_UP: Duration = Duration::from_secs(3);
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// A statement that takes longer waits for something that will not come.
const ANSWERED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Writing {
    pub url: String,
    pub ledger: Arc<Ledger>,
    pub events_a_second: f64,
    pub enough: CancellationToken,
}

struct Writer {
    writing: Arc<Writing>,
    next: u32,
    rng: Rng,
    due: Instant,
    /// A transaction whose end is not known.
    doubt: Option<Vec<u32>>,
}

struct Connection {
    client: Client,
    insert: Statement,
    _driver: JoinSet<()>,
}

/// Why a transaction did not end as it should.
struct Failed {
    error: tokio_postgres::Error,
    /// COMMIT had been sent.
    in_commit: bool,
}

impl From<tokio_postgres::Error> for Failed {
    fn from(error: tokio_postgres::Error) -> Self {
        Self { error, in_commit: false }
    }
}

/// Starts all writers. They end when it is enough and nothing is in doubt any more.
pub fn write(writing: &Arc<Writing>) -> JoinSet<()> {
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let rng = Rng::with_seed(writing.ledger.seed.rotate_left(32) ^ u64::from(number));
        let writing = Arc::clone(writing);
        let writer = Writer { writing, next: number, rng, due: Clock.instant(), doubt: None };
        writers.spawn(writer.run());
    }
    writers
}

impl Writer {
    async fn run(mut self) {
        while !self.writing.enough.is_cancelled() || self.doubt.is_some() {
            if let Ok(mut connection) = Connection::open(&self.writing.url).await {
                // A connection that fails is opened again.
                if let Err(failed) = self.use_up(&mut connection).await {
                    self.excuse(&failed.error);
                }
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn use_up(&mut self, connection: &mut Connection) -> Result<(), Failed> {
        self.resolve(connection).await?;
        while !self.writing.enough.is_cancelled() {
            let count = self.rng.u32(1..=MOST_PER_TRANSACTION);
            self.pace(count).await;
            let serials: Vec<u32> = (0..count).map(|n| self.next + n * WRITERS).collect();
            self.next += count * WRITERS;
            let rolled_back = self.rng.u32(..ROLLED_BACK) == 0;
            let done = tokio::time::timeout(
                ANSWERED_WITHIN,
                self.transaction(connection, &serials, rolled_back),
            );
            let Ok(done) = done.await else {
                let ledger = &self.writing.ledger;
                ledger.complain("the application had to wait", || format!("serials {serials:?}"));
                self.doubt = Some(serials);
                return Ok(());
            };
            match done {
                Ok(fates) => {
                    for (serial, fate) in fates {
                        self.writing.ledger.settle(&[serial], fate);
                    }
                }
                Err(failed) if failed.in_commit => {
                    self.doubt = Some(serials);
                    return Err(failed);
                }
                Err(failed) => {
                    self.writing.ledger.settle(&serials, Fate::RolledBack);
                    return Err(failed);
                }
            }
        }
        Ok(())
    }

    /// Waits until so many events are due.
    async fn pace(&mut self, count: u32) {
        let each = Duration::from_secs_f64(f64::from(WRITERS) / self.writing.events_a_second);
        let now = Clock.instant();
        self.due = (self.due + each * count).max(now.checked_sub(CATCH_UP).unwrap_or(now));
        tokio::select! {
            () = tokio::time::sleep_until(self.due.into()) => {}
            () = self.writing.enough.cancelled() => {}
        }
    }

    async fn transaction(
        &mut self,
        connection: &mut Connection,
        serials: &[u32],
        rolled_back: bool,
    ) -> Result<Vec<(u32, Fate)>, Failed> {
        let ledger = Arc::clone(&self.writing.ledger);
        let mut transaction = connection.client.transaction().await?;
        let journal = "insert into application.journal values ($1, false)";
        transaction.execute(journal, &[&i64::from(serials[0])]).await?;
        let mut fates = Vec::with_capacity(serials.len());
        for &serial in serials {
            let (event, draw) = (ledger.event(serial), self.rng.u32(..UNDONE));
            let undone = draw == 0;
            let inserted = if draw <= 1 {
                let savepoint = transaction.transaction().await?;
                let inserted = insert(&savepoint, &connection.insert, &event).await?;
                if undone {
                    savepoint.rollback().await?;
                } else {
                    savepoint.commit().await?;
                }
                inserted
            } else {
                insert(&transaction, &connection.insert, &event).await?
            };
            ledger.change(&[serial], |entry| {
                (entry.event_id, entry.created_at) = inserted;
                entry.fate = Fate::Open;
            });
            let lost = undone || rolled_back;
            fates.push((serial, if lost { Fate::RolledBack } else { Fate::Committed }));
        }
        for (serial, fate) in &fates {
            if *fate == Fate::RolledBack {
                ledger.settle(&[*serial], Fate::RolledBack);
            }
        }
        if rolled_back {
            transaction.rollback().await?;
            return Ok(fates);
        }
        let now = Clock.now().as_microsecond();
        ledger.change(serials, |entry| entry.sent_at = now);
        let committed = transaction.commit().await;
        committed.map_err(|error| Failed { error, in_commit: true })?;
        Ok(fates)
    }

    /// Finds out what became of the transaction that broke off in its COMMIT.
    async fn resolve(&mut self, connection: &Connection) -> Result<(), Failed> {
        let Some(serials) = &self.doubt else { return Ok(()) };
        let made = connection.client.execute(DOUBT, &[&i64::from(serials[0])]).await?;
        let fate = if made == 0 { Fate::Committed } else { Fate::RolledBack };
        self.writing.ledger.change(serials, |entry| {
            // Undone by a savepoint: that is known.
            if entry.fate == Fate::Open {
                entry.fate = fate;
            }
        });
        self.doubt = None;
        Ok(())
    }

    /// The server may end a session or be away; it may not refuse an event.
    fn excuse(&self, error: &tokio_postgres::Error) {
        const EXPECTED: [SqlState; 4] = [
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::CONNECTION_FAILURE,
        ];
        if error.code().is_some_and(|code| !EXPECTED.contains(code)) {
            let case = || format!("{error:?}");
            self.writing.ledger.complain("the database refused the application", case);
        }
    }
}

/// Number and time of creation of the event inserted.
async fn insert(
    transaction: &Transaction<'_>,
    statement: &Statement,
    event: &Event,
) -> Result<(i64, i64), tokio_postgres::Error> {
    let (payload, key) = (event.payload(), event.ordering_key());
    let parameters: [&(dyn ToSql + Sync); 4] = [&event.event_type, &payload, &event.tenant, &key];
    let row = transaction.query_one(statement, &parameters).await?;
    Ok((row.get(0), row.get(1)))
}

impl Connection {
    async fn open(url: &str) -> Result<Self, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // A connection that breaks shows as an error of the next statement.
            drop(connection.await);
        });
        client.batch_execute("set application_name = 'soak'").await?;
        let insert = client.prepare(INSERT).await?;
        Ok(Self { client, insert, _driver: driver })
    }
}

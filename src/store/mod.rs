//! Everything that touches the database. All SQL runs here, and nothing else uses `tokio_postgres`.
//!
//! One file of functions per table or concern; each function runs one statement of `sql/queries`,
//! named like itself, by way of [`statements`]. Nothing here holds a transaction or a connection
//! longer than its statement; the sessions that are kept, for the bell, for the lease and from one
//! check of a start to the next, are types of their own.

pub mod adopt;
pub mod ahead;
pub mod attempts;
mod batches;
pub mod bell;
mod connect;
pub mod deliveries;
pub mod doctor;
pub mod endpoints;
mod error;
mod found;
pub mod health;
mod holders;
mod loan;
pub mod migrate;
mod migrations;
pub mod ordering;
pub mod place;
mod pool;
pub mod preflight;
pub mod reach;
pub mod received;
pub mod refill;
pub mod relays;
pub mod roles;
pub mod routing;
mod rows;
pub mod rules;
mod run;
mod session;
pub mod set_aside;
mod statements;
pub mod steps;
mod tls;
pub mod upkeep;
mod url;
pub mod visit;
pub mod webhook_ids;
pub mod withdrawals;

use std::time::Duration;

use jiff::Timestamp;

use crate::clock::Present;

pub use connect::Database;
pub use error::StoreError;
pub use run::parameter_types;
pub use session::SESSION;

use statements::Statements;

/// `posthaste.relays.id`.
pub type RelayId = i32;

/// Three small pools on one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
    /// For statements on the queue, whose plans are pinned.
    queue: Statements,
    /// For routing, and for storing incoming webhooks.
    router: Statements,
    /// For routing a few events.
    few: Statements,
    /// For upkeep, now and then.
    upkeep: Statements,
    /// The present that Postgres goes by: its own, except in tests.
    present: Present,
}

/// How a session plans, or the one transaction for which a pooler lends it.
///
/// Statistics of a queue table are stale by nature: with autovacuum's view of
/// an empty table, one DELETE by primary key once turned into a hash join over a sequential scan
/// and ran at a third of the rate. So the plan that is right at every size is pinned. Sorting is
/// part of it: planned while the table was empty, a claim took to reading the whole primary key and
/// sorting what it found, and kept that plan until the next analyze.
pub const QUEUE_PLANS: &str = "set enable_seqscan = off; set enable_hashjoin = off; \
     set enable_mergejoin = off; set enable_sort = off; set enable_nestloop = on; \
     set plan_cache_mode = force_generic_plan; set jit = off;";
/// The same for routing.
///
/// It joins rows that it has just read, which no statistics know of: taken for one row, 500 were
/// joined with 500 by comparing each with each. So it hashes; row by row look-ups are written as
/// lateral subqueries.
pub const ROUTER_PLANS: &str = "set enable_seqscan = off; set enable_nestloop = off; \
     set enable_hashjoin = on; set enable_sort = on; \
     set plan_cache_mode = force_generic_plan; set jit = off;";
/// The same for a few events, where a pooler lends the session.
///
/// A statement is planned there whenever it is run. The whole statement keeps its generic plan: for
/// a backlog that no statistics know of, a custom one read and sorted all that was there, for the
/// first 500 rows of an index.
///
/// A generic plan is one over all days, which is right where it is made once: planning took 2.1 ms
/// with 9 partitions, 5.1 with 39, 9.6 with 69, 50 with 369. With the floor as it is given, days
/// before it are left out while planning: 2.0, 1.5, 2.0, 2.4.
pub const LENT_ROUTER_PLANS: &str = "set enable_seqscan = off; set enable_nestloop = off; \
     set enable_hashjoin = on; set enable_sort = on; \
     set plan_cache_mode = force_custom_plan; set jit = off;";
/// Statements that do not run with every batch may be planned by the statistics.
const UPKEEP_PLANS: &str = "set enable_seqscan = off; set jit = off;";

/// Postgres has ended a statement long before its answer is this much later than its time-out.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);

/// A relay routes with one statement at a time; a listener for webhooks stores with two.
const ROUTER_CONNECTIONS: usize = 2;
/// While one waits for a lock, the other can still reap a relay.
const UPKEEP_CONNECTIONS: usize = 2;

/// The most connections of a relay besides `database.pool_size`.
///
/// Two sessions of its own, for the bell and the lease, one for routing, and those of upkeep.
/// Behind a pooler routing may borrow a second one, and never both at a time.
pub const CONNECTIONS_BESIDE_POOL: usize = 2 + 1 + UPKEEP_CONNECTIONS;
/// The most connections of a listener for webhooks, besides the relay's.
pub const INGEST_CONNECTIONS: usize = ROUTER_CONNECTIONS;

impl Store {
    /// Opens the pools; connections are made when first needed.
    ///
    /// `connections` bounds the queue's pool, `statement_timeout` every statement.
    ///
    /// # Errors
    /// When the pool cannot be built.
    pub fn open(
        database: Database,
        connections: usize,
        statement_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let bound = format!("set statement_timeout = {};", statement_timeout.as_millis());
        let patience = statement_timeout + ANSWER_MARGIN;
        let open =
            |size, plans| Statements::open(&database, size, &format!("{plans}{bound}"), patience);
        let queue = open(connections.max(1), QUEUE_PLANS)?;
        let router = open(ROUTER_CONNECTIONS, ROUTER_PLANS)?;
        let few = if database.is_pooled() { open(1, LENT_ROUTER_PLANS)? } else { router.clone() };
        let upkeep = open(UPKEEP_CONNECTIONS, UPKEEP_PLANS)?;
        Ok(Self { database, queue, router, few, upkeep, present: Present::default() })
    }

    /// The same store with another present than Postgres's own.
    #[must_use]
    pub fn in_present(self, present: Present) -> Self {
        Self { present, ..self }
    }

    /// The same store, for statements on the queue and of routing that may take no longer than
    /// `bound`.
    #[must_use]
    pub fn within(&self, bound: Duration) -> Self {
        let bounded = |statements: &Statements| statements.within(bound);
        Self {
            queue: bounded(&self.queue),
            router: bounded(&self.router),
            few: bounded(&self.few),
            ..self.clone()
        }
    }

    fn now(&self) -> Option<Timestamp> {
        self.present.handed_in()
    }

    /// Where it connects to.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }
}

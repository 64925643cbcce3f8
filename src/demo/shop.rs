//! The application of the demo: a shop whose clients take orders at the pace of people.
//!
//! Like any application of Posthaste it makes one more `insert` in its own transactions. For the
//! check at the end it has a ledger of its commits and rollbacks.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement, Transaction};

use crate::clock::Clock;

pub(super) const ORDERS: &str = include_str!("sql/orders.sql");
pub(super) const PLACE_ORDER: &str = include_str!("sql/place_order.sql");
pub(super) const WRITE_EVENT: &str = include_str!("sql/write_event.sql");
const MOVE_ORDER: &str = include_str!("sql/move_order.sql");

/// Between two orders of one client.
const PACE: Duration = Duration::from_millis(40);
/// Of 100 orders, as many are rolled back, …
const ROLLED_BACK: u32 = 10;
/// … and of the others as many are paid, and as many cancelled.
const PAID: u32 = 45;
const CANCELLED: u32 = 10;
const CUSTOMERS: [&str; 5] = ["Ada", "Blaise", "Charles", "Edsger", "Grace"];

/// The shop's own account of its transactions.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// Event type and order number of each event committed.
    pub committed: HashSet<(String, i64)>,
    /// Numbers of the orders rolled back. No endpoint may ever hear of them.
    pub rolled_back: HashSet<i64>,
}

/// A shop that is open until the time it was given is over, or until it is dropped.
#[derive(Debug)]
pub struct Shop {
    ledger: Arc<Mutex<Ledger>>,
    clients: JoinSet<Result<(), tokio_postgres::Error>>,
}

impl Shop {
    /// Opens with this many clients, for this long.
    #[must_use]
    pub fn open(url: &str, clients: u32, open_for: Duration) -> Self {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let mut running = JoinSet::new();
        for number in 0..clients {
            // The same orders in every demo.
            let draw = Rng::with_seed(u64::from(number));
            let client = TillClient { url: url.to_owned(), draw, ledger: Arc::clone(&ledger) };
            running.spawn(client.run(open_for));
        }
        Self { ledger, clients: running }
    }

    /// The books as they stand.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        locked(&self.ledger).clone()
    }

    /// Waits until every client has ended.
    ///
    /// # Errors
    /// The first error of a client.
    pub async fn closed(&mut self) -> Result<(), tokio_postgres::Error> {
        while let Some(ended) = self.clients.join_next().await {
            // A client that panicked has taken no order that the ledger does not know.
            ended.unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}

impl Ledger {
    /// How many committed events an endpoint with this subscription is owed.
    #[must_use]
    pub fn owed(&self, subscription: &str) -> usize {
        self.committed.iter().filter(|(event, _)| matches(subscription, event)).count()
    }
}

/// The two kinds of patterns that the demo uses.
pub(super) fn matches(subscription: &str, event_type: &str) -> bool {
    subscription == "*" || subscription == event_type
}

struct TillClient {
    url: String,
    draw: Rng,
    ledger: Arc<Mutex<Ledger>>,
}

struct ShopStatements {
    place: Statement,
    change: Statement,
    event: Statement,
}

struct Order {
    id: i64,
    customer: &'static str,
    total_cents: i32,
}

impl TillClient {
    async fn run(self, open_for: Duration) -> Result<(), tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await?;
        let (served, connected) = tokio::join!(self.serve(client, open_for), connection);
        served.and(connected)
    }

    /// Takes the client, whose end is the connection's.
    async fn serve(
        mut self,
        mut client: Client,
        open_for: Duration,
    ) -> Result<(), tokio_postgres::Error> {
        let statements = ShopStatements {
            place: client.prepare(PLACE_ORDER).await?,
            change: client.prepare(MOVE_ORDER).await?,
            event: client.prepare(WRITE_EVENT).await?,
        };
        let opened = Clock.instant();
        let mut pace = tokio::time::interval(PACE);
        while Clock.since(opened) < open_for {
            pace.tick().await;
            let Some(order) = self.take_order(&mut client, &statements).await? else { continue };
            let fate = self.draw.u32(0..100);
            if fate < PAID {
                self.change(&mut client, &statements, &order, "order.paid").await?;
            } else if fate < PAID + CANCELLED {
                self.change(&mut client, &statements, &order, "order.cancelled").await?;
            }
        }
        Ok(())
    }

    /// Order and event in one transaction, which may be rolled back.
    async fn take_order(
        &mut self,
        client: &mut Client,
        statements: &ShopStatements,
    ) -> Result<Option<Order>, tokio_postgres::Error> {
        let customer = CUSTOMERS[self.draw.usize(..CUSTOMERS.len())];
        let total_cents = self.draw.i32(100..20_000);
        let transaction = client.transaction().await?;
        let placed = transaction.query_one(&statements.place, &[&customer, &total_cents]).await?;
        let order = Order { id: placed.get(0), customer, total_cents };
        write_event(&transaction, statements, &order, "order.created").await?;
        if self.draw.u32(0..100) < ROLLED_BACK {
            transaction.rollback().await?;
            locked(&self.ledger).rolled_back.insert(order.id);
            return Ok(None);
        }
        transaction.commit().await?;
        self.enter(&order, "order.created");
        Ok(Some(order))
    }

    async fn change(
        &self,
        client: &mut Client,
        statements: &ShopStatements,
        order: &Order,
        event_type: &str,
    ) -> Result<(), tokio_postgres::Error> {
        let status = event_type.trim_start_matches("order.");
        let transaction = client.transaction().await?;
        transaction.execute(&statements.change, &[&order.id, &status]).await?;
        write_event(&transaction, statements, order, event_type).await?;
        transaction.commit().await?;
        self.enter(order, event_type);
        Ok(())
    }

    fn enter(&self, order: &Order, event_type: &str) {
        locked(&self.ledger).committed.insert((event_type.to_owned(), order.id));
    }
}

async fn write_event(
    transaction: &Transaction<'_>,
    statements: &ShopStatements,
    order: &Order,
    event_type: &str,
) -> Result<(), tokio_postgres::Error> {
    let Order { id, customer, total_cents } = order;
    transaction.execute(&statements.event, &[&event_type, id, customer, total_cents]).await?;
    Ok(())
}

/// A client enters in one step; a panic elsewhere leaves no half entry.
fn locked(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_owed_what_it_subscribes_to() {
        let committed = [("order.created", 1), ("order.paid", 1), ("order.created", 2)];
        let committed = committed.map(|(event, order)| (event.to_owned(), order)).into();
        let ledger = Ledger { committed, ..Ledger::default() };
        assert_eq!(
            [ledger.owed("*"), ledger.owed("order.paid"), ledger.owed("order.x")],
            [3, 1, 0]
        );
    }
}

//! The cost of the relay's own statements when they are called as it calls them, one at a time and
//! with no other client there: claiming, asking what is due, routing.

use anyhow::{Context as _, Result, ensure};
use posthaste::model::dispatch::ClaimRequest;
use posthaste::store::deliveries::{claim, disown, due};
use posthaste::store::routing::{RoutingRoom, floor, route};
use posthaste::store::{Database, Store};

use super::PATIENCE;
use super::lab::Bed;
use super::statements::{self, Statement};

/// No relay has this number.
const NOBODY: i32 = 0;
/// Enough for whatever is claimed.
const BYTES: i64 = i64::MAX;

/// Calls them for one database.
pub(crate) struct Caller<'a> {
    bed: &'a Bed,
    store: Store,
    tokens: Vec<i64>,
}

/// Of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// That it read or wrote.
    pub(crate) buffers: f64,
    pub(crate) milliseconds: f64,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(bed: &'a Bed) -> Result<Self> {
        let database = Database::parse(&bed.url, None, None, PATIENCE)?;
        Ok(Self { bed, store: Store::open(database, 1, PATIENCE)?, tokens: Vec::new() })
    }

    /// Claims so many deliveries of each of these endpoints.
    pub(crate) async fn claim(&mut self, endpoints: &[i64], of_each: i32) -> Result<Cost> {
        let token = self.next_token();
        let of_each = usize::try_from(of_each)?;
        let asked = ClaimRequest {
            endpoints: endpoints.to_vec(),
            rooms: vec![of_each; endpoints.len()],
            bytes: vec![usize::MAX; endpoints.len()],
            tenant_of: vec![None; endpoints.len()],
            tenants: Vec::new(),
        };
        statements::begin(self.bed).await?;
        let claimed = claim(&self.store, NOBODY, token, &asked, (usize::MAX, true)).await?;
        let wanted = endpoints.len() * of_each;
        let claimed = claimed.claimed;
        ensure!(claimed.len() == wanted, "{} were claimed, {wanted} are due", claimed.len());
        self.cost_of("claim").await
    }

    /// Asks what is due.
    pub(crate) async fn due(&self, endpoints: usize) -> Result<Cost> {
        statements::begin(self.bed).await?;
        let owed = due(&self.store).await?;
        ensure!(owed.len() == endpoints, "{} of {endpoints} are owed something", owed.len());
        self.cost_of("due").await
    }

    /// Routes so many events, each to one endpoint, and claims none of their deliveries.
    pub(crate) async fn route(&mut self, events: u32) -> Result<Cost> {
        let token = self.next_token();
        let nothing =
            RoutingRoom { endpoints: &[], rooms: &[], of_others: 0, in_all: 0, bytes: BYTES };
        let floor = floor(&self.store).await?;
        statements::begin(self.bed).await?;
        // A step that is full leaves its end open.
        let most = events + 1;
        let routed = route(&self.store, NOBODY, token, most, floor, &nothing).await?;
        let routed = routed.context("nobody else routes")?;
        ensure!(routed.deliveries == events, "{routed:?}");
        self.cost_of("route").await
    }

    /// Gives back all that was claimed.
    pub(crate) async fn give_back(self) -> Result<()> {
        disown(&self.store, NOBODY, &self.tokens).await?;
        Ok(())
    }

    fn next_token(&mut self) -> i64 {
        let token = i64::try_from(self.tokens.len()).unwrap_or(i64::MAX);
        self.tokens.push(token);
        token
    }

    async fn cost_of(&self, name: &str) -> Result<Cost> {
        let all = statements::end(self.bed).await?;
        let each = |value: fn(&Statement) -> f64| statements::each_call(&all, name, value);
        Ok(Cost { buffers: each(|one| one.buffers), milliseconds: each(|one| one.milliseconds) })
    }
}

//! Applications and people: transactions with events in them, and the functions that steer. What
//! they did counts when it is committed, and not at all if it is rolled back.

use posthaste::model::delivery::EventId;
use posthaste::model::endpoint::EndpointId;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::ground::{CONNECTIONS, Micros, seconds, timestamp};
use super::operations::{Event as Inserted, States, Steering};
use super::truth::{Broken, Event, Held, Pair, PutBack, hold};
use super::world::World;

/// The filter of one of the endpoints.
pub const FILTERED_ABOVE: u8 = 1;

/// An open transaction: a frame for itself and for each savepoint.
#[derive(Debug)]
pub struct Transaction {
    frames: Vec<Frame>,
}

/// What has been done since a savepoint.
#[derive(Debug, Default)]
struct Frame {
    events: Vec<Event>,
    keys: Vec<(String, u8)>,
    put_back: Vec<PutBack>,
    /// Waited for its time, and is due now.
    due: Vec<Pair>,
}

const INSERT: &str = "insert into posthaste.outbox (event_type, payload, tenant, ordering_key, \
         idempotency_key, endpoint_id, deliver_at, expires_at) \
     select $2, $3::text::json, $4, $5, $6, $7, $8, $9 from generate_series(1, $1) \
     returning id, xid::text::bigint";
/// The relay's own, which triggers insert.
const ANNOUNCEMENTS: &str = "select id, xid::text::bigint, event_type, tenant, endpoint_id, \
         (extract(epoch from deliver_at) * 1000000)::bigint, \
         (extract(epoch from expires_at) * 1000000)::bigint \
     from posthaste.outbox where event_type like 'posthaste.%' and not id = any($1) order by id";

/// What a call may be refused with: no such endpoint or event, not in this state, a lock.
const REFUSALS: [&str; 4] = ["P0002", "55000", "55P03", "57014"];

impl World<'_> {
    /// The endpoints of every list: for all, for a tenant, with a filter, one at a time, for the
    /// relay's own news, in order, at a rate; each other number of attempts.
    pub async fn add_endpoints(&mut self) {
        // Retries at once, which no endpoint may ask for: so a short list has more of them.
        let endpoints = "alter table posthaste.endpoints \
                drop constraint if exists schedule_is_1_to_100_delays_of_1_second_to_30_days; \
             insert into posthaste.endpoints \
                (url, subscriptions, tenant, filter, max_attempts, schedule, max_concurrency, rate_limit, ordered, on_dead) values \
             ('https://receiver.example/1', '{*}', null, null, 3, '{0 s, 60 s}', null, null, false, 'block'), \
             ('https://receiver.example/2', '{order.*}', 'a', null, 1, '{5 s}', null, null, true, 'skip'), \
             ('https://receiver.example/3', '{user.left,order.sent}', null, '$ ? (@.n > 1)', 2, '{1 s}', null, null, false, 'block'), \
             ('https://receiver.example/4', '{*}', 'b', null, 4, '{0 s, 2 s}', 1, null, true, 'block'), \
             ('https://receiver.example/5', \
              '{posthaste.delivery.dead,posthaste.endpoint.disabled,posthaste.endpoint.paused}', \
              null, null, 2, '{1 s}', null, null, false, 'block'), \
             ('https://receiver.example/6', '{order.*}', null, null, 3, '{0 s, 2 s}', null, null, true, 'block'), \
             ('https://receiver.example/7', '{order.sent}', null, null, 2, '{1 s}', null, 2, false, 'skip')";
        self.ground.applications[0].batch_execute(endpoints).await.expect("add the endpoints");
        self.endpoints = 7;
    }

    fn connection(&self, on: u8) -> (usize, &Client) {
        let on = usize::from(on) % CONNECTIONS;
        (on, &self.ground.applications[on])
    }

    pub async fn begin(&mut self, on: u8) -> bool {
        let (index, client) = self.connection(on);
        if self.transactions[index].is_some() {
            return false;
        }
        let began = timestamp(self.now);
        let begin = format!("begin; set local simulation.began = '{began}'");
        client.batch_execute(&begin).await.expect("begin");
        self.transactions[index] = Some(Transaction { frames: vec![Frame::default()] });
        true
    }

    pub async fn savepoint(&mut self, on: u8) -> bool {
        let (index, client) = self.connection(on);
        if self.transactions[index].is_none() {
            return false;
        }
        client.batch_execute("savepoint here").await.expect("set a savepoint");
        let transaction = self.transactions[index].as_mut();
        transaction.expect("seen above").frames.push(Frame::default());
        true
    }

    pub async fn roll_back_to_savepoint(&mut self, on: u8) -> bool {
        let (index, client) = self.connection(on);
        let open = self.transactions[index].as_ref();
        if open.is_none_or(|transaction| transaction.frames.len() < 2) {
            return false;
        }
        let back = "rollback to savepoint here; release savepoint here";
        client.batch_execute(back).await.expect("roll back to a savepoint");
        let transaction = self.transactions[index].as_mut().expect("seen above");
        let frame = transaction.frames.pop();
        self.forget(frame);
        true
    }

    pub async fn commit(&mut self, on: u8) -> Held<bool> {
        let (index, client) = self.connection(on);
        if self.transactions[index].is_none() {
            return Ok(false);
        }
        client.batch_execute("commit").await.map_err(|error| Broken(format!("commit: {error}")))?;
        let transaction = self.transactions[index].take().expect("seen above");
        self.committed(transaction.frames).await;
        Ok(true)
    }

    pub async fn roll_back(&mut self, on: u8) -> bool {
        let (index, client) = self.connection(on);
        if self.transactions[index].is_none() {
            return false;
        }
        client.batch_execute("rollback").await.expect("roll back");
        let transaction = self.transactions[index].take().expect("seen above");
        for frame in transaction.frames {
            self.forget(Some(frame));
        }
        true
    }

    fn forget(&mut self, frame: Option<Frame>) {
        let events = frame.into_iter().flat_map(|frame| frame.events);
        self.truth.rolled_back.extend(events.map(|event| event.id));
    }

    async fn committed(&mut self, frames: Vec<Frame>) {
        // What was announced before is committed before.
        self.find_announcements().await;
        for frame in frames {
            self.truth.commit(frame.events);
            self.truth.keys.extend(frame.keys);
            for put_back in frame.put_back {
                self.truth.put_back(put_back);
            }
            for pair in frame.due {
                if let Some(owed) = self.truth.owed.get_mut(&pair) {
                    owed.not_before = 0;
                }
            }
        }
        self.find_announcements().await;
    }

    /// Learns of the events that triggers and `send_test` have inserted.
    pub async fn find_announcements(&mut self) {
        let known: Vec<EventId> = self.truth.committed.keys().copied().collect();
        let rows = self.ground.read_with(ANNOUNCEMENTS, &[&known]).await;
        let event = |row: &Row| Event {
            id: row.get(0),
            xid: row.get(1),
            event_type: row.get(2),
            tenant: row.get(3),
            to: row.get(4),
            deliver_at: row.get(5),
            expires_at: row.get(6),
            n: 0,
            ordering_key: None,
        };
        self.truth.commit(rows.iter().map(event).collect());
    }

    // ── events ──

    pub async fn insert(&mut self, on: u8, count: u8, event: Inserted) -> Held<bool> {
        let (index, client) = self.connection(on);
        let tenant = event.tenant.map(|tenant| tenant.name().to_owned());
        let ordering_key = event.ordering_key.map(|key| format!("key {key}"));
        let idempotency_key = event.idempotency_key.map(|key| format!("once {key}"));
        let moment = |after: Option<u32>| after.map(|after| self.now + seconds(after));
        let (deliver_at, expires_at) = (moment(event.after), moment(event.until));
        let of = |moment: Option<Micros>| moment.map(timestamp);
        let to = event.to.map(|to| i64::from(to) + 1);
        let rows = client
            .query(
                INSERT,
                &[
                    &i32::from(count.max(1)),
                    &event.kind.event_type(),
                    &format!("{{\"n\":{}}}", event.n),
                    &tenant,
                    &ordering_key,
                    &idempotency_key,
                    &to,
                    &of(deliver_at) as &(dyn ToSql + Sync),
                    &of(expires_at),
                ],
            )
            .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => {
                self.refused(index, &error, "insert").await?;
                return Ok(false);
            }
        };
        let key = event.idempotency_key.map(|key| (tenant.clone().unwrap_or_default(), key));
        if let Some(key) = &key {
            let expected = usize::from(!self.knows(index, key));
            hold(rows.len() == expected, || format!("{} events of the key {key:?}", rows.len()))?;
        }
        let known = |row: &Row| Event {
            id: row.get(0),
            xid: row.get(1),
            event_type: event.kind.event_type().to_owned(),
            tenant: tenant.clone(),
            n: event.n,
            ordering_key: ordering_key.clone(),
            to,
            deliver_at,
            expires_at,
        };
        let events = rows.iter().map(known).collect();
        let keys = key.into_iter().collect();
        self.did(index, Frame { events, keys, ..Frame::default() }).await;
        Ok(true)
    }

    fn knows(&self, index: usize, key: &(String, u8)) -> bool {
        let frames = self.transactions[index].iter().flat_map(|open| &open.frames);
        self.truth.keys.contains(key) || frames.into_iter().any(|frame| frame.keys.contains(key))
    }

    /// Something was done in the transaction; without one it is committed.
    async fn did(&mut self, index: usize, done: Frame) {
        match &mut self.transactions[index] {
            Some(transaction) => {
                let frame = transaction.frames.last_mut().expect("there is always one");
                frame.events.extend(done.events);
                frame.keys.extend(done.keys);
                frame.put_back.extend(done.put_back);
                frame.due.extend(done.due);
            }
            None => self.committed(vec![done]).await,
        }
    }

    /// A statement has failed: back to the savepoint, or to the beginning.
    async fn refused(&mut self, index: usize, error: &tokio_postgres::Error, what: &str) -> Held {
        let code = error.code().map_or("", |code| code.code());
        hold(REFUSALS.contains(&code), || format!("{what} failed: {error:?}"))?;
        let on = u8::try_from(index).expect("there are three");
        if !self.roll_back_to_savepoint(on).await {
            self.roll_back(on).await;
        }
        Ok(())
    }

    // ── steering ──

    pub async fn steer(&mut self, on: u8, what: Steering) -> Held<bool> {
        let (index, _) = self.connection(on);
        match self.call(index, what).await {
            Ok(done) => self.did(index, done?).await,
            Err(error) => {
                self.refused(index, &error, &format!("{what:?}")).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn call(
        &mut self,
        index: usize,
        what: Steering,
    ) -> Result<Held<Frame>, tokio_postgres::Error> {
        let client = &self.ground.applications[index];
        let nothing = Ok(Frame::default());
        let endpoint = |endpoint: u8| i64::from(endpoint) + 1;
        match what {
            Steering::Retry { event, endpoint: to } => {
                return self.retry(client, self.nth_event(event), endpoint(to)).await;
            }
            Steering::Replay { endpoint: to, states } => {
                return self.replay(client, endpoint(to), states).await;
            }
            Steering::Cancel { event, endpoint: to } => {
                let cancel = "select posthaste.cancel($1, $2, 'by hand')";
                client.query(cancel, &[&self.nth_event(event), &to.map(endpoint)]).await?;
            }
            Steering::CancelEndpoint { endpoint: to } => {
                let cancel = "select posthaste.cancel_endpoint($1, 'order.*', 'by hand')";
                client.query(cancel, &[&endpoint(to)]).await?;
            }
            Steering::Disable { endpoint: to } => {
                let disable = "select posthaste.disable_endpoint($1, 'by hand')";
                client.query(disable, &[&endpoint(to)]).await?;
            }
            Steering::Enable { endpoint: to } => {
                client.query("select posthaste.enable_endpoint($1)", &[&endpoint(to)]).await?;
            }
            Steering::Delete { endpoint: to } => {
                let delete = "delete from posthaste.endpoints where id = $1";
                client.execute(delete, &[&endpoint(to)]).await?;
            }
            Steering::Add => {
                let add = "select posthaste.add_endpoint('https://receiver.example/new', \
                     max_attempts => 2, schedule => '{1 s}')";
                client.query(add, &[]).await?;
                self.endpoints += 1;
            }
            Steering::Subscribe { endpoint: to, to_all } => {
                let to_what = if to_all { "{*}" } else { "{user.*}" };
                let subscribe = "update posthaste.endpoints set subscriptions = $2::text::text[] \
                     where id = $1";
                client.execute(subscribe, &[&endpoint(to), &to_what]).await?;
            }
            Steering::Order { endpoint: to, ordered } => {
                let order = "update posthaste.endpoints set ordered = $2 where id = $1";
                client.execute(order, &[&endpoint(to), &ordered]).await?;
            }
            Steering::Unblock { endpoint: to, skip: true } => {
                let skip = "select posthaste.unblock($1, skip => true)";
                client.query(skip, &[&endpoint(to)]).await?;
            }
            Steering::Unblock { endpoint: to, skip: false } => {
                let unblock = "select posthaste.unblock($1)";
                return self.revive(client, endpoint(to), unblock, &[&endpoint(to)]).await;
            }
            Steering::Rotate { endpoint: to } => {
                let rotate = "select posthaste.rotate_secret($1, '10 s')";
                client.query(rotate, &[&endpoint(to)]).await?;
            }
            Steering::Test { endpoint: to } => {
                client.query("select posthaste.send_test($1)", &[&endpoint(to)]).await?;
            }
        }
        Ok(nothing)
    }

    fn nth_event(&self, event: u8) -> EventId {
        let known = &self.truth.committed;
        let nth = usize::from(event).checked_rem(known.len());
        nth.and_then(|nth| known.keys().nth(nth)).copied().unwrap_or(0)
    }

    async fn retry(
        &self,
        client: &Client,
        event: EventId,
        endpoint: EndpointId,
    ) -> Result<Held<Frame>, tokio_postgres::Error> {
        let before = live(client, endpoint).await?;
        let retry = "select posthaste.retry($1, $2)";
        let said: String = client.query_one(retry, &[&event, &endpoint]).await?.get(0);
        let pair = (event, endpoint);
        Ok(Ok(match said.as_str() {
            "put back" => {
                let joins = self.joins(client, pair, &before).await?;
                let behind = self.truth.routed_span();
                let put_back = vec![PutBack { pair, not_before: 0, joins, behind }];
                Frame { put_back, ..Frame::default() }
            }
            "due" | "in line" => Frame { due: vec![pair], ..Frame::default() },
            _ => Frame::default(),
        }))
    }

    /// The line that a delivery joins which is put back, unless it is live and blocks one.
    async fn joins(
        &self,
        client: &Client,
        pair: Pair,
        before: &[Live],
    ) -> Result<Option<Option<String>>, tokio_postgres::Error> {
        if before.iter().any(|live| live.event == pair.0) {
            return Ok(None);
        }
        let ordered = "select ordered from posthaste.endpoints where id = $1";
        let ordered: bool = client.query_one(ordered, &[&pair.1]).await?.get(0);
        let event = self.truth.committed.get(&pair.0);
        Ok(Some(event.and_then(|(_, event)| event.ordering_key.clone()).filter(|_| ordered)))
    }

    /// It says how many, and the deliveries say which.
    async fn replay(
        &self,
        client: &Client,
        endpoint: EndpointId,
        states: States,
    ) -> Result<Held<Frame>, tokio_postgres::Error> {
        let replay = "select posthaste.replay($1, $2, $3, states => $4::text::text[])";
        let (since, until) = (timestamp(self.began), timestamp(self.now + 1));
        let parameters: [&(dyn ToSql + Sync); 4] = [&endpoint, &since, &until, &states.sql()];
        self.revive(client, endpoint, replay, &parameters).await
    }

    /// Calls what makes deliveries of an endpoint live again, or due that blocked their line. It
    /// says how many, and the deliveries say which.
    async fn revive(
        &self,
        client: &Client,
        endpoint: EndpointId,
        call: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Held<Frame>, tokio_postgres::Error> {
        let before = live(client, endpoint).await?;
        let said: i64 = client.query_one(call, parameters).await?.get(0);
        let mut put_back = Vec::new();
        for now in live(client, endpoint).await? {
            let was = before.iter().find(|live| live.event == now.event);
            if was.is_some_and(|was| was.blocked == now.blocked) {
                continue;
            }
            let pair = (now.event, endpoint);
            let known = self.truth.committed.get(&now.event);
            let not_before = known.and_then(|(_, event)| event.deliver_at).unwrap_or(0);
            let not_before = if was.is_some() { 0 } else { not_before };
            let joins = self.joins(client, pair, &before).await?;
            put_back.push(PutBack { pair, not_before, joins, behind: self.truth.routed_span() });
        }
        let counted = i64::try_from(put_back.len()).unwrap_or(i64::MAX);
        Ok(hold(said == counted, || format!("{call} said {said} and put back {put_back:?}"))
            .map(|()| Frame { put_back, ..Frame::default() }))
    }

    /// Lets every line go on that is blocked, and every endpoint: nobody would end what is held.
    pub async fn let_all_go_on(&mut self) -> Held {
        let held = "select e.id from posthaste.endpoints e where not e.enabled or exists ( \
             select from posthaste.live_deliveries d where d.endpoint_id = e.id and d.blocked_at is not null)";
        let held: Vec<EndpointId> =
            self.ground.read(held).await.iter().map(|row| row.get(0)).collect();
        for endpoint in held {
            let client = &self.ground.applications[0];
            let enable = "select posthaste.enable_endpoint($1)";
            client.query(enable, &[&endpoint]).await.map_err(failed)?;
            let unblock = "select posthaste.unblock($1)";
            let unblocked = self.revive(client, endpoint, unblock, &[&endpoint]).await;
            let unblocked = unblocked.map_err(failed)??;
            self.did(0, unblocked).await;
        }
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what map_err hands over")]
fn failed(error: tokio_postgres::Error) -> Broken {
    Broken(format!("a function of steering failed: {error:?}"))
}

/// A delivery that is owed now.
#[derive(Debug)]
struct Live {
    event: EventId,
    blocked: bool,
}

async fn live(client: &Client, endpoint: EndpointId) -> Result<Vec<Live>, tokio_postgres::Error> {
    let live = "select event_id, blocked_at is not null from posthaste.live_deliveries \
         where endpoint_id = $1 order by event_id";
    let rows = client.query(live, &[&endpoint]).await?;
    Ok(rows.iter().map(|row| Live { event: row.get(0), blocked: row.get(1) }).collect())
}

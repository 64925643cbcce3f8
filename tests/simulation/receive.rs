//! The receivers: what they get, and what they and the relay make of it.

use posthaste::model::delivery::{Delivery, EventId};
use posthaste::model::endpoint::EndpointId;
use posthaste::model::outcome::{Answer as Response, Cause, Outcome, Phase};
use posthaste::model::webhook_id::{WEBHOOK_ID_KEY_BYTES, WebhookIds};
use posthaste::store::RelayId;
use tokio_postgres::Row;

use super::ground::Micros;
use super::operations::Answer;
use super::relay::Relay;
use super::truth::{Held, Request, hold};
use super::world::World;

/// No receiver asks the database about one, so any key will do.
const WEBHOOK_IDS: WebhookIds = WebhookIds::new([7; WEBHOOK_ID_KEY_BYTES]);

impl World<'_> {
    /// A relay begins an attempt, and the receiver has it.
    pub async fn send(&mut self, relay: u8, which: u8) -> Held<bool> {
        let now = self.now;
        let request = self.truth.requests.len();
        let Some(relay) = self.relay(relay) else { return Ok(false) };
        let Some(mut in_flight) = relay.send(which, now) else { return Ok(false) };
        in_flight.request = request;
        let (number, delivery) = (relay.number, Delivery::clone(&in_flight.claim.delivery));
        relay.in_flight.push(in_flight);
        check_bounds(relay, delivery.endpoint_id, now)?;
        let lane = &relay.lanes[&delivery.endpoint_id];
        let (rate, has_session) = (lane.rate_limit(), relay.has_session);
        if let Some(rate) = rate {
            self.truth.check_rate((number, delivery.endpoint_id), rate, now)?;
        }
        if has_session {
            self.check_registered(number).await?;
        }

        let pair = (delivery.event_id, delivery.endpoint_id);
        let event = self.truth.event(pair.0)?;
        hold(delivery.event_type == event.event_type, || {
            format!("{delivery:?} is sent for {event:?}")
        })?;
        if !event.event_type.starts_with("posthaste.") {
            let payload = format!("{{\"n\":{}}}", event.n);
            hold(delivery.payload == payload, || format!("{delivery:?} is sent for {payload}"))?;
        }
        hold(self.truth.owed.contains_key(&pair), || format!("{pair:?} is sent and not owed"))?;
        self.check_turn(&delivery, number).await?;
        self.truth.requests.push(Request {
            relay: number,
            pair,
            webhook_id: WEBHOOK_IDS.of(delivery.event_id, delivery.event_created_at),
            answer: None,
        });
        Ok(true)
    }

    /// Of a line, only the first that is live is sent, and no other is claimed. (A relay that has
    /// lost its claim and does not know yet sends what is made again: that comes twice, as any
    /// may.)
    async fn check_turn(&self, delivery: &Delivery, relay: RelayId) -> Held {
        let pair = (delivery.event_id, delivery.endpoint_id);
        let Some((key, place)) = &self.truth.owed[&pair].line else { return Ok(()) };
        let live = "select event_id, claimed_by, claim_token from posthaste.live_deliveries \
             where endpoint_id = $1 and ordering_key = $2";
        let live = self.ground.read_with(live, &[&pair.1, key]).await;
        let claim = (Some(relay), Some(delivery.claim_token));
        let is_ours =
            |row: &Row| row.get::<_, i64>(0) == pair.0 && (row.get(1), row.get(2)) == claim;
        if !live.iter().any(is_ours) {
            return Ok(());
        }
        for row in live.iter().filter(|row| row.get::<_, i64>(0) != pair.0) {
            let other: EventId = row.get(0);
            let claimed: Option<RelayId> = row.get(1);
            hold(claimed.is_none(), || format!("{pair:?} and event {other} are out at once"))?;
            let line = self.truth.owed.get(&(other, pair.1)).and_then(|owed| owed.line.as_ref());
            let is_before = line.is_some_and(|(_, first)| first.is_before(place));
            hold(!is_before, || format!("{pair:?} is sent before event {other} of {key}"))?;
        }
        Ok(())
    }

    /// A relay that sends while its session is there has not been taken for dead.
    async fn check_registered(&self, relay: RelayId) -> Held {
        let registered = "select exists (select from posthaste.relays where id = $1)";
        let registered: bool = self.ground.read_with(registered, &[&relay]).await[0].get(0);
        hold(registered, || format!("relay {relay} sends, and was taken for dead"))
    }

    /// A request of a relay comes to an end.
    pub fn answer(&mut self, relay: u8, which: u8, answer: Answer) -> bool {
        let now = self.now;
        let Some(relay) = self.relay(relay) else { return false };
        let Some(index) = usize::from(which).checked_rem(relay.in_flight.len()) else {
            return false;
        };
        let in_flight = relay.in_flight.remove(index);
        let request = in_flight.request;
        let (number, endpoint) = (relay.number, in_flight.endpoint());
        relay.ended(in_flight, outcome(answer, request), now);
        self.truth.tally(number, endpoint, answer.is_accepted());
        self.truth.requests[request].answer = Some(answer);
        true
    }
}

/// A relay begins an attempt under a lease that is younger than others take it to last, and within
/// its own bounds and the endpoint's.
fn check_bounds(relay: &Relay, endpoint: EndpointId, now: Micros) -> Held {
    let number = relay.number;
    let lease = Micros::try_from(relay.lease_length().as_micros()).unwrap_or(Micros::MAX);
    let age = now - relay.renewed_at;
    hold(age < lease, || format!("relay {number} sends {age} µs after it renewed its lease"))?;
    let most = relay.config.relay.max_in_flight;
    hold(relay.in_flight.len() <= most, || format!("relay {number}: more than {most} requests"))?;
    let default = relay.config.delivery.max_concurrency;
    let most = relay.lanes[&endpoint].max_concurrency().unwrap_or(default);
    let to_it = relay.in_flight.iter().filter(|request| request.endpoint() == endpoint).count();
    hold(u32::try_from(to_it).is_ok_and(|count| count <= most), || {
        format!("relay {number}: {to_it} requests at once to endpoint {endpoint}")
    })
}

/// What the relay sees. The request's number is in it, so that what is recorded can be traced.
fn outcome(answer: Answer, request: usize) -> Outcome {
    let status = match answer {
        Answer::Accepted => 204,
        Answer::Failed => 500,
        Answer::Busy => 429,
        Answer::Unwanted => 422,
        Answer::Known => 409,
        Answer::Gone => 410,
        Answer::Extinct => 418,
        Answer::AcceptedUnheard => {
            return Outcome::Unreachable { cause: Cause::Reset, detail: told(request) };
        }
        Answer::TimedOut => return Outcome::TimedOut { phase: Phase::Headers },
    };
    let headers = match answer {
        Answer::Busy => vec![("retry-after".to_owned(), "40".to_owned())],
        _ => Vec::new(),
    };
    let body = told(request).into_bytes();
    Outcome::Answered(Response { status, headers, body, body_truncated: false, detail: None })
}

fn told(request: usize) -> String {
    format!("request {request}")
}

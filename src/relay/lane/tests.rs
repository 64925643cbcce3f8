//! A lane with its workers, without a database: what a worker reports is read where the recorder
//! would.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::relay::attempt::tests::{LoopbackReceiver, attempts, config};
use crate::relay::claims::Claims;
use crate::relay::ended::Results;
use crate::relay::fault::tests::{BUG, delivery};
use crate::relay::limits::budget::Budget;
use crate::store::routing::Claimed;
use crate::store::{Database, Store};

/// The lanes of a term that never asks its database anything.
pub(in crate::relay) fn lanes() -> (Lanes, Receiver<Ended>) {
    let (config, attempts) = (config(), attempts(8, Duration::from_secs(60)));
    let (results, receiver) = Results::new(1_000);
    let (term, clock) = (Arc::clone(&attempts.term), attempts.clock.clone());
    let lanes = Lanes::new(Workshop {
        claims: Arc::new(Claims::new(&config, &term, clock.clone())),
        clock,
        metrics: Arc::clone(&attempts.metrics),
        policy: Arc::clone(&attempts.policy),
        term,
        store: nowhere(),
        budget: Budget::new(64),
        attempts,
        results,
        effects: Arc::default(),
        share: Mutex::new(Share::ALONE),
        initial_window: 4,
        idle_timeout: Duration::from_secs(60),
    });
    (lanes, receiver)
}

fn nowhere() -> Store {
    let second = Duration::from_secs(1);
    let database = Database::parse("postgres://localhost/nowhere", None, None, second).unwrap();
    Store::open(database, 1, second).unwrap()
}

/// The lane of an endpoint with such a URL. Loopback alone may be dialled.
fn open(lanes: &Lanes, url: &str) -> Arc<Lane> {
    open_at(lanes, 3, 1, url)
}

/// The same of another endpoint, or at another revision.
fn open_at(lanes: &Lanes, id: EndpointId, revision: i64, url: &str) -> Arc<Lane> {
    let endpoint = Endpoint { url: url.to_owned(), ..Endpoint::unread(id, revision) };
    lanes.open(endpoint, None, Health::default(), None)
}

fn claims(lanes: &Lanes, count: usize) -> Vec<Claim> {
    claims_of(lanes, 3, count)
}

fn claims_of(lanes: &Lanes, endpoint_id: EndpointId, count: usize) -> Vec<Claim> {
    let holdings = &lanes.workshop.claims.holdings;
    let delivery = || Delivery { endpoint_id, ..delivery("order.paid") };
    let claimed = || Claimed { delivery: delivery(), cancelled: None };
    let booked = holdings.book(1, (0..count).map(|_| claimed()).collect());
    booked.into_iter().map(|booked| booked.claim).collect()
}

/// A URL that the relay refuses, without waiting for anything.
pub(in crate::relay) const FORBIDDEN: &str = "https://10.1.2.3/";

#[tokio::test]
async fn a_claim_takes_room_in_its_lane_and_its_relay_until_its_end_is_recorded() {
    let (lanes, mut results) = lanes();
    let lane = open(&lanes, FORBIDDEN);
    let room = lane.room();
    assert_eq!(room, 64);
    for claim in claims(&lanes, 1) {
        lane.push(claim).unwrap();
    }
    assert_eq!((lane.room(), lane.claimed()), (63, 1));
    let ended = results.recv().await.unwrap();
    assert!(ended.attempt().is_some_and(|attempt| attempt.number == 1));
    assert_eq!(
        (lane.claimed(), lanes.workshop.claims.holdings.count()),
        (1, 1),
        "not yet recorded"
    );
    drop(ended);
    assert_eq!((lane.claimed(), lanes.workshop.claims.holdings.count()), (0, 0));
}

#[tokio::test]
async fn what_is_queued_behind_a_request_that_pauses_the_endpoint_is_given_back() {
    let (lanes, mut results) = lanes();
    let lane = open(&lanes, FORBIDDEN);
    // No worker has run when all of them are queued: this test is the only thread.
    claims(&lanes, 3).into_iter().for_each(|claim| lane.push(claim).unwrap());
    let attempted = results.recv().await.unwrap();
    assert!(attempted.attempt().is_some());
    for _ in 0..2 {
        assert!(results.recv().await.unwrap().attempt().is_none(), "given back");
    }
    assert_eq!(lane.room(), 0, "paused");
    assert_eq!(lanes.in_flight(), 0);
    let rendered = lanes.workshop.metrics.render();
    assert!(rendered.contains("posthaste_endpoints_paused_total 1"), "{rendered}");
}

#[tokio::test]
async fn dismissed_lanes_give_back_what_they_hold_and_their_workers_leave() {
    let (lanes, mut results) = lanes();
    let lane = open(&lanes, FORBIDDEN);
    claims(&lanes, 2).into_iter().for_each(|claim| lane.push(claim).unwrap());
    lanes.dismiss().await;
    for _ in 0..2 {
        assert!(results.recv().await.unwrap().attempt().is_none(), "given back");
    }
    let workers = &lanes.workshop.term.workers;
    workers.close();
    workers.wait().await;
    assert_eq!((lane.claimed(), lane.room()), (0, 0));
}

#[tokio::test]
async fn a_claim_that_ends_without_its_lanes_help_takes_room_there_as_well() {
    let (lanes, _results) = lanes();
    let lane = open(&lanes, FORBIDDEN);
    let mut claim = claims(&lanes, 1).pop().unwrap();
    lane.hold(&mut claim);
    assert_eq!(lane.claimed(), 1);
    drop(claim);
    assert_eq!(lane.claimed(), 0);
}

#[tokio::test]
async fn relays_that_come_take_what_is_queued_beyond_this_relays_part() {
    let (lanes, mut results) = lanes();
    let endpoint =
        Endpoint { rate_limit: Some(2.0), url: FORBIDDEN.to_owned(), ..Endpoint::unread(3, 1) };
    let lane = lanes.open(endpoint, None, Health::default(), None);
    // Queued, but not called for: no worker has run.
    claims(&lanes, 20).into_iter().for_each(|claim| lane.lock().state.push(claim));
    lanes.divide(Share::among(&[1, 2], 1)).await;
    // One attempt a second is this relay's part.
    assert_eq!(lane.lock().state.queued(), 1);
    for _ in 0..19 {
        let ended = results.recv().await.unwrap();
        assert!(ended.attempt().is_none() && ended.is_left_to_others(), "given back");
    }
}

#[tokio::test]
async fn lanes_that_hold_nothing_are_forgotten_and_a_paused_endpoint_is_not() {
    let (lanes, mut results) = lanes();
    let lane = open(&lanes, FORBIDDEN);
    lanes.forget_idle(lanes.workshop.clock.instant());
    assert!(lanes.get(3).is_none());
    let paused = open(&lanes, FORBIDDEN);
    claims(&lanes, 1).into_iter().for_each(|claim| paused.push(claim).unwrap());
    drop(results.recv().await);
    lanes.workshop.term.workers.close();
    lanes.forget_idle(lanes.workshop.clock.instant());
    assert!(lanes.get(3).is_some());
    assert_eq!(lane.claimed(), 0);
}

#[tokio::test]
async fn a_lane_begins_with_half_of_what_was_learnt_and_one_that_is_open_knows_better() {
    let (lanes, mut results) = lanes();
    let learnt = Some(Remembered { size: 64, normal: 3.0 });
    let open = || {
        let endpoint = Endpoint { url: FORBIDDEN.to_owned(), ..Endpoint::unread(3, 1) };
        lanes.open(endpoint, None, Health::default(), learnt)
    };
    for _ in 0..2 {
        let lane = open();
        claims(&lanes, 1).into_iter().for_each(|claim| lane.push(claim).unwrap());
        drop(results.recv().await);
        let (_, _, window) = lane.take_tally().unwrap();
        assert_eq!(window, Some(Remembered { size: 32, normal: 3.0 }), "noted with each attempt");
    }
    assert_eq!(lanes.all().len(), 1);
}

/// Generous, since a machine may be busy; a claim that a bug has lost would be waited for for ever.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(Duration::from_secs(60), event).await;
    waited.expect("what the test waits for comes soon")
}

async fn holds(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Whether each of the next claims that end was sent, by its endpoint.
async fn ends(results: &mut Receiver<Ended>, count: usize) -> Vec<(EndpointId, bool)> {
    let mut ends = Vec::new();
    for _ in 0..count {
        let ended = soon(results.recv()).await.unwrap();
        let is_sent = ended
            .attempt()
            .is_some_and(|attempt| matches!(attempt.outcome, Some(Outcome::Answered(_))));
        ends.push((ended.claim.delivery.endpoint_id, is_sent));
    }
    ends.sort_unstable();
    ends
}

#[tokio::test]
async fn a_bug_beside_the_attempts_of_one_endpoint_ends_its_lane_and_neither_others_nor_the_term() {
    let receiver = LoopbackReceiver::accepting().await;
    let well = [(4, true); 3];
    for (place, is_sent) in [("taking", false), ("finishing", true), ("following", true)] {
        let (lanes, mut results) = lanes();
        let broken = open(&lanes, &format!("{}?{BUG}{place}", receiver.url()));
        let other = open_at(&lanes, 4, 1, &receiver.url());
        for claim in claims(&lanes, 1) {
            broken.push(claim).unwrap();
        }
        claims_of(&lanes, 4, 3).into_iter().for_each(|claim| other.push(claim).unwrap());
        let ended = ends(&mut results, 4).await;
        assert_eq!((ended[0], &ended[1..]), ((3, is_sent), &well[..]), "{place}");
        // Every worker of the lane has gone when it is told.
        holds(|| lanes.workshop.metrics.render().contains("posthaste_faults_total 1")).await;
        assert!(broken.push(claims(&lanes, 1).remove(0)).is_err(), "{place}");
        assert_eq!((broken.room(), lanes.in_flight()), (0, 0), "{place}");
        assert!(!lanes.workshop.term.is_ending(), "{place}");

        // Its next lane is another one, and works where the bug is not met again.
        let mended = open_at(&lanes, 3, 2, &receiver.url());
        assert!(mended.room() > 0);
        claims(&lanes, 2).into_iter().for_each(|claim| mended.push(claim).unwrap());
        claims_of(&lanes, 4, 3).into_iter().for_each(|claim| other.push(claim).unwrap());
        let ended = ends(&mut results, 5).await;
        assert_eq!((&ended[..2], &ended[2..]), (&[(3, true); 2][..], &well[..]), "{place}");
        assert_eq!(lanes.workshop.claims.holdings.count(), 0, "{place}");
    }
}

#[tokio::test]
async fn what_is_queued_behind_a_bug_is_given_back() {
    let (lanes, mut results) = lanes();
    let receiver = LoopbackReceiver::accepting().await;
    let broken = open(&lanes, &format!("{}?{BUG}taking", receiver.url()));
    claims(&lanes, 20).into_iter().for_each(|claim| broken.push(claim).unwrap());
    assert_eq!(ends(&mut results, 20).await, [(3, false); 20]);
    assert_eq!((broken.claimed(), receiver.requests()), (0, 0));
    lanes.forget_idle(lanes.workshop.clock.instant());
    assert!(lanes.get(3).is_none());
}

/// A lane of one request at a time, which has begun one and has two queued behind it.
async fn busy(lanes: &Lanes, receiver: &LoopbackReceiver) -> Arc<Lane> {
    let (url, one) = (receiver.url(), Some(1));
    let endpoint = Endpoint { url, max_concurrency: one, ..Endpoint::unread(3, 1) };
    let lane = lanes.open(endpoint, None, Health::default(), None);
    claims(lanes, 3).into_iter().for_each(|claim| lane.push(claim).unwrap());
    holds(|| receiver.requests() == 1).await;
    lane
}

#[tokio::test]
async fn from_the_moment_a_change_is_heard_of_nothing_more_is_taken_out() {
    for is_changed in [true, false] {
        let (lanes, mut results) = lanes();
        let gate = Arc::new(Semaphore::new(0));
        let receiver = LoopbackReceiver::held_by(&gate).await;
        let lane = busy(&lanes, &receiver).await;
        let held = lanes.outdate(&HashSet::from([3, 9]));
        assert_eq!(held.len(), 1, "of the other there is no lane");
        gate.add_permits(3);
        assert_eq!(ends(&mut results, 1).await, [(3, true)]);
        holds(|| !lane.lock().parked.is_empty()).await;
        assert_eq!(lane.lock().state.queued(), 2);
        assert!(!lane.is_current(1, lanes.workshop.clock.now()));

        let withdrawn = lane.brake(Some(if is_changed { 2 } else { 1 }));
        if is_changed {
            assert_eq!(withdrawn.len(), 2);
            assert!(lane.push(claims(&lanes, 1).remove(0)).is_err());
        } else {
            assert_eq!(withdrawn.len(), 0);
            assert_eq!(ends(&mut results, 2).await, [(3, true); 2]);
        }
    }
}

#[tokio::test]
async fn what_was_claimed_before_a_change_leaves_a_lane_that_was_opened_anew() {
    let (lanes, _results) = lanes();
    let receiver = LoopbackReceiver::held_by(&Arc::new(Semaphore::new(0))).await;
    let lane = busy(&lanes, &receiver).await;
    lanes.outdate(&HashSet::from([3]));
    lanes.reading();
    open_at(&lanes, 3, 2, &receiver.url());
    assert_eq!(lane.brake(Some(2)).len(), 2, "claimed at the revision before");
    assert_eq!(lane.brake(None).len(), 0);
    assert!(lane.push(claims(&lanes, 1).remove(0)).is_err(), "it is disabled");
}

#[tokio::test]
async fn a_lane_that_is_opened_by_what_was_read_before_a_change_sends_nothing() {
    let (lanes, _results) = lanes();
    for was_there in [false, true] {
        lanes.reading();
        lanes.outdate(&HashSet::from([3]));
        let lane = open(&lanes, FORBIDDEN);
        assert!(lanes.is_outdated_meanwhile(3), "it is read again");
        assert!(lane.push(claims(&lanes, 1).remove(0)).is_err(), "{was_there}");
        lanes.reading();
        assert!(!lanes.is_outdated_meanwhile(3));
        let lane = open(&lanes, FORBIDDEN);
        assert!(lane.is_current(1, lanes.workshop.clock.now()));
        lane.push(claims(&lanes, 1).remove(0)).unwrap();
    }
}

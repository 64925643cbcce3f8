//! What must hold when everything has come to its end, and what must never be said before.

use std::collections::{BTreeMap, BTreeSet};

use posthaste::model::delivery::EventId;

use super::ground::timestamp;
use super::operations::Answer;
use super::truth::{Broken, Held, Pair, hold};
use super::world::World;

/// A row of `attempts`.
#[derive(Debug, Clone)]
struct Attempt {
    pair: Pair,
    number: i32,
    outcome: String,
    verdict: String,
    reason: Option<String>,
    relay: i32,
    status: Option<i32>,
    /// From what the receiver said, if it was heard.
    request: Option<usize>,
}

const ATTEMPTS: &str = "select event_id, endpoint_id, number, outcome, verdict, reason, relay_id, \
         status, substring(coalesce(response_body, detail) from 'request (.*)')::bigint \
     from posthaste.delivery_attempts order by started_at, number";

/// With patience for whatever is only late: what is left is wrong whenever it is said.
const LATER: &str = "1 year";
/// What upkeep ends: the trigger of a deletion does not see what is routed before it commits, nor
/// does a relay that takes over from another see what that one claims at the same time.
const PASSES: [&str; 2] =
    ["a delivery's endpoint is gone", "a delivery is claimed by a relay that is gone"];

impl World<'_> {
    /// Asks for inconsistencies while much is under way: none may be reported.
    pub async fn check_in_passing(&mut self) -> Held<bool> {
        let problems = self.problems(LATER).await;
        let problems: Vec<_> = problems
            .iter()
            .filter(|said| !PASSES.iter().any(|passes| said.starts_with(passes)))
            .collect();
        hold(problems.is_empty(), || format!("check_consistency() says {problems:?}"))?;
        Ok(true)
    }

    async fn problems(&self, patience: &'static str) -> Vec<String> {
        let statement = "select concat_ws(' ', problem, event_id, endpoint_id, detail) \
             from posthaste.check_consistency($1, $2::text::interval)";
        let rows = self.ground.read_with(statement, &[&timestamp(self.began), &patience]).await;
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Asks everything, once all has come to its end.
    pub async fn check(&mut self) -> Held {
        let problems = self.problems("0").await;
        hold(problems.is_empty(), || format!("in the end check_consistency() says {problems:?}"))?;
        self.check_outbox().await?;
        self.check_requests()?;
        let rows = self.ground.read(ATTEMPTS).await;
        let attempt = |row: &tokio_postgres::Row| Attempt {
            pair: (row.get(0), row.get(1)),
            number: row.get(2),
            outcome: row.get(3),
            verdict: row.get(4),
            reason: row.get(5),
            relay: row.get(6),
            status: row.get(7),
            request: row.get::<_, Option<i64>>(8).and_then(|number| usize::try_from(number).ok()),
        };
        let attempts: Vec<Attempt> = rows.iter().map(attempt).collect();
        self.check_records(&attempts)?;
        let mut histories: BTreeMap<Pair, Vec<&Attempt>> = BTreeMap::new();
        for attempt in &attempts {
            histories.entry(attempt.pair).or_default().push(attempt);
        }
        let pairs: BTreeSet<Pair> =
            histories.keys().chain(self.truth.owed.keys()).copied().collect();
        for pair in pairs {
            let history = histories.remove(&pair).unwrap_or_default();
            self.check_history(pair, &history)
                .map_err(|Broken(what)| Broken(format!("{what}; its attempts are {history:#?}")))?;
            self.count_ends(&history);
        }
        Ok(())
    }

    /// What is in the outbox is what was committed, and each of it was routed once.
    async fn check_outbox(&mut self) -> Held {
        let rows = self.ground.read("select id from posthaste.outbox").await;
        let ids: BTreeSet<EventId> = rows.iter().map(|row| row.get(0)).collect();
        for id in &ids {
            self.truth.event(*id)?;
        }
        let routed = "select coalesce(sum(events), 0)::bigint from posthaste.routing";
        let routed: i64 = self.ground.read(routed).await[0].get(0);
        let committed = i64::try_from(self.truth.committed.len()).unwrap_or(i64::MAX);
        hold(routed == committed, || format!("{routed} events routed of {committed}"))
    }

    fn check_requests(&self) -> Held {
        let mut ids: BTreeMap<&str, EventId> = BTreeMap::new();
        for request in &self.truth.requests {
            let (event, id) = (request.pair.0, request.webhook_id.as_str());
            hold(!self.truth.rolled_back.contains(&event), || {
                format!("{request:?} is of an event that was rolled back")
            })?;
            let known = *ids.entry(id).or_insert(event);
            hold(known == event, || format!("{id} stands for events {known} and {event}"))?;
        }
        let events: BTreeSet<EventId> = ids.values().copied().collect();
        hold(events.len() == ids.len(), || format!("an event has several ids: {ids:?}"))
    }

    /// What is recorded happened, and is recorded once.
    fn check_records(&self, attempts: &[Attempt]) -> Held {
        let mut recorded = BTreeSet::new();
        for attempt in attempts {
            if attempt.verdict == "delivered" {
                hold(attempt.request.is_some(), || format!("{attempt:?} is of no request"))?;
            }
            let Some(number) = attempt.request else { continue };
            hold(recorded.insert(number), || format!("{attempt:?} is recorded twice"))?;
            let request = &self.truth.requests[number];
            let fits = request.pair == attempt.pair && request.relay == attempt.relay;
            hold(fits, || format!("{attempt:?} is not of {request:?}"))?;
            let delivered = request.answer.is_some_and(Answer::is_accepted);
            hold((attempt.verdict == "delivered") == delivered, || {
                format!("{attempt:?} is recorded of {request:?}")
            })?;
        }
        Ok(())
    }

    /// One delivery from beginning to end, as often as it was owed.
    fn check_history(&self, pair: Pair, history: &[&Attempt]) -> Held {
        let Some(owed) = self.truth.owed.get(&pair) else {
            return Err(Broken(format!("{pair:?} was never owed")));
        };
        let (mut ends, mut counted, mut interrupted, mut deleted) = (0, 0, 0, 0);
        let (mut recorded, mut given_up) = (0, 0);
        let most = self.most_attempts(pair.1);
        let mut last = None;
        for attempt in history {
            let expected = match (attempt.outcome.as_str(), attempt.verdict.as_str()) {
                ("interrupted", _) => counted + 1,
                ("none", "cancelled") => 0,
                _ => {
                    counted += 1;
                    recorded += 1;
                    counted
                }
            };
            hold(attempt.number == expected, || {
                format!("{pair:?}: attempt {} should be {expected}", attempt.number)
            })?;
            interrupted += usize::from(attempt.outcome == "interrupted");
            deleted += usize::from(attempt.reason.as_deref() == Some("endpoint deleted"));
            hold(counted <= most, || format!("{pair:?}: more than {most} attempts"))?;
            let ruled = matches!(attempt.status, Some(410 | 418));
            if attempt.verdict == "dead" {
                hold(counted == most || ruled, || format!("{pair:?}: dead too early"))?;
            }
            if attempt.verdict == "cancelled" {
                hold(attempt.reason.is_some(), || format!("{pair:?}: cancelled without a reason"))?;
                // The dead that block their line may be cancelled besides.
                given_up += usize::from(owed.line.is_some() && last == Some("dead"));
            }
            last = Some(attempt.verdict.as_str());
            if attempt.verdict != "retry" {
                (ends, counted) = (ends + 1, 0);
            }
        }
        hold((owed.times..=owed.times + given_up).contains(&ends), || {
            format!("{pair:?}: {ends} ends of what was owed {} times", owed.times)
        })?;
        hold(last != Some("retry"), || format!("{pair:?}: the last attempt was not the last"))?;
        let sent = self.truth.requests.iter().filter(|request| request.pair == pair).count();
        hold(sent >= recorded, || format!("{pair:?}: {recorded} attempts of {sent} requests"))?;
        hold(sent <= recorded + interrupted + deleted, || {
            format!("{pair:?}: {sent} requests, and {recorded} attempts, {interrupted} interrupted")
        })
    }

    fn most_attempts(&self, endpoint: i64) -> i32 {
        match endpoint {
            1 | 6 => 3,
            2 => 1,
            4 => 4,
            // And those that are added.
            _ => 2,
        }
    }

    fn count_ends(&mut self, history: &[&Attempt]) {
        for attempt in history.iter().filter(|attempt| attempt.verdict != "retry") {
            self.count(&format!("deliveries {}", attempt.verdict));
        }
        let interrupted = history.iter().filter(|attempt| attempt.outcome == "interrupted");
        let interrupted = interrupted.count();
        for _ in 0..interrupted {
            self.count("attempts interrupted");
        }
    }
}

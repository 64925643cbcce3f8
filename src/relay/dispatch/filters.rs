//! Asking filters about the events of a step. They are the one part of routing whose price
//! operators and applications decide, so they run where they can be ended: in a statement of their
//! own and for a short time; if that is not enough, for one endpoint after the other.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::endpoint::EndpointId;
use crate::model::routing::{Owing, SlowFilters, candidates};
use crate::store::StoreError;
use crate::store::steps::{Found, StepSession};

/// For the filters of a step. They take microseconds an event, and some milliseconds a megabyte.
const TOGETHER: Duration = Duration::from_millis(300);
/// For one filter and one event, before it is blamed.
pub(super) const ALONE: Duration = Duration::from_secs(1);

/// An event's place in the step, and a recipient's among those of the event.
type Question = (usize, usize);

/// The answers of filters.
#[derive(Debug, Default)]
pub(super) struct Filtered {
    /// The deliveries that filters let through.
    pub(super) let_through: HashSet<Question>,
    /// Those about which a filter was not asked, or took too long.
    unanswered: Vec<Question>,
    /// Why.
    error: Option<StoreError>,
}

/// Asks the filters of a step.
pub(super) async fn ask_filters(
    session: &StepSession,
    found: &Found,
    owing: &[Owing],
    slow: &mut SlowFilters,
) -> Result<Filtered, StoreError> {
    let now = Clock.instant();
    let endpoint = |&(event, place): &Question| owing[event].recipients[place].endpoint;
    let is_unasked = |one: &Question| slow.is_unasked(endpoint(one), now);
    let (unanswered, asked): (Vec<_>, Vec<_>) = candidates(owing).into_iter().partition(is_unasked);
    let mut filtered = Filtered { unanswered, ..Filtered::default() };
    if asked.is_empty() {
        return Ok(filtered);
    }
    match ask(session, found, owing, &asked, TOGETHER).await {
        Ok(through) => {
            filtered.let_through.extend(through);
            slow.answered(asked.iter().map(endpoint));
            return Ok(filtered);
        }
        Err(error) if error.may_be_of_some_row() => {}
        Err(error) => return Err(error),
    }
    let mut by_endpoint: BTreeMap<EndpointId, Vec<Question>> = BTreeMap::new();
    for one in asked {
        by_endpoint.entry(endpoint(&one)).or_default().push(one);
    }
    for (endpoint, asked) in by_endpoint {
        match ask_one(session, found, owing, &asked, &mut filtered).await? {
            None => slow.answered([endpoint]),
            Some(error) => {
                slow.took_too_long(endpoint, &error.in_full(), now);
                tracing::warn!(
                    endpoint,
                    error = error.in_full(),
                    "an endpoint's filter cannot be asked; what it may be owed is set aside"
                );
                filtered.error = Some(error);
            }
        }
    }
    Ok(filtered)
}

/// Asks one endpoint's filter: about all its events and, if that fails, about one after the other,
/// since large events may be the reason. Returns the error of the first that fails alone.
async fn ask_one(
    session: &StepSession,
    found: &Found,
    owing: &[Owing],
    asked: &[Question],
    filtered: &mut Filtered,
) -> Result<Option<StoreError>, StoreError> {
    if asked.len() > 1 {
        match ask(session, found, owing, asked, TOGETHER).await {
            Ok(through) => {
                filtered.let_through.extend(through);
                return Ok(None);
            }
            Err(error) if error.may_be_of_some_row() => {}
            Err(error) => return Err(error),
        }
    }
    for (n, one) in asked.iter().enumerate() {
        match ask(session, found, owing, &[*one], ALONE).await {
            Ok(through) => filtered.let_through.extend(through),
            Err(error) if error.may_be_of_some_row() => {
                filtered.unanswered.extend(&asked[n..]);
                return Ok(Some(error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Which of these the filters let through.
async fn ask(
    session: &StepSession,
    found: &Found,
    owing: &[Owing],
    asked: &[Question],
    bound: Duration,
) -> Result<Vec<Question>, StoreError> {
    let pair = |(event, place): &Question| {
        (&found.events[*event], owing[*event].recipients[*place].endpoint)
    };
    let pairs: Vec<_> = asked.iter().map(pair).collect();
    let answers = session.filter_events(&pairs, bound).await?;
    Ok(asked.iter().zip(answers).filter_map(|(one, passes)| passes.then_some(*one)).collect())
}

impl Filtered {
    /// Writes down which of the first `taken` events were not decided about.
    pub(super) async fn set_aside(
        &self,
        session: &StepSession,
        found: &Found,
        owing: &[Owing],
        taken: usize,
    ) -> Result<(), StoreError> {
        let pair = |(event, place): &Question| {
            (&found.events[*event], owing[*event].recipients[*place].endpoint)
        };
        let pairs: Vec<_> =
            self.unanswered.iter().filter(|(event, _)| *event < taken).map(pair).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        session.set_aside_pairs(&pairs, self.error.as_ref()).await
    }
}

//! The span of one attempt. It carries the ids, so that each line that is written within the
//! attempt, by this crate or by one below it, says to which delivery it belongs.

use tracing::Span;

use crate::model::delivery::EventId;
use crate::model::endpoint::EndpointId;

/// The span of attempt `number` (the first is 1) of an event's delivery to an endpoint.
///
/// Its level is debug. At the default level, info, it is disabled: the callsite's cached interest
/// is read and nothing is allocated, recorded or entered. A line at info or above that an operator
/// reads therefore names the ids itself.
#[must_use]
pub fn attempt(event: EventId, endpoint: EndpointId, number: u32) -> Span {
    tracing::debug_span!("attempt", event, endpoint, attempt = number)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::LogFormat;
    use crate::observe::log::tests::logged;

    fn line_within_an_attempt(level: &str, format: LogFormat) -> String {
        logged(level, format, false, || {
            attempt(7, 3, 2).in_scope(|| tracing::info!(status = 200, "receiver answered"));
        })
    }

    #[test]
    fn a_line_within_an_attempt_carries_event_endpoint_and_number() {
        let line: Value =
            serde_json::from_str(&line_within_an_attempt("debug", LogFormat::Json)).unwrap();
        let span = json!({"name": "attempt", "event": 7, "endpoint": 3, "attempt": 2});
        assert_eq!((&line["span"], &line["status"]), (&span, &json!(200)));
        let text = line_within_an_attempt("debug", LogFormat::Text);
        assert!(text.contains("attempt{event=7 endpoint=3 attempt=2}"), "{text}");
    }

    #[test]
    fn the_span_is_off_at_the_default_level() {
        let text = logged("info", LogFormat::Text, false, || {
            assert!(attempt(7, 3, 2).is_disabled());
        });
        assert_eq!(text, "");
        let line = line_within_an_attempt("info", LogFormat::Json);
        assert!(!line.contains("\"span\""), "{line}");
        let in_part =
            line_within_an_attempt("info,posthaste::observe::trace=debug", LogFormat::Json);
        assert!(in_part.contains("\"endpoint\":3"), "{in_part}");
    }

    #[tokio::test]
    async fn a_future_within_the_span_logs_with_the_ids_after_each_wait() {
        use tracing::Instrument as _;

        let lines = crate::observe::log::tests::Lines::default();
        let guard = lines.log_here("debug", LogFormat::Json);
        let work = async {
            tokio::task::yield_now().await;
            tracing::warn!("after a wait");
        };
        work.instrument(attempt(1, 2, 3)).await;
        drop(guard);
        let line: Value = serde_json::from_str(&lines.text()).unwrap();
        assert_eq!(line["span"]["attempt"], 3);
    }
}

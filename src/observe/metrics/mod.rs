//! The metrics of this process, served under `/metrics`.
//!
//! Handles are registered once, so counting is an atomic addition with no look-up. Nothing here is
//! global: a test has a set of its own.

mod handles;
mod table;

use std::ops::Deref;
use std::time::Duration;

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::stopper::Stopper;
use handles::Registrar;

pub use handles::Declared;
pub use table::{Handles, IngestHandles};

/// How often recorded durations are folded into their buckets. They are kept singly until then: at
/// 50,000 deliveries a second that is some 2 MB.
const FOLD_EVERY: Duration = Duration::from_secs(5);

/// The handles, and what renders them. Share it in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    handles: Handles,
    recorded: PrometheusHandle,
}

impl Deref for Metrics {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl Metrics {
    #[must_use]
    pub fn new() -> Self {
        let recorder = recorder();
        let handles = Handles::register(&Registrar(&recorder));
        Self { handles, recorded: recorder.handle() }
    }

    /// Every metric, in the order of its declaration.
    #[must_use]
    pub fn table() -> Vec<Declared> {
        Handles::table()
    }

    /// Everything, in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.recorded.render()
    }

    /// Bounds the memory of recorded durations until the stop, also where no scraper asks for
    /// `/metrics`.
    pub async fn keep(&self, stopper: &Stopper) {
        let mut ticks = tokio::time::interval(FOLD_EVERY);
        loop {
            // dropping a tick or the wait for a stop loses nothing
            tokio::select! {
                _ = ticks.tick() => self.recorded.run_upkeep(),
                () = stopper.stopping() => return,
            }
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn recorder() -> PrometheusRecorder {
    let histograms = Metrics::table().into_iter().filter(|metric| !metric.buckets.is_empty());
    let builder = histograms.fold(PrometheusBuilder::new(), |builder, metric| {
        builder
            .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), &metric.buckets)
            .expect("there is at least one bucket")
    });
    builder.build_recorder()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::outcome::{Answer, Outcome};

    #[test]
    fn every_metric_is_there_from_the_start_and_says_what_it_means() {
        let text = Metrics::new().render();
        let of = |comment: &str| -> Vec<String> {
            let words = text.lines().filter_map(|line| line.strip_prefix(comment));
            let mut names: Vec<_> =
                words.map(|rest| rest.split(' ').next().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(of("# HELP "), of("# TYPE "));
        assert!(of("# TYPE ").iter().all(|name| name.starts_with("posthaste_")));
        for line in [
            "posthaste_deliveries_total{verdict=\"delivered\"} 0",
            "posthaste_attempts_total{outcome=\"answered\",status=\"5xx\"} 0",
            "posthaste_database_errors_total{during=\"record\"} 0",
            "posthaste_asleep 0",
        ] {
            assert!(text.lines().any(|there| there == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn an_attempt_is_counted_by_its_outcome_and_the_class_of_its_status() {
        let metrics = Metrics::new();
        let answered = |status| Outcome::Answered(Answer { status, ..Answer::default() });
        for outcome in
            [answered(503), answered(504), answered(200), answered(999), Outcome::Interrupted]
        {
            metrics.attempts.of(&outcome).increment(1);
        }
        let text = metrics.render();
        for (labels, count) in [
            ("outcome=\"answered\",status=\"5xx\"", 2),
            ("outcome=\"answered\",status=\"2xx\"", 1),
            ("outcome=\"answered\",status=\"other\"", 1),
            ("outcome=\"interrupted\",status=\"\"", 1),
            ("outcome=\"answered\",status=\"4xx\"", 0),
        ] {
            let line = format!("posthaste_attempts_total{{{labels}}} {count}");
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn the_values_of_a_label_are_told_in_the_meaning_of_the_metric() {
        let told_elsewhere = ["", "version"];
        let text = Metrics::new().render();
        for Declared { name, meaning, labels, .. } in Metrics::table() {
            if name == "posthaste_ingest_requests_total" {
                continue; // they are statuses of HTTP
            }
            for label in labels.iter().filter(|label| !told_elsewhere.contains(label)) {
                let lines = text.lines().filter(|line| line.starts_with(name));
                let mut values = lines.filter_map(|line| {
                    line.split_once(&format!("{label}=\""))?.1.split('"').next()
                });
                let is_class = |value: &str| ["", "2xx", "3xx", "4xx"].contains(&value);
                let untold = values
                    .find(|value| !is_class(value) && !meaning.contains(&format!("`{value}`")));
                assert_eq!(untold, None, "{name}: {meaning}");
            }
        }
    }

    #[test]
    fn durations_fall_into_buckets() {
        let metrics = Metrics::new();
        metrics.attempt_duration.record(0.003);
        metrics.attempt_duration.record(20.0);
        metrics.record_batch_size.record(7.0);
        let text = metrics.render();
        for line in [
            "posthaste_attempt_duration_seconds_bucket{le=\"0.0025\"} 0",
            "posthaste_attempt_duration_seconds_bucket{le=\"0.005\"} 1",
            "posthaste_attempt_duration_seconds_bucket{le=\"30\"} 2",
            "posthaste_record_batch_size_bucket{le=\"10\"} 1",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn two_sets_do_not_share_their_counts() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.bells.increment(3);
        assert!(one.render().contains("posthaste_bells_total 3"));
        assert!(other.render().contains("posthaste_bells_total 0"));
    }

    #[tokio::test]
    async fn keeping_ends_with_the_stop() {
        let stopper = Stopper::new();
        stopper.stop();
        Metrics::new().keep(&stopper).await;
    }
}

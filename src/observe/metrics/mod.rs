//! Every metric of this process: its name, its meaning and its handle.
//!
//! Handles are registered once, so
//! counting is an atomic addition with no look-up; a test may have its own set, as nothing here is global.
//! What is served under `/metrics` comes from [`Metrics::render`].

mod ingest;

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::model::outcome::Outcome;
use crate::stopper::Stopper;

pub use ingest::Ingest;

/// How often recorded durations are folded into their buckets. They are kept one by one until then: at
/// 50,000 deliveries a second this holds some 2 MB.
const FOLD_EVERY: Duration = Duration::from_secs(5);

/// From a receiver in the same rack to the longest time-out anybody should set.
const ATTEMPT_BUCKETS: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// A statement takes about a millisecond; at a second something is in its way.
const STATEMENT_BUCKETS: [f64; 10] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];
const BATCH_BUCKETS: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

const ATTEMPT_DURATION: &str = "posthaste_attempt_duration_seconds";
const STATEMENT_DURATION: &str = "posthaste_statement_duration_seconds";
const RECORD_BATCH_SIZE: &str = "posthaste_record_batch_size";

/// What upkeep does, in this order.
const UPKEEP: [&str; 6] = [
    "release_orphans",
    "make_partitions",
    "drop_partitions",
    "cancel_orphans",
    "trim",
    "trim_received",
];

/// The handles. Share it in an `Arc`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Metrics {
    pub events_routed: Counter,
    pub events_unmatched: Counter,
    pub deliveries_routed: Counter,
    pub deliveries_claimed: Counter,
    pub deliveries: ByVerdict,
    /// Seconds from taking up an attempt to its outcome.
    pub attempt_duration: Histogram,
    attempts: ByOutcome,
    /// Requests that went out again at once, over a new connection.
    pub sent_again: Counter,
    /// Panics that ended one attempt or made one endpoint unusable.
    pub faults: Counter,
    pub claims_lost: Counter,
    pub claims_released: Counter,
    /// Requests now in flight.
    pub in_flight: Gauge,
    /// Payload bytes of claimed deliveries.
    pub in_flight_bytes: Gauge,
    /// Endpoints that are owed something nobody has claimed, as of the last poll.
    pub endpoints_waiting: Gauge,
    /// Seconds that the first of that has been due.
    pub oldest_due: Gauge,
    /// Deliveries this relay has claimed, in flight or waiting for room.
    pub claimed: Gauge,
    /// Results not yet recorded.
    pub results_waiting: Gauge,
    /// Results recorded by one statement.
    pub record_batch_size: Histogram,
    pub route_duration: Histogram,
    pub claim_duration: Histogram,
    pub record_duration: Histogram,
    pub bells: Counter,
    pub wakes: ByWake,
    /// 1 while the relay sleeps and wants the bell, else 0.
    pub asleep: Gauge,
    pub database_errors: ByDoing,
    upkeep_failures: [(&'static str, Counter); UPKEEP.len()],
    pub database_went_back: Counter,
    pub relay_takeovers: Counter,
    pub endpoints_paused: Counter,
    pub endpoints_disabled: Counter,
    pub ingest: Ingest,
    handle: PrometheusHandle,
}

/// `posthaste_deliveries_total{verdict}`: recorded verdicts.
#[derive(Debug)]
pub struct ByVerdict {
    pub delivered: Counter,
    pub retry: Counter,
    pub dead: Counter,
    pub cancelled: Counter,
}

/// `posthaste_wakes_total{reason}`.
#[derive(Debug)]
pub struct ByWake {
    /// A bell rang.
    pub bell: Counter,
    /// The poll interval passed.
    pub poll: Counter,
    /// A retry fell due.
    pub due: Counter,
    /// The session was lost and is back.
    pub reconnected: Counter,
}

/// `posthaste_database_errors_total{during}`.
#[derive(Debug)]
pub struct ByDoing {
    pub route: Counter,
    pub claim: Counter,
    pub record: Counter,
    pub heartbeat: Counter,
    pub wake: Counter,
    pub upkeep: Counter,
    pub ingest: Counter,
}

#[derive(Debug)]
struct ByOutcome {
    /// By the hundreds of the status; the first is for those that have none of these.
    answered: [Counter; 6],
    timed_out: Counter,
    unreachable: Counter,
    refused: Counter,
    interrupted: Counter,
}

impl Metrics {
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table: each metric with its name and meaning")]
    pub fn new() -> Self {
        let recorder = recorder();
        let new = Registrar(&recorder);
        new.gauge_of(
            "posthaste_build_info",
            "1, with the version of this relay.",
            &[("version", env!("CARGO_PKG_VERSION"))],
        )
        .set(1);
        Self {
            events_routed: new.counter("posthaste_events_routed_total", "Events routed."),
            events_unmatched: new
                .counter("posthaste_events_unmatched_total", "Events that no endpoint was owed."),
            deliveries_routed: new
                .counter("posthaste_deliveries_routed_total", "Deliveries made by routing."),
            deliveries_claimed: new.counter(
                "posthaste_deliveries_claimed_total",
                "Deliveries claimed, by routing or later.",
            ),
            deliveries: new.by_verdict(),
            attempt_duration: new.histogram(ATTEMPT_DURATION, "How long attempts took.", &[]),
            attempts: new.by_outcome(),
            sent_again: new.counter(
                "posthaste_sent_again_total",
                "Requests sent a second time at once: the kept connection was closed unanswered.",
            ),
            faults: new.counter(
                "posthaste_faults_total",
                "Bugs that one attempt or one endpoint met; the others went on.",
            ),
            claims_lost: new.counter(
                "posthaste_claims_lost_total",
                "Results dropped because the claim had been taken away.",
            ),
            claims_released: new.counter(
                "posthaste_claims_released_total",
                "Claims given back without an attempt.",
            ),
            in_flight: new.gauge("posthaste_in_flight", "Requests in flight."),
            in_flight_bytes: new
                .gauge("posthaste_in_flight_bytes", "Payload bytes of claimed deliveries."),
            endpoints_waiting: new.gauge(
                "posthaste_endpoints_waiting",
                "Endpoints that are owed something unclaimed.",
            ),
            oldest_due: new.gauge(
                "posthaste_oldest_due_seconds",
                "For how long the delivery that waits longest has been due.",
            ),
            claimed: new.gauge("posthaste_claimed", "Deliveries this relay has claimed."),
            results_waiting: new
                .gauge("posthaste_results_waiting", "Results waiting to be recorded."),
            record_batch_size: new.histogram(
                RECORD_BATCH_SIZE,
                "Results recorded by one statement.",
                &[],
            ),
            route_duration: new.statement("route"),
            claim_duration: new.statement("claim"),
            record_duration: new.statement("record"),
            bells: new.counter("posthaste_bells_total", "Bells heard."),
            wakes: new.by_wake(),
            asleep: new.gauge("posthaste_asleep", "1 while the relay sleeps until the bell rings."),
            database_errors: new.by_doing(),
            upkeep_failures: UPKEEP.map(|task| (task, new.upkeep_failures(task))),
            database_went_back: new.counter(
                "posthaste_database_went_back_total",
                "How often something was gone that had been committed.",
            ),
            relay_takeovers: new.counter(
                "posthaste_relay_takeovers_total",
                "Dead relays whose claims this one released.",
            ),
            endpoints_paused: new.counter(
                "posthaste_endpoints_paused_total",
                "Pauses of endpoints that kept failing.",
            ),
            endpoints_disabled: new.counter(
                "posthaste_endpoints_disabled_total",
                "Endpoints disabled by a rule or for failing too long.",
            ),
            ingest: Ingest::new(&new),
            handle: recorder.handle(),
        }
    }

    /// `posthaste_attempts_total{outcome, status}` of such an attempt.
    pub fn attempts(&self, outcome: &Outcome) -> &Counter {
        let attempts = &self.attempts;
        match outcome {
            Outcome::Answered(answer) => attempts
                .answered
                .get(usize::from(answer.status / 100))
                .unwrap_or(&attempts.answered[0]),
            Outcome::TimedOut { .. } => &attempts.timed_out,
            Outcome::Unreachable { .. } => &attempts.unreachable,
            Outcome::Refused { .. } => &attempts.refused,
            Outcome::Interrupted => &attempts.interrupted,
        }
    }

    /// `posthaste_upkeep_failures_total{task}`.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn upkeep_failures(&self, task: &str) -> &Counter {
        let of = self.upkeep_failures.iter().find(|(name, _)| *name == task);
        &of.expect("each task of upkeep is listed above").1
    }

    /// Everything, in the Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Keeps the memory of recorded durations bounded even when nobody asks for `/metrics`, until the stop.
    pub async fn keep(&self, stopper: &Stopper) {
        let mut ticks = tokio::time::interval(FOLD_EVERY);
        loop {
            // dropping a tick or the wait for a stop loses nothing
            tokio::select! {
                _ = ticks.tick() => self.handle.run_upkeep(),
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
    let buckets = |builder: PrometheusBuilder, name: &str, buckets: &[f64]| {
        builder
            .set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)
            .expect("the lists of buckets are constants and not empty")
    };
    let builder = buckets(PrometheusBuilder::new(), ATTEMPT_DURATION, &ATTEMPT_BUCKETS);
    let builder = buckets(builder, STATEMENT_DURATION, &STATEMENT_BUCKETS);
    let builder = buckets(builder, ingest::BATCH_SIZE, &BATCH_BUCKETS);
    buckets(builder, RECORD_BATCH_SIZE, &BATCH_BUCKETS).build_recorder()
}

/// Describes and registers at once, so that no metric goes without its meaning.
struct Registrar<'a>(&'a PrometheusRecorder);

type Labels = [(&'static str, &'static str)];

impl Registrar<'_> {
    fn counter(&self, name: &'static str, meaning: &'static str) -> Counter {
        self.counter_of(name, meaning, &[])
    }

    fn counter_of(&self, name: &'static str, meaning: &'static str, labels: &Labels) -> Counter {
        self.0.describe_counter(name.into(), None, meaning.into());
        self.0.register_counter(&key(name, labels), &ABOUT)
    }

    fn gauge(&self, name: &'static str, meaning: &'static str) -> Gauge {
        self.gauge_of(name, meaning, &[])
    }

    fn gauge_of(&self, name: &'static str, meaning: &'static str, labels: &Labels) -> Gauge {
        self.0.describe_gauge(name.into(), None, meaning.into());
        self.0.register_gauge(&key(name, labels), &ABOUT)
    }

    fn histogram(&self, name: &'static str, meaning: &'static str, labels: &Labels) -> Histogram {
        self.0.describe_histogram(name.into(), None, meaning.into());
        self.0.register_histogram(&key(name, labels), &ABOUT)
    }

    fn statement(&self, statement: &'static str) -> Histogram {
        self.histogram(
            STATEMENT_DURATION,
            "How long the relay's statements took.",
            &[("statement", statement)],
        )
    }

    fn upkeep_failures(&self, task: &'static str) -> Counter {
        let meaning = "Tasks of upkeep that failed; each is tried again the next time.";
        self.counter_of("posthaste_upkeep_failures_total", meaning, &[("task", task)])
    }

    fn by_verdict(&self) -> ByVerdict {
        let meaning = "Verdicts recorded; a retried delivery counts each time.";
        let of =
            |word| self.counter_of("posthaste_deliveries_total", meaning, &[("verdict", word)]);
        ByVerdict {
            delivered: of("delivered"),
            retry: of("retry"),
            dead: of("dead"),
            cancelled: of("cancelled"),
        }
    }

    fn by_outcome(&self) -> ByOutcome {
        let of = |labels: &Labels| {
            self.counter_of(
                "posthaste_attempts_total",
                "Attempts made, by what came of them.",
                labels,
            )
        };
        let answered = |class| of(&[("outcome", "answered"), ("status", class)]);
        let none = |word| of(&[("outcome", word), ("status", "")]);
        ByOutcome {
            answered: ["other", "1xx", "2xx", "3xx", "4xx", "5xx"].map(answered),
            timed_out: none("timed_out"),
            unreachable: none("unreachable"),
            refused: none("refused"),
            interrupted: none("interrupted"),
        }
    }

    fn by_wake(&self) -> ByWake {
        let of = |word| {
            let meaning = "How often a sleeping relay woke, and why.";
            self.counter_of("posthaste_wakes_total", meaning, &[("reason", word)])
        };
        ByWake {
            bell: of("bell"),
            poll: of("poll"),
            due: of("due"),
            reconnected: of("reconnected"),
        }
    }

    fn by_doing(&self) -> ByDoing {
        let of = |word| {
            let meaning = "Statements or connections that failed, by what they were for.";
            self.counter_of("posthaste_database_errors_total", meaning, &[("during", word)])
        };
        ByDoing {
            route: of("route"),
            claim: of("claim"),
            record: of("record"),
            heartbeat: of("heartbeat"),
            wake: of("wake"),
            upkeep: of("upkeep"),
            ingest: of("ingest"),
        }
    }
}

/// The recorder asks for it and reads none of it.
const ABOUT: Metadata<'static> = Metadata::new("posthaste", Level::INFO, None);

fn key(name: &'static str, labels: &Labels) -> Key {
    Key::from_parts(
        name,
        labels.iter().map(|(label, value)| Label::new(*label, *value)).collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::outcome::Answer;

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
            metrics.attempts(&outcome).increment(1);
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

//! The types of handles: a counter, gauge or histogram alone, or one for each value of a label.

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::PrometheusRecorder;

use crate::model::outcome::Outcome;

/// A metric as the table declares it.
#[derive(Debug, Clone)]
pub struct Declared {
    pub name: &'static str,
    pub meaning: &'static str,
    pub labels: &'static [&'static str],
    /// Of a histogram: the upper bounds. Otherwise empty.
    pub buckets: Vec<f64>,
}

/// A type that the table may have for a handle.
pub(super) trait Handle {
    const LABELS: &'static [&'static str] = &[];

    /// Describes and registers at once, so that no metric goes without its meaning.
    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self;
}

pub(super) struct Registrar<'a>(pub(super) &'a PrometheusRecorder);

type Labels = [(&'static str, &'static str)];

/// The recorder asks for it and reads none of it.
const ABOUT: Metadata<'static> = Metadata::new("posthaste", Level::INFO, None);

impl Registrar<'_> {
    fn counter(&self, name: &'static str, meaning: &'static str, labels: &Labels) -> Counter {
        self.0.describe_counter(name.into(), None, meaning.into());
        self.0.register_counter(&key(name, labels), &ABOUT)
    }

    fn gauge(&self, name: &'static str, meaning: &'static str, labels: &Labels) -> Gauge {
        self.0.describe_gauge(name.into(), None, meaning.into());
        self.0.register_gauge(&key(name, labels), &ABOUT)
    }

    fn histogram(&self, name: &'static str, meaning: &'static str, labels: &Labels) -> Histogram {
        self.0.describe_histogram(name.into(), None, meaning.into());
        self.0.register_histogram(&key(name, labels), &ABOUT)
    }
}

fn key(name: &'static str, labels: &Labels) -> Key {
    let labels = labels.iter().map(|(label, value)| Label::new(*label, *value));
    Key::from_parts(name, labels.collect::<Vec<_>>())
}

impl Handle for Counter {
    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
        new.counter(name, meaning, &[])
    }
}

impl Handle for Gauge {
    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
        new.gauge(name, meaning, &[])
    }
}

impl Handle for Histogram {
    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
        new.histogram(name, meaning, &[])
    }
}

/// `Type: handles of "label" { values }` becomes a struct with a handle for each value.
macro_rules! by_label {
    ($($set:ident: $kind:ident by $register:ident of $label:literal { $($value:ident),+ })+) => {$(
        #[doc = concat!("By `", $label, "`.")]
        #[derive(Debug)]
        pub struct $set {
            $(pub $value: $kind,)+
        }

        impl Handle for $set {
            const LABELS: &'static [&'static str] = &[$label];

            fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
                Self {
                    $($value: new.$register(name, meaning, &[($label, stringify!($value))]),)+
                }
            }
        }
    )+};
}

by_label! {
    ByVerdict: Counter by counter of "verdict" { delivered, retry, dead, cancelled }
    ByStatement: Histogram by histogram of "statement" { route, claim, record, receive }
    ByWake: Counter by counter of "reason" { bell, poll, due, reconnected }
    ByWork: Counter by counter of "during" { route, claim, record, heartbeat, wake, upkeep, ingest }
}

/// Of a status, by its hundreds; the first is for statuses outside of 100 to 599.
const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// By `outcome`, and of answers by the hundreds of their `status`.
#[derive(Debug)]
pub struct ByOutcome {
    answered: [Counter; CLASSES.len()],
    timed_out: Counter,
    unreachable: Counter,
    refused: Counter,
    interrupted: Counter,
}

impl Handle for ByOutcome {
    const LABELS: &'static [&'static str] = &["outcome", "status"];

    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
        let of = |outcome, status| {
            new.counter(name, meaning, &[("outcome", outcome), ("status", status)])
        };
        Self {
            answered: CLASSES.map(|class| of("answered", class)),
            timed_out: of("timed_out", ""),
            unreachable: of("unreachable", ""),
            refused: of("refused", ""),
            interrupted: of("interrupted", ""),
        }
    }
}

impl ByOutcome {
    /// The counter of attempts with this outcome.
    pub fn of(&self, outcome: &Outcome) -> &Counter {
        match outcome {
            Outcome::Answered(answer) => {
                self.answered.get(usize::from(answer.status / 100)).unwrap_or(&self.answered[0])
            }
            Outcome::TimedOut { .. } => &self.timed_out,
            Outcome::Unreachable { .. } => &self.unreachable,
            Outcome::Refused { .. } => &self.refused,
            Outcome::Interrupted => &self.interrupted,
        }
    }
}

/// By `task`: those of upkeep, in the order in which they run.
#[derive(Debug)]
pub struct PerTask([(&'static str, Counter); TASKS.len()]);

const TASKS: [&str; 7] = [
    "release_orphans",
    "make_partitions",
    "drop_partitions",
    "cancel_orphans",
    "take_up_again",
    "trim",
    "trim_received",
];

impl Handle for PerTask {
    const LABELS: &'static [&'static str] = &["task"];

    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
        Self(TASKS.map(|task| (task, new.counter(name, meaning, &[("task", task)]))))
    }
}

impl PerTask {
    /// The counter of this task's failures.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn of(&self, task: &str) -> &Counter {
        let of = self.0.iter().find(|(name, _)| *name == task);
        &of.expect("each task of upkeep is listed above").1
    }
}

/// By the `status` of the listener's answer.
#[derive(Debug)]
pub struct ByStatus([Counter; ANSWERS.len()]);

/// The statuses that the listener for webhooks answers; the last is for any other.
const ANSWERS: [&str; 15] = [
    "200", "202", "400", "401", "403", "404", "405", "408", "411", "413", "415", "422", "429",
    "503", "other",
];

impl Handle for ByStatus {
    const LABELS: &'static [&'static str] = &["status"];

    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
        Self(ANSWERS.map(|status| new.counter(name, meaning, &[("status", status)])))
    }
}

impl ByStatus {
    /// The counter of requests that were answered with this status.
    pub fn of(&self, status: u16) -> &Counter {
        let known = ANSWERS.iter().position(|answer| answer.parse() == Ok(status));
        &self.0[known.unwrap_or(ANSWERS.len() - 1)]
    }
}

/// By `version`: a gauge that is always 1.
#[derive(Debug)]
pub struct ByVersion;

impl Handle for ByVersion {
    const LABELS: &'static [&'static str] = &["version"];

    fn register(new: &Registrar<'_>, name: &'static str, meaning: &'static str) -> Self {
        new.gauge(name, meaning, &[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        Self
    }
}

//! What is counted of webhooks that come in, and of the spool.

use metrics::{Counter, Gauge, Histogram};

use super::Registrar;

pub(super) const BATCH_SIZE: &str = "posthaste_ingest_batch_size";

/// Webhooks that come in, and the spool.
#[derive(Debug)]
pub struct Ingest {
    /// By the status of the answer; the last is for any other.
    answers: [Counter; ANSWERS.len()],
    pub connections: Gauge,
    pub in_flight: Gauge,
    pub in_flight_bytes: Gauge,
    /// Webhooks stored by one statement.
    pub batch_size: Histogram,
    pub receive_duration: Histogram,
    pub duplicates: Counter,
    pub spooled: Counter,
    pub drained: Counter,
    pub set_aside: Counter,
    pub spool_files: Gauge,
    pub spool_bytes: Gauge,
    pub spool_age: Gauge,
}

/// What the listener for webhooks answers.
const ANSWERS: [&str; 15] = [
    "200", "202", "400", "401", "403", "404", "405", "408", "411", "413", "415", "422", "429",
    "503", "other",
];

impl Ingest {
    pub(super) fn new(new: &Registrar<'_>) -> Self {
        let answered = |status| {
            let meaning = "Requests to the listener for webhooks, by what was answered.";
            new.counter_of("posthaste_ingest_requests_total", meaning, &[("status", status)])
        };
        let (counter, gauge) =
            (|name, meaning| new.counter(name, meaning), |name, meaning| new.gauge(name, meaning));
        let batch = "Webhooks stored by one statement.";
        Self {
            answers: ANSWERS.map(answered),
            connections: gauge("posthaste_ingest_connections", "Connections of senders."),
            in_flight: gauge("posthaste_ingest_in_flight", "Webhooks not answered yet."),
            in_flight_bytes: gauge("posthaste_ingest_in_flight_bytes", "Bytes of their bodies."),
            batch_size: new.histogram(BATCH_SIZE, batch, &[]),
            receive_duration: new.statement("receive"),
            duplicates: counter(
                "posthaste_ingest_duplicates_total",
                "Webhooks that their sender had sent before.",
            ),
            spooled: counter("posthaste_spool_in_total", "Webhooks put into the spool."),
            drained: counter("posthaste_spool_out_total", "Webhooks stored from the spool."),
            set_aside: counter(
                "posthaste_spool_set_aside_total",
                "Files of the spool that cannot be stored and were set aside.",
            ),
            spool_files: gauge("posthaste_spool_files", "Webhooks in the spool."),
            spool_bytes: gauge("posthaste_spool_bytes", "Bytes of the spool."),
            spool_age: gauge(
                "posthaste_spool_oldest_seconds",
                "For how long the oldest webhook of the spool has been there.",
            ),
        }
    }

    /// `posthaste_ingest_requests_total{status}`.
    pub fn answers(&self, status: u16) -> &Counter {
        let known = ANSWERS.iter().position(|answer| answer.parse() == Ok(status));
        &self.answers[known.unwrap_or(ANSWERS.len() - 1)]
    }
}

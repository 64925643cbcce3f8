//! The table of metrics: each has its handle, its name and its meaning here, and nowhere else.
//!
//! The meanings are served as `# HELP`, and docs/OPERATING.md repeats them, which
//! `tests/house/told_once.rs` compares. The types of the handles, with their labels, are in
//! [`handles`](super::handles).

use metrics::{Counter, Gauge, Histogram};

use super::handles::{
    ByOutcome, ByStatement, ByStatus, ByVerdict, ByVersion, ByWake, ByWork, Declared, Handle,
    PerTask, Registrar,
};

/// Upper bounds in seconds: from a receiver in the same rack to the longest sensible time-out.
const ATTEMPT_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds in seconds. A statement takes about a millisecond; one of a second is held up.
const STATEMENT_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 1.0, 5.0];
/// Upper bounds in rows.
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// `handle: Type = "name", "meaning"[, buckets];` becomes a field of a struct and a row of its
/// table; `.. field: Struct;` takes in the table of another struct.
macro_rules! table {
    ($($(#[$about:meta])* pub struct $set:ident {
        $($handle:ident: $kind:ty = $name:literal, $meaning:literal $(, $buckets:expr)?;)+
        $(.. $other:ident: $set_of:ident;)?
    })+) => {$(
        $(#[$about])*
        #[derive(Debug)]
        #[non_exhaustive]
        pub struct $set {
            $(#[doc = $meaning] pub $handle: $kind,)+
            $(pub $other: $set_of,)?
        }

        impl $set {
            pub(super) fn table() -> Vec<Declared> {
                let table = vec![$(Declared {
                    name: $name,
                    meaning: $meaning,
                    labels: <$kind as Handle>::LABELS,
                    buckets: buckets(&[$($buckets)?]),
                },)+];
                $(let table = [table, $set_of::table()].concat();)?
                table
            }

            pub(super) fn register(new: &Registrar<'_>) -> Self {
                Self {
                    $($handle: Handle::register(new, $name, $meaning),)+
                    $($other: $set_of::register(new),)?
                }
            }
        }
    )+};
}

/// None, or the only list.
fn buckets(lists: &[&[f64]]) -> Vec<f64> {
    lists.concat()
}

table! {
    /// The handles of all metrics.
    pub struct Handles {
        events_routed: Counter = "posthaste_events_routed_total", "Events routed.";
        events_unmatched: Counter = "posthaste_events_unmatched_total",
            "Events that no endpoint was owed.";
        deliveries_routed: Counter = "posthaste_deliveries_routed_total",
            "Deliveries made by routing.";
        deliveries_claimed: Counter = "posthaste_deliveries_claimed_total",
            "Deliveries claimed, by routing or later.";
        deliveries: ByVerdict = "posthaste_deliveries_total",
            "Verdicts recorded: `delivered`, `retry` (each time), `dead`, `cancelled`.";
        attempts: ByOutcome = "posthaste_attempts_total",
            "Attempts recorded: `answered` with `1xx` to `5xx` or `other`, `timed_out`, \
             `unreachable`, `refused`, `interrupted`.";
        sent_again: Counter = "posthaste_sent_again_total",
            "Requests sent a second time at once: the kept connection was closed without an \
             answer.";
        faults: Counter = "posthaste_faults_total",
            "Bugs that ended one attempt or made one endpoint unusable; the others went on.";
        set_aside: Counter = "posthaste_set_aside_total",
            "Events and results that the database refused, set aside so that others go on.";
        attempt_duration: Histogram = "posthaste_attempt_duration_seconds",
            "Time from the beginning of an attempt to its outcome, connecting included.",
            ATTEMPT_BUCKETS;
        in_flight: Gauge = "posthaste_in_flight", "Requests in flight.";
        claimed: Gauge = "posthaste_claimed",
            "Deliveries that this relay has claimed, in flight or waiting for room.";
        in_flight_bytes: Gauge = "posthaste_in_flight_bytes",
            "Bytes of payloads and headers of claimed deliveries, and of answers that wait to be recorded.";
        endpoints_waiting: Gauge = "posthaste_endpoints_waiting",
            "Endpoints that are owed something unclaimed, as of the last poll.";
        oldest_due: Gauge = "posthaste_oldest_due_seconds",
            "For how long the first of what is unclaimed has been due.";
        results_waiting: Gauge = "posthaste_results_waiting", "Results not recorded yet.";
        record_batch_size: Histogram = "posthaste_record_batch_size",
            "Results recorded by one statement.", BATCH_BUCKETS;
        statement_duration: ByStatement = "posthaste_statement_duration_seconds",
            "Time that a statement took: `route`, `claim`, `record`, `receive`; about a \
             millisecond each.", STATEMENT_BUCKETS;
        bells: Counter = "posthaste_bells_total", "Bells heard.";
        wakes: ByWake = "posthaste_wakes_total",
            "Why a resting relay looked for work again: `bell`, `poll`, `due` (a retry), \
             `reconnected`.";
        asleep: Gauge = "posthaste_asleep", "1 while the relay sleeps until the bell rings.";
        claims_lost: Counter = "posthaste_claims_lost_total",
            "Results dropped because the claim had been taken away.";
        withdrawn: Counter = "posthaste_withdrawn_total",
            "Claims given back unsent, since their endpoint had changed or was gone.";
        claims_released: Counter = "posthaste_claims_released_total",
            "Claims given back without an attempt: a stop, a pause.";
        relay_takeovers: Counter = "posthaste_relay_takeovers_total",
            "Dead relays whose claims this one released.";
        endpoints_paused: Counter = "posthaste_endpoints_paused_total",
            "Pauses of endpoints that kept failing.";
        endpoints_disabled: Counter = "posthaste_endpoints_disabled_total",
            "Endpoints disabled or deleted by a rule or for accepting nothing for too long.";
        database_errors: ByWork = "posthaste_database_errors_total",
            "Statements or connections that failed: `route`, `claim`, `record`, `heartbeat`, \
             `wake`, `upkeep`, `ingest`.";
        upkeep_failures: PerTask = "posthaste_upkeep_failures_total",
            "Tasks of upkeep that failed: `release_orphans`, `make_partitions`, \
             `drop_partitions`, `cancel_orphans`, `take_up_again`, `trim`, `trim_received`. Each stands \
             alone and is tried again.";
        database_went_back: Counter = "posthaste_database_went_back_total",
            "How often something was gone that had been committed.";
        build_info: ByVersion = "posthaste_build_info", "1, with the version of this relay.";
        .. ingest: IngestHandles;
    }

    /// Of webhooks that come in, and of the spool.
    pub struct IngestHandles {
        answers: ByStatus = "posthaste_ingest_requests_total",
            "Requests to the listener for webhooks, by the status of the answer.";
        connections: Gauge = "posthaste_ingest_connections", "Connections of senders.";
        in_flight: Gauge = "posthaste_ingest_in_flight", "Webhooks that wait to be stored.";
        in_flight_bytes: Gauge = "posthaste_ingest_in_flight_bytes",
            "Bytes of webhooks' bodies in memory.";
        batch_size: Histogram = "posthaste_ingest_batch_size",
            "Webhooks stored by one statement.", BATCH_BUCKETS;
        duplicates: Counter = "posthaste_ingest_duplicates_total",
            "Webhooks that their sender had sent before.";
        spool_files: Gauge = "posthaste_spool_files", "Webhooks in the spool.";
        spool_bytes: Gauge = "posthaste_spool_bytes", "Bytes of the spool.";
        spool_age: Gauge = "posthaste_spool_oldest_seconds",
            "For how long the oldest webhook of the spool has been there.";
        spooled: Counter = "posthaste_spool_written_total", "Webhooks written to the spool.";
        drained: Counter = "posthaste_spool_stored_total", "Webhooks stored from the spool.";
        set_aside: Counter = "posthaste_spool_set_aside_total",
            "Files of the spool that cannot be stored and were set aside.";
    }
}

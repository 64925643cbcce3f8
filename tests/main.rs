//! The promises, against a real PostgreSQL, a scripted receiver and the real binary.
//!
//! One binary, so that all of it links once and shares one private cluster. A module per promise;
//! [`support`] is what they stand on.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why"
)]

mod support;

mod bad_input;
mod bell;
mod checklist;
mod command_line;
mod control_plane;
mod crash;
mod database_faults;
mod database_tls;
mod doctor;
mod elsewhere;
mod failover;
mod fuzz;
mod guard;
mod harness;
mod held;
mod host_faults;
mod hostile;
mod hour_down;
mod ingest;
mod installing;
mod isolation;
mod journey;
mod network_faults;
mod one_bad_row;
mod open_transactions;
mod ordering;
mod pgbench;
mod places;
mod plans;
mod pooler;
mod readme;
mod receive;
mod restore;
mod retries;
mod roles;
mod routing;
mod rules;
mod schema;
mod secrets;
mod sessions;
mod several_relays;
mod simulation;
mod soak;
mod sql_reference;
mod steering;
mod stops;
mod subscriptions;
mod tidy;
mod told_once;

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
mod command_line;
mod crash;
mod harness;
mod hostile;
mod hour_down;
mod journey;
mod pgbench;
mod restore;
mod retries;
mod rules;
mod steering;
mod subscriptions;
mod tidy;

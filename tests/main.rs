//! The promises, against a real PostgreSQL, a scripted receiver and the real binary.
//!
//! One binary, so that all of it links once and shares one private cluster. [`promises`] holds what
//! Posthaste guarantees, [`faults`] what goes wrong around it, [`house`] the rules of this
//! repository; [`support`] is what they stand on.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says why"
)]

mod support;

mod promises;

mod faults;

mod ingest;

mod fuzz;
mod models;
mod simulation;
mod soak;

mod house;

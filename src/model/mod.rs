//! What things are and what follows from them. Pure: no IO, no clock, no randomness, no tokio.
//!
//! Whatever depends on time or chance takes `now` or the draw as an argument, so a test needs
//! neither a sleep nor a mock.
#![warn(clippy::wildcard_enum_match_arm)]

// What is owed, and to whom.
pub mod delivery;
pub mod endpoint;
pub mod subscription;

// What came in.
pub mod incoming;
pub mod selector;

// When to look for it, and how much of it may be in flight.
pub mod dispatch;
pub mod due;
pub mod lane;
pub mod lease;
pub mod rate;
pub mod share;
pub mod window;

// What is sent.
pub mod body;

// What happened, and what follows for the delivery.
pub mod outcome;
pub mod rules;
pub mod schedule;
pub mod verdict;

// What follows for the endpoint.
pub mod health;

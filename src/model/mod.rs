//! The domain, and the decisions about it. Pure: no IO, no clock, no randomness, no tokio.
//!
//! Decisions that depend on time or chance take `now` or the draw as an argument, so a test needs
//! neither a sleep nor a mock.
#![warn(clippy::wildcard_enum_match_arm)]

// Events, endpoints and the deliveries between them.
pub mod delivery;
pub mod endpoint;
pub mod subscription;

// Incoming webhooks.
pub mod incoming;
pub mod selector;

// How much may be in flight.
pub mod due;
pub mod rate;
pub mod share;
pub mod window;

// The request's body.
pub mod body;

// Outcomes, and their consequences for the delivery.
pub mod outcome;
pub mod rules;
pub mod schedule;
pub mod verdict;

// Consequences for the endpoint.
pub mod health;

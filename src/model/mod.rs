//! The domain, and the decisions about it. Pure: no IO, no clock, no randomness, no tokio.
//!
//! Decisions that depend on time or chance take `now` or the draw as an argument, so a test needs
//! neither a sleep nor a mock.
#![warn(clippy::wildcard_enum_match_arm)]

// Texts of operators.
pub mod allow;
pub mod proxy;
pub mod secret;

// Events, endpoints and the deliveries between them.
pub mod delivery;
pub mod endpoint;
pub mod header;
pub mod subscription;
pub mod webhook_id;
pub mod withdrawal;

// Incoming webhooks.
pub mod incoming;
pub mod selector;

// When to look for it, and how much of it may be in flight.
pub mod dispatch;
pub mod due;
pub mod lane;
pub mod rate;
pub mod routing;
pub mod share;
pub mod tenant;
pub mod window;

// What is in which order, and by whom.
pub mod lease;
pub mod ordering;

// How the relay stands with its database.
pub mod standing;

// What is sent.
pub mod body;

// Outcomes, and their consequences for the delivery.
pub mod outcome;
pub mod rules;
pub mod schedule;
pub mod verdict;

// Consequences for the endpoint.
pub mod health;

//! What things are and what follows from them. Pure: no IO, no clock, no randomness, no tokio.
//!
//! Whatever depends on time or chance takes `now` or the draw as an argument, so a test needs
//! neither a sleep nor a mock.
#![warn(clippy::wildcard_enum_match_arm)]

pub mod endpoint;
pub mod delivery;
pub mod outcome;
pub mod verdict;

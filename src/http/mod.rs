//! HTTP both ways: the client that sends webhooks and says what happened, whom it may dial, and the
//! server for health and metrics.

pub mod addresses;
pub mod admin;
pub mod client;
pub mod probe;
pub mod problem;
pub mod resolve;
pub mod server;
pub mod target;

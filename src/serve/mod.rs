//! HTTP that this process serves: one [`listener`] for all of it, with TLS where it is set, and on
//! it the relay's own pages (health, status and metrics). Also the probe that asks another process
//! for its health.

pub mod admin;
pub mod connection;
pub mod listener;
pub mod probe;
pub mod problem;
pub mod router;
pub mod server;
pub mod tls;

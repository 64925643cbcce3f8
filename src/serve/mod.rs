//! HTTP that this process serves: the relay's own pages (health, status and metrics).
//!
//! One [`listener`] serves them and the webhooks that come in, with TLS where it is set. Also here:
//! the [`ration`] by which peers share what is bounded, and the probe that asks another process for
//! its health.

pub mod admin;
pub mod connection;
pub mod listener;
pub mod probe;
pub mod problem;
pub mod ration;
pub mod router;
pub mod server;
pub mod tls;

//! What this process serves over HTTP: health and metrics. Also the probe that asks another process for its
//! health.

pub mod admin;
pub mod probe;
pub mod problem;
pub mod server;

//! How the running process is observed: its log, its metrics, and whether it is live and ready.

pub mod log;
pub mod metrics;
pub mod status;
pub mod trace;

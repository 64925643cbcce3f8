//! A private PostgreSQL and the processes around it, for the demo, the tests and the benchmark: the
//! server's programs, an unprivileged user, and a watchdog that ends orphaned processes.

pub mod binaries;
pub mod postgres;
pub mod relay;
pub mod user;
pub mod watchdog;

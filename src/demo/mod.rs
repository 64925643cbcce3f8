//! `posthaste demo`.

pub mod binaries;
pub mod postgres;
pub mod user;
pub mod watchdog;

//! Bounds over all requests of this process: how many are in flight, and how many files they open.

pub(super) mod budget;
pub(super) mod files;

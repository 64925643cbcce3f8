//! What bounds all requests of this process: how many may be in flight, and how many files they may open.

pub(super) mod budget;
pub(super) mod files;

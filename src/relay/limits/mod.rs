//! Bounds over all requests of this process: how many are in flight, how many files they open, and
//! how all of it is divided among tenants.

pub(super) mod budget;
pub(super) mod files;
mod gate;
pub(super) mod tenants;

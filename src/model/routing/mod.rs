//! Decides a step of routing: which of the events that were read are routed now, and what of it the
//! relay claims.
//!
//! The relay remembers which endpoints are owed events of a kind ([`Recipients`]); a step that was
//! decided by endpoints which have changed since is not written. A step ends before the first event
//! for whose deliveries there is no room, since a delivery that is written without being claimed is
//! written twice more: see [`decide`].

mod filters;
mod recipients;
mod step;

#[cfg(test)]
mod tests;

pub use self::filters::SlowFilters;
pub use self::recipients::{EventKind, Recipient, Recipients};
pub use self::step::{Cut, LaneRoom, Owing, StepPlan, StepRoom, candidates, decide};

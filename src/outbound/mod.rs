//! Requests that this process makes to receivers: how names are resolved, which addresses may be
//! dialled, and the client that sends and reports what happened.

pub mod addresses;
pub mod client;
pub mod resolve;
pub mod target;

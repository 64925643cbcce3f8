//! Posthaste's guarantees, a module per promise, in the order in which an event meets them.

mod journey;

mod ahead;
mod bad_input;
mod batches;
mod bell;
mod routing;
mod routing_steps;
mod subscriptions;

mod guard;
mod secrets;

mod held;
mod isolation;
mod ordering;
mod retries;
mod rules;
mod several_relays;
mod stops;
mod tenants;
mod windows;

mod brake;
mod control_plane;
mod roles;
mod steering;

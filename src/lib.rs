//! Posthaste is a Postgres-native outbox relay.
//!
//! # One event's journey
//!
//! An application inserts a row into `posthaste.outbox` in its own transaction. When that commits,
//! the bell (`relay::dispatch::wake`) wakes a sleeping relay. The relay **routes**
//! (`relay::dispatch`): it reads what was committed since it last looked and inserts one delivery
//! for each endpoint that is owed the event, already **claimed** for itself as far as the
//! endpoint's window has room. Retries and overflow are claimed later, when due (`relay::dispatch`
//! too). A lane per endpoint **sends** (`relay::attempt`, [`outbound::client`]), which gives an
//! outcome; the rules and the schedule **judge** it ([`model::verdict`]); and results are
//! **recorded** in batches (`relay::record`).
//!
//! # The vocabulary
//!
//! | noun | meaning |
//! |---|---|
//! | Event | a fact the application wrote to the outbox; never changed |
//! | Endpoint | a place that is owed events: URL, subscriptions, secrets, policy |
//! | Subscription | an event-type pattern of an endpoint: `*`, `order.*`, `order.paid` |
//! | Delivery | one event owed to one endpoint; the unit of claiming and retry |
//! | Claim | the right of one relay to make the next attempt, fenced by a token |
//! | Attempt | one HTTP request: history, never changed |
//! | Outcome | what happened on the wire: observed |
//! | Rule | an operator's row: when an outcome looks like this, do that |
//! | Verdict | what the relay does about an outcome: chosen |
//! | Health | how an endpoint has been doing: flowing, paused, probing, disabled |
//! | Relay | one running process; several may serve one database |
//! | Source | a sender of incoming webhooks ([`ingest`]), and how it proves its identity |
//! | Bell | wakes an idle relay: a NOTIFY that inserters ring only while a relay sleeps |

pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod ingest;
pub mod model;
pub mod observe;
pub mod outbound;
pub mod panics;
pub mod process;
pub mod receiver;
pub mod relay;
pub mod sandbox;
pub mod serve;
pub mod signing;
pub mod stopper;
pub mod store;

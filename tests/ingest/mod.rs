//! Webhooks that come in: what is answered with a 2xx is kept, and leaves as an event, once.

mod bounds;
mod chaos;
mod door;
mod gitlab;
mod pooler;
mod raw;
mod requests;
mod spool;
mod tls;

//! A relay that runs in the test's process, on a present that the test moves.

use std::sync::Arc;

use posthaste::clock::{Clock, Present};
use posthaste::config::{self, Sources};
use posthaste::metrics::Metrics;
use posthaste::relay::{self, RelayError};
use posthaste::status::Status;
use posthaste::stopper::Stopper;
use posthaste::store::Database;

use super::{PATIENCE, TestDatabase};

/// Runs until it is stopped. Everything is at its default but what the loopback needs, and these.
pub async fn run_inside(
    database: &TestDatabase,
    settings: &[(&str, &str)],
    present: Present,
    stopper: Stopper,
) -> Result<(), RelayError> {
    let url = database.url();
    let own = [
        ("database.url", url.as_str()),
        ("http.listen", "off"),
        ("addresses.allow", "127.0.0.0/8"),
        ("addresses.allow_http", "127.0.0.0/8"),
        ("relay.poll_interval", "50ms"),
    ];
    let both = own.iter().chain(settings);
    let flags = both.map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let config = config::load(&Sources { flags, ..Sources::default() }).expect("the settings fit");
    let status = Status::new(Clock, stopper.clone());
    let place = Database::parse(&url, None, None, PATIENCE).expect("the URL is ours");
    relay::run(&config, place, Arc::new(Metrics::new()), status, present, stopper).await
}

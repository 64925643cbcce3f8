//! A relay that runs in the test's process, on a present that the test moves; and a door beside it.

use std::net::SocketAddr;
use std::sync::Arc;

use posthaste::clock::{Clock, Present};
use posthaste::config::{self, Config, Sources};
use posthaste::ingest::Ingest;
use posthaste::observe::metrics::Metrics;
use posthaste::observe::status::Status;
use posthaste::relay::{self, RelayError};
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
    let own = [
        ("http.listen", "off"),
        ("addresses.allow", "127.0.0.0/8"),
        ("addresses.allow_http", "127.0.0.0/8"),
        ("relay.poll_interval", "50ms"),
    ];
    let config = load(database, &own, settings);
    let status = Status::new(Clock, stopper.clone());
    let place = place(database);
    relay::run(&config, place, Arc::new(Metrics::new()), status, present, stopper).await
}

/// Takes in webhooks of the sources that these settings name, until it is stopped.
pub async fn take_in_inside(
    database: &TestDatabase,
    settings: &[(&str, &str)],
    stopper: Stopper,
) -> (SocketAddr, impl Future<Output = ()> + use<>) {
    let config = load(database, &[("ingest.listen", "127.0.0.1:0")], settings);
    let status = Status::new(Clock, stopper.clone());
    let opened = Ingest::open(&config, &place(database), &Arc::new(Metrics::new()), &status).await;
    let ingest = opened.expect("the door can be opened").expect("it is to listen");
    (ingest.address(), async move { ingest.run(&stopper).await })
}

fn place(database: &TestDatabase) -> Database {
    Database::parse(&database.url(), None, None, PATIENCE).expect("the URL is ours")
}

fn load(database: &TestDatabase, own: &[(&str, &str)], settings: &[(&str, &str)]) -> Config {
    let url = database.url();
    let flags = [("database.url", url.as_str())];
    let all = flags.iter().chain(own).chain(settings);
    let flags = all.map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    config::load(&Sources { flags, ..Sources::default() }).expect("the settings fit")
}

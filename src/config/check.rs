//! Checks the settings' bounds, and settings against one another. Runs after every value has its
//! type; finds every violation, not only the first.

use std::time::Duration;

use hyper::header::HeaderValue;

use super::bounds::{
    DAY, GIB, HOUR, KIB, MIB, MILLISECOND, MINUTE, SECOND, TEN_YEARS, Violation, Violations,
};
use super::ingest;
use super::settings::{Config, Pooler, WakeMode};
use crate::model::secret::Secret;

/// Everything that is out of bounds.
pub(super) fn check(config: &Config) -> Vec<Violation> {
    let mut found = Violations::default();
    check_database(config, &mut found);
    ingest::check(&config.ingest, &mut found);
    check_relay(config, &mut found);
    check_delivery(config, &mut found);
    check_retry(config, &mut found);
    check_health_and_upkeep(config, &mut found);
    found.into_vec()
}

fn check_database(config: &Config, found: &mut Violations) {
    let database = &config.database;
    let key = if database.url_file.is_some() { "database.url_file" } else { "database.url" };
    found.url(key, database.url.expose());
    let file = database.direct_url_file.as_ref();
    let key = file.map_or("database.direct_url", |_| "database.direct_url_file");
    found.url(key, database.direct_url.as_ref().map_or("", Secret::expose));
    let keeps_sessions = database.pooler == Pooler::None || database.direct_url.is_some();
    if !keeps_sessions && config.relay.wake == WakeMode::Listen {
        found.add(Violation {
            key: "database.pooler".into(),
            with: Some("relay.wake"),
            what: "with \"transaction\" the bell needs another way to the database: give \
                   database.direct_url, or do without the bell by relay.wake = \"poll\""
                .to_owned(),
        });
    }
    found.count("database.pool_size", database.pool_size, 1..=100);
    found.time(
        "database.connect_timeout",
        database.connect_timeout,
        100 * MILLISECOND..=5 * MINUTE,
    );
    found.time("database.startup_timeout", database.startup_timeout, Duration::ZERO..=HOUR);
    found.time("database.statement_timeout", database.statement_timeout, SECOND..=HOUR);
    found.file("database.ca_file", database.ca_file.as_deref());
}

fn check_relay(config: &Config, found: &mut Violations) {
    let relay = &config.relay;
    found.unless(
        relay.name.chars().count() <= 100 && !relay.name.chars().any(char::is_control),
        "relay.name",
        "write at most 100 characters on one line",
    );
    found.count("relay.max_in_flight", relay.max_in_flight, 1..=65_536);
    found.size("relay.max_in_flight_bytes", relay.max_in_flight_bytes, KIB..=64 * GIB);
    found.count("relay.batch", relay.batch, 1..=10_000);
    // an idle relay moves once in this time, and a relay that does not move counts as stuck
    found.time("relay.poll_interval", relay.poll_interval, 10 * MILLISECOND..=MINUTE);
    found.time("relay.heartbeat", relay.heartbeat, 100 * MILLISECOND..=MINUTE);
    found.time("relay.lease", relay.lease, SECOND..=10 * MINUTE);
    // with fewer, one heartbeat that comes late ends a healthy relay's claims
    found.at_least(
        relay.lease >= relay.heartbeat * 3,
        "relay.lease",
        "three times ",
        "relay.heartbeat",
    );
    found.time("relay.grace", relay.grace, Duration::ZERO..=HOUR);
    found.time("relay.record_interval", relay.record_interval, Duration::ZERO..=SECOND);
    found.count("relay.threads", relay.configured_threads(), 0..=1024);
}

fn check_delivery(config: &Config, found: &mut Violations) {
    let delivery = &config.delivery;
    for (key, time) in [
        ("delivery.timeout", delivery.timeout),
        ("delivery.resolve_timeout", delivery.resolve_timeout),
        ("delivery.connect_timeout", delivery.connect_timeout),
        ("delivery.tls_timeout", delivery.tls_timeout),
        ("delivery.body_timeout", delivery.body_timeout),
    ] {
        found.time(key, time, 10 * MILLISECOND..=10 * MINUTE);
    }
    found.time("delivery.idle_timeout", delivery.idle_timeout, Duration::ZERO..=HOUR);
    // a kept body is a column of a row for every attempt
    found.size("delivery.response_body_limit", delivery.response_body_limit, 0..=MIB);
    found.count("delivery.max_concurrency", delivery.max_concurrency as usize, 1..=65_536);
    found.count("delivery.initial_window", delivery.initial_window as usize, 1..=65_536);
    found.at_least(
        delivery.max_concurrency >= delivery.initial_window,
        "delivery.max_concurrency",
        "",
        "delivery.initial_window",
    );
    found.unless(
        HeaderValue::from_str(&delivery.user_agent).is_ok(),
        "delivery.user_agent",
        "cannot stand in a header; write printable ASCII",
    );
    found.unless(
        !delivery.cloudevents_source.is_empty()
            && !delivery.cloudevents_source.contains(|c: char| c.is_whitespace() || c.is_control()),
        "delivery.cloudevents_source",
        "write a URI reference, such as \"posthaste\" or \"https://example.com/shop\"",
    );
    found.file("delivery.ca_file", delivery.ca_file.as_deref());
}

fn check_retry(config: &Config, found: &mut Violations) {
    let retry = &config.retry;
    found.count("retry.exponent", retry.exponent as usize, 0..=10);
    found.time("retry.jitter_min", retry.jitter_min, Duration::ZERO..=DAY);
    found.time("retry.jitter_max", retry.jitter_max, Duration::ZERO..=DAY);
    found.at_least(
        retry.jitter_max >= retry.jitter_min,
        "retry.jitter_max",
        "",
        "retry.jitter_min",
    );
    found.time("retry.cap", retry.cap, SECOND..=365 * DAY);
    // with less, every retry waits equally long
    found.at_least(retry.cap >= retry.jitter_max, "retry.cap", "", "retry.jitter_max");
    found.count("retry.max_attempts", retry.max_attempts as usize, 1..=1000);
    if let Some(age) = retry.max_age {
        found.time("retry.max_age", age, SECOND..=TEN_YEARS);
    }
    found.time("retry.retry_after_cap", retry.retry_after_cap, Duration::ZERO..=365 * DAY);
}

fn check_health_and_upkeep(config: &Config, found: &mut Violations) {
    let health = &config.health;
    found.count("health.failure_threshold", health.failure_threshold as usize, 1..=1_000_000);
    found.count("health.rejection_threshold", health.rejection_threshold as usize, 1..=1_000_000);
    found.time("health.first_pause", health.first_pause, SECOND..=DAY);
    found.time("health.longest_pause", health.longest_pause, SECOND..=30 * DAY);
    found.at_least(
        health.longest_pause >= health.first_pause,
        "health.longest_pause",
        "",
        "health.first_pause",
    );
    if let Some(after) = health.disable_after {
        found.time("health.disable_after", after, MINUTE..=TEN_YEARS);
    }
    let upkeep = &config.upkeep;
    found.time("upkeep.interval", upkeep.interval, SECOND..=HOUR);
    found.count("upkeep.partitions_ahead", upkeep.partitions_ahead as usize, 1..=60);
    // partitions are days, so no shorter time can be dropped
    found.time("upkeep.outbox_retention", upkeep.outbox_retention, DAY..=TEN_YEARS);
    found.time("upkeep.attempts_retention", upkeep.attempts_retention, DAY..=TEN_YEARS);
    // with less, a sender's next try becomes a second event
    found.time("upkeep.received_retention", upkeep.received_retention, HOUR..=365 * DAY);
}

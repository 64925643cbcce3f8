//! The settings of simulated relays: the crate's defaults, and smaller ones, by which small numbers
//! of events meet the bounds.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use posthaste::config::{self, Config, Sources, WakeMode};
use posthaste::model::health::HealthPolicy;
use posthaste::model::rules::{Rule, RuleRow, RuleSet};

use super::operations::Size;

static USUAL: LazyLock<Arc<Config>> = LazyLock::new(|| {
    // Required, and not used: the ground knows the way to its database.
    let flags = vec![("database.url".to_owned(), "postgres://simulation".to_owned())];
    Arc::new(config::load(&Sources { flags, ..Sources::default() }).expect("the defaults fit"))
});
static SMALL: LazyLock<Arc<Config>> = LazyLock::new(|| smaller(4, 3, 2_000));
static LEAST: LazyLock<Arc<Config>> = LazyLock::new(|| smaller(1, 1, 20));

/// The first says 409 is as good as delivered: a receiver's way to say that it has the event
/// already.
pub static RULES: LazyLock<RuleSet> = LazyLock::new(|| {
    let rule = |status: u16, action: &str| {
        let row = RuleRow {
            name: format!("{status}"),
            status: Some(status..=status),
            action: action.to_owned(),
            ..RuleRow::default()
        };
        Rule::new(row).expect("the simulation's rules are rules")
    };
    RuleSet::new(vec![
        rule(409, "delivered"),
        rule(410, "disable_endpoint"),
        rule(418, "delete_endpoint"),
    ])
});

/// Soon paused, and disabled within what a list can last.
pub static HEALTH: LazyLock<HealthPolicy> = LazyLock::new(|| HealthPolicy {
    failure_threshold: 2,
    first_pause: Duration::from_secs(20),
    longest_pause: Duration::from_secs(120),
    disable_after: Some(Duration::from_secs(1200)),
    ..HealthPolicy::default()
});

pub fn of(size: Size) -> Arc<Config> {
    let config: &Arc<Config> = match size {
        Size::Usual => &USUAL,
        Size::Small => &SMALL,
        Size::Least => &LEAST,
    };
    Arc::clone(config)
}

/// Bounds that a loaded file may not have are set directly. A relay that polls hears no bell.
fn smaller(in_flight: usize, batch: usize, bytes: usize) -> Arc<Config> {
    let mut config = Config::clone(&USUAL);
    config.relay.max_in_flight = in_flight;
    config.relay.max_in_flight_bytes = bytes;
    config.relay.batch = batch;
    config.relay.wake = WakeMode::Poll;
    config.delivery.initial_window = 1;
    config.delivery.max_concurrency = 4;
    Arc::new(config)
}

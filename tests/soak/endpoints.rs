//! The endpoints, their moods, and who is owed what: our own reading of subscriptions, tenants and
//! filters, against which the one in SQL is held.

use std::time::Duration;

use super::events::Event;

/// How an endpoint takes its webhooks while faults go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// 200 at once.
    Fast,
    /// 200 after this many milliseconds.
    Slow(u64),
    /// 500 to all but every third request.
    FailsTwoOfThree,
    /// 500 to every third request.
    FailsOneOfThree,
    /// 503 with `Retry-After` to every fifth request.
    Busy,
    /// No answer to every fortieth request.
    Hangs,
    /// Drops or resets the connection of every fifth request, before or after reading it.
    Resets,
    /// Up for a while, then refuses connections for a minute.
    Down,
    /// Accepts, until for a while it says 410, which disables it; then it is enabled again.
    Gone,
    /// Answers 200, with a body that never ends or drips.
    Endless,
    /// Sends every request elsewhere, where nothing must arrive.
    Redirects,
    /// Always refuses connections.
    Refuses,
}

/// One endpoint.
#[derive(Debug)]
pub struct Spec {
    pub name: &'static str,
    pub mood: Mood,
    pub subscription: &'static str,
    pub tenant: Option<&'static str>,
    pub filter: Option<Filter>,
    /// The payload alone is the body.
    pub raw: bool,
    pub ordered: bool,
    pub max_concurrency: Option<i32>,
    pub rate_limit: Option<f64>,
}

/// A filter in both readings.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    pub path: &'static str,
    holds: fn(&Event) -> bool,
}

const PLAIN: Spec = Spec {
    name: "",
    mood: Mood::Fast,
    subscription: "*",
    tenant: None,
    filter: None,
    raw: false,
    ordered: false,
    max_concurrency: None,
    rate_limit: None,
};

const fn of(name: &'static str, mood: Mood, subscription: &'static str) -> Spec {
    Spec { name, mood, subscription, ..PLAIN }
}

const LARGE: Filter = Filter { path: "$ ? (@.amount > 900)", holds: |event| event.amount > 900 };
const SMALL_EU: Filter = Filter {
    path: "$ ? (@.eu == true && @.amount <= 300)",
    holds: |event| event.eu && event.amount <= 300,
};

/// About four are owed each event.
pub const ENDPOINTS: [Spec; 22] = [
    of("everything", Mood::Fast, "*"),
    Spec { raw: true, ..of("everything raw", Mood::Fast, "*") },
    of("orders", Mood::Fast, "order.*"),
    Spec { tenant: Some("acme"), ..of("one tenant", Mood::Fast, "*") },
    of("slow 50 ms", Mood::Slow(50), "user.*"),
    of("slow 1 s", Mood::Slow(1000), "user.deleted"),
    of("fails 2 of 3", Mood::FailsTwoOfThree, "order.refunded"),
    of("busy 503", Mood::Busy, "user.created"),
    of("hangs", Mood::Hangs, "order.shipped.eu"),
    of("resets", Mood::Resets, "order.shipped.us"),
    of("down a minute", Mood::Down, "user.updated"),
    Spec { tenant: Some("globex"), ..of("gone 410", Mood::Gone, "stock.moved") },
    Spec { tenant: Some("acme"), ..of("endless body", Mood::Endless, "order.shipped.*") },
    Spec { rate_limit: Some(20.0), ..of("rate limited", Mood::Fast, "audit.*") },
    Spec { max_concurrency: Some(1), ..of("one at a time", Mood::Slow(5), "invoice.*") },
    Spec { filter: Some(LARGE), ..of("filtered", Mood::Fast, "*") },
    Spec {
        tenant: Some("acme"),
        filter: Some(SMALL_EU),
        ..of("filtered tenant", Mood::Fast, "order.*")
    },
    Spec { ordered: true, ..of("ordered", Mood::Fast, "order.paid") },
    Spec { ordered: true, ..of("ordered slow", Mood::Slow(20), "order.refunded") },
    Spec { ordered: true, ..of("ordered flaky", Mood::FailsOneOfThree, "invoice.*") },
    Spec { tenant: Some("acme"), ..of("redirects", Mood::Redirects, "audit.login") },
    Spec { tenant: Some("umbrella"), ..of("refuses", Mood::Refuses, "audit.login") },
];

impl Spec {
    /// Whether it is owed this event, if it is enabled.
    pub fn is_owed(&self, event: &Event) -> bool {
        let subscribed = match self.subscription.strip_suffix('*') {
            Some(prefix) => event.event_type.starts_with(prefix),
            None => event.event_type == self.subscription,
        };
        subscribed
            && self.tenant.is_none_or(|tenant| event.tenant == Some(tenant))
            && self.filter.is_none_or(|filter| (filter.holds)(event))
    }

    /// Never accepts anything: what it is owed ends dead, or waits when all is over.
    pub fn is_dead(&self) -> bool {
        matches!(self.mood, Mood::Redirects | Mood::Refuses)
    }

    /// Accepts every request at once, in any order: its latencies are the relay's.
    pub fn is_healthy(&self) -> bool {
        self.mood == Mood::Fast && self.rate_limit.is_none() && !self.ordered
    }

    /// Enough that nothing dies by accident, and for the dead few enough that some do.
    pub fn max_attempts(&self) -> i32 {
        if self.is_dead() { 3 } else { 1000 }
    }

    /// Shorter than what hangs, longer than what is slow.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(if self.mood == Mood::Hangs { 2 } else { 5 })
    }
}

#[test]
fn an_endpoint_is_owed_what_matches_type_tenant_and_filter() {
    let of_amount = |amount| Event { amount, tenant: Some("acme"), ..Event::of(1, 1) };
    let event = |event_type| Event { event_type, tenant: Some("acme"), eu: true, ..of_amount(300) };
    let owed = |name: &str, event: &Event| {
        ENDPOINTS.iter().find(|spec| spec.name == name).unwrap().is_owed(event)
    };
    assert!(owed("everything", &event("stock.moved")));
    assert!(
        owed("slow 50 ms", &event("user.created")) && !owed("slow 50 ms", &event("order.paid"))
    );
    assert!(owed("slow 1 s", &event("user.deleted")) && !owed("slow 1 s", &event("user.created")));
    assert!(!owed("gone 410", &event("stock.moved")), "another tenant's");
    assert!(owed("filtered", &of_amount(901)) && !owed("filtered", &of_amount(900)));
    assert!(owed("filtered tenant", &event("order.paid")));
}

//! Matches event types with patterns. [`rules`](super::rules) use it; routing does the same in SQL,
//! by listing the patterns that match an event's type.

/// Whether the pattern stands for the event type: `*` for any, `order.*` for all that begin with
/// `order.` (`order.paid`, `order.paid.eu`, not `order`), anything else for itself.
#[must_use]
pub fn matches(pattern: &str, event_type: &str) -> bool {
    pattern == "*"
        || pattern == event_type
        || pattern
            .strip_suffix('*')
            .is_some_and(|prefix| prefix.ends_with('.') && event_type.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_type_is_met_by_itself_its_ancestors_and_the_star() {
        for pattern in ["*", "order.*", "order.paid.*", "order.paid.eu"] {
            assert!(matches(pattern, "order.paid.eu"), "{pattern}");
        }
    }

    #[test]
    fn nothing_else_meets_it() {
        for pattern in
            ["", "order", "order.paid", "order.paid.eu.*", "ord*", "*.eu", "order.*.eu", "Order.*"]
        {
            assert!(!matches(pattern, "order.paid.eu"), "{pattern}");
        }
        assert!(!matches("order.*", "order"));
        assert!(!matches("order.*", "orders.paid"));
    }
}

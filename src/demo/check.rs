//! Whether the demo's promises were kept. Three witnesses must agree: the shop's ledger of commits
//! and rollbacks, the receiver's inboxes, and Posthaste's views. Pure.

use std::collections::HashSet;

use super::receiver::OrderInbox;
use super::shop::{Ledger, matches};

/// One endpoint after the demo.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) subscription: &'static str,
    /// No server listens there.
    pub(super) down: bool,
    pub(super) inbox: OrderInbox,
    /// As the views say.
    pub(super) delivered: usize,
    pub(super) waiting: usize,
    pub(super) owed: usize,
}

/// One promise in words, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PromiseResult {
    pub kept: bool,
    pub promise: String,
}

/// Compares the witnesses.
pub(super) fn judge(ledger: &Ledger, accounts: &[Account]) -> Vec<PromiseResult> {
    let events = ledger.committed.len();
    let (down, up): (Vec<&Account>, Vec<&Account>) =
        accounts.iter().partition(|account| account.down);
    let deliveries: usize = up.iter().map(|account| ledger.owed(account.subscription)).sum();
    let waiting: usize = down.iter().map(|account| ledger.owed(account.subscription)).sum();
    let duplicates: usize = up.iter().map(|account| account.inbox.duplicates()).sum();
    let forged: u64 = up.iter().map(|account| account.inbox.forged).sum();
    let leaked = up.iter().flat_map(|account| &account.inbox.orders);
    let leaked = leaked.filter(|(_, order)| ledger.rolled_back.contains(order)).count();
    let finding = |kept, promise| PromiseResult { kept, promise };
    vec![
        finding(
            !ledger.committed.is_empty() && up.iter().all(|account| arrived(ledger, account)),
            format!(
                "{events} events were committed; all {deliveries} deliveries to endpoints that are \
                 up have arrived"
            ),
        ),
        finding(
            !ledger.rolled_back.is_empty() && leaked == 0,
            format!(
                "{} orders were rolled back; {leaked} of them reached an endpoint",
                ledger.rolled_back.len()
            ),
        ),
        finding(
            down.iter().all(|account| waits(ledger, account)),
            format!("{waiting} deliveries wait for the endpoint that is down; none was dropped"),
        ),
        finding(forged == 0, format!("requests whose signature was wrong: {forged}")),
        finding(
            true,
            format!(
                "webhooks that came twice, with the id of the first time, so that a receiver can \
                 tell: {duplicates}"
            ),
        ),
    ]
}

/// The receiver has exactly the events that were committed for it, and the views agree.
fn arrived(ledger: &Ledger, account: &Account) -> bool {
    let owed: HashSet<&(String, i64)> =
        ledger.committed.iter().filter(|(event, _)| matches(account.subscription, event)).collect();
    owed == account.inbox.orders.iter().collect()
        && account.inbox.accepted.len() == owed.len()
        && account.delivered == owed.len()
        && account.owed == owed.len()
}

fn waits(ledger: &Ledger, account: &Account) -> bool {
    let owed = ledger.owed(account.subscription);
    account.waiting == owed && account.owed == owed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witnesses() -> (Ledger, Vec<Account>) {
        let committed =
            HashSet::from([("order.created".to_owned(), 1), ("order.paid".to_owned(), 1)]);
        let ledger = Ledger { committed, rolled_back: HashSet::from([2]) };
        let inbox = OrderInbox {
            accepted: [("msg_1".to_owned(), 1), ("msg_2".to_owned(), 2)].into(),
            orders: ledger.committed.clone(),
            ..OrderInbox::default()
        };
        let up =
            Account { subscription: "*", down: false, inbox, delivered: 2, waiting: 0, owed: 2 };
        let down = Account {
            subscription: "order.paid",
            down: true,
            inbox: OrderInbox::default(),
            delivered: 0,
            waiting: 1,
            owed: 1,
        };
        (ledger, vec![up, down])
    }

    fn kept(ledger: &Ledger, accounts: &[Account]) -> Vec<bool> {
        judge(ledger, accounts).iter().map(|finding| finding.kept).collect()
    }

    #[test]
    fn all_is_kept_when_the_witnesses_agree() {
        let (ledger, accounts) = witnesses();
        assert_eq!(kept(&ledger, &accounts), [true; 5]);
    }

    #[test]
    fn a_lost_event_breaks_the_first_promise() {
        let (ledger, mut accounts) = witnesses();
        accounts[0].inbox.orders.remove(&("order.paid".to_owned(), 1));
        assert!(!kept(&ledger, &accounts)[0]);
    }

    #[test]
    fn a_view_that_disagrees_breaks_the_first_promise() {
        let (ledger, mut accounts) = witnesses();
        accounts[0].delivered = 1;
        assert!(!kept(&ledger, &accounts)[0]);
    }

    #[test]
    fn a_rolled_back_order_that_is_heard_of_breaks_the_second() {
        let (ledger, mut accounts) = witnesses();
        accounts[0].inbox.orders.insert(("order.created".to_owned(), 2));
        assert!(!kept(&ledger, &accounts)[1]);
    }

    #[test]
    fn a_delivery_that_no_longer_waits_breaks_the_third() {
        let (ledger, mut accounts) = witnesses();
        accounts[1].waiting = 0;
        assert!(!kept(&ledger, &accounts)[2]);
    }

    #[test]
    fn a_bad_signature_is_told() {
        let (ledger, mut accounts) = witnesses();
        accounts[0].inbox.forged = 1;
        assert!(!kept(&ledger, &accounts)[3]);
    }
}

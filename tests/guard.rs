//! Whom a relay does not call, whatever is open: itself and its database. What else it refuses is
//! pinned beside the rules (`src/http/addresses/tests.rs`) and in `retries`.

use crate::support::{Relay, TestDatabase, attempted, endpoint, event};

#[tokio::test]
async fn an_endpoint_that_points_at_the_system_itself_is_refused_though_the_loopback_is_open() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let relay = Relay::start(&database).await;
    let (own, postgres) = (relay.address().port(), database.cluster().port());
    for url in [
        format!("http://127.0.0.1:{own}/metrics"),
        format!("http://localhost:{own}/live"),
        format!("http://127.1.2.3:{own}/"),
        format!("http://127.0.0.1:{postgres}/"),
        format!("http://localhost:{postgres}/"),
    ] {
        let id = endpoint(&url).with("subscriptions", "{none}").add(&client).await;
        let event = event("order.paid").with("endpoint_id", id).add(&client).await;
        let attempt = attempted(&client, event, 1).await.remove(0);
        let said = (attempt.outcome.as_str(), attempt.cause.as_deref());
        assert_eq!(said, ("refused", Some("forbidden_address")), "{url}: {:?}", attempt.detail);
        let detail = attempt.detail.unwrap();
        assert!(
            detail.contains(
                "is this relay's own listener or its database, and no setting opens that"
            ),
            "{url}: {detail}"
        );
    }
}

//! Whom a relay does not call, whatever is open: itself and its database. What else it refuses is
//! pinned beside the rules (`src/outbound/addresses/tests.rs`) and in `retries`.

use crate::support::{Relay, TestDatabase, attempted, endpoint, event};

async fn assert_calls_neither_itself_nor_its_database(database: &TestDatabase, url: &str) {
    let client = database.client().await;
    let relay = Relay::on(url).start().await;
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

#[tokio::test]
async fn an_endpoint_that_points_at_the_system_itself_is_refused_though_the_loopback_is_open() {
    let database = TestDatabase::new().await;
    assert_calls_neither_itself_nor_its_database(&database, &database.url()).await;
}

#[tokio::test]
async fn the_database_is_refused_by_the_addresses_it_listens_at_where_it_is_reached_by_a_socket() {
    let database = TestDatabase::new().await;
    let cluster = database.cluster();
    let url = database.url();
    let password = url.split([':', '@']).nth(2).unwrap();
    let by_socket = format!(
        "host={} port={} user=postgres password={password} dbname={}",
        cluster.directory().display(),
        cluster.port(),
        database.name()
    );
    assert_calls_neither_itself_nor_its_database(&database, &by_socket).await;
}

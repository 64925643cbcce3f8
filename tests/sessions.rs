//! What operators set for a database, a role or a table, and where an address leads: it changes nothing of
//! what a relay does, or the relay says so and waits. Nothing is passed over in silence.

use tokio_postgres::Client;

use crate::doctor::{about, doctor};
use crate::support::{
    Receiver, Relay, TestDatabase, endpoint, event, inconsistencies, migrate, settled, until,
};

/// A role that may log in, and the database's URL for it.
async fn role(database: &TestDatabase, client: &Client, name: &str) -> (String, String) {
    let role = format!("{name}_{}", database.name());
    client.batch_execute(&format!("create role {role} login password 'hunter2'")).await.unwrap();
    let mut url = url::Url::parse(&database.url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("hunter2")).unwrap();
    (role, url.into())
}

/// Has a policy hide the outbox from the relay that goes by this URL, and does what doctor then says.
async fn assert_waits_for_hidden_rows(url: &str, client: &Client, hide: &str) {
    let receiver = Receiver::start().await;
    endpoint(&receiver.url("/")).add(client).await;
    let relay = Relay::on(url).start().await;
    client.batch_execute(hide).await.unwrap();
    event("order.paid").add(client).await;
    relay.logs(r#"row-level security policy for table \"outbox\" (42501)"#).await;
    until("the relay to say that it is not ready", || async {
        let (status, body) = relay.get("/ready").await?;
        (status == 503 && body.contains("route events: the database refuses it (42501)"))
            .then_some(())
    })
    .await;
    let errors = relay.metric("posthaste_database_errors_total", r#"during="route""#).await;
    assert!(errors > 0.0);
    assert_eq!(receiver.received().len(), 0);

    let (code, said) = doctor(url, &[]).await;
    assert_eq!(code, Some(1), "{said:#}");
    let hidden = about(&said, "rows");
    assert!(hidden["found"].as_str().unwrap().ends_with(": posthaste.outbox"), "{said:#}");
    let (mend, _) = hidden["mend"].as_str().unwrap().split_once("; or ").unwrap();
    client.batch_execute(mend).await.unwrap();
    settled(client).await;
    assert_eq!(receiver.received().len(), 1);
    assert_eq!(inconsistencies(client).await, [""; 0]);
    let (_, said) = doctor(url, &[]).await;
    assert_eq!(about(&said, "rows")["state"], "ok", "{said:#}");
}

#[tokio::test]
async fn events_that_a_policy_hides_from_the_relay_are_an_error_and_sent_once_it_is_mended() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let (role, url) = role(&database, &client, "member").await;
    client.batch_execute(&format!("grant posthaste_relay to {role}")).await.unwrap();
    let hide = "alter table posthaste.outbox enable row level security";
    assert_waits_for_hidden_rows(&url, &client, hide).await;
}

#[tokio::test]
async fn events_that_a_policy_hides_from_the_owner_are_an_error_and_sent_once_it_is_mended() {
    let database = TestDatabase::empty().await;
    let client = database.client().await;
    let (role, url) = role(&database, &client, "owner").await;
    let grant = format!("grant create on database {} to {role}", database.name());
    client.batch_execute(&grant).await.unwrap();
    migrate(&url).await;
    let hide = "alter table posthaste.outbox enable row level security; \
                alter table posthaste.outbox force row level security";
    assert_waits_for_hidden_rows(&url, &client, hide).await;
}

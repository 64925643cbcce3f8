//! A dump that is restored into another database: the numbers of its transactions mean nothing
//! there, and what it sends is what the original sends. So a relay refuses it until an operator has
//! taken it over; then routing begins anew, loses nothing, and does not repeat what had arrived.

use std::process::Stdio;

use posthaste::sandbox::postgres::Cluster;
use tokio::process::Command;
use tokio_postgres::Client;

use crate::support::{
    Gate, Received, Receiver, Relay, Reply, TestDatabase, attempted, attempts, cluster_options,
    endpoint, event, holds, inconsistencies, posthaste, settled, until, value,
};

const REFUSED: &str = "this database is a copy: its ledger was written in database ";

/// The output of `posthaste adopt`.
async fn adopted(copy: &TestDatabase, arguments: &[&str]) -> String {
    let (code, said) = posthaste(&copy.url(), &[&["adopt"], arguments].concat()).await;
    assert_eq!(code, Some(0), "{said}");
    said
}

/// A copy of a database by way of `pg_dump` and `psql`, as operators make it.
async fn restored(from: &TestDatabase) -> TestDatabase {
    let restored = TestDatabase::empty().await;
    copy(from, &restored.url(), &[]).await;
    restored
}

async fn copy(from: &TestDatabase, to: &str, options: &[&str]) {
    let binaries = from.cluster().binaries();
    let mut dump = Command::new(binaries.path("pg_dump"));
    let dump = dump.args(options).arg(from.url()).output().await.unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &dump.stdout).unwrap();
    let restore = Command::new(binaries.path("psql"))
        .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"])
        .arg(to)
        .stdin(file.reopen().unwrap())
        .stdout(Stdio::null())
        .output()
        .await
        .unwrap();
    assert!(restore.status.success(), "{}", String::from_utf8_lossy(&restore.stderr));
}

/// From now on the copy's deliveries go here.
async fn point_at(client: &Client, receiver: &Receiver) {
    let statement = "update posthaste.endpoints set url = $1";
    client.execute(statement, &[&receiver.url("/copy")]).await.unwrap();
}

fn types(receiver: &Receiver) -> Vec<String> {
    let event_type = |one: &Received| one.json()["type"].as_str().unwrap().to_owned();
    let mut types: Vec<_> = receiver.received().iter().map(event_type).collect();
    types.sort();
    types
}

#[tokio::test]
async fn a_copy_delivers_what_had_not_ended_and_repeats_nothing_that_had() {
    let source = TestDatabase::new().await;
    let client = source.client().await;
    let before = Receiver::start().await;
    let gate = Gate::default();
    before.script([
        Reply::ok(),
        Reply::status(500),
        Reply::status(500),
        Reply::ok().held_by(&gate),
    ]);
    let row = endpoint(&before.url("/")).with("subscriptions", "{order.*}");
    let id = row.with("schedule", "{1 h}").add(&client).await;
    let mut relay = Relay::start(&source).await;
    let mut seen = Vec::new();
    for event_type in ["order.delivered", "order.waiting", "order.given.up"] {
        let event = event(event_type).add(&client).await;
        attempted(&client, event, 1).await;
        seen.push(event);
    }
    let given_up = format!("select posthaste.cancel({}, reason => 'given up')", seen[2]);
    client.batch_execute(&given_up).await.unwrap();
    event("user.unwanted").add(&client).await;
    event("order.in.flight").add(&client).await;
    before.wait_for(4).await;
    // As if the machine had gone: its claim is in the dump, and its relay nowhere.
    relay.kill().await;
    let unrouted = event("order.unrouted").add(&client).await;
    let copy = restored(&source).await;

    let (client, after) = (copy.client().await, Receiver::start().await);
    let problems = inconsistencies(&client).await;
    assert!(problems.iter().any(|one| one.contains("belongs to another database")), "{problems:?}");
    point_at(&client, &after).await;
    for (command, ended) in [("run", 1), ("doctor", 1)] {
        let (code, said) = posthaste(&copy.url(), &[command]).await;
        assert_eq!(code, Some(ended), "{said}");
        assert!(said.contains(REFUSED) && said.contains("`posthaste adopt --hold`"), "{said}");
    }
    let said = adopted(&copy, &[]).await;
    assert!(said.starts_with("took over this copy; 2 events "), "{said}");
    let (_, said) = posthaste(&copy.url(), &["doctor"]).await;
    assert!(said.contains("ok       ledger       written in this database\n"), "{said}");
    let _relay = Relay::start(&copy).await;
    let retry = format!("select posthaste.retry({}, {id})", seen[1]);
    assert_eq!(value::<String>(&client, &retry).await, "due");
    let new = event("order.new").add(&client).await;
    assert!(new > unrouted, "the numbers of events go on");

    settled(&client).await;
    let expected = ["order.in.flight", "order.new", "order.unrouted", "order.waiting"];
    assert_eq!(types(&after), expected);
    let ids = |receiver: &Receiver, event_type: &str| {
        let received = receiver.received();
        let of_type = received.iter().find(|one| one.json()["type"] == event_type).unwrap();
        of_type.id().to_owned()
    };
    assert_eq!(ids(&after, "order.waiting"), ids(&before, "order.waiting"), "receivers can tell");
    assert_eq!(ids(&after, "order.in.flight"), ids(&before, "order.in.flight"));
    assert_eq!(attempts(&client, seen[0]).await.len(), 1, "its history came along");
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_copy_is_routed_anew_once_and_not_again_by_the_next_relay() {
    let source = TestDatabase::new().await;
    let client = source.client().await;
    endpoint("http://127.0.0.1:1/").add(&client).await;
    event("order.unrouted").add(&client).await;
    let copy = restored(&source).await;
    let (client, after) = (copy.client().await, Receiver::start().await);
    point_at(&client, &after).await;

    // Two at the same time: one of them does it, the other finds it done.
    tokio::join!(adopted(&copy, &[]), adopted(&copy, &[]));
    let again = "nothing to take over: the ledger is this database's own\n";
    assert_eq!(adopted(&copy, &[]).await, again);
    let _relay = Relay::start(&copy).await;
    event("order.new").add(&client).await;
    settled(&client).await;
    assert_eq!(types(&after), ["order.new", "order.unrouted"]);
    let rebased = "select count(distinct database_oid) from posthaste.routing";
    assert_eq!(value::<i64>(&client, rebased).await, 2, "the old one's, and this one's");
}

#[tokio::test]
async fn a_transaction_that_is_open_meanwhile_is_routed_when_it_commits() {
    let source = TestDatabase::new().await;
    let client = source.client().await;
    endpoint("http://127.0.0.1:1/").add(&client).await;
    let copy = restored(&source).await;
    let (client, after) = (copy.client().await, Receiver::start().await);
    point_at(&client, &after).await;
    // It has its number and has not written yet; another one has written and not committed.
    let (idle, writing) = (copy.client().await, copy.client().await);
    idle.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    writing.batch_execute(&format!("begin; {}", event("order.written").sql())).await.unwrap();
    // To begin anew is to know of every insert: it waits for this one.
    let written = async {
        until("the adoption to wait for the writer", || async {
            let waits = "select exists (select from pg_locks where not granted
                          and relation = 'posthaste.outbox'::regclass)";
            value::<bool>(&client, waits).await.then_some(())
        })
        .await;
        writing.batch_execute("commit").await.unwrap();
    };
    let (said, ()) = tokio::join!(adopted(&copy, &[]), written);
    assert!(said.starts_with("took over this copy; 1 events "), "{said}");
    let _relay = Relay::start(&copy).await;
    assert_eq!(after.next().await.json()["type"], "order.written");

    idle.batch_execute(&event("order.late").sql()).await.unwrap();
    event("order.meanwhile").add(&client).await;
    assert_eq!(after.next().await.json()["type"], "order.meanwhile");
    idle.batch_execute("commit").await.unwrap();
    assert_eq!(after.next().await.json()["type"], "order.late");
    settled(&client).await;
    assert_eq!(after.received().len(), 3);
    assert_eq!(inconsistencies(&client).await, [""; 0]);
}

/// The SQL that `OPERATING` says to run before a dump is restored into a cluster that never had the
/// roles.
fn make_roles() -> String {
    let manual = include_str!("../../docs/OPERATING.md");
    manual.lines().filter(|line| line.starts_with("create role posthaste_")).collect()
}

#[tokio::test]
async fn a_dump_goes_into_a_cluster_without_the_roles_as_the_manual_says() {
    let source = TestDatabase::new().await;
    let schemas = ["-n", "posthaste", "-n", "posthaste_internal"];
    let other = Cluster::start(cluster_options()).await.unwrap();
    let may_look = "select has_table_privilege('posthaste_viewer', 'posthaste.backlog', 'select')";

    other.create_database("without_grants", None).await.unwrap();
    let without_grants = other.url_for("without_grants");
    copy(&source, &without_grants, &[&schemas[..], &["--no-acl"]].concat()).await;
    let client = source.client_at(&without_grants).await;
    client.batch_execute(&make_roles()).await.unwrap();
    assert!(!value::<bool>(&client, may_look).await);
    client.batch_execute("select posthaste.grant_roles()").await.unwrap();
    assert!(value::<bool>(&client, may_look).await);

    other.create_database("with_roles", None).await.unwrap();
    let with_roles = other.url_for("with_roles");
    copy(&source, &with_roles, &schemas).await;
    assert!(value::<bool>(&source.client_at(&with_roles).await, may_look).await);
}

#[tokio::test]
async fn a_copy_that_is_held_sends_nothing_until_an_endpoint_is_enabled() {
    let source = TestDatabase::new().await;
    let client = source.client().await;
    let id = endpoint("http://127.0.0.1:1/").add(&client).await;
    event("order.unrouted").add(&client).await;
    let copy = restored(&source).await;
    let (client, after) = (copy.client().await, Receiver::start().await);
    point_at(&client, &after).await;
    let said = adopted(&copy, &["--hold"]).await;
    assert!(
        said.starts_with("disabled 1 endpoints, and holds their deliveries\ntook over"),
        "{said}"
    );
    let _relay = Relay::start(&copy).await;
    event("order.new").add(&client).await;
    let routed = "count(*) = 2 from posthaste.live_deliveries";
    holds(&client, routed).await;
    assert_eq!(types(&after), [""; 0]);
    let reason = "select disabled_reason from posthaste.endpoints";
    assert_eq!(value::<String>(&client, reason).await, "this database is a copy");

    client.batch_execute(&format!("select posthaste.enable_endpoint({id})")).await.unwrap();
    settled(&client).await;
    assert_eq!(types(&after), ["order.new", "order.unrouted"]);
}

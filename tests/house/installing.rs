//! Installing: what `posthaste migrate` needs, what it does with what it finds, and what it says.

use posthaste::sandbox::postgres::Cluster;
use posthaste::store::migrate::MIGRATIONS;
use tokio::process::Command;
use tokio_postgres::Client;

use crate::support::server::connect;
use crate::support::{
    Receiver, Relay, TestDatabase, cluster_options, endpoint, event, inconsistencies, posthaste,
    settled, value,
};

/// The same database for another login.
fn as_login(url: &str, login: &str) -> String {
    let mut url = url::Url::parse(url).unwrap();
    url.set_username(login).unwrap();
    url.set_password(Some("hunter2")).unwrap();
    url.into()
}

/// A login that owns the schemas and may do nothing else.
async fn owner_of_the_schemas(client: &Client, login: &str) {
    let make = format!(
        "create role {login} login password 'hunter2';
         create schema posthaste authorization {login};
         create schema posthaste_internal authorization {login}"
    );
    client.batch_execute(&make).await.unwrap();
}

#[tokio::test]
async fn a_role_that_owns_the_schemas_migrates_without_a_right_to_make_one() {
    let database = TestDatabase::empty().await;
    let client = database.client().await;
    let login = format!("owner_of_{}", database.name());
    let url = as_login(&database.url(), &login);
    client.batch_execute(&format!("create role {login} login password 'hunter2'")).await.unwrap();
    let (code, said) = posthaste(&url, &["migrate"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("hint: an administrator can make the schemas for this role"), "{said}");
    client.batch_execute(&format!("drop role {login}")).await.unwrap();

    owner_of_the_schemas(&client, &login).await;
    let (code, said) = posthaste(&url, &["migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("applied 0001 "), "{said}");
    let (code, said) = posthaste(&url, &["migrate"]).await;
    assert_eq!((code, &*said), (Some(0), "nothing to do: the schema is up to date\n"));
}

#[tokio::test]
async fn where_nothing_is_missing_a_role_with_few_rights_is_told_so() {
    let database = TestDatabase::new().await;
    let client = database.client().await;
    let login = format!("relay_of_{}", database.name());
    let make = format!("create role {login} login password 'hunter2' in role posthaste_relay");
    client.batch_execute(&make).await.unwrap();
    let (code, said) = posthaste(&as_login(&database.url(), &login), &["migrate"]).await;
    assert_eq!((code, &*said), (Some(0), "nothing to do: the schema is up to date\n"));
}

#[tokio::test]
async fn roles_that_could_not_be_made_are_told_with_what_an_administrator_runs() {
    // Roles belong to the cluster, and the tests' own has them.
    let cluster = Cluster::start(cluster_options()).await.unwrap();
    let client = connect(&cluster.url()).await.unwrap();
    let url = as_login(&cluster.url(), "owner");
    owner_of_the_schemas(&client, "owner").await;
    let (code, said) = posthaste(&url, &["migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
    let (_, told) = said.split_once("\n-- roles not there: posthaste_operator, ").expect(&said);
    let (_, sql) = told.split_once('\n').unwrap();
    let sql = sql.to_owned();
    let again = posthaste(&url, &["migrate"]).await.1;
    assert!(again.ends_with(&sql), "as long as they are not there: {again}");

    let (code, said) = posthaste(&url, &["doctor"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\nwarning  roles        not there: posthaste_operator, "), "{said}");
    // One of them, without its grants.
    client.batch_execute("create role posthaste_viewer").await.unwrap();
    let (_, said) = posthaste(&url, &["doctor"]).await;
    assert!(said.contains("; without their grants: posthaste_viewer\n"), "{said}");
    client.batch_execute("drop role posthaste_viewer").await.unwrap();

    client.batch_execute(&sql).await.unwrap();
    let (code, said) = posthaste(&url, &["doctor"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\nok       roles        all exist, with their grants\n"), "{said}");
    client
        .batch_execute(&format!("set role posthaste_producer; {}", event("order.paid").sql()))
        .await
        .unwrap();
    client.batch_execute("reset role").await.unwrap();
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 1);
}

#[tokio::test]
async fn a_relays_login_is_told_to_have_the_role_made_that_it_is_to_be_granted() {
    let cluster = Cluster::start(cluster_options()).await.unwrap();
    let client = connect(&cluster.url()).await.unwrap();
    owner_of_the_schemas(&client, "owner").await;
    let (code, said) = posthaste(&as_login(&cluster.url(), "owner"), &["migrate"]).await;
    assert_eq!(code, Some(0), "{said}");
    client
        .batch_execute("create role relay login password 'hunter2'; grant usage on schema posthaste to relay; grant select on posthaste.migrations to relay")
        .await
        .unwrap();
    let url = as_login(&cluster.url(), "relay");
    let (code, said) = posthaste(&url, &["doctor"]).await;
    assert_eq!(code, Some(1), "{said}");
    let (_, after) = said.split_once("FAILED   privileges").expect(&said);
    let fix = after.lines().nth(1).unwrap().trim();
    client.batch_execute(fix).await.unwrap();
    let (code, said) = posthaste(&url, &["doctor"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("ok       privileges   all that a relay needs\n"), "{said}");
}

/// A copy of a database's structure alone, by way of `pg_dump -s`, as frameworks keep it in a file.
async fn structure_of(from: &TestDatabase, options: &[&str]) -> TestDatabase {
    let copy = TestDatabase::empty().await;
    let binaries = from.cluster().binaries();
    let mut dump = Command::new(binaries.path("pg_dump"));
    let dump = dump.arg("-s").args(options).arg(from.url()).output().await.unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let structure = String::from_utf8(dump.stdout).unwrap();
    // psql's own words, in the newest minors.
    let structure: String = structure
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .map(|line| format!("{line}\n"))
        .collect();
    copy.client().await.batch_execute(&structure).await.unwrap();
    copy
}

#[tokio::test]
async fn a_schema_that_was_loaded_without_its_rows_gets_them_back() {
    let source = TestDatabase::new().await;
    source
        .client()
        .await
        .batch_execute("select posthaste.set_payload_limit(4096); create index mine on posthaste.outbox (tenant)")
        .await
        .unwrap();
    for options in
        [&[][..], &["--no-owner", "--no-privileges"], &["--exclude-table=posthaste.migrations"]]
    {
        let copy = structure_of(&source, options).await;
        let client = copy.client().await;
        client.batch_execute(&event("order.early").sql()).await.unwrap();
        let receiver = Receiver::start().await;
        endpoint(&receiver.url("/")).add(&client).await;
        let without = "the posthaste schema was loaded without its rows";
        for command in ["run", "doctor"] {
            let (code, said) = posthaste(&copy.url(), &[command]).await;
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains(without) && said.contains("`posthaste migrate`"), "{said}");
        }
        let (code, said) = posthaste(&copy.url(), &["migrate"]).await;
        let expected = "put back the rows of a schema that was loaded without them\n\
                        nothing to do: the schema is up to date\n";
        assert_eq!((code, &*said), (Some(0), expected), "{options:?}");
        let ledger = "select count(*) from posthaste.migrations";
        assert_eq!(value::<i64>(&client, ledger).await, i64::try_from(MIGRATIONS.len()).unwrap());
        assert!(value::<i64>(&client, "select count(*) from posthaste.rules").await > 1);

        let _relay = Relay::start(&copy).await;
        event("order.late").add(&client).await;
        settled(&client).await;
        let mut types: Vec<_> =
            receiver.received().iter().map(|one| one.json()["type"].clone()).collect();
        types.sort_by_key(ToString::to_string);
        assert_eq!(types, ["order.early", "order.late"]);
        assert_eq!(inconsistencies(&client).await, [""; 0]);
    }
}

#[tokio::test]
async fn a_schema_without_rows_that_is_another_versions_is_left_as_it_is_and_told_by_what() {
    let source = TestDatabase::new().await;
    let change = "alter table posthaste.relays drop column session_began_at cascade;
         create or replace function posthaste.event_of(webhook_id text) returns bigint language sql as 'select 1::bigint'";
    source.client().await.batch_execute(change).await.unwrap();
    let copy = structure_of(&source, &[]).await;
    let (code, said) = posthaste(&copy.url(), &["migrate"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("column session_began_at of relays in posthaste"), "{said}");
    assert!(said.contains("function event_of("), "{said}");
    let client = copy.client().await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.routing").await, 0);
    let schemas = "select count(*) from pg_namespace where nspname ~ 'posthaste'";
    assert_eq!(value::<i64>(&client, schemas).await, 2);
}

/// Runs a script in psql: its exit code and output.
async fn psql(database: &TestDatabase, options: &[&str], script: &str) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let mut psql = Command::new(database.cluster().binaries().path("psql"));
    psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]).args(options);
    let psql = psql.arg("--file").arg(file.path()).arg(database.url()).output().await.unwrap();
    (psql.status.code(), String::from_utf8(psql.stderr).unwrap())
}

#[tokio::test]
async fn what_is_printed_is_applied_once_and_says_so_the_second_time() {
    let database = TestDatabase::empty().await;
    let (code, whole) = posthaste("", &["migrate", "--print"]).await;
    assert_eq!(code, Some(0), "{whole}");
    let newest = MIGRATIONS.len();
    assert_eq!(psql(&database, &[], &whole).await, (Some(0), String::new()));
    let (code, said) = psql(&database, &[], &whole).await;
    assert_eq!(code, Some(3), "{said}");
    let already = format!(
        "already applied: the schema posthaste is at version {newest}, and this script begins after 0"
    );
    assert!(
        said.contains(&already) && said.contains("HINT:  There is nothing newer to apply."),
        "{said}"
    );

    let (code, rest) = posthaste("", &["migrate", "--print", "--from", &newest.to_string()]).await;
    assert_eq!(code, Some(0), "{rest}");
    assert!(!rest.contains("create table"), "nothing is newer: {rest}");
    for _ in 0..2 {
        assert_eq!(psql(&database, &[], &rest).await, (Some(0), String::new()));
    }
    let empty = TestDatabase::empty().await;
    let (_, said) = psql(&empty, &[], &rest).await;
    assert!(
        said.contains("the schema posthaste is at version 0, and this script begins after"),
        "{said}"
    );
    let (code, said) = posthaste("", &["migrate", "--print", "--from", "999"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("there is no version 999 of the schema; write 0 to "), "{said}");

    let latin = TestDatabase::encoded_in("LATIN1").await;
    let (_, said) = psql(&latin, &[], &whole).await;
    assert!(said.contains("is encoded in LATIN1, and Posthaste needs UTF8"), "{said}");
}

#[tokio::test]
async fn what_is_printed_bare_stands_in_the_transaction_of_the_tool_that_applies_it() {
    let database = TestDatabase::empty().await;
    let (_, bare) = posthaste("", &["migrate", "--print", "--bare"]).await;
    // A tool that fails later in its transaction leaves nothing behind.
    let (code, said) = psql(&database, &["-1"], &format!("{bare}; select 1/0;")).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("division by zero"), "{said}");
    let client = database.client().await;
    let is_there = "select to_regnamespace('posthaste') is not null";
    assert!(!value::<bool>(&client, is_there).await);

    // The tool goes on by its own path.
    let goes_on = "create table of_the_tool ()";
    assert_eq!(
        psql(&database, &["-1"], &format!("{bare}; {goes_on};")).await,
        (Some(0), String::new())
    );
    let found = "select to_regclass('public.of_the_tool') is not null";
    assert!(value::<bool>(&client, found).await);
    let (code, said) = psql(&database, &["-1"], &bare).await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("already applied: "), "{said}");
    let (code, said) = posthaste(&database.url(), &["migrate"]).await;
    assert_eq!((code, &*said), (Some(0), "nothing to do: the schema is up to date\n"));
}

//! The database that a relay is given: what it cannot live in is refused by its reason, before anything else.

use std::process::Output;

use tokio::process::Command;

use crate::support::{TestDatabase, within};

/// What a command says and how it ends.
async fn posthaste(url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(arguments).env_clear().env("DATABASE_URL", url);
    command.env("POSTHASTE_HTTP__LISTEN", "off").kill_on_drop(true);
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let Output { status, stdout, stderr } = within("posthaste", command.output()).await.unwrap();
    let said = [stdout, stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    (status.code(), said)
}

#[tokio::test]
async fn a_database_that_is_not_in_utf8_is_refused_by_name_with_what_would_be_right() {
    for encoding in ["LATIN1", "SQL_ASCII", "EUC_JP"] {
        let database = TestDatabase::encoded_in(encoding).await;
        let client = database.client().await;
        // No relay could read this; it must not be what is found first.
        if encoding == "SQL_ASCII" {
            client.batch_execute(r"create table t as select e'a.\xff'::text").await.unwrap();
        }
        let reason = format!(
            "the database {} is encoded in {encoding}, and Posthaste needs UTF8; \
             make another: create database … encoding 'UTF8' template template0",
            database.name()
        );
        for (command, code) in
            [(&["migrate"][..], 2), (&["run"], 2), (&["run", "--migrate"], 2), (&["doctor"], 1)]
        {
            let (ended, said) = posthaste(&database.url(), command).await;
            assert_eq!(ended, Some(code), "{said}");
            assert!(said.contains(&reason), "{command:?}: {said}");
        }
        let schema = client.query_one("select to_regnamespace('posthaste')::text", &[]).await;
        assert_eq!(schema.unwrap().get::<_, Option<String>>(0), None, "nothing was left there");
    }
}

//! The database that a relay is given: what it cannot live in is refused by its reason, before
//! anything else.

use posthaste::store::migrate::MIGRATIONS;
use serde_json::Value;

use crate::support::{Relay, TestDatabase, posthaste};

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

#[tokio::test]
async fn the_start_says_what_runs_with_which_settings_on_which_database() {
    let database = TestDatabase::new().await;
    let mut relay = Relay::start(&database).await;
    let log = relay.log();
    let line = |message: &str| {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["message"] == message).expect(&log)
    };
    let starts = line("posthaste starts");
    assert_eq!(starts["version"], env!("CARGO_PKG_VERSION"));
    let settings = starts["settings"].as_str().unwrap();
    assert!(settings.starts_with("no posthaste.toml in /"), "{settings}");
    let place = line("on its database");
    let url = url::Url::parse(&database.url()).unwrap();
    let at = format!("{}:{}", url.host().unwrap(), url.port().unwrap());
    assert_eq!((&place["database"], &place["at"]), (&database.name().into(), &at.into()));
    assert_eq!(place["role"], url.username());
    assert_eq!(place["schema"], MIGRATIONS.len());
    assert!(place["postgresql"].is_string());
    assert!(!log.contains(url.password().unwrap()), "{log}");
    assert!(relay.stop().await.success());

    let file = tempfile::NamedTempFile::new().unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    let settings = ["--set", "database.startup_timeout=0s"];
    let (_, said) =
        posthaste("postgres://127.0.0.1:1/shop", &[&["run"][..], &config, &settings].concat())
            .await;
    assert!(said.contains(&format!("\"settings\":\"{}\"", file.path().display())), "{said}");
}

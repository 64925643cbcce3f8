//! The database that a relay is given: what it cannot live in is refused by its reason, before anything else.

use crate::support::{TestDatabase, posthaste};

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

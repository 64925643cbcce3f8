//! docs/SQL.md is what the comments of the schema say. `make docs` writes it anew.

use std::fmt::Write as _;
use std::fs;

use tokio_postgres::Client;

use crate::support::TestDatabase;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SQL.md");

/// The tables that applications and operators write to, and one that they read.
const TABLES: [&str; 4] = ["outbox", "endpoints", "rules", "set_aside"];

/// The functions by subject. Each public function stands in one of these.
const FUNCTIONS: [(&str, &[&str]); 5] = [
    ("Events", &["emit", "event_of_key", "event_of", "webhook_id", "events_between"]),
    (
        "Endpoints",
        &[
            "add_endpoint",
            "enable_endpoint",
            "disable_endpoint",
            "rotate_secret",
            "send_test",
            "cancel_endpoint",
            "retry_endpoint",
        ],
    ),
    (
        "Deliveries",
        &[
            "explain",
            "deliveries_of",
            "deliveries_between",
            "retry",
            "replay",
            "route_again",
            "cancel",
            "unblock",
        ],
    ),
    ("Rules", &["load_rules", "unload_rules"]),
    ("Administration", &["check_consistency", "grant_roles", "set_payload_limit"]),
];

const HEAD: &str = "# SQL reference

The tables that you write to or look into, the views that you read and the functions that you call, as the database itself
describes them: `\\d+ posthaste.outbox` and `\\df+ posthaste.retry` in psql show the same. Wide rows are easier to read
after `\\x auto`. What is not on this page (other tables, and the schema `posthaste_internal`) is the relay's own and
may change with any version. Who may call what is in [OPERATING](OPERATING.md).

This page is written from the comments of the schema by `make docs`.
";

#[tokio::test]
async fn the_reference_says_what_the_schema_says() {
    let database = TestDatabase::new().await;
    let page = page(&database.client().await).await;
    if std::env::var_os("POSTHASTE_WRITE_DOCS").is_some() {
        fs::write(PAGE, &page).unwrap();
    }
    let written = fs::read_to_string(PAGE).unwrap_or_default();
    assert!(written == page, "docs/SQL.md is not what the schema says: run `make docs`");
}

async fn page(client: &Client) -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n## Tables\n");
    for table in TABLES {
        relation(client, &mut page, table).await;
    }
    page.push_str("\n## Views\n");
    let views = "select relname::text from pg_class where relkind = 'v'
                  and relnamespace = 'posthaste'::regnamespace order by 1";
    for row in client.query(views, &[]).await.unwrap() {
        relation(client, &mut page, row.get(0)).await;
    }
    page.push_str("\n## Functions\n");
    let mut told = 0;
    for (subject, names) in FUNCTIONS {
        write!(page, "\n### {subject}\n").unwrap();
        for name in names {
            told += function(client, &mut page, name).await;
        }
    }
    let all = "select count(*) from pg_proc where pronamespace = 'posthaste'::regnamespace";
    let all: i64 = client.query_one(all, &[]).await.unwrap().get(0);
    assert_eq!(told, all, "a public function is in no list of this test: public, or internal?");
    page
}

/// A table or view with its columns.
async fn relation(client: &Client, page: &mut String, name: &str) {
    let about = "select obj_description(('posthaste.' || $1)::regclass, 'pg_class')";
    let about: String = client.query_one(about, &[&name]).await.unwrap().get(0);
    write!(page, "\n### posthaste.{name}\n\n{about}\n\n| column | type | |\n|---|---|---|\n")
        .unwrap();
    let columns = "
        select a.attname::text, format_type(a.atttypid, a.atttypmod),
               case when a.attnotnull and not a.atthasdef and a.attidentity = '' and c.relkind <> 'v'
                    then 'Required. ' else '' end
               || replace(col_description(a.attrelid, a.attnum), '|', '\\|')
          from pg_attribute a join pg_class c on c.oid = a.attrelid
         where a.attrelid = ('posthaste.' || $1)::regclass and a.attnum > 0 and not a.attisdropped
         order by a.attnum";
    for row in client.query(columns, &[&name]).await.unwrap() {
        let (column, kind, about): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        writeln!(page, "| `{column}` | {kind} | {about} |").unwrap();
    }
}

/// A function in all its forms; how many there are.
async fn function(client: &Client, page: &mut String, name: &str) -> i64 {
    let forms = "
        select pg_get_function_arguments(p.oid), pg_get_function_result(p.oid),
               obj_description(p.oid, 'pg_proc')
          from pg_proc p where p.pronamespace = 'posthaste'::regnamespace and p.proname = $1
         order by p.oid";
    let forms = client.query(forms, &[&name]).await.unwrap();
    assert!(!forms.is_empty(), "there is no posthaste.{name}");
    for form in &forms {
        let (arguments, result, about): (String, String, String) =
            (form.get(0), form.get(1), form.get(2));
        let arguments = arguments.replace("::text", "").replace("::text[]", "");
        let signature = format!("posthaste.{name}({arguments}) returns {result}");
        write!(page, "\n```\n{}\n```\n\n{about}\n", wrapped(&signature)).unwrap();
    }
    i64::try_from(forms.len()).unwrap()
}

/// A signature in lines of at most a hundred characters, broken after commas.
fn wrapped(signature: &str) -> String {
    let mut lines = vec![String::new()];
    for part in signature.split_inclusive(", ") {
        let line = lines.last_mut().unwrap();
        if !line.is_empty() && line.len() + part.trim_end().len() > 100 {
            lines.push(format!("    {part}"));
        } else {
            line.push_str(part);
        }
    }
    let lines: Vec<_> = lines.iter().map(|line| line.trim_end()).collect();
    lines.join("\n")
}

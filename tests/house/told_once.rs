//! Facts that are told in several places and decided in one: documents and comments follow the
//! code. Each complaint says what to write.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use posthaste::config::{self, Config, DEFAULTS, Sources};
use posthaste::observe::metrics::{Declared, Metrics};
use posthaste::outbound::addresses::AddressRules;
use posthaste::outbound::client::ClientSettings;
use posthaste::outbound::resolve::Resolver;
use posthaste::store::{CONNECTIONS_BESIDE_POOL, INGEST_CONNECTIONS};
use toml_edit::ImDocument;

/// Where settings are named with their defaults.
const DOCUMENTS: [&str; 4] =
    ["README.md", "docs/OPERATING.md", "docs/INGEST.md", "docs/GUARANTEES.md"];

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The text with its lines joined.
fn flowing(path: &str) -> String {
    let text = read(path);
    let words = text.lines().flat_map(|line| line.trim_start_matches('#').split_whitespace());
    words.collect::<Vec<_>>().join(" ")
}

fn defaults() -> Config {
    let url = ("database.url".to_owned(), "postgres://localhost/x".to_owned());
    config::load(&Sources { flags: vec![url], ..Sources::default() }).unwrap()
}

#[track_caller]
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_metrics_in_operating_are_those_of_the_table_with_their_labels_and_meanings() {
    let text = read("docs/OPERATING.md");
    let told: Vec<_> = text.lines().filter(|line| line.starts_with("| `posthaste_")).collect();
    let told: Vec<_> = told.into_iter().filter(|line| line.matches('|').count() == 4).collect();
    let expected: Vec<_> = Metrics::table()
        .into_iter()
        .map(|Declared { name, meaning, labels, .. }| {
            let labels = labels.join(",");
            let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
            format!("| `{name}{labels}` | {meaning} |")
        })
        .collect();
    let mut complaints: Vec<_> = expected
        .iter()
        .filter(|row| !told.iter().any(|told| told.starts_with(&***row)))
        .map(|row| format!("docs/OPERATING.md: write {row} … |"))
        .collect();
    let is_known = |told: &&&str| expected.iter().any(|row| told.starts_with(&**row));
    let unknown = told.iter().filter(|told| !is_known(told));
    complaints.extend(unknown.map(|told| format!("docs/OPERATING.md: no such metric: {told}")));
    assert_none(&complaints);
    assert_eq!(told.len(), expected.len(), "docs/OPERATING.md has a metric twice");
}

/// `` `section.key` (VALUE) `` and `` `section.key`, VALUE `` tell a default if the value begins
/// with a digit; `` `section.key = VALUE` `` tells what to set.
#[test]
fn a_setting_named_in_a_document_exists_and_a_default_beside_it_is_its_default() {
    let settings = settings();
    let sections: Vec<_> = settings.keys().filter_map(|key| key.split('.').next()).collect();
    let (mut complaints, mut compared) = (Vec::new(), 0);
    for document in DOCUMENTS {
        let text = flowing(document);
        let pieces: Vec<_> = text.split('`').collect();
        // What stands in backticks, and what follows it.
        for pair in pieces[1..].chunks(2) {
            let key = pair[0].split(" = ").next().unwrap_or_default();
            let is_key = |c: char| c.is_ascii_lowercase() || c == '_' || c == '.';
            let Some((section, _)) = key.split_once('.') else { continue };
            if !key.chars().all(is_key) || !sections.contains(&section) {
                continue;
            }
            let Some(default) = settings.get(key) else {
                complaints.push(format!("{document}: there is no setting `{key}`"));
                continue;
            };
            let Some(told) = pair.get(1).and_then(|after| told_value(after)) else { continue };
            compared += 1;
            if told != *default {
                complaints
                    .push(format!("{document}: the default of `{key}` is {default}, not {told}"));
            }
        }
    }
    assert_none(&complaints);
    assert!(compared >= 8, "only {compared} defaults were found");
}

/// Each setting and its default, as text without blanks.
fn settings() -> BTreeMap<String, String> {
    let defaults = ImDocument::parse(DEFAULTS).unwrap();
    let mut settings = BTreeMap::new();
    for (section, table) in defaults.iter() {
        for (name, item) in table.as_table_like().unwrap().iter() {
            let Some(value) = item.as_value() else { continue };
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            settings.insert(format!("{section}.{name}"), value.split_whitespace().collect());
        }
    }
    settings
}

/// The value after a setting's name, with its unit as in the settings.
fn told_value(after: &str) -> Option<String> {
    let value = match after.strip_prefix(" (") {
        Some(value) => value.split([')', ',', ';']).next()?,
        None => after.strip_prefix(", ")?.split([')', ',', ';', '.']).next()?,
    };
    if !value.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let units = [("days", "d"), ("hours", "h"), ("minutes", "m"), ("seconds", "s")];
    let value: String = value.split_whitespace().collect();
    Some(units.iter().fold(value, |value, (word, unit)| value.replace(word, unit)))
}

#[test]
fn the_number_of_connections_is_told_alike_everywhere() {
    let pool = defaults().database.pool_size;
    let (all, beside) = (pool + CONNECTIONS_BESIDE_POOL, CONNECTIONS_BESIDE_POOL);
    let lent = CONNECTIONS_BESIDE_POOL - 2;
    let told = [
        (
            "docs/OPERATING.md",
            format!(
                "up to `database.pool_size` ({pool}) and {lent} more for its statements: at most {all} connections"
            ),
        ),
        ("docs/OPERATING.md", format!("there are up to {INGEST_CONNECTIONS} more")),
        (
            "docs/OPERATING.md",
            format!("at most `database.pool_size` and {lent} sessions at a time"),
        ),
        ("src/config/default.toml", format!("Besides these a relay has at most {beside} more")),
    ];
    let complaints: Vec<_> = told
        .iter()
        .filter(|(path, sentence)| !flowing(path).contains(sentence.as_str()))
        .map(|(path, sentence)| format!("{path}: write \"{sentence}\""))
        .collect();
    assert_none(&complaints);
}

#[tokio::test]
async fn the_client_has_the_defaults_of_the_settings_where_it_is_told_nothing() {
    let settings = defaults().delivery;
    let client = ClientSettings::new(AddressRules::default(), Resolver::fixed([]));
    for (name, default, of_client) in [
        ("resolve_timeout", settings.resolve_timeout, client.resolve_timeout),
        ("connect_timeout", settings.connect_timeout, client.connect_timeout),
        ("tls_timeout", settings.tls_timeout, client.tls_timeout),
        ("body_timeout", settings.body_timeout, client.body_timeout),
        ("idle_timeout", settings.idle_timeout, client.idle_timeout),
    ] {
        assert_eq!(default, of_client, "delivery.{name} and ClientSettings::new");
    }
    assert_eq!(settings.response_body_limit, client.response_body_limit);
}

//! That `docs/CHECKLIST.md`, `docs/GUARANTEES.md` and `SECURITY.md` can be believed: each test they
//! name is there, what follows from each fault or adversary names one, and each default is one.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use posthaste::config::{self, Sources};
use regex::Regex;

const CHECKLIST: &str = include_str!("../../docs/CHECKLIST.md");
const GUARANTEES: &str = include_str!("../../docs/GUARANTEES.md");
const SECURITY: &str = include_str!("../../SECURITY.md");

/// The file of `promises::journey::…`, `fuzz::…` or `src/model/schedule.rs::…`.
fn file_of(named: &str) -> String {
    if named.ends_with(".rs") {
        return named.to_owned();
    }
    let module = format!("tests/{}", named.replace("::", "/"));
    let file = format!("{module}.rs");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if root.join(&file).exists() { file } else { format!("{module}/mod.rs") }
}

/// The tests that a text names, as (file, name).
fn named(text: &str) -> Vec<(String, String)> {
    let named = Regex::new("`([a-z0-9_/]+(?:\\.rs)?(?:::[a-z0-9_]+)*)::([a-z0-9_]+)`").unwrap();
    named.captures_iter(text).map(|found| (file_of(&found[1]), found[2].to_owned())).collect()
}

fn assert_there(tests: &[(String, String)]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut complaints = Vec::new();
    for (file, test) in tests {
        let text = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        let is_test = Regex::new(&format!(r"test(\([^)]*\))?\]\s+(async )?fn {test}\(")).unwrap();
        if !is_test.is_match(&text) {
            complaints.push(format!("{file} has no test {test}"));
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn each_test_that_is_named_is_there() {
    let tests = named(CHECKLIST);
    assert_there(&tests);
    assert!(tests.len() > 40, "found only {}: is this test still right?", tests.len());
}

#[test]
fn what_follows_from_each_fault_is_shown_by_a_test_that_is_there() {
    assert_there(&named(GUARANTEES));
    let (_, faults) = GUARANTEES.split_once("## What follows when …").unwrap();
    let lines = faults.replace("\n* ", "\n\n* ").replace("\n|", "\n\n|");
    let told: Vec<&str> = lines
        .split("\n\n")
        .map(str::trim)
        // Headlines of sections and tables.
        .filter(|told| !told.is_empty() && !told.starts_with(['#']) && !told.starts_with("|---"))
        .filter(|told| !told.ends_with("| shown by |"))
        .collect();
    let unshown: Vec<_> = told.iter().filter(|told| named(told).is_empty()).collect();
    assert!(unshown.is_empty(), "no test shows:\n{unshown:#?}");
    assert!(told.len() > 40, "found only {}: is this test still right?", told.len());
}

#[test]
fn each_row_of_the_threat_model_is_shown_by_a_test_that_is_there() {
    assert_there(&named(SECURITY));
    let rows = SECURITY.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<&str> = rows.filter(|row| !row.ends_with("| shown by |")).collect();
    let unshown: Vec<_> = rows.iter().filter(|row| named(row).is_empty()).collect();
    assert!(unshown.is_empty(), "no test shows:\n{unshown:#?}");
    assert!(rows.len() > 40, "found only {}: is this test still right?", rows.len());
}

#[test]
fn every_row_is_numbered_and_says_how_and_what_proves_it() {
    let rows: Vec<Vec<&str>> = CHECKLIST
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect())
        .filter(|cells: &Vec<_>| cells[0].starts_with(['A', 'B']))
        .collect();
    let numbers: BTreeSet<String> = rows.iter().map(|cells| cells[0].to_owned()).collect();
    let expected = (1..=22).map(|n| format!("A{n}")).chain((1..=7).map(|n| format!("B{n}")));
    assert_eq!(numbers, expected.collect());
    assert_eq!(rows.len(), numbers.len());
    for cells in rows {
        assert_eq!(cells.len(), 4, "{cells:?}");
        assert!(cells[3].contains("::") || cells[3].starts_with("not yet"), "{cells:?}");
    }
}

#[test]
fn the_defaults_are_those_that_were_asked_for() {
    let database = ("database.url".to_owned(), "postgres://127.0.0.1/shop".to_owned());
    let config = config::load(&Sources { flags: vec![database], ..Sources::default() }).unwrap();
    assert_eq!(config.delivery.timeout, Duration::from_secs(30));
    let retry = &config.retry;
    assert_eq!((retry.exponent, retry.max_attempts), (5, 11), "the first attempt and ten retries");
    let jitter = (retry.jitter_min, retry.jitter_max);
    assert_eq!(jitter, (Duration::from_secs(30), Duration::from_secs(10 * 60)));
    assert!(config.addresses.allow.is_empty() && config.addresses.allow_http.is_empty());
}

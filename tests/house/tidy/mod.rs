//! The rules of the house that no linter knows: which part may use which, where SQL lives, how long
//! a file gets, how it is written. They read the sources as text, so they need no database: `cargo
//! test --test main house::tidy`.

mod arrows;
mod imports;
mod language;
mod names;
mod source;

use std::fs;
use std::path::Path;

use self::source::{assert_none, files, root};

/// A file that does not fit is two ideas. Tests beside it (`tests.rs`) belong to it and are not
/// counted.
const LINES_MAX: usize = 500;

/// The parts that speak to Postgres.
const SPEAK_SQL: [&str; 3] = ["store", "demo", "sandbox"];

#[test]
fn only_the_store_speaks_to_postgres() {
    let drivers = ["tokio_postgres::", "deadpool_postgres::"];
    let complaints: Vec<String> = files("src", "rs")
        .iter()
        .filter(|source| !SPEAK_SQL.iter().any(|part| arrows::is_in(&source.module(), part)))
        .flat_map(|source| source.code().map(move |(number, line)| (source, number, line)))
        .filter(|(_, _, line)| drivers.iter().any(|driver| line.contains(driver)))
        .map(|(source, number, line)| format!("{}:{number}: {}", source.path, line.trim()))
        .collect();
    assert_none(&complaints);
}

#[test]
fn a_query_is_named_in_its_first_line_and_used() {
    let used: String = files("src", "rs").into_iter().map(|source| source.text).collect();
    let mut complaints = Vec::new();
    for query in files("sql/queries", "sql").iter().chain(&files("src/demo/sql", "sql")) {
        let name = Path::new(&query.path).file_stem().unwrap().to_string_lossy().into_owned();
        let first = query.text.lines().next().unwrap_or_default();
        let said = first.trim_start_matches("--").trim_start();
        let rest = said.strip_prefix(&name).filter(|_| first.starts_with("--"));
        if rest.is_none_or(|rest| rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')) {
            complaints.push(format!("{}: does not begin with `-- {name}`", query.path));
        }
        if !used.contains(&format!("/{name}.sql")) && !used.contains(&format!("\"{name}.sql")) {
            complaints.push(format!("{}: no code includes it", query.path));
        }
    }
    assert_none(&complaints);
}

#[test]
fn a_file_says_what_it_is_for_and_stays_short() {
    let mut complaints = Vec::new();
    let sources = files("src", "rs").into_iter().chain(files("tests", "rs"));
    for source in sources.filter(|source| !source.path.ends_with("/tests.rs")) {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            complaints.push(format!("{}: {lines} lines are more than {LINES_MAX}", source.path));
        }
        if !source.text.starts_with("//! ") {
            complaints.push(format!("{}: does not begin with what it is for", source.path));
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_setting_is_explained_right_above_it() {
    let path = "src/config/default.toml";
    let text = fs::read_to_string(root().join(path)).unwrap();
    let mut above = "";
    let mut complaints = Vec::new();
    let mut settings = 0;
    for (index, line) in text.lines().enumerate() {
        // A key at the beginning of a line; values that span lines are indented.
        let is_setting = line.contains(" = ") && line.starts_with(|c: char| c.is_ascii_lowercase());
        settings += usize::from(is_setting);
        if is_setting && !above.starts_with('#') {
            complaints.push(format!("{path}:{}: no comment above `{line}`", index + 1));
        }
        above = line;
    }
    assert_none(&complaints);
    assert!(settings > 10, "found only {settings} settings in {path}: is this test still right?");
}

#[test]
fn nothing_is_left_to_do_in_a_comment() {
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|halves| halves.concat());
    let sources = [files("src", "rs"), files("tests", "rs"), files("sql", "sql")];
    let complaints: Vec<String> = sources
        .iter()
        .flatten()
        .flat_map(|source| source.text.lines().enumerate().map(move |line| (source, line)))
        .filter(|(_, (_, line))| marks.iter().any(|mark| line.contains(mark.as_str())))
        .map(|(source, (index, line))| format!("{}:{}: {line}", source.path, index + 1))
        .collect();
    assert_none(&complaints);
}

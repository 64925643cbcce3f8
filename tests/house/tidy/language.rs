//! How comments are written, and what SQL of ours never does.

use super::source::{Source, assert_none, files};

/// Words that hide who acts. Of 1,000 lines of comments fewer than [`HIDING_MAX`] may have one.
const HIDING: [&str; 4] = ["nobody", "somebody", "whoever", "anybody"];
const HIDING_MAX: usize = 2;

/// In characters, as `rustfmt.toml` has it for code.
const RUST_COLUMNS: usize = 100;
const SQL_COLUMNS: usize = 120;

fn commented() -> Vec<Source> {
    let rust = ["src", "tests", "benches"].into_iter().flat_map(|below| files(below, "rs"));
    rust.chain(files("sql", "sql")).collect()
}

#[test]
fn comments_name_who_acts() {
    let (mut comments, mut complaints) = (0, Vec::new());
    for source in commented() {
        for (number, line) in source.comments() {
            comments += 1;
            let mut words = line.split(|c: char| !c.is_alphabetic()).map(str::to_lowercase);
            if words.any(|word| HIDING.contains(&word.as_str())) {
                complaints.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    assert!(comments > 5000, "found only {comments} comments: is this test still right?");
    let allowed = complaints.len() * 1000 < comments * HIDING_MAX;
    assert!(allowed, "{} of {comments}:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn comments_keep_to_their_columns() {
    let mut complaints = Vec::new();
    for source in commented() {
        let columns = if source.path.ends_with(".rs") { RUST_COLUMNS } else { SQL_COLUMNS };
        for (number, line) in source.comments().filter(|(_, line)| can_be_wrapped(line)) {
            let length = line.chars().count();
            if length > columns {
                complaints.push(format!("{}:{number}: {length} columns", source.path));
            }
        }
    }
    assert_none(&complaints);
}

/// A row of a table cannot, nor can the line of a URL that is long by itself.
fn can_be_wrapped(line: &str) -> bool {
    let text = line.trim_start().trim_start_matches(['/', '!', '-']).trim_start();
    !text.starts_with('|') && !text.contains("://")
}

/// Newer minors of PostgreSQL (15.20 and its like) refuse `alter table … add column … default`
/// while the body of a function in SQL uses the row type of that table.
#[test]
fn no_function_in_sql_takes_or_returns_the_row_of_a_table() {
    let sources = files("sql", "sql");
    let text: String =
        sources.iter().flat_map(Source::code).fold(String::new(), |text, (_, line)| {
            text + line.split("--").next().unwrap_or_default() + "\n"
        });
    let tables: Vec<&str> = text
        .match_indices("create table ")
        .filter_map(|(at, found)| text[at + found.len()..].split_whitespace().next())
        .filter(|name| name.starts_with("posthaste"))
        .collect();
    let mut functions = 0;
    let mut complaints = Vec::new();
    for (at, _) in text.match_indices("create function posthaste") {
        let Some((head, _)) = text[at..].split_once("language sql") else { continue };
        if head.contains(" language ") {
            continue;
        }
        functions += 1;
        let mut words = head.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.')));
        let name = words.nth(2).unwrap_or_default();
        for table in words.filter(|word| tables.contains(word)) {
            complaints.push(format!("{name} is in SQL and takes or returns a row of {table}"));
        }
    }
    assert_none(&complaints);
    let found = (tables.len(), functions);
    assert!(found.0 >= 12 && found.1 >= 5, "found only {found:?}: is this test still right?");
}

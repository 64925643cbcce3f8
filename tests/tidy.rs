//! The rules of the house that no linter knows: who may use whom, where SQL lives, how long a file
//! gets, and that every setting is explained. They read the sources as text.

use std::fs;
use std::path::{Path, PathBuf};

/// A file that does not fit is two ideas. Tests beside it (`tests.rs`) belong to it and are not
/// counted.
const LINES_MAX: usize = 500;

/// What each part may use of ours, besides itself. A part is the longest name that fits; what is not
/// listed may use anything. There is no circle, and `model` uses nothing.
const ARROWS: [(&str, &[&str]); 14] = [
    ("model", &[]),
    ("clock", &[]),
    ("stopper", &[]),
    ("config", &["model", "outbound::addresses", "outbound::client::ProxyUrl", "signing::verify"]),
    ("outbound::addresses", &["model", "outbound::target"]),
    ("outbound", &["model", "clock"]),
    ("serve::probe", &[]),
    ("serve", &["observe", "clock", "stopper"]),
    ("ingest", &["signing", "store", "model", "observe", "clock", "stopper", "config", "serve"]),
    ("signing", &["model"]),
    ("store", &["model", "clock"]),
    ("receiver::listener", &["stopper", "serve::listener", "serve::connection"]),
    ("receiver", &["clock", "stopper", "signing"]),
    ("demo", &["clock", "stopper", "sandbox", "receiver::listener"]),
];

/// Who may speak to Postgres.
const SPEAK_SQL: [&str; 3] = ["store", "demo", "sandbox"];

struct Source {
    /// From the repository, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// `src/outbound/client/wire.rs` is in `outbound::client::wire`.
    fn module(&self) -> String {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        inner.trim_end_matches("/mod").replace('/', "::")
    }

    /// Lines of code with their numbers: no comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(below: &str, extension: &str) -> Vec<Source> {
    let mut directories = vec![root().join(below)];
    let mut found: Vec<PathBuf> = Vec::new();
    while let Some(directory) = directories.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    let source = |path: PathBuf| Source {
        text: fs::read_to_string(&path).unwrap(),
        path: path.strip_prefix(root()).unwrap().to_string_lossy().into_owned(),
    };
    found.into_iter().map(source).collect()
}

fn is_in(module: &str, part: &str) -> bool {
    module == part || module.strip_prefix(part).is_some_and(|rest| rest.starts_with("::"))
}

/// What of ours a file names, with the line: each path after `crate::`, groups taken apart.
fn named(source: &Source) -> Vec<(usize, String)> {
    let mut code = String::new();
    let mut lines = Vec::new();
    for (number, line) in source.code() {
        lines.push((code.len(), number));
        code += line;
        code.push('\n');
    }
    let mut found = Vec::new();
    for (offset, matched) in code.match_indices("crate::") {
        let mut paths = Vec::new();
        take_path("", &code[offset + matched.len()..], &mut paths);
        let line = lines[lines.partition_point(|&(start, _)| start <= offset) - 1].1;
        found.extend(paths.into_iter().map(|path| (line, path)));
    }
    found
}

/// Reads one path, or one group of paths, and returns what follows it.
fn take_path<'a>(prefix: &str, text: &'a str, found: &mut Vec<String>) -> &'a str {
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let (path, rest) = text.split_at(text.find(|c| !is_path(c)).unwrap_or(text.len()));
    let path = format!("{prefix}{path}");
    let Some(mut group) = rest.strip_prefix('{') else {
        found.push(path);
        return rest;
    };
    while !group.is_empty() {
        group = group.trim_start_matches([',', ' ', '\n']);
        if let Some(rest) = group.strip_prefix('}') {
            return rest;
        }
        group = take_path(&path, group, found);
        // `as another`, or the star of a glob.
        group = &group[group.find([',', '}']).unwrap_or(group.len())..];
    }
    group
}

#[track_caller]
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn the_parts_use_each_other_along_the_arrows_only() {
    let mut complaints = Vec::new();
    for source in files("src", "rs") {
        let module = source.module();
        let Some((part, may_use)) = ARROWS
            .iter()
            .filter(|(part, _)| is_in(&module, part))
            .max_by_key(|(part, _)| part.len())
        else {
            continue;
        };
        for (line, used) in named(&source) {
            let allowed = is_in(&used, part) || may_use.iter().any(|may| is_in(&used, may));
            if !allowed {
                complaints.push(format!("{}:{line}: {part} must not use {used}", source.path));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn only_the_store_speaks_to_postgres() {
    let drivers = ["tokio_postgres::", "deadpool_postgres::"];
    let complaints: Vec<String> = files("src", "rs")
        .iter()
        .filter(|source| !SPEAK_SQL.iter().any(|part| is_in(&source.module(), part)))
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
            complaints.push(format!("{}: nobody includes it", query.path));
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

#[test]
fn a_group_of_imports_is_taken_apart() {
    let text =
        "// crate::no\nuse crate::{a, b::{self as x, c::*},\n    d::E};\nlet f = crate::g::h();";
    let source = Source { path: "src/x.rs".to_owned(), text: text.to_owned() };
    let paths: Vec<(usize, String)> = named(&source);
    let expected = [(2, "a"), (2, "b::self"), (2, "b::c::"), (2, "d::E"), (4, "g::h")];
    assert_eq!(paths, expected.map(|(line, path)| (line, path.to_owned())));
}

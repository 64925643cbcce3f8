//! The files of the repository as text, and the parts of a text that are code.

use std::fs;
use std::path::{Path, PathBuf};

pub(super) struct Source {
    /// From the repository, with slashes.
    pub(super) path: String,
    pub(super) text: String,
}

impl Source {
    /// `src/outbound/client/wire.rs` is `outbound::client::wire`, and `src/lib.rs` the empty name.
    pub(super) fn module(&self) -> String {
        let inner = self.path.trim_start_matches("src/").trim_end_matches(".rs");
        let inner = if inner == "lib" { "" } else { inner };
        inner.trim_end_matches("/mod").replace('/', "::")
    }

    /// Whether all of it is tests.
    pub(super) fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Lines of code with their numbers: no comments.
    pub(super) fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, line)| !is_comment(line))
    }

    /// Lines of comments with their numbers, of Rust or SQL.
    pub(super) fn comments(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines().filter(|(_, line)| is_comment(line))
    }

    /// The text without comments and without the tests at its end. Lines keep their numbers.
    pub(super) fn shipped(&self) -> String {
        let begins_tests = |at: usize| {
            let line = self.text[at..].lines().nth(1).unwrap_or_default();
            line.contains("mod ") && line.ends_with('{')
        };
        let marks = self.text.match_indices("#[cfg(test)]\n");
        let tests = marks.map(|(at, _)| at).find(|&at| begins_tests(at));
        let text = &self.text[..tests.unwrap_or(self.text.len())];
        let bare = |line: &str| match line.find(" // ") {
            _ if is_comment(line) => String::new(),
            Some(comment) => line[..comment].to_owned(),
            None => line.to_owned(),
        };
        text.lines().map(|line| bare(line) + "\n").collect()
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("//") || line.starts_with("--")
}

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of a folder and the folders below it, by name.
pub(super) fn files(below: &str, extension: &str) -> Vec<Source> {
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

#[track_caller]
pub(super) fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

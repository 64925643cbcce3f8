//! CONTRIBUTING.md and the code map of docs/ARCHITECTURE.md name what is there, and the map leaves
//! nothing out.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

const CONTRIBUTING: &str = include_str!("../../CONTRIBUTING.md");
const ARCHITECTURE: &str = include_str!("../../docs/ARCHITECTURE.md");
const MAKEFILE: &str = include_str!("../../Makefile");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All that stands in backticks and looks like a path of this repository.
fn paths(text: &str) -> Vec<String> {
    let quoted = Regex::new("`((?:src|sql|tests|benches|docs|scripts|fuzz)/[^`*… ]+|[A-Z]+\\.md)`");
    let quoted = quoted.unwrap();
    quoted.captures_iter(text).flat_map(|found| unfolded(&found[1])).collect()
}

/// `src/{clock,stopper}.rs` is two paths.
fn unfolded(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (names, after) = rest.split_once('}').expect("a brace is closed");
    names.split(',').map(|name| format!("{before}{name}{after}")).collect()
}

#[track_caller]
fn assert_there(paths: &[String]) {
    let missing: Vec<_> = paths.iter().filter(|path| !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "there is no {missing:#?}");
}

/// The lines of all blocks of shell.
fn commands(text: &str) -> Vec<&str> {
    let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(|line| line.split("  #").next().unwrap().trim()).collect()
}

#[test]
fn every_file_and_command_that_contributing_names_is_there() {
    let paths = paths(CONTRIBUTING);
    assert_there(&paths);
    let links = Regex::new(r"\]\(([^)#]+)").unwrap();
    let links: Vec<_> = links.captures_iter(CONTRIBUTING).map(|link| link[1].to_owned()).collect();
    assert_there(&links);
    let commands = commands(CONTRIBUTING);
    for command in &commands {
        let words: Vec<_> = command.split(' ').collect();
        match words[..] {
            ["make", target, ..] => {
                let is_there = MAKEFILE.lines().any(|line| line.starts_with(&format!("{target}:")));
                assert!(is_there, "the Makefile does not know {target}");
                for variable in words[2..].iter().filter_map(|word| word.split_once('=')) {
                    let used = format!("$({})", variable.0);
                    assert!(MAKEFILE.contains(&used), "the Makefile uses no {}", variable.0);
                }
            }
            ["cargo", "test", "--test", "main", filter, ..] => {
                let module = root().join("tests").join(filter.replace("::", "/"));
                let is_there = module.is_dir() || module.with_extension("rs").exists();
                assert!(is_there, "no module of the tests is {filter}");
            }
            ["cargo", "test", "--lib", filter] => assert!(root().join("src").join(filter).exists()),
            ["cargo", "check", "--all-targets"] => {}
            _ => panic!("how is this checked: {command}"),
        }
    }
    let found = (paths.len(), commands.len());
    assert!(found.0 > 25 && found.1 > 10, "found only {found:?}: is this test still right?");
}

/// The first column of the code map.
fn mapped() -> Vec<String> {
    let (_, map) = ARCHITECTURE.split_once("## Code map").unwrap();
    let (map, _) = map.split_once("\n## ").unwrap();
    let rows = map.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    rows.flat_map(paths).collect()
}

#[test]
fn every_path_of_the_code_map_is_there() {
    let mapped = mapped();
    assert_there(&mapped);
    assert!(mapped.len() > 50, "found only {}: is this test still right?", mapped.len());
}

#[test]
fn every_folder_and_every_file_at_the_top_of_src_and_of_the_relay_is_in_the_code_map() {
    let mapped: BTreeSet<String> = mapped().into_iter().collect();
    let mut unmapped = Vec::new();
    let mut folders = vec![PathBuf::from("src"), PathBuf::from("tests")];
    while let Some(folder) = folders.pop() {
        let lists_files = ["src", "src/relay"].iter().any(|top| folder == Path::new(top));
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let name = entry.unwrap().file_name();
            let path = folder.join(&name);
            let is_folder = root().join(&path).is_dir();
            let is_named = mapped.contains(path.to_str().unwrap());
            // Tests beside the code belong to it, and `mod.rs` is its folder.
            if name == "tests" || name == "mod.rs" || !(is_folder || lists_files) {
                continue;
            }
            if !is_named {
                unmapped.push(path.display().to_string());
            }
            if is_folder && folder.starts_with("src") {
                folders.push(path);
            }
        }
    }
    unmapped.sort();
    assert!(unmapped.is_empty(), "the code map lacks {unmapped:#?}");
}

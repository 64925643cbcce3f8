//! Which file of `src` uses which, read from their text.
//!
//! A use is a name that stands in the code of a file: a path that begins with `crate`, `super` or
//! `self`, with a module declared there, or with what a `use` line brought in. It counts to the
//! file that defines the name: where a module passes on what another defines (`pub use`), the use
//! goes past it. So these are no uses: a `mod` line, a `pub use` of a name that the file itself
//! does not need, and importing a module. What stands in tests is left out. Methods are not seen,
//! since their names say nothing of the file; the type that has them is seen where it is named.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::source::Source;

/// One file's use of another.
pub(super) struct Use {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) line: usize,
    /// As resolved, from the root of the crate.
    pub(super) path: String,
}

/// The files without tests, in the order they were given, and their uses of one another.
pub(super) struct House {
    pub(super) rooms: Vec<Room>,
    pub(super) uses: Vec<Use>,
}

pub(super) struct Room {
    /// `src/relay/lane/mod.rs`
    pub(super) path: String,
    /// `relay::lane`
    pub(super) module: String,
    /// The code without `use` lines and tests.
    code: String,
    defined: HashSet<String>,
    imports: Vec<Import>,
}

struct Import {
    /// The name by which the file calls it; `*` for a glob, `_` for a trait without a name.
    name: String,
    path: Vec<String>,
    line: usize,
}

impl House {
    pub(super) fn read(sources: &[Source]) -> Self {
        let shipped = sources.iter().filter(|source| !source.is_tests());
        let rooms: Vec<Room> = shipped.map(Room::read).collect();
        let by_module: HashMap<&str, usize> =
            rooms.iter().enumerate().map(|(index, room)| (room.module.as_str(), index)).collect();
        let mut uses = Vec::new();
        for (from, room) in rooms.iter().enumerate() {
            let mut seen = BTreeSet::new();
            for (line, path) in room.named(&by_module) {
                let Some(to) = resolve(&rooms, &by_module, &path, 0) else { continue };
                if to != from && seen.insert(to) {
                    uses.push(Use { from, to, line, path: path.join("::") });
                }
            }
        }
        Self { rooms, uses }
    }

    /// Files that use one another, round in a circle: each circle with the uses inside it.
    pub(super) fn circles(&self) -> Vec<String> {
        let mut next: Vec<Vec<usize>> = vec![Vec::new(); self.rooms.len()];
        for one in &self.uses {
            next[one.from].push(one.to);
        }
        let reached: Vec<HashSet<usize>> =
            (0..self.rooms.len()).map(|from| reached_from(from, &next)).collect();
        let mut circles: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for one in &self.uses {
            if reached[one.to].contains(&one.from) {
                let first = reached[one.from].iter().filter(|at| reached[**at].contains(&one.from));
                let first = *first.min().expect("a file in a circle reaches itself");
                circles.entry(first).or_default().push(self.told(one));
            }
        }
        circles.into_values().map(|uses| format!("a circle:\n  {}", uses.join("\n  "))).collect()
    }

    pub(super) fn told(&self, one: &Use) -> String {
        let (from, to) = (&self.rooms[one.from].path, &self.rooms[one.to].path);
        format!("{from}:{}: uses {} of {to}", one.line, one.path)
    }
}

fn reached_from(from: usize, next: &[Vec<usize>]) -> HashSet<usize> {
    let mut reached = HashSet::new();
    let mut open = next[from].clone();
    while let Some(at) = open.pop() {
        if reached.insert(at) {
            open.extend(&next[at]);
        }
    }
    reached
}

/// The file that defines what the path leads to. `None`: it is not ours.
fn resolve(
    rooms: &[Room],
    by_module: &HashMap<&str, usize>,
    path: &[String],
    depth: usize,
) -> Option<usize> {
    let known = (0..=path.len()).rev();
    let (length, room) = known
        .filter_map(|length| Some((length, *by_module.get(path[..length].join("::").as_str())?)))
        .next()?;
    let Some(name) = path.get(length).filter(|name| !rooms[room].defined.contains(*name)) else {
        return Some(room);
    };
    let passed_on = rooms[room].imports.iter().filter(|_| depth < 9).find_map(|import| {
        let mut target = import.path.clone();
        let rest = if import.name == "*" { length } else { length + 1 };
        target.extend_from_slice(&path[rest..]);
        let is_it = import.name == *name && import.path != path[..=length];
        let globbed = || {
            let module = by_module.get(import.path.join("::").as_str())?;
            rooms[*module].defined.contains(name).then_some(*module)
        };
        match import.name.as_str() {
            "*" => globbed(),
            _ if is_it => resolve(rooms, by_module, &target, depth + 1),
            _ => None,
        }
    });
    passed_on.or(Some(room))
}

impl Room {
    fn read(source: &Source) -> Self {
        let module = source.module();
        let shipped = source.shipped();
        // The binary sees the library from outside.
        let shipped =
            if module == "main" { shipped.replace("posthaste::", "crate::") } else { shipped };
        let mut room = Self {
            path: source.path.clone(),
            module,
            code: String::new(),
            defined: HashSet::new(),
            imports: Vec::new(),
        };
        let mut used: Option<(usize, String)> = None;
        let mut imported = Vec::new();
        let mut inline = false;
        for (index, line) in shipped.lines().enumerate() {
            inline = match line {
                "}" => false,
                _ => inline || is_inline_module(line),
            };
            if used.is_none() && is_use(line) {
                used = Some((index + 1, String::new()));
            }
            if let Some((first, mut text)) = used.take() {
                text += line.trim();
                if text.ends_with(';') {
                    // `super` is this file there.
                    text = if inline { text.replace("super::", "self::") } else { text };
                    imported.push((first, text));
                } else {
                    used = Some((first, text));
                }
            } else {
                room.code += line;
            }
            room.code.push('\n');
        }
        room.defined = defined(&room.code);
        for (line, text) in imported {
            let (_, tree) = text.split_once("use ").expect("it was found by that");
            let mut found = Vec::new();
            take_path("", tree.trim_end_matches(';'), &mut found);
            for (path, name) in found {
                if let Some(path) = room.absolute(&path) {
                    let name = name.unwrap_or_else(|| path.last().cloned().unwrap_or_default());
                    room.imports.push(Import { name, path, line });
                }
            }
        }
        room
    }

    /// A path from the root of the crate, if it is one of ours.
    fn absolute(&self, path: &str) -> Option<Vec<String>> {
        let mut segments = path.split("::").map(str::to_owned).peekable();
        let mut at: Vec<String> = self.module.split("::").map(str::to_owned).collect();
        at.retain(|segment| !segment.is_empty());
        match segments.peek()?.as_str() {
            "crate" => at.clear(),
            "self" => {}
            "super" => {
                at.pop();
            }
            child if self.defined.contains(&format!("mod {child}")) => {
                at.push(child.to_owned());
            }
            _ => return None,
        }
        for segment in segments.skip(1) {
            match segment.as_str() {
                "super" => drop(at.pop()),
                "self" | "" => {}
                _ => at.push(segment),
            }
        }
        Some(at)
    }

    /// Every name of ours in the code, with its line. A module that is named alone is none.
    fn named(&self, by_module: &HashMap<&str, usize>) -> Vec<(usize, Vec<String>)> {
        let imports: HashMap<&str, &Import> =
            self.imports.iter().map(|import| (import.name.as_str(), import)).collect();
        let unnamed = self.imports.iter().filter(|import| import.name == "_" || import.name == "*");
        let mut named: Vec<_> = unnamed.map(|import| (import.line, import.path.clone())).collect();
        for (index, line) in self.code.lines().enumerate() {
            for word in words(line) {
                let (first, rest) = word.split_once("::").unwrap_or((word, ""));
                let path = match imports.get(first) {
                    Some(import) => {
                        let mut path = import.path.clone();
                        path.extend(rest.split("::").filter(|s| !s.is_empty()).map(str::to_owned));
                        Some(path)
                    }
                    None if rest.is_empty() => None,
                    None => self.absolute(word),
                };
                let alone = |path: &Vec<String>| {
                    rest.is_empty() && by_module.contains_key(path.join("::").as_str())
                };
                named.extend(path.filter(|path| !alone(path)).map(|path| (index + 1, path)));
            }
        }
        named
    }
}

fn is_inline_module(line: &str) -> bool {
    (line.starts_with("mod ") || line.starts_with("pub"))
        && line.contains("mod ")
        && line.ends_with('{')
}

fn is_use(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("use ")
        || (line.starts_with("pub") && line.contains(" use ") && !line.contains('"'))
}

/// Names and paths, each as it stands in the line. `pub(in crate::relay)` is none.
fn words(line: &str) -> impl Iterator<Item = &str> {
    let after = line.find("pub(in ").and_then(|at| line[at..].find(')').map(|end| at + end));
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    line[after.unwrap_or(0)..]
        .split(move |c| !is_word(c))
        .map(|word| word.trim_matches(':'))
        .filter(|word| !word.is_empty())
}

/// Every name that the code defines; a module as `mod name`.
fn defined(code: &str) -> HashSet<String> {
    const KINDS: [&str; 9] =
        ["struct", "enum", "trait", "type", "fn", "const", "static", "mod", "macro_rules!"];
    let mut names = HashSet::new();
    for line in code.lines() {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '!')));
        while let Some(word) = words.next() {
            if !KINDS.contains(&word) {
                continue;
            }
            let Some(name) = words.next().filter(|name| !name.is_empty()) else { continue };
            if word == "mod" && line.trim_end().ends_with(';') {
                names.insert(format!("mod {name}"));
            } else {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// Reads one path, or one group of paths, each with the name that `as` gives it, and returns what
/// follows it.
fn take_path<'a>(
    prefix: &str,
    text: &'a str,
    found: &mut Vec<(String, Option<String>)>,
) -> &'a str {
    let is_path = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
    let text = text.trim_start();
    let (path, rest) = text.split_at(text.find(|c| !is_path(c)).unwrap_or(text.len()));
    let path = format!("{prefix}{path}");
    let Some(mut group) = rest.strip_prefix('{') else {
        let end = rest.find([',', '}']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let name = match name.trim() {
            "" => None,
            "*" => Some("*".to_owned()),
            renamed => renamed.strip_prefix("as ").map(|name| name.trim().to_owned()),
        };
        found.push((path.trim_end_matches("::").to_owned(), name));
        return rest;
    };
    while !group.is_empty() {
        group = group.trim_start_matches([',', ' ', '\n']);
        if let Some(rest) = group.strip_prefix('}') {
            return rest;
        }
        group = take_path(&path, group, found);
    }
    group
}

#[test]
fn a_use_counts_to_the_file_that_defines_the_name() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let sources = [
        source("src/a/mod.rs", "mod b;\npub use self::b::B;\npub mod c;\npub fn run() {}\n"),
        source("src/a/b.rs", "// crate::a::run\npub struct B;\n"),
        source("src/a/c.rs", "use super::{B, run as go};\nfn x(_: B) { go() }\n"),
        source("src/d.rs", "use crate::a::{\n    self, c};\nfn x(b: a::B) { c::x() }\n"),
        source("src/d/tests.rs", "use crate::a::run;\n"),
    ];
    let house = House::read(&sources);
    let told: Vec<_> = house.uses.iter().map(|one| house.told(one)).collect();
    let expected = [
        "src/a/c.rs:2: uses a::B of src/a/b.rs",
        "src/a/c.rs:2: uses a::run of src/a/mod.rs",
        "src/d.rs:3: uses a::B of src/a/b.rs",
        "src/d.rs:3: uses a::c::x of src/a/c.rs",
    ];
    assert_eq!(told, expected);
    assert_eq!(house.circles(), [""; 0]);
}

#[test]
fn a_parent_and_a_child_that_use_one_another_are_a_circle() {
    let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
    let sources = [
        source("src/a/mod.rs", "mod b;\npub struct A;\nfn x() { b::go() }\n"),
        source("src/a/b.rs", "use super::A;\npub fn go() -> A {}\n"),
    ];
    let expected = "a circle:\n  src/a/mod.rs:3: uses a::b::go of src/a/b.rs\n  \
                    src/a/b.rs:2: uses a::A of src/a/mod.rs";
    assert_eq!(House::read(&sources).circles(), [expected]);
}

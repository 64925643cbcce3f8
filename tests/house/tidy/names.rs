//! One name for one thing.

use std::collections::BTreeMap;

use super::source::{assert_none, files};

/// Names that say what something is to the type beside it, and are read with its module.
const OF_EACH_ROOM: [&str; 2] = ["State", "Error"];

/// The kind of type that a line begins to define, and its name. Types inside functions and traits
/// are seen too; associated types are not, since the trait gave them their name.
fn defined(line: &str) -> Option<&str> {
    let mut words = line.trim_start().split([' ', '<', '(', '{', ';', ':', '=']);
    let mut word = words.next()?;
    if word == "pub" {
        let visible = line.trim_start().trim_start_matches("pub");
        let rest =
            visible.strip_prefix('(').map_or(visible, |rest| rest.split_once(')').unwrap().1);
        words = rest.trim_start().split([' ', '<', '(', '{', ';', ':', '=']);
        word = words.next()?;
    }
    let is_type = match word {
        "struct" | "enum" | "trait" | "union" => true,
        "type" => !line.starts_with(' '),
        _ => false,
    };
    is_type.then(|| words.next()).flatten()
}

#[test]
fn no_type_is_named_like_another() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in files("src", "rs").iter().filter(|source| !source.is_tests()) {
        for (index, line) in source.shipped().lines().enumerate() {
            // `$name` is a macro's: the type gets its own.
            let name = defined(line).filter(|name| !name.starts_with('$'));
            if let Some(name) = name.filter(|name| !OF_EACH_ROOM.contains(name)) {
                let place = format!("{}:{}", source.path, index + 1);
                places.entry(name.to_owned()).or_default().push(place);
            }
        }
    }
    let twice = places.iter().filter(|(_, places)| places.len() > 1);
    let complaints: Vec<_> =
        twice.map(|(name, places)| format!("{name}: {}", places.join(", "))).collect();
    assert_none(&complaints);
    assert!(places.len() > 200, "found only {} types: is this test still right?", places.len());
}

#[test]
fn a_type_is_found_however_visible_it_is() {
    let lines = [
        ("pub struct Claim<'a> {", Some("Claim")),
        ("pub(in crate::relay) enum End {", Some("End")),
        ("    struct Inner(u8);", Some("Inner")),
        ("type Rows = Vec<u8>;", Some("Rows")),
        ("    type Error = Refused;", None),
        ("let typed = struct_of(x);", None),
    ];
    for (line, name) in lines {
        assert_eq!(defined(line), name, "{line}");
    }
}

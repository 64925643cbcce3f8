//! Which part of `src` may use which. Uses are read by [`imports`](super::imports).

use super::imports::House;
use super::source::{assert_none, files};

/// The parts from the ground up, each with what it may use of ours besides itself. All of that
/// stands above it, so no arrow runs up. A file belongs to the longest name that fits it; the empty
/// name is `lib.rs`.
const PARTS: &[(&str, &[&str])] = &[
    ("", &[]),
    ("model", &[]),
    ("clock", &[]),
    ("stopper", &[]),
    ("panics", &[]),
    ("signing", &["model"]),
    ("outbound::target", &["model"]),
    ("outbound::addresses", &["model", "outbound::target"]),
    ("outbound", &["model", "clock"]),
    ("config", &["model", "signing::verify"]),
    ("store", &["model", "clock"]),
    ("observe", &["model", "config", "clock", "stopper", "panics"]),
    ("serve", &["observe", "clock", "stopper"]),
    ("ingest", &["model", "signing", "config", "store", "observe", "serve", "clock", "stopper"]),
    (
        "relay",
        &[
            "model", "signing", "outbound", "config", "store", "observe", "clock", "stopper",
            "panics",
        ],
    ),
    (
        "process",
        &[
            "model", "outbound", "config", "store", "observe", "serve", "ingest", "relay", "clock",
            "stopper",
        ],
    ),
    ("receiver::listener", &["serve", "stopper"]),
    ("receiver", &["signing", "clock", "stopper"]),
    ("sandbox", &["serve::probe", "clock"]),
    ("demo", &["receiver::listener", "sandbox", "clock", "stopper"]),
    (
        "cli",
        &[
            "model", "signing", "config", "store", "observe", "serve", "ingest", "relay",
            "process", "receiver", "demo", "clock", "stopper",
        ],
    ),
    ("main", &["cli", "observe", "stopper"]),
];

/// The rooms of the relay from the ground up: each may use those that stand above it in this list.
/// The empty name is `relay/mod.rs`, which composes them.
const ROOMS_OF_THE_RELAY: &[&str] = &[
    "fault",
    "limits",
    "term",
    "database",
    "policy",
    "effects",
    "claims",
    "unflushed",
    "history",
    "ordering",
    "attempt",
    "ended",
    "lane",
    "brake",
    "record",
    "health",
    "lease",
    "upkeep",
    "dispatch",
    "client",
    "stations",
    "",
    "judged",
];

pub(super) fn is_in(module: &str, part: &str) -> bool {
    module == part || module.strip_prefix(part).is_some_and(|rest| rest.starts_with("::"))
}

fn part_of(module: &str) -> Option<usize> {
    let fitting = PARTS.iter().enumerate().filter(|(_, (part, _))| is_in(module, part));
    fitting.max_by_key(|(_, (part, _))| part.len()).map(|(index, _)| index)
}

/// Where a file of the relay stands among its rooms.
fn room_of(module: &str) -> Option<usize> {
    let inner = module.strip_prefix("relay")?.trim_start_matches("::");
    ROOMS_OF_THE_RELAY.iter().position(|room| is_in(inner, room))
}

#[test]
fn files_do_not_use_one_another_in_circles() {
    assert_none(&House::read(&files("src", "rs")).circles());
}

#[test]
fn every_part_uses_what_it_may() {
    let house = House::read(&files("src", "rs"));
    let mut complaints = Vec::new();
    for one in &house.uses {
        let (from, to) = (&house.rooms[one.from].module, &house.rooms[one.to].module);
        let Some(part) = part_of(from) else { continue };
        let (part, may_use) = PARTS[part];
        if !is_in(to, part) && !may_use.iter().any(|may| is_in(to, may)) {
            complaints.push(format!("{}; {part} must not", house.told(one)));
        }
    }
    assert_none(&complaints);
    assert!(house.uses.len() > 300, "found only {}: is this test still right?", house.uses.len());
}

#[test]
fn every_room_of_the_relay_uses_rooms_above_it_in_the_list() {
    let house = House::read(&files("src", "rs"));
    let mut complaints = Vec::new();
    for one in &house.uses {
        let (from, to) = (&house.rooms[one.from].module, &house.rooms[one.to].module);
        if is_in(from, "relay") && is_in(to, "relay") && room_of(to) > room_of(from) {
            complaints.push(house.told(one));
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_file_is_in_a_part_and_every_part_has_files() {
    let house = House::read(&files("src", "rs"));
    let mut complaints = Vec::new();
    for room in &house.rooms {
        let has_room = !is_in(&room.module, "relay") || room_of(&room.module).is_some();
        if part_of(&room.module).is_none() || !has_room {
            complaints.push(format!("{}: is in no part or room of the lists", room.path));
        }
    }
    let rooms = ROOMS_OF_THE_RELAY.iter().filter(|room| !room.is_empty());
    let rooms = rooms.map(|room| format!("relay::{room}"));
    for part in PARTS.iter().map(|(part, _)| (*part).to_owned()).chain(rooms) {
        if !house.rooms.iter().any(|room| is_in(&room.module, &part)) {
            complaints.push(format!("{part}: no file is in it"));
        }
    }
    assert_none(&complaints);
}

#[test]
fn a_part_may_use_only_parts_above_it_in_the_list() {
    let mut complaints = Vec::new();
    for (index, (part, may_use)) in PARTS.iter().enumerate() {
        for may in *may_use {
            if part_of(may).is_none_or(|above| above >= index) {
                complaints.push(format!("{part} may use {may}, which does not stand above it"));
            }
        }
    }
    assert_none(&complaints);
}

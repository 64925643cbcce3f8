//! A spool is judged by its content and by the room on its disk.

use std::io;

use super::*;
use crate::config::{Sources, load};

const MIB: u64 = 1 << 20;

/// At most 10 MiB and 100 files; a webhook has at most 512 KiB.
fn settings() -> IngestSettings {
    let flags = [
        ("database.url", "postgres://db/x"),
        ("ingest.spool_bytes", "10MiB"),
        ("ingest.spool_files", "100"),
        ("ingest.listen", "127.0.0.1:1"),
        ("ingest.sources.shop.verify", "token"),
        ("ingest.sources.shop.secret", "of some length"),
        ("ingest.sources.shop.max_body", "512KiB"),
    ];
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    load(&Sources { flags, ..Sources::default() }).unwrap().ingest
}

#[test]
fn a_spool_is_judged_by_what_is_in_it_and_what_its_disk_has_room_for() {
    let held = |files, bytes| Spooled { files, bytes, ..Spooled::default() };
    let set_aside = Spooled { set_aside: 1, ..held(1, 5) };
    let free = |bytes| SpoolRoom { bytes, closed: None };
    let closed = SpoolRoom { bytes: 0, closed: Some(io::ErrorKind::PermissionDenied.into()) };
    for (spooled, room, state, found, fix) in [
        (held(1, 5), free(10 * MIB), State::Ok, "1 files, 5 bytes wait in /spool", ""),
        (set_aside, free(10 * MIB), State::Warning, "1 could not be stored", "*.set-aside"),
        (held(60, 5), free(10 * MIB), State::Warning, "60 files", "away or slow"),
        (held(1, 6 * MIB), free(10 * MIB), State::Warning, "6291456 bytes", "away or slow"),
        (held(1, 5), free(9 * MIB), State::Warning, "its disk has 9437184 free", "make room"),
        (held(1, 5), free(MIB / 2 - 1), State::Failed, "its disk is full: 524287", "make room"),
        (held(100, 5), free(10 * MIB), State::Failed, "it is full: ", "ingest.spool_files"),
        (held(20, 10 * MIB), free(10 * MIB), State::Failed, "it is full: ", "ingest.spool_bytes"),
        (set_aside, closed, State::Failed, "this user may not write there: permission", "chown"),
    ] {
        let finding = judge_spool(&settings(), Path::new("/spool"), &spooled, &room);
        assert_eq!(finding.state, state, "{finding:?}");
        assert!(finding.detail.contains(found), "{finding:?}");
        assert!(finding.fix.unwrap_or_default().contains(fix), "{found}");
    }
}

#[test]
fn what_the_disk_has_room_for_is_asked_where_the_spool_is_or_will_be() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path().to_owned(), directory.path().join("not/made/yet")] {
        let room = ingest::spool_room(&path).unwrap();
        assert!(room.bytes > 0 && room.closed.is_none(), "{room:?}");
        assert!(!directory.path().join("not").exists());
    }
    // There no user makes a file, not even root.
    let proc = ingest::spool_room(Path::new("/proc/self/not-made")).unwrap();
    assert!(proc.closed.is_some() || proc.bytes == 0, "{proc:?}");
}

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::model::incoming::Payload;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn incoming(n: u32) -> Incoming {
    Incoming {
        source: "shop".to_owned(),
        sender_id: format!("id {n}"),
        event_type: "shop.paid".to_owned(),
        tenant: None,
        ordering_key: None,
        headers: "{}".to_owned(),
        payload: Payload::new(n.to_string().into()).unwrap(),
    }
}

fn open(directory: &TempDir) -> Spool {
    Spool::open(directory.path(), 1 << 20, 100).unwrap()
}

fn read(spool: &Spool) -> Vec<Result<String, String>> {
    let oldest = spool.oldest(usize::MAX);
    let read = oldest.into_iter().map(|entry| spool.reader().read(entry));
    read.map(|read| read.map(|one| one.sender_id).map_err(|error| error.to_string())).collect()
}

#[test]
fn what_was_put_in_is_there_in_order_for_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(&directory);
    assert_eq!(spool.put(&[incoming(1), incoming(2)], NOW).0, 2);
    assert_eq!(spool.put(&[incoming(3)], NOW).0, 1);
    let (files, bytes) = (spool.files(), spool.bytes());
    drop(spool);
    let mut spool = open(&directory);
    assert_eq!((spool.files(), spool.bytes()), (files, bytes));
    assert_eq!(read(&spool), ["id 1", "id 2", "id 3"].map(|id| Ok(id.to_owned())));
    // The next webhook goes behind it.
    assert_eq!(spool.put(&[incoming(4)], NOW).0, 1);
    let first = spool.oldest(1)[0];
    spool.take_out(&[(first, false)]).unwrap();
    assert_eq!(read(&spool), ["id 2", "id 3", "id 4"].map(|id| Ok(id.to_owned())));
    let rest: Vec<_> = spool.oldest(3).into_iter().map(|entry| (entry, false)).collect();
    spool.take_out(&rest).unwrap();
    assert_eq!((spool.files(), spool.bytes(), spool.is_empty()), (0, 0, true));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "only the lock is left");
}

#[test]
fn a_process_killed_at_any_byte_of_a_file_leaves_nothing_that_is_taken_for_a_webhook() {
    let whole = record::write(&incoming(2));
    for length in 0..=whole.len() {
        let directory = tempfile::tempdir().unwrap();
        open(&directory).put(&[incoming(1)], NOW);
        let unfinished = directory.path().join(format!("{:020}.{UNFINISHED}", 2));
        fs::write(&unfinished, &whole[..length]).unwrap();
        let mut spool = open(&directory);
        assert!(!unfinished.exists(), "{length}");
        assert_eq!(read(&spool), [Ok("id 1".to_owned())], "{length}");
        assert_eq!(spool.put(&[incoming(3)], NOW).0, 1, "{length}");
        assert_eq!(read(&spool).len(), 2, "{length}");
    }
}

#[test]
fn a_file_that_lost_its_end_at_any_byte_is_told_and_can_be_set_aside() {
    let whole = record::write(&incoming(1));
    for length in 0..whole.len() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(format!("{:020}.{WHOLE}", 1));
        fs::write(&path, &whole[..length]).unwrap();
        let mut spool = open(&directory);
        spool.put(&[incoming(2)], NOW);
        let told = read(&spool);
        assert_eq!(told, [Err("it is not whole".to_owned()), Ok("id 2".to_owned())], "{length}");
        let broken = spool.oldest(1)[0];
        spool.take_out(&[(broken, true)]).unwrap();
        assert_eq!(read(&spool), [Ok("id 2".to_owned())]);
        drop(spool);
        let spool = open(&directory);
        assert_eq!((spool.files(), spool.set_aside()), (1, 1), "{length}");
        let kept = directory.path().join(broken.set_aside_name());
        assert_eq!(fs::read(kept).unwrap().len(), length, "for a person to look at");
    }
}

#[test]
fn a_file_that_cannot_be_opened_for_now_is_not_taken_for_a_broken_one() {
    for (errno, may_pass) in [(24, true), (23, true), (12, true), (2, false), (5, false)] {
        let error = Unreadable::File(io::Error::from_raw_os_error(errno));
        assert_eq!(error.may_pass(), may_pass, "{error}");
    }
    assert!(!Unreadable::Broken(Broken::Cut).may_pass());
}

#[test]
fn one_process_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(&directory);
    let second = Spool::open(directory.path(), 1, 1).unwrap_err();
    assert!(matches!(second, IngestError::SpoolInUse { .. }), "{second}");
    drop(first);
    open(&directory);
}

#[test]
fn there_is_room_for_so_many_files_and_bytes_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let size = record::write(&incoming(1)).len();
    let mut spool = Spool::open(directory.path(), size * 10, 3).unwrap();
    let five: Vec<_> = (1..=5).map(incoming).collect();
    let (put, error) = spool.put(&five, NOW);
    assert_eq!((put, error.is_none(), spool.is_full()), (3, true, true));
    drop(spool);
    let mut spool = Spool::open(directory.path(), size * 4, 100).unwrap();
    assert_eq!(spool.put(&five, NOW).0, 1);
    assert!(spool.is_full());
    let oldest = spool.oldest(1)[0];
    spool.take_out(&[(oldest, false)]).unwrap();
    assert!(!spool.is_full());
    assert_eq!(spool.put(&five[4..], NOW).0, 1);
}

#[test]
fn where_the_disk_refuses_nothing_is_left_and_nothing_is_said_to_be_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut spool = open(&directory);
    spool.put(&[incoming(1)], NOW);
    // The name that the second would have is taken by a directory, which no file replaces.
    fs::create_dir(directory.path().join(format!("{:020}.{WHOLE}", 3))).unwrap();
    let (put, error) = spool.put(&[incoming(2), incoming(3), incoming(4)], NOW);
    assert_eq!(put, 1);
    assert!(error.is_some());
    assert_eq!(read(&spool), ["id 1", "id 2"].map(|id| Ok(id.to_owned())));
    let names = fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_str().unwrap().ends_with(UNFINISHED)));
    // The next one is put behind it.
    assert_eq!(spool.put(&[incoming(5)], NOW).0, 1);
}

//! The spool: webhooks on this machine's disk while the database is away. One file each, numbered
//! in the order in which they came; written whole or not at all (a temporary file, fsync, rename,
//! fsync of the directory). Bounded in files and bytes.
//!
//! Everything here may block for as long as the disk does. The [`writer`](super::writer) decides
//! when it is written and when it is drained.

mod record;
mod room;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};

use super::error::IngestError;
use crate::model::incoming::Incoming;

pub(super) use record::Broken;
pub use room::{SpoolRoom, room};

/// Locked as long as the process lives: two processes would each drain the other's files.
const LOCK: &str = "lock";
/// Its name is complete when its bytes are on the disk.
const WHOLE: &str = "event";
/// Being written, or left behind by a process that was killed meanwhile: no sender was answered.
const UNFINISHED: &str = "unfinished";
/// Cannot be stored. The operator looks at it.
const SET_ASIDE: &str = "set-aside";
/// Only the owner may read bodies.
const OWNER_ONLY: u32 = 0o600;

/// A directory of webhooks, used by one process.
#[derive(Debug)]
pub(super) struct Spool {
    reader: Reader,
    /// From the oldest on.
    entries: VecDeque<Entry>,
    next_number: u64,
    bytes: u64,
    set_aside: usize,
    most_bytes: u64,
    most_files: usize,
    /// Whether there was no room the last time.
    is_full: bool,
    _lock: File,
}

/// A file of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    number: u64,
    bytes: u64,
    since: Timestamp,
}

/// Reads files of the spool.
#[derive(Debug, Clone)]
pub(super) struct Reader(PathBuf);

/// A file of the spool cannot be made a webhook again.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it cannot be read: {0}")]
    File(io::Error),
    #[error("{0}")]
    Broken(Broken),
}

impl Unreadable {
    /// Whether the file may be read another time: the machine is short of file descriptors or
    /// memory, and the file may be whole.
    pub(super) fn may_pass(&self) -> bool {
        use rustix::io::Errno;
        let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::ACCESS];
        match self {
            Self::File(error) => {
                short.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
            }
            Self::Broken(_) => false,
        }
    }
}

/// The content of a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spooled {
    pub files: usize,
    pub bytes: u64,
    /// Files that cannot be stored and were set aside for the operator.
    pub set_aside: usize,
    /// Since when the oldest waits.
    pub oldest: Option<Timestamp>,
}

/// Looks without the lock: another process may be using the spool. A missing directory holds
/// nothing.
///
/// # Errors
/// When the directory cannot be read.
pub fn look(path: &Path) -> io::Result<Spooled> {
    let mut spooled = Spooled::default();
    let found = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(spooled),
        found => found?,
    };
    for found in found {
        let found = found?;
        match (numbered(&found), found.metadata()) {
            (Some((_, FileKind::Whole)), Ok(about)) => {
                let since = written(&about);
                spooled.files += 1;
                spooled.bytes += about.len();
                spooled.oldest = Some(spooled.oldest.map_or(since, |oldest| oldest.min(since)));
            }
            (Some((_, FileKind::SetAside)), _) => spooled.set_aside += 1,
            // Not whole, or stored and removed just now.
            _ => {}
        }
    }
    Ok(spooled)
}

enum FileKind {
    Whole,
    Unfinished,
    SetAside,
}

/// A file of the spool, by its name; other files are ignored.
fn numbered(found: &fs::DirEntry) -> Option<(u64, FileKind)> {
    let name = found.file_name();
    let (number, kind) = name.to_str()?.split_once('.')?;
    let kind = match kind {
        WHOLE => FileKind::Whole,
        UNFINISHED => FileKind::Unfinished,
        SET_ASIDE => FileKind::SetAside,
        _ => return None,
    };
    Some((number.parse().ok()?, kind))
}

fn written(about: &fs::Metadata) -> Timestamp {
    about.modified().ok().and_then(|time| time.try_into().ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Spool {
    /// Takes a directory for this process, and reads what an earlier process left in it.
    pub(super) fn open(path: &Path, bytes: usize, files: usize) -> Result<Self, IngestError> {
        let refused = |source| IngestError::Spool { path: path.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refused)?;
        let lock = private().open(path.join(LOCK)).map_err(refused)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(IngestError::SpoolInUse { path: path.to_owned() });
            }
            Err(error) => return Err(refused(error.into())),
        }
        let mut spool = Self {
            reader: Reader(path.to_owned()),
            entries: VecDeque::new(),
            next_number: 1,
            bytes: 0,
            set_aside: 0,
            most_bytes: bytes as u64,
            most_files: files,
            is_full: false,
            _lock: lock,
        };
        spool.look_around().map_err(refused)?;
        if !spool.is_empty() {
            let (files, bytes) = (spool.files(), spool.bytes());
            tracing::info!(files, bytes, "the spool holds webhooks that are not stored yet");
        }
        Ok(spool)
    }

    fn look_around(&mut self) -> io::Result<()> {
        let mut entries = Vec::new();
        for found in fs::read_dir(&self.reader.0)? {
            let found = found?;
            let Some((number, kind)) = numbered(&found) else { continue };
            self.next_number = self.next_number.max(number + 1);
            match kind {
                FileKind::Whole => {
                    let about = found.metadata()?;
                    entries.push(Entry { number, bytes: about.len(), since: written(&about) });
                }
                FileKind::Unfinished => fs::remove_file(found.path())?,
                FileKind::SetAside => self.set_aside += 1,
            }
        }
        entries.sort_unstable();
        self.bytes = entries.iter().map(|entry| entry.bytes).sum();
        self.entries = entries.into();
        Ok(())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn files(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    /// How many files were set aside.
    pub(super) fn set_aside(&self) -> usize {
        self.set_aside
    }

    pub(super) fn oldest_since(&self) -> Option<Timestamp> {
        self.entries.front().map(|entry| entry.since)
    }

    /// At most `most` entries, from the oldest on.
    pub(super) fn oldest(&self, most: usize) -> Vec<Entry> {
        self.entries.iter().take(most).copied().collect()
    }

    pub(super) fn reader(&self) -> Reader {
        self.reader.clone()
    }

    /// Writes as many as there is room for, in this order, and returns how many: they are on the
    /// disk. After an error, none of the others is.
    pub(super) fn put(
        &mut self,
        incoming: &[Incoming],
        now: Timestamp,
    ) -> (usize, Option<io::Error>) {
        let mut put: Vec<Entry> = Vec::with_capacity(incoming.len());
        let mut bytes = self.bytes;
        let mut error = None;
        for one in incoming {
            let record = record::write(one);
            bytes += record.len() as u64;
            self.is_full = self.files() + put.len() >= self.most_files || bytes > self.most_bytes;
            if self.is_full {
                break;
            }
            let entry = Entry { number: self.next_number, bytes: record.len() as u64, since: now };
            // Never used again, also after a failure: an unfinished file may be left.
            self.next_number += 1;
            if let Err(failed) = self.reader.write(entry, &record) {
                error = Some(failed);
                break;
            }
            put.push(entry);
        }
        if !put.is_empty()
            && let Err(failed) = self.reader.sync()
        {
            // The names may not last. No sender has been answered.
            for entry in put.drain(..) {
                drop(fs::remove_file(self.reader.path(entry, WHOLE)));
            }
            error = Some(failed);
        }
        self.bytes += put.iter().map(|entry| entry.bytes).sum::<u64>();
        self.entries.extend(&put);
        (put.len(), error)
    }

    /// Removes these entries, which are the oldest; with `true`, sets them aside.
    pub(super) fn take_out(&mut self, done: &[(Entry, bool)]) -> io::Result<()> {
        let mut result = Ok(());
        for &(entry, set_aside) in done {
            debug_assert_eq!(self.entries.front(), Some(&entry), "the oldest is taken first");
            self.entries.pop_front();
            self.bytes -= entry.bytes;
            let path = self.reader.path(entry, WHOLE);
            let done = if set_aside {
                self.set_aside += 1;
                fs::rename(path, self.reader.path(entry, SET_ASIDE))
            } else {
                fs::remove_file(path)
            };
            result = result.and(done);
        }
        self.is_full = self.is_full && done.is_empty();
        result.and(self.reader.sync())
    }
}

impl Entry {
    pub(super) fn size(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    pub(super) fn set_aside_name(self) -> String {
        self.name(SET_ASIDE)
    }

    fn name(self, kind: &str) -> String {
        format!("{:020}.{kind}", self.number)
    }
}

impl Reader {
    fn path(&self, entry: Entry, kind: &str) -> PathBuf {
        self.0.join(entry.name(kind))
    }

    fn write(&self, entry: Entry, record: &[u8]) -> io::Result<()> {
        let unfinished = self.path(entry, UNFINISHED);
        let written = private().create_new(true).open(&unfinished).and_then(|mut file| {
            file.write_all(record)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path(entry, WHOLE))
        });
        if written.is_err() {
            drop(fs::remove_file(&unfinished));
        }
        written
    }

    /// A name is on the disk when the directory is.
    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    pub(super) fn read(&self, entry: Entry) -> Result<Incoming, Unreadable> {
        let mut bytes = Vec::with_capacity(entry.size());
        let read = File::open(self.path(entry, WHOLE))
            .and_then(|file| file.take(entry.bytes + 1).read_to_end(&mut bytes));
        read.map_err(Unreadable::File)?;
        record::read(&Bytes::from(bytes)).map_err(Unreadable::Broken)
    }
}

fn private() -> fs::OpenOptions {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(OWNER_ONLY);
    options
}

#[cfg(test)]
mod tests;

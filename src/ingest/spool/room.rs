//! The room on the disk under a spool, and whether this user may write there. Nothing is written to
//! find out.

use std::io;
use std::path::Path;

use rustix::fs::{Access, access, statvfs};

/// Room in the spool's directory or, if it does not exist yet, in the one that it will be made in.
#[derive(Debug)]
pub struct SpoolRoom {
    /// Bytes that this user may still write there. 0 also where no file can be made any more.
    pub bytes: u64,
    /// Why this user may not write there.
    pub closed: Option<io::Error>,
}

/// # Errors
/// When the disk does not say.
pub fn room(path: &Path) -> io::Result<SpoolRoom> {
    let is_there = |path: &&Path| path.exists();
    let below = path.ancestors().find(is_there).unwrap_or_else(|| Path::new("."));
    let closed = access(below, Access::WRITE_OK | Access::EXEC_OK).err().map(io::Error::from);
    let disk = statvfs(below)?;
    // Some file systems do not count files, and say 0 of 0.
    let has_files = disk.f_favail > 0 || disk.f_files == 0;
    let bytes = if has_files { disk.f_bavail.saturating_mul(disk.f_frsize) } else { 0 };
    Ok(SpoolRoom { bytes, closed })
}

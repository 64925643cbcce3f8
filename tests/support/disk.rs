//! A disk for a database, which a test fills up and empties again.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use super::Server;

/// Where the tables of one database are. The server's log, as on many machines, is elsewhere: a
/// server that cannot write its log crashes, which is another story.
#[derive(Debug)]
pub enum Disk {
    /// A small file system of its own.
    Mounted(Mount),
    /// Where nothing can be mounted (it takes root), no file may grow beyond a bound: inserts fail
    /// likewise, but what is small has room yet.
    Bounded { postmaster: u32, owner: fs::Metadata },
}

#[derive(Debug)]
pub struct Mount {
    directory: tempfile::TempDir,
    /// Takes it away when the pipe to it is closed, however this process ends.
    keeper: Child,
    pipe: Option<ChildStdin>,
}

const KEEPER: &str =
    r#"mount -t tmpfs -o size=48m tmpfs "$1" && echo mounted && read -r _; umount -l "$1""#;
/// A segment of the server's log fits into it.
const FILE_SIZE_MAX: u32 = 17 << 20;

impl Disk {
    /// Makes a database of this name on a disk of its own.
    pub async fn with_database(server: &Server, name: &str) -> Self {
        let client = server.client().await;
        let owner = fs::metadata(server.cluster().directory()).expect("look at the cluster");
        let Some(mount) = Mount::new() else {
            let said =
                "a disk cannot be mounted here (it takes root): inserts alone meet a full one";
            // Not by a macro, whose words the test runner keeps to itself.
            writeln!(std::io::stderr(), "NOT TESTED IN FULL: {said}").expect("say so");
            let create = format!("create database {name}");
            client.batch_execute(&create).await.expect("make the database");
            let postmaster = server.cluster().pid().expect("the server runs");
            return Self::Bounded { postmaster, owner };
        };
        let place = mount.directory.path().join("tables");
        fs::create_dir(&place).expect("make a directory for the tables");
        for path in [mount.directory.path(), &place] {
            std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).expect("give it");
        }
        for statement in [
            format!("create tablespace small location '{}'", place.display()),
            format!("create database {name} tablespace small"),
        ] {
            client.batch_execute(&statement).await.expect("put a database on the small disk");
        }
        Self::Mounted(mount)
    }

    /// Leaves no room.
    pub fn fill(&self) {
        match self {
            Self::Mounted(mount) => {
                let mut filler = File::create(mount.filler()).expect("make a file");
                while filler.write_all(&[0; 4096]).is_ok() {}
            }
            Self::Bounded { postmaster, owner } => {
                bound_files(*postmaster, owner, &FILE_SIZE_MAX.to_string());
            }
        }
    }

    /// Makes room again.
    pub fn empty(&self) {
        match self {
            Self::Mounted(mount) => fs::remove_file(mount.filler()).expect("remove the file"),
            Self::Bounded { postmaster, owner } => bound_files(*postmaster, owner, "unlimited"),
        }
    }
}

impl Mount {
    /// `None`: this machine does not let us.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().expect("make a directory");
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(directory.path()).process_group(0);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut keeper = keeper.spawn().expect("start a shell");
        let pipe = keeper.stdin.take();
        let mut said = keeper.stdout.take().expect("it is piped");
        let mount = Self { directory, keeper, pipe };
        said.read_exact(&mut [0; "mounted".len()]).is_ok().then_some(mount)
    }

    fn filler(&self) -> PathBuf {
        self.directory.path().join("filler")
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.pipe.take());
        drop(self.keeper.wait());
    }
}

/// For the postmaster, whose later children inherit it, and those that it has. It is a soft limit.
fn bound_files(postmaster: u32, owner: &fs::Metadata, most: &str) {
    let script = r#"children=$(grep -ls "^PPid:.$1\$" /proc/[0-9]*/status | cut -d / -f 3)
        for pid in "$1" $children; do prlimit --pid "$pid" "--fsize=$2:" || [ "$pid" != "$1" ] || exit 1; done"#;
    let mut bound = Command::new("sh");
    bound.args(["-c", script, "bound", &postmaster.to_string(), most]);
    bound.uid(owner.uid()).gid(owner.gid());
    assert!(bound.status().expect("start a shell").success(), "prlimit is part of util-linux");
}

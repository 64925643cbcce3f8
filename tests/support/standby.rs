//! A streaming standby of a private server, to fail over to.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use posthaste::sandbox::watchdog::{self, Watchdog};
use tokio_postgres::Client;

use super::server::connect;
use super::{Server, holds, until, value};

/// A copy of a server that follows it, until it is promoted.
#[derive(Debug)]
pub struct Standby {
    port: u16,
    url: String,
    server: Child,
    /// Ends the server and removes its directory.
    watchdog: Watchdog,
}

impl Standby {
    /// A copy of the server, which follows it by this port of the loopback.
    pub async fn of(primary: &Server, port_of_primary: u16) -> Self {
        let directory = tempfile::tempdir().expect("make a directory").keep();
        let mut watchdog = Watchdog::start("QUIT", Some(&directory)).expect("start a watchdog");
        let owner = fs::metadata(primary.cluster().directory()).expect("look at the cluster");
        std::os::unix::fs::chown(&directory, Some(owner.uid()), Some(owner.gid()))
            .expect("hand the directory over");
        let run = |program: &str| {
            let mut command = Command::new(primary.cluster().binaries().path(program));
            command.current_dir(&directory).env("LC_ALL", "C").stdin(Stdio::null());
            command.uid(owner.uid()).gid(owner.gid()).process_group(0);
            command
        };
        let data = directory.join("data");
        let mut copy = run("pg_basebackup");
        copy.arg("--pgdata").arg(&data).args(["--checkpoint=fast", "--no-sync", "--dbname"]);
        let copied = copy.arg(primary.url()).output().expect("run pg_basebackup");
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        fs::write(data.join("standby.signal"), "").expect("say that it is a standby");

        let (port, of_primary) = (free_port(), primary.url());
        let password = password(&of_primary);
        let mut postgres = run("postgres");
        postgres.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c"]).arg(format!(
            "primary_conninfo=host=127.0.0.1 port={port_of_primary} user=postgres \
             password={password} application_name=standby"
        ));
        postgres.args(["-c", "wal_retrieve_retry_interval=100ms"]);
        let log = fs::File::create(directory.join("postgres.log")).expect("make the log");
        postgres.stdout(log.try_clone().expect("share the log")).stderr(log);
        let server = postgres.spawn().expect("start the standby");
        watchdog.watch(server.id()).expect("tell the watchdog");
        let url = format!("postgres://postgres:{password}@127.0.0.1:{port}/postgres");
        let standby = Self { port, url, server, watchdog };
        until("the standby to answer", || async { connect(&standby.url).await.ok() }).await;
        standby
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub async fn client(&self) -> Client {
        connect(&self.url).await.expect("connect to the standby")
    }

    /// Waits until it has all that the primary has written so far.
    pub async fn catch_up(&self, primary: &Client) {
        let written = "select pg_current_wal_insert_lsn()::text";
        let written: String = value(primary, written).await;
        let replayed = format!("coalesce(pg_last_wal_replay_lsn() >= '{written}', false)");
        holds(&self.client().await, &replayed).await;
    }

    /// Makes it the primary, and waits until it takes writes.
    pub async fn promote(&self) {
        let client = self.client().await;
        assert!(value::<bool>(&client, "select pg_promote()").await, "it did not promote");
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        drop(watchdog::signal(self.server.id(), "QUIT"));
        drop(self.server.wait());
        drop(self.watchdog.forget());
    }
}

/// Of `postgres://user:password@host…`.
fn password(url: &str) -> &str {
    let (before, _) = url.split_once('@').expect("the URL names a user");
    before.rsplit_once(':').expect("and a password").1
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port");
    listener.local_addr().expect("a bound socket has an address").port()
}

//! A PostgreSQL of one's own, for tests that mistreat it: restarted, filled up, failed over.

use std::fs;
use std::path::Path;

use posthaste::sandbox::postgres::{Cluster, ClusterOptions, StopMode};
use posthaste::sandbox::watchdog;
use tokio_postgres::{Client, NoTls};

use super::{cluster_options, database, until};

/// A private server with Posthaste installed in its database `postgres`; gone when dropped.
#[derive(Debug)]
pub struct Server {
    cluster: Cluster,
}

impl Server {
    /// With these lines added to its `postgresql.conf`.
    pub async fn start(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&line| line.to_owned()).collect();
        let options = ClusterOptions { settings, ..cluster_options() };
        let cluster = Cluster::start(options).await.expect("start a cluster");
        database::migrate(&cluster.url()).await;
        Self { cluster }
    }

    pub fn url(&self) -> String {
        self.cluster.url()
    }

    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub async fn client(&self) -> Client {
        connect(&self.url()).await.expect("connect to the server")
    }

    pub async fn stop(&mut self, mode: StopMode) {
        self.cluster.stop(mode).await.expect("stop the server");
    }

    /// `kill -9` of every process that is the server's, its postmaster first. Its data stay.
    pub async fn kill(&mut self) {
        let data = self.cluster.directory().join("data");
        let data = data.canonicalize().expect("the server has its data");
        let postmaster = self.cluster.pid().expect("the server runs");
        watchdog::signal(postmaster, "KILL").expect("the server is there to be killed");
        until("the server to be dead", || async {
            let left = processes_in(&data);
            for &pid in &left {
                // It may have ended by itself meanwhile.
                drop(watchdog::signal(pid, "KILL"));
            }
            left.is_empty().then_some(())
        })
        .await;
        // Or pg_ctl would wait for the end of what has ended.
        drop(fs::remove_file(data.join("postmaster.pid")));
        drop(self.cluster.stop(StopMode::Immediate).await);
    }

    pub async fn start_again(&mut self) {
        self.cluster.start_again().await.expect("start the server again");
    }
}

/// Those whose working directory this is: PostgreSQL's all work in their data.
fn processes_in(directory: &Path) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("look at the processes").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let here =
        |pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|it| it == directory);
    numbers.filter(here).collect()
}

/// A connection that lasts as long as its client. The server may be away.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with its client, or the test's runtime"
    )]
    tokio::spawn(async move {
        // A connection that breaks shows as an error of the client's next statement.
        drop(connection.await);
    });
    Ok(client)
}

//! A PostgreSQL of one's own, for tests that mistreat it: restarted, filled up, failed over.

use posthaste::demo::postgres::{Cluster, ClusterOptions, StopMode};
use tokio_postgres::{Client, NoTls};

use super::{cluster_options, database};

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

    pub async fn start_again(&mut self) {
        self.cluster.start_again().await.expect("start the server again");
    }
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

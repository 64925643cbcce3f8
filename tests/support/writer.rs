//! An application that goes on writing, whatever becomes of its database.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::server::connect;
use super::{event, within};

/// Inserts events side by side, each in a transaction of its own, until so many are known to be
/// committed. Where the server is away it tries again; an insert of which it never heard may have
/// been committed all the same, so what there is to arrive, the outbox says.
#[derive(Debug)]
pub struct Writer {
    writers: JoinSet<Vec<i64>>,
    written: watch::Receiver<usize>,
}

impl Writer {
    const WRITERS: usize = 4;

    pub fn start(url: &str, events: usize) -> Self {
        let (count, written) = watch::channel(0);
        let mut writers = JoinSet::new();
        for _ in 0..Self::WRITERS {
            writers.spawn(write(url.to_owned(), events, count.clone()));
        }
        Self { writers, written }
    }

    /// Waits until so many are committed.
    #[track_caller]
    pub fn has_written(&self, events: usize) -> impl Future<Output = ()> + use<> {
        let mut written = self.written.clone();
        within("the writer to get on", async move {
            written.wait_for(|&written| written >= events).await.expect("somebody still writes");
        })
    }

    /// Waits until all are, and returns their numbers.
    #[track_caller]
    pub fn done(self) -> impl Future<Output = BTreeSet<i64>> {
        within("the writer to be done", async move {
            self.writers.join_all().await.into_iter().flatten().collect()
        })
    }
}

async fn write(url: String, events: usize, count: watch::Sender<usize>) -> Vec<i64> {
    const TRY_EVERY: Duration = Duration::from_millis(20);
    let insert = event("order.paid").sql();
    let mut written = Vec::new();
    while *count.borrow() < events {
        let Ok(client) = connect(&url).await else {
            tokio::time::sleep(TRY_EVERY).await;
            continue;
        };
        while *count.borrow() < events
            && let Ok(row) = client.query_one(&insert, &[]).await
        {
            written.push(row.get(0));
            count.send_modify(|count| *count += 1);
        }
    }
    written
}

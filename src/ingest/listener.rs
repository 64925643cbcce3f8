//! The listener for webhooks: connections, bounded in number, with or without TLS, and their end in order.
//! What is said on each is a [`conversation`](super::conversation).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time;

use super::IngestError;
use super::conversation::Conversation;
use super::request::Handler;
use super::tls::Tls;
use crate::config::IngestSettings;
use crate::observe::metrics::Metrics;
use crate::stopper::Stopper;

/// When accepting fails for want of files or memory, trying again at once would only burn the core.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// A listener that is bound and accepts nobody yet.
#[derive(Debug)]
pub(super) struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    max_connections: usize,
    head_timeout: Duration,
    max_head: usize,
    metrics: Arc<Metrics>,
}

impl Listener {
    pub(super) async fn bind(
        address: SocketAddr,
        tls: Option<Tls>,
        settings: &IngestSettings,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, IngestError> {
        let refused = |source| IngestError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(refused)?;
        Ok(Self {
            address: listener.local_addr().map_err(refused)?,
            listener,
            tls: tls.map(Arc::new),
            max_connections: settings.max_connections,
            head_timeout: settings.head_timeout,
            max_head: settings.max_head,
            metrics: Arc::clone(metrics),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets connections in until the stop; then lets what is being answered end, and returns.
    pub(super) async fn serve(self, handler: Handler, grace: Duration, stopper: &Stopper) {
        let room = Arc::new(Semaphore::new(self.max_connections));
        let handler = Arc::new(handler);
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let permit = Arc::clone(&room).acquire_owned().await;
                (self.listener.accept().await, permit)
            };
            // each arm may be dropped: a permit is given back, and accepting is cancel safe
            tokio::select! {
                () = stopper.stopping() => break,
                Some(_) = connections.join_next() => {}
                (accepted, permit) = accepted => match accepted {
                    Ok((stream, peer)) => {
                        let conversation = Conversation {
                            handler: Arc::clone(&handler),
                            peer: peer.ip(),
                            head_timeout: self.head_timeout,
                            max_head: self.max_head,
                            grace,
                            stopper: stopper.clone(),
                        };
                        let (tls, metrics) = (self.tls.clone(), Arc::clone(&self.metrics));
                        connections.spawn(async move {
                            metrics.ingest.connections.increment(1);
                            hold(conversation, stream, tls).await;
                            metrics.ingest.connections.decrement(1);
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection on ingest.listen");
                        time::sleep(AFTER_FAILED_ACCEPT).await;
                    }
                },
            }
        }
        drop(self.listener);
        drop(handler);
        while connections.join_next().await.is_some() {}
    }
}

/// Holds a conversation, behind TLS if it is spoken here.
async fn hold(conversation: Conversation, stream: TcpStream, tls: Option<Arc<Tls>>) {
    // small answers, and a sender waits for each
    drop(stream.set_nodelay(true));
    let Some(tls) = tls else { return conversation.hold(stream).await };
    // whoever cannot shake hands hears so in TLS's own words
    let shaken = time::timeout(conversation.head_timeout, async {
        tls.acceptor().await.accept(stream).await
    });
    let shaken = tokio::select! {
        shaken = shaken => shaken,
        () = conversation.stopper.stopping() => return,
    };
    if let Ok(Ok(stream)) = shaken {
        conversation.hold(stream).await;
    }
}

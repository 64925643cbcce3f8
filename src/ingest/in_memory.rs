//! The conversation and the intake as they are, with neither a port nor a database. The caller, a
//! test, brings the bytes and decides where each webhook is kept.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

pub use super::answer::Kept;
use super::answer::Refused;
use super::conversation::{Conversation, ConversationBounds};
use super::error::IngestError;
use super::request::Intake;
use super::sources;
use super::writer::WaitingRequest;
use crate::clock::Present;
use crate::config::IngestSettings;
use crate::model::incoming::Incoming;
use crate::observe::metrics::Metrics;
use crate::serve::ration::Ration;
use crate::stopper::Stopper;

/// One conversation, and the webhooks it has taken.
pub struct InMemoryIngest {
    conversation: Conversation,
    waiting: mpsc::Receiver<WaitingRequest>,
}

impl fmt::Debug for InMemoryIngest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InMemoryIngest")
    }
}

impl InMemoryIngest {
    /// An intake for the connection of this peer.
    ///
    /// # Errors
    /// When a secret cannot be used.
    pub fn new(
        settings: &IngestSettings,
        metrics: &Arc<Metrics>,
        present: Present,
        peer: IpAddr,
    ) -> Result<Self, IngestError> {
        let (sender, waiting) = mpsc::channel(settings.max_in_flight);
        let conversation = Conversation {
            intake: Arc::new(Intake::new(sources(settings)?, settings, sender, metrics, present)),
            peer,
            place: Arc::new(Ration::of(1, Duration::MAX).portion(peer)),
            bounds: ConversationBounds {
                head_timeout: settings.head_timeout,
                max_head: settings.max_head,
                grace: Duration::ZERO,
            },
            stopper: Stopper::new(),
        };
        Ok(Self { conversation, waiting })
    }

    /// Holds the conversation to its end. `keep` stands for database and spool: with `None` they
    /// are away.
    pub async fn hold(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        mut keep: impl FnMut(Incoming) -> Option<Kept>,
    ) {
        let Self { conversation, mut waiting } = self;
        let keeping = async {
            while let Some(WaitingRequest { incoming, answer, place, room }) = waiting.recv().await
            {
                drop((place, room));
                let _heard = answer.send(keep(incoming).ok_or(Refused::Away));
            }
        };
        // The keeping ends when the intake is gone.
        tokio::join!(conversation.hold(stream), keeping);
    }
}

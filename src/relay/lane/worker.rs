//! One worker of a lane: takes what is next and sends it over a connection of its own, one at a time.

use std::pin::pin;
use std::sync::Arc;

use tokio::sync::Notify;

use super::{Lane, Next};
use crate::relay::Shared;
use crate::relay::attempt::{Line, Times, deliver};
use crate::relay::health;
use crate::relay::record::Finished;

/// Works until the lane has nothing more for it, or the relay ends.
pub(in crate::relay) async fn work(lane: Arc<Lane>, shared: Arc<Shared>) {
    let mut line = Line::default();
    let call = Arc::new(Notify::new());
    loop {
        match lane.next(&shared, &call) {
            Next::Send(delivery, ready, ticket) => {
                let permit = shared.budget.take().await;
                let sent = match deliver(&shared, &ready, &delivery, &mut line).await {
                    Ok(sent) => sent,
                    Err(fault) => {
                        line = Line::default();
                        fault.sent(&shared, &ready, &delivery)
                    }
                };
                drop(permit);
                let decision = sent.verdict.decision;
                let times = Times::of(&sent);
                let transition = lane.finished(&shared, ticket, &sent.outcome, decision, times);
                let effect = sent.verdict.effect;
                shared.report(Finished::sent(&lane, &delivery, sent)).await;
                health::follow(&shared, &lane, transition, effect).await;
            }
            Next::Return(deliveries) => {
                for delivery in deliveries {
                    shared.report(Finished::unsent(Some(&lane), &delivery)).await;
                }
            }
            Next::Park => {
                let mut called = pin!(call.notified());
                let mut patience = pin!(tokio::time::sleep(shared.config.delivery.idle_timeout));
                loop {
                    tokio::select! {
                        () = &mut called => break,
                        () = &mut patience => {
                            if lane.retire(&call) {
                                return;
                            }
                            // Called in this very moment.
                            called.await;
                            break;
                        }
                        () = shared.files.needed(), if line.file.is_some() => line = Line::default(),
                    }
                }
            }
            Next::Leave => return,
            // A slow pace must not hold up a stop: the queue is given back then.
            Next::Rate(wait) => tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shared.term.ending.cancelled() => return,
            },
        }
    }
}

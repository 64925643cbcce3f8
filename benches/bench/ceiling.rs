//! The ceiling: the same bodies posted to the same receiver by hyper's client over kept
//! connections, with no database, no signature and no record.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::inbox::{Inbox, exactly_once, span};
use super::load;

/// As many as the relay opens to one endpoint.
const CONNECTIONS: usize = 64;

/// Requests a second from the first arrival to the last.
pub(crate) async fn rate(inbox: &Inbox, requests: usize) -> Result<f64> {
    inbox.take().await?;
    let body = Bytes::from(load::body());
    let next = Arc::new(AtomicUsize::new(0));
    let mut posting = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (body, next, address) = (body.clone(), Arc::clone(&next), inbox.address());
        posting.spawn(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let mut driver = JoinSet::new();
            driver.spawn(connection);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return Ok::<_, anyhow::Error>(());
                }
                let request = Request::post("/ceiling")
                    .header("host", address.to_string())
                    .header("content-type", "application/json")
                    .header("user-agent", "posthaste/0.1.0")
                    .header("webhook-id", format!("evt_{number}_6128e0e8c5e3d"))
                    .header("webhook-timestamp", "1767225600")
                    .header("webhook-signature", "v1,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
                    .body(Full::new(body.clone()))?;
                sender.ready().await?;
                let response = sender.send_request(request).await?;
                ensure!(response.status().is_success(), "the receiver takes everything");
                response.into_body().collect().await?;
            }
        });
    }
    while let Some(posted) = posting.join_next().await {
        posted??;
    }
    let arrivals = inbox.take().await?;
    exactly_once(&arrivals, requests)?;
    Ok(requests as f64 / span(&arrivals)?.as_secs_f64())
}

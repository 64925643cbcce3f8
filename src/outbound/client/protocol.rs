//! HTTP/1.1 and HTTP/2 behind one face: hyper's two client connections, each as a sending half and
//! a future that moves its bytes. [`connection`](super::connection) polls that future.

use std::pin::Pin;
use std::task::Context;

use bytes::Bytes;
use futures_util::future::Either;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::header::HOST;
use hyper::{Request, Response, Version};

use super::ear::Stream;
use super::settings::Limits;
use super::tasks::{TaskInbox, Tasks};
use crate::outbound::target::Target;

pub(super) type Post = Request<Full<Bytes>>;

/// The future that moves a connection's bytes; `None` once it has ended.
type HttpDriver<D> = Option<Pin<Box<D>>>;

/// A protocol's sending half, and the future that moves its bytes.
pub(super) enum Http {
    One {
        sender: http1::SendRequest<Full<Bytes>>,
        driver: HttpDriver<http1::Connection<Stream, Full<Bytes>>>,
    },
    Two {
        sender: http2::SendRequest<Full<Bytes>>,
        driver: HttpDriver<http2::Connection<Stream, Full<Bytes>, TaskInbox>>,
        tasks: Tasks,
    },
}

/// Bytes of a body that an HTTP/2 peer may send before they are read.
const HTTP2_WINDOW: u32 = 64 * 1024;

/// hyper wants no less.
const HYPER_HEAD_BYTES_MIN: usize = 8 * 1024;

impl Http {
    /// Speaks whichever the two sides agreed on.
    pub(super) async fn handshake(stream: Stream, limits: &Limits) -> hyper::Result<Self> {
        if stream.inner().is_http2() {
            Self::two(stream, limits).await
        } else {
            Self::one(stream, limits).await
        }
    }

    async fn one(stream: Stream, limits: &Limits) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(limits.head_bytes.max(HYPER_HEAD_BYTES_MIN))
            // A 2xx with a header that is no header is still a 2xx, and so is one that is written
            // as it was thirty years ago. What hyper does not read even so, the ear has heard.
            .ignore_invalid_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .allow_obsolete_multiline_headers_in_responses(true)
            .max_headers(limits.head_count);
        let (sender, driver) = builder.handshake(stream).await?;
        Ok(Self::One { sender, driver: Some(Box::pin(driver)) })
    }

    async fn two(stream: Stream, limits: &Limits) -> hyper::Result<Self> {
        let inbox = TaskInbox::default();
        let (sender, driver) = http2::Builder::new(inbox.clone())
            .initial_stream_window_size(HTTP2_WINDOW)
            .initial_connection_window_size(HTTP2_WINDOW)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .handshake(stream)
            .await?;
        Ok(Self::Two { sender, driver: Some(Box::pin(driver)), tasks: Tasks::new(inbox) })
    }

    /// HTTP/1.1 has the path in its first line and the host in a header; HTTP/2 has both in the
    /// URI.
    pub(super) fn address(&self, request: &mut Post, target: &Target) {
        match self {
            Self::One { .. } => {
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = target.origin_form().clone();
                request.headers_mut().insert(HOST, target.host_header().clone());
            }
            Self::Two { .. } => {
                *request.version_mut() = Version::HTTP_2;
                *request.uri_mut() = target.absolute().clone();
                request.headers_mut().remove(HOST);
            }
        }
    }

    pub(super) fn send(
        &mut self,
        request: Post,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Post>>> + use<> {
        match self {
            Self::One { sender, .. } => Either::Left(sender.try_send_request(request)),
            Self::Two { sender, .. } => Either::Right(sender.try_send_request(request)),
        }
    }

    /// Moves bytes as far as they go. Errors are not looked at here: the part of the exchange that
    /// waits for the connection gets them.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::One { driver, .. } => poll_once(driver, cx),
            Self::Two { driver, tasks, .. } => {
                poll_once(driver, cx);
                tasks.poll(cx);
            }
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::One { sender, driver } => driver.is_some() && sender.is_ready(),
            Self::Two { sender, driver, .. } => driver.is_some() && sender.is_ready(),
        }
    }

    /// An HTTP/2 connection that takes no more requests may still finish the one under way.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::One { driver, .. } => driver.is_none(),
            Self::Two { driver, tasks, .. } => driver.is_none() && tasks.are_done(),
        }
    }
}

fn poll_once<D: Future<Output = hyper::Result<()>>>(
    driver: &mut HttpDriver<D>,
    cx: &mut Context<'_>,
) {
    if driver.as_mut().is_some_and(|driver| driver.as_mut().poll(cx).is_ready()) {
        *driver = None;
    }
}

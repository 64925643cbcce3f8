//! The TCP stream under everything, with a bound on the bytes that the peer may make the relay
//! read.
//!
//! hyper bounds the size of one message head, but not how many informational responses, pings or
//! settings come before the answer. So the stream itself counts: each stage of an exchange grants
//! an allowance, and reading past it is an error of its own.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A TCP stream that stops reading when its allowance is used up.
#[derive(Debug)]
pub(super) struct Wire {
    tcp: TcpStream,
    allowance: ReadAllowance,
}

/// How many more bytes may be read; shared between the stream, deep inside TLS and hyper, and the
/// connection that owns them.
#[derive(Debug, Clone)]
pub(super) struct ReadAllowance(Arc<AtomicUsize>);

/// The peer sent more than the present stage of the exchange allows.
#[derive(Debug, thiserror::Error)]
#[error("the receiver sent too many bytes before its answer")]
pub(super) struct AllowanceUsedUp;

impl Wire {
    pub(super) fn new(tcp: TcpStream, allowance: ReadAllowance) -> Self {
        Self { tcp, allowance }
    }
}

impl ReadAllowance {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Replaces what is left. Relaxed, because one task does it all.
    pub(super) fn grant(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = self.allowance.left();
        if left == 0 {
            return Poll::Ready(Err(io::Error::other(AllowanceUsedUp)));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.allowance.grant(left.saturating_sub(buf.filled().len() - before));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }
}

/// hyper-rustls demands it of a transport; nothing reads it here.
impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

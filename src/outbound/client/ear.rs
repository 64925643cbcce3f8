//! Keeps the beginning of an answer as it came, beside hyper, which reads the same bytes. An answer
//! that hyper cannot read may still say plainly that the receiver has taken the event. HTTP/1 only;
//! lies above TLS.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wire::Wire;

/// Bytes of an answer's beginning that are kept: no more of its headers would be stored either.
const KEPT: usize = 4 * 1024;

/// Bytes whose allocation outlasts an answer. Most heads are shorter.
const ROOM: usize = 1024;

/// The bytes that one connection's receiver has sent since [`listen`](Self::listen). Shared between
/// the stream, inside hyper, and the connection that owns it. One task uses both, so the lock is
/// free and the order of the atomic does not matter.
#[derive(Debug, Clone, Default)]
pub(super) struct Ear(Arc<Heard>);

#[derive(Debug, Default)]
struct Heard {
    listens: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl Ear {
    /// Keeps from now on, and forgets the answer before.
    pub(super) fn listen(&self) {
        let mut bytes = self.bytes();
        bytes.clear();
        bytes.shrink_to(ROOM);
        self.0.listens.store(true, Ordering::Relaxed);
    }

    /// Ends the keeping: hyper has understood the head.
    pub(super) fn stop(&self) {
        self.0.listens.store(false, Ordering::Relaxed);
    }

    pub(super) fn has_heard_nothing(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Status and headers of the answer, as far as they can be told.
    pub(super) fn understood(&self) -> Option<(u16, Vec<(String, String)>)> {
        understood(&self.bytes())
    }

    fn hear(&self, more: &[u8]) {
        if self.0.listens.load(Ordering::Relaxed) {
            let mut bytes = self.bytes();
            let room = KEPT.saturating_sub(bytes.len());
            bytes.extend_from_slice(&more[..more.len().min(room)]);
        }
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a head as leniently as can be: the first whole status line of a final answer, and then
/// each line that is a name, a colon and a value, up to an empty one.
fn understood(bytes: &[u8]) -> Option<(u16, Vec<(String, String)>)> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n')?;
    let mut lines = bytes[..whole].split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let status = loop {
        let status = status(lines.next()?)?;
        if status == 101 || status >= 200 {
            break status;
        }
        // Informational, up to the empty line.
        lines.find(|line| line.is_empty())?;
    };
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_at_checked(line.iter().position(|b| *b == b':')?)?;
            let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
            hyper::header::HeaderName::try_from(&name).ok()?;
            Some((name, super::head::text(value[1..].trim_ascii())))
        })
        .collect();
    Some((status, headers))
}

/// `HTTP/1.1 204 No Content`, with or without a reason.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?;
    let rest = rest.get(1..)?.strip_prefix(b" ")?.trim_ascii_start();
    let (digits, rest) = rest.split_at_checked(3)?;
    let is_whole = rest.first().is_none_or(|next| !next.is_ascii_alphanumeric());
    let status = std::str::from_utf8(digits).ok()?.parse().ok()?;
    (is_whole && (100..1000).contains(&status)).then_some(status)
}

/// The stream under hyper, with an ear to it.
pub(super) type Stream = TokioIo<Overheard>;

/// A stream whose reads an ear hears.
pub(super) struct Overheard {
    inner: TokioIo<MaybeHttpsStream<TokioIo<Wire>>>,
    ear: Ear,
}

impl Overheard {
    pub(super) fn new(inner: MaybeHttpsStream<TokioIo<Wire>>) -> Stream {
        TokioIo::new(Self { inner: TokioIo::new(inner), ear: Ear::default() })
    }

    pub(super) fn ear(&self) -> Ear {
        self.ear.clone()
    }

    pub(super) fn is_http2(&self) -> bool {
        match self.inner.inner() {
            MaybeHttpsStream::Http(_) => false,
            MaybeHttpsStream::Https(tls) => tls.inner().get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.ear.hear(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heard(text: &str) -> Option<(u16, Vec<(String, String)>)> {
        understood(text.as_bytes())
    }

    #[test]
    fn a_whole_status_line_is_an_answer_and_what_follows_is_kept_where_it_can_be_read() {
        let odd = "HTTP/1.1  503\r\nRetry-After : 5\r\nretry-after: 7\r\n folded\r\n: x\r\n\r\nno: header";
        assert_eq!(heard(odd), Some((503, vec![("retry-after".to_owned(), "7".to_owned())])));
        assert_eq!(heard("HTTP/1.0 200 OK\n"), Some((200, vec![])));
        let hinted = "HTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 None\r\na: b\r\nc";
        assert_eq!(heard(hinted), Some((204, vec![("a".to_owned(), "b".to_owned())])));
        for nothing in [
            "",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 2000 OK\r\n",
            "HTTP/1.1 20\r\n",
            "HTTP/1.1 099 OK\r\n",
            "220 mail.example ESMTP\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
        ] {
            assert_eq!(heard(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn an_ear_keeps_the_beginning_while_it_listens() {
        let ear = Ear::default();
        ear.hear(b"unasked");
        assert!(ear.has_heard_nothing());
        ear.listen();
        ear.hear(b"HTTP/1.1 200 OK\r\n");
        ear.hear(&[b'x'; KEPT]);
        assert_eq!(ear.bytes().len(), KEPT);
        assert_eq!(ear.understood().map(|(status, _)| status), Some(200));
        ear.stop();
        ear.listen();
        assert!(ear.has_heard_nothing());
        assert!(ear.bytes().capacity() <= ROOM);
    }

    proptest! {
        #[test]
        fn nothing_that_is_heard_makes_it_panic(bytes: Vec<u8>, rest: Vec<u8>) {
            understood(&bytes);
            understood(&[b"HTTP/1.1 200 OK\r\n", rest.as_slice(), b"\n"].concat());
        }
    }
}

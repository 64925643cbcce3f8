//! Asks a relay's own listener for its health: one GET over plain HTTP, bounded in time and size.
//! For container health checks, where there is no curl, and for the demo.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time;

/// Bytes of an answer. The relay answers with a line, or a problem of a few lines.
const ANSWER_MAX: usize = 64 * 1024;

/// The relay's health cannot be learnt.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the URL is not http://HOST:PORT/PATH")]
    Url,
    #[error("connect to {0}")]
    Connect(String, #[source] io::Error),
    #[error("ask {0}")]
    Ask(String, #[source] hyper::Error),
    #[error("{0} did not answer within {1:?}")]
    Late(String, Duration),
}

/// The status and the text of a GET.
///
/// # Errors
/// If the URL is no plain HTTP, or there is no answer in time.
pub async fn get(url: &str, within: Duration) -> Result<(StatusCode, String), ProbeError> {
    let uri: Uri = url.parse().map_err(|_| ProbeError::Url)?;
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http"));
    let authority = authority.ok_or(ProbeError::Url)?;
    let late = || ProbeError::Late(authority.to_string(), within);
    time::timeout(within, ask(&uri, authority.as_str())).await.map_err(|_| late())?
}

async fn ask(uri: &Uri, authority: &str) -> Result<(StatusCode, String), ProbeError> {
    let failed = |error| ProbeError::Ask(authority.to_owned(), error);
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await;
    let stream = stream.map_err(|error| ProbeError::Connect(authority.to_owned(), error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new());
    let request = request.map_err(|_| ProbeError::Url)?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        // The status is the answer; a body that does not come is not missed.
        let text = body.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        Ok((status, text.unwrap_or_default()))
    };
    tokio::pin!(connection);
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        // An answer that has come whole is still read when its connection has ended.
        ended = &mut connection => match ended {
            Ok(()) => asked.await,
            Err(error) => Err(failed(error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    async fn answering(answer: &'static str) -> Result<(StatusCode, String), ProbeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ready", listener.local_addr().unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 1024];
            let length = stream.read(&mut asked).await.unwrap();
            assert!(asked[..length].starts_with(b"GET /ready HTTP/1.1\r\nhost: 127.0.0.1:"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(get(&url, SOON), serve).0
    }

    #[tokio::test]
    async fn status_and_text_are_told() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nready\n";
        assert_eq!(answering(answer).await.unwrap(), (StatusCode::OK, "ready\n".to_owned()));
        let until_closed = "HTTP/1.1 503 Service Unavailable\r\n\r\nstarting";
        let (status, text) = answering(until_closed).await.unwrap();
        assert_eq!((status.as_u16(), text.as_str()), (503, "starting"));
    }

    #[tokio::test]
    async fn a_probe_without_an_answer_says_why() {
        assert!(matches!(answering("").await, Err(ProbeError::Ask(..))));
        assert!(matches!(answering("SSH-2.0-x\r\n\r\n").await, Err(ProbeError::Ask(..))));
        for url in ["https://127.0.0.1/ready", "127.0.0.1:7878", "x"] {
            assert!(matches!(get(url, SOON).await, Err(ProbeError::Url)), "{url}");
        }
        let refused = get("http://127.0.0.1:1/ready", SOON).await.unwrap_err();
        assert!(matches!(refused, ProbeError::Connect(..)), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_relay_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/ready", listener.local_addr().unwrap());
        assert!(matches!(get(&url, SOON).await, Err(ProbeError::Late(..))));
    }
}

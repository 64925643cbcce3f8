//! Turns a case into bytes of HTTP, changes those too, and lets a server of hyper read them from a
//! connection. What answers is [`answer`]; a listener takes its place there and nowhere else.

use std::cell::RefCell;
use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes as Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use posthaste::ingest::verify::Verifier;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::case::{Bytes, Case, change_bytes};
use super::judge;

const BODY_MAX: usize = 1 << 20;

/// A connection whose peer has said everything ends by itself.
const ENDS: Duration = Duration::from_secs(5);

/// What became of each request that hyper found in the bytes, and of the connection.
pub(super) fn serve(case: &Case, verifier: &Verifier, bytes: &mut Bytes<'_>) -> Vec<String> {
    let mut sent = request(case, bytes);
    let changes = [0, 0, 1, 2][usize::from(bytes.byte() % 4)];
    for _ in 0..changes {
        change_bytes(&mut sent, bytes);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let became = RefCell::new(Vec::new());
    let answered = runtime.expect("a runtime").block_on(async {
        let (mut client, server) = tokio::io::duplex(sent.len() + 1);
        client.write_all(&sent).await.expect("there is room for all of it");
        client.shutdown().await.expect("it is open");
        let service = service_fn(|request| answer(case, verifier, request, &became));
        let connection = http1::Builder::new()
            .half_close(true) // the client has said everything and waits
            .serve_connection(TokioIo::new(server), service);
        let mut answer = Vec::new();
        let reading = client.read_to_end(&mut answer);
        let both = async { tokio::join!(connection, reading) };
        let ended = tokio::time::timeout(ENDS, both).await;
        assert!(ended.is_ok(), "the connection does not end: {:?}", String::from_utf8_lossy(&sent));
        !answer.is_empty()
    });
    let mut became = became.into_inner();
    if case.untouched && changes == 0 {
        assert_eq!(became, ["believed"], "signed, sent and not changed: {case:?}");
        became.push("signed, sent and not changed".to_owned());
    }
    let requests = !became.is_empty();
    became.push(match (requests, answered) {
        (true, _) => "through HTTP: answered".to_owned(),
        (false, true) => "through HTTP: no request".to_owned(),
        (false, false) => "through HTTP: not even an answer".to_owned(),
    });
    became
}

/// What a listener does with a request, as far as it concerns who sent it.
async fn answer(
    case: &Case,
    verifier: &Verifier,
    request: Request<Incoming>,
    became: &RefCell<Vec<String>>,
) -> Result<Response<Full<Body>>, Infallible> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        became.borrow_mut().push("through HTTP: the body breaks off".to_owned());
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(refused);
    };
    let what = judge(case, verifier, &head.headers, &body.to_bytes());
    became.borrow_mut().push(what);
    Ok(Response::new(Full::default()))
}

fn request(case: &Case, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut sent = b"POST /in/source HTTP/1.1\r\nHost: localhost\r\n".to_vec();
    for (name, value) in &case.headers {
        sent.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    if bytes.byte().is_multiple_of(4) {
        sent.extend(b"Transfer-Encoding: chunked\r\n\r\n");
        for chunk in case.body.chunks(1000) {
            sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            sent.extend([chunk, b"\r\n"].concat());
        }
        sent.extend(b"0\r\n\r\n");
    } else {
        sent.extend(format!("Content-Length: {}\r\n\r\n", case.body.len()).into_bytes());
        sent.extend(&case.body);
    }
    sent
}

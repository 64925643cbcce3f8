//! HTTP/2, chosen by ALPN.

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use hyper::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::peer::{LONG, Peer, SHORT, answer, send, send_in};
use super::tls::{Authority, GOOD, NAME, target};
use crate::model::outcome::{Cause, Outcome, Phase};
use crate::outbound::client::Client;

type Server = Connection<TlsStream<TcpStream>, Bytes>;
type Call = (Request<RecvStream>, SendResponse<Bytes>);

/// A peer that speaks HTTP/2 and runs `script` on each connection, and a client that trusts it.
async fn speaking<S, F>(script: S) -> (Peer, Client)
where
    S: Fn(Server) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let authority = Authority::new();
    let acceptor = authority.acceptor(GOOD, &["h2", "http/1.1"]);
    let peer = Peer::serving(move |stream, _| {
        let (acceptor, script) = (acceptor.clone(), script.clone());
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            script(h2::server::handshake(stream).await.unwrap()).await;
        }
    })
    .await;
    (peer, authority.client())
}

async fn call(server: &mut Server) -> Option<Call> {
    server.accept().await?.ok()
}

async fn end(mut server: Server) {
    while let Some(Ok(_ignored)) = server.accept().await {}
}

fn cause(outcome: Outcome) -> Cause {
    match outcome {
        Outcome::Unreachable { cause, .. } => cause,
        other => panic!("not unreachable, but {other:?}"),
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (peer, client) = speaking(|mut server| async move {
        while let Some((request, mut respond)) = call(&mut server).await {
            assert_eq!(request.uri().host(), Some(NAME));
            assert_eq!(request.uri().path(), "/hook");
            assert!(!request.headers().contains_key("host"));
            let head = Response::builder().status(202).header("x-a", "b").body(()).unwrap();
            let mut body = respond.send_response(head, false).unwrap();
            body.send_data(Bytes::from_static(b"taken"), true).unwrap();
        }
    })
    .await;
    let (target, mut slot) = (target(&peer), None);
    for number in 0..20 {
        let exchange = send_in(&client, &mut slot, &target, LONG).await;
        assert_eq!(exchange.reused, number > 0);
        let answer = answer(exchange);
        assert_eq!((answer.status, answer.body.as_slice()), (202, b"taken".as_slice()));
        assert_eq!(answer.header("x-a"), Some("b"));
        assert!(!answer.body_truncated);
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_request_body_larger_than_the_window_gets_through() {
    let (peer, client) = speaking(|mut server| async move {
        while let Some((request, mut respond)) = call(&mut server).await {
            let mut body = request.into_body();
            let reading = async {
                let mut total = 0;
                while let Some(Ok(data)) = body.data().await {
                    total += data.len();
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                total
            };
            let total = tokio::select! {
                total = reading => total,
                _ = server.accept() => return,
            };
            let head = Response::builder().header("x-total", total).body(()).unwrap();
            respond.send_response(head, true).unwrap();
        }
    })
    .await;
    let (target, mut slot) = (target(&peer), None);
    for _ in 0..2 {
        let request = target.post(Bytes::from(vec![b'x'; 1_000_000]));
        let exchange = client.send(&mut slot, &target, request, LONG, &|| true).await;
        assert_eq!(answer(exchange).header("x-total"), Some("1000000"));
    }
}

/// Says GOAWAY, having taken no stream, once a request has come, and holds the connection open.
async fn going_away(mut stream: TlsStream<TcpStream>, reason: u8) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(&SETTINGS).await.unwrap();
    stream.read_exact(&mut [0; 24]).await.unwrap(); // the preface
    let mut frame = [0; 9];
    while frame[3] != 1 {
        stream.read_exact(&mut frame).await.unwrap();
        let length = usize::from(frame[1]) << 8 | usize::from(frame[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
    }
    let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, reason];
    stream.write_all(&goaway).await.unwrap();
    let mut rest = Vec::new();
    let _ended = stream.read_to_end(&mut rest).await;
}

#[tokio::test]
async fn a_goaway_in_flight_is_closed_and_not_a_hang() {
    let (calm_down, no_error) = (11, 0);
    for reason in [calm_down, no_error] {
        let authority = Authority::new();
        let acceptor = authority.acceptor(GOOD, &["h2"]);
        let peer = Peer::serving(move |stream, _| {
            let acceptor = acceptor.clone();
            async move { going_away(acceptor.accept(stream).await.unwrap(), reason).await }
        })
        .await;
        let mut slot = None;
        let exchange = send_in(&authority.client(), &mut slot, &target(&peer), LONG).await;
        assert_eq!(cause(exchange.outcome), Cause::Closed);
        assert!(slot.is_none());
        assert_eq!(peer.accepted(), 1);
    }
}

#[tokio::test]
async fn a_graceful_goaway_lets_the_answer_through_and_the_next_request_goes_elsewhere() {
    let (peer, client) = speaking(|mut server| async move {
        let (_request, mut respond) = call(&mut server).await.unwrap();
        server.graceful_shutdown();
        respond.send_response(Response::new(()), true).unwrap();
        end(server).await;
    })
    .await;
    let (target, mut slot) = (target(&peer), None);
    for _ in 0..3 {
        let exchange = send_in(&client, &mut slot, &target, LONG).await;
        assert!(exchange.outcome.answer().is_some(), "{exchange:?}");
    }
    assert_eq!(peer.accepted(), 3);
}

#[tokio::test]
async fn a_reset_stream_is_reset() {
    let (peer, client) = speaking(|mut server| async move {
        let (_request, mut respond) = call(&mut server).await.unwrap();
        respond.send_reset(Reason::REFUSED_STREAM);
        end(server).await;
    })
    .await;
    let outcome = send(&client, &target(&peer), LONG).await.outcome;
    assert_eq!(cause(outcome), Cause::Reset);
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_closed() {
    let (peer, client) = speaking(|mut server| async move {
        let _call = call(&mut server).await;
    })
    .await;
    let outcome = send(&client, &target(&peer), LONG).await.outcome;
    assert!(matches!(cause(outcome), Cause::Closed | Cause::Reset));
}

#[tokio::test]
async fn silence_times_out_in_headers() {
    let (peer, client) = speaking(|mut server| async move {
        let _call = call(&mut server).await;
        end(server).await;
    })
    .await;
    let exchange = send(&client, &target(&peer), SHORT).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Headers });
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_no_answer() {
    let (peer, client) = speaking(|mut server| async move {
        let (_request, mut respond) = call(&mut server).await.unwrap();
        let mut head = Response::new(());
        for number in 0..40 {
            let name: hyper::header::HeaderName = format!("x-{number}").parse().unwrap();
            head.headers_mut().insert(name, "x".repeat(4000).parse().unwrap());
        }
        let _refused = respond.send_response(head, true);
        end(server).await;
    })
    .await;
    let outcome = send(&client, &target(&peer), LONG).await.outcome;
    assert_eq!(cause(outcome), Cause::Protocol);
}

#[tokio::test]
async fn an_endless_body_is_cut_at_the_bound() {
    let (peer, client) = speaking(|mut server| async move {
        let (_request, mut respond) = call(&mut server).await.unwrap();
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        let endless = async move {
            loop {
                body.reserve_capacity(4096);
                match std::future::poll_fn(|cx| body.poll_capacity(cx)).await {
                    Some(Ok(room)) => {
                        let data = Bytes::from(vec![b'x'; room]);
                        if body.send_data(data, false).is_err() {
                            return;
                        }
                    }
                    _ => return,
                }
            }
        };
        tokio::join!(endless, end(server));
    })
    .await;
    let mut slot = None;
    let answer = answer(send_in(&client, &mut slot, &target(&peer), LONG).await);
    assert_eq!((answer.body.len(), answer.body_truncated), (4096, true));
    assert!(slot.is_none());
}

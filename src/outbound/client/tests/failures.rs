//! No response head could be had over plain HTTP/1.1.

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::peer::{LONG, Peer, SHORT, client, impatient, read_request, send};
use crate::model::outcome::{Cause, Outcome, Phase};
use crate::outbound::client::Client;
use crate::outbound::target::Target;

/// The cause of the failure that one request to this peer comes to.
async fn cause_at(peer: &Peer) -> Cause {
    cause(send(&client(), &peer.target(), LONG).await.outcome)
}

fn cause(outcome: Outcome) -> Cause {
    match outcome {
        Outcome::Unreachable { cause, detail } => {
            assert!(!detail.is_empty());
            cause
        }
        other => panic!("not unreachable, but {other:?}"),
    }
}

#[tokio::test]
async fn a_closed_port_refuses_the_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let exchange = send(&client(), &Target::parse(&url).unwrap(), LONG).await;
    assert!(exchange.phases.connect.is_some() && exchange.phases.headers.is_none());
    assert_eq!(cause(exchange.outcome), Cause::ConnectionRefused);
}

#[tokio::test]
async fn what_is_not_wanted_any_more_when_its_connection_is_made_is_not_written() {
    let peer = Peer::replying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    for is_wanted in [false, true] {
        let post = target.post(Bytes::new());
        let sent = client.send(&mut slot, &target, post, LONG, &|| is_wanted).await;
        assert_eq!(sent.outcome == Outcome::Interrupted, !is_wanted);
        assert_eq!(sent.reused, is_wanted, "the connection of the first is kept");
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_full_backlog_is_a_connect_time_out() {
    // A listener that never accepts, with its queue full: the kernel drops further connections.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(SHORT, tokio::net::TcpStream::connect(address)).await
    {
        queued.push(stream);
    }
    let target = Target::parse(&format!("http://{address}/")).unwrap();
    let exchange = send(&Client::new(impatient()).unwrap(), &target, LONG).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Connect });
    assert!((SHORT..LONG).contains(&exchange.phases.connect.unwrap()));
}

#[tokio::test]
async fn a_peer_that_reads_and_says_nothing_times_out_in_headers() {
    let peer = Peer::replying("").await;
    let exchange = send(&client(), &peer.target(), SHORT).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Headers });
    assert!(exchange.phases.headers.is_some());
}

#[tokio::test]
async fn a_peer_that_is_not_even_accepted_by_its_program_times_out_in_headers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let exchange = send(&client(), &Target::parse(&url).unwrap(), SHORT).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Headers });
}

#[tokio::test]
async fn a_head_that_drips_for_ever_times_out_in_headers() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-slow: ").await.unwrap();
        loop {
            if stream.write_all(b"x").await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
            stream.writable().await.unwrap();
            tokio::time::sleep(SHORT / 20).await; // the drip is the script's subject
        }
    })
    .await;
    let exchange = send(&client(), &peer.target(), SHORT).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Headers });
}

#[tokio::test]
async fn a_connection_closed_before_the_answer_is_closed() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
    })
    .await;
    assert_eq!(cause_at(&peer).await, Cause::Closed);
}

#[tokio::test]
async fn a_connection_closed_within_the_head_is_closed() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nx-half: ").await.unwrap();
    })
    .await;
    assert_eq!(cause_at(&peer).await, Cause::Closed);
}

#[tokio::test]
async fn a_reset_connection_is_reset() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap(); // closing now sends RST
    })
    .await;
    assert_eq!(cause_at(&peer).await, Cause::Reset);
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_failure() {
    let peer = Peer::replying("220 mail.example ESMTP\r\n\r\n").await;
    assert_eq!(cause_at(&peer).await, Cause::Protocol);
}

#[tokio::test]
async fn a_flood_of_informational_responses_is_a_protocol_failure() {
    for flood in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"]
    {
        let peer = Peer::serving(move |mut stream, _| async move {
            read_request(&mut stream).await;
            while stream.write_all(flood.repeat(100).as_bytes()).await.is_ok() {}
        })
        .await;
        assert_eq!(cause_at(&peer).await, Cause::Protocol);
    }
}

//! An answer that hyper finds odd still counts by its status.

use tokio::io::AsyncWriteExt;

use super::peer::{LONG, Peer, answer, client, read_request, send, send_in, settings};
use crate::model::outcome::{Answer, Cause, Outcome};
use crate::outbound::client::{Client, ClientSettings};

async fn answer_to(reply: impl Into<Vec<u8>>) -> Answer {
    let peer = Peer::replying(reply).await;
    answer(send(&client(), &peer.target(), LONG).await)
}

fn with_headers(count: usize) -> String {
    format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "a: b\r\n".repeat(count))
}

#[tokio::test]
async fn a_success_with_many_headers_is_a_success_and_keeps_its_connection() {
    let peer = Peer::replying(with_headers(150)).await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    for _ in 0..2 {
        let answer = answer(send_in(&client, &mut slot, &target, LONG).await);
        assert_eq!((answer.status, answer.headers.len(), answer.detail), (200, 151, None));
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_success_with_more_headers_than_are_read_is_a_success() {
    let few = Client::new(ClientSettings { head_count: 3, ..settings() }).unwrap();
    for (client, reply) in [(&few, with_headers(4)), (&client(), with_headers(20_000))] {
        let peer = Peer::replying(reply).await;
        let mut slot = None;
        let answer = answer(send_in(client, &mut slot, &peer.target(), LONG).await);
        assert_eq!((answer.status, answer.header("a")), (200, Some("b")));
        let detail = answer.detail.unwrap();
        assert!(detail.contains("no more of it was read"), "{detail}");
        assert!(slot.is_none() && answer.body_truncated);
    }
}

#[tokio::test]
async fn heads_as_odd_as_they_come_say_what_their_status_says() {
    for head in [
        "HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1  200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 Gr\u{fc}n\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\ncontent-length: 0\n\n",
        "HTTP/1.1 200 OK\r\nx: a\r\n b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx : a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\u{1}b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncontent-length: 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: nothing\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let peer = Peer::serving(move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            read_request(&mut stream).await;
        })
        .await;
        let exchange = send(&client(), &peer.target(), LONG).await;
        assert_eq!(
            exchange.outcome.answer().map(|answer| answer.status),
            Some(200),
            "{head:?} {exchange:?}"
        );
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_an_answer_where_its_status_was_whole() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 503 Busy\r\nretry-after: 60\r\nx-long: ").await.unwrap();
        while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
    })
    .await;
    let answer = answer(send(&client(), &peer.target(), LONG).await);
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("60")));
}

#[tokio::test]
async fn a_status_that_is_none_is_no_answer() {
    for head in ["HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/2 200\r\n\r\n", "ICY 200 OK\r\n\r\n"] {
        let peer = Peer::replying(head).await;
        let outcome = send(&client(), &peer.target(), LONG).await.outcome;
        let is_protocol = matches!(outcome, Outcome::Unreachable { cause: Cause::Protocol, .. });
        assert!(is_protocol, "{head:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn of_an_answers_headers_no_more_than_4_kib_are_kept_and_what_decides_is() {
    let long = format!("x-long: {}\r\n", "x".repeat(3000));
    let head = format!("HTTP/1.1 503 Busy\r\n{long}{long}a: b\r\nretry-after: 7\r\n");
    let answer = answer_to(format!("{head}content-length: 0\r\n\r\n")).await;
    let names: Vec<_> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-long", "a", "retry-after", "content-length"]);
    let detail = answer.detail.unwrap();
    assert_eq!(detail, "1 more header of the answer, beyond 4096 bytes, is not kept");

    let filled = format!("{}retry-after: 7\r\n", "x: y\r\n".repeat(2000));
    let head = format!("HTTP/1.1 503 Busy\r\n{filled}content-length: 0\r\n\r\n");
    let many = ClientSettings { head_count: 3000, ..settings() };
    let peer = Peer::replying(head).await;
    let sent = send(&Client::new(many).unwrap(), &peer.target(), LONG).await;
    let kept = super::peer::answer(sent);
    assert_eq!(kept.header("retry-after"), Some("7"));
    assert!(
        kept.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() < 4200
    );
}

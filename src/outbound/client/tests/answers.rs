//! A response head arrived: the request is answered, whatever becomes of the rest.

use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;

use super::peer::{
    LONG, Peer, SHORT, answer, client, impatient, read_request, send, send_in, settings,
};
use crate::model::outcome::Answer;
use crate::outbound::client::Client;

async fn answer_to(reply: impl Into<Vec<u8>>) -> Answer {
    let peer = Peer::replying(reply).await;
    answer(send(&client(), &peer.target(), LONG).await)
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made_and_the_answer_comes_back() {
    let seen = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&seen);
    let peer = Peer::serving(move |mut stream, _| {
        let sink = Arc::clone(&sink);
        async move {
            *sink.lock().unwrap() = read_request(&mut stream).await.unwrap();
            let reply = b"HTTP/1.1 201 Created\r\nX-One: 1\r\ncontent-length: 5\r\n\r\nhello";
            stream.write_all(reply).await.unwrap();
        }
    })
    .await;

    let exchange = send(&client(), &peer.target(), LONG).await;
    assert!(!exchange.reused);
    assert!(exchange.phases.connect.is_some() && exchange.phases.headers.is_some());
    assert!(exchange.phases.resolve.is_none() && exchange.phases.tls.is_none());

    let answer = answer(exchange);
    let head = format!("POST /hook?a=b HTTP/1.1\r\nhost: {}\r\n", peer.address);
    let expected = format!("{head}content-length: 7\r\n\r\n{{\"n\":1}}");
    assert_eq!(*seen.lock().unwrap(), expected);
    assert_eq!((answer.status, answer.body.as_slice()), (201, b"hello".as_slice()));
    assert_eq!(answer.header("x-one"), Some("1"));
    assert!(!answer.body_truncated);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let peer = Peer::serving(|mut stream, _| async move {
        let port = stream.local_addr().unwrap().port();
        while read_request(&mut stream).await.is_some() {
            let to = format!("location: http://127.0.0.1:{port}/elsewhere\r\n");
            let reply = format!("HTTP/1.1 307 Temporary\r\n{to}content-length: 0\r\n\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    })
    .await;
    let mut slot = None;
    let exchange = send_in(&client(), &mut slot, &peer.target(), LONG).await;
    let answer = answer(exchange);
    assert_eq!(answer.status, 307);
    assert!(answer.header("location").unwrap().ends_with("/elsewhere"));
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn header_bytes_that_are_not_utf8_are_kept_as_latin1() {
    let answer = answer_to(
        b"HTTP/1.1 200 OK\r\nX-Name: J\xfcrgen\r\nX-Utf8: \xc3\xbc\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    assert_eq!(answer.header("x-name"), Some("Jürgen"));
    assert_eq!(answer.header("x-utf8"), Some("ü"));
}

#[tokio::test]
async fn a_header_that_is_no_header_does_not_spoil_a_success() {
    let answer =
        answer_to("HTTP/1.1 200 OK\r\nbad header : x\r\ngood: y\r\ncontent-length: 0\r\n\r\n")
            .await;
    assert_eq!((answer.status, answer.header("good")), (200, Some("y")));
}

#[tokio::test]
async fn http_1_0_is_understood() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await.unwrap();
    })
    .await;
    let answer = answer(send(&client(), &peer.target(), LONG).await);
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"until the end".as_slice()));
    assert!(!answer.body_truncated);
}

#[tokio::test]
async fn informational_responses_come_before_the_answer() {
    let answer = answer_to(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n\
         HTTP/1.1 204 No Content\r\n\r\n",
    )
    .await;
    assert_eq!(answer.status, 204);
}

#[tokio::test]
async fn a_protocol_switch_nobody_asked_for_is_an_answer() {
    let answer =
        answer_to("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
            .await;
    assert_eq!(answer.status, 101);
}

#[tokio::test]
async fn a_chunked_body_is_put_together() {
    let answer = answer_to(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!((answer.body.as_slice(), answer.body_truncated), (b"abcde".as_slice(), false));
}

#[tokio::test]
async fn a_body_that_ends_too_soon_is_kept_and_flagged() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    })
    .await;
    let mut slot = None;
    let exchange = send_in(&client(), &mut slot, &peer.target(), LONG).await;
    let answer = answer(exchange);
    assert_eq!((answer.body.as_slice(), answer.body_truncated), (b"abc".as_slice(), true));
    assert!(slot.is_none());
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_kept_and_flagged() {
    let peer = Peer::replying("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    let (client, mut slot) = (Client::new(impatient()).unwrap(), None);
    let exchange = send_in(&client, &mut slot, &peer.target(), LONG).await;
    assert!((SHORT..LONG).contains(&exchange.phases.body.unwrap()));
    let answer = answer(exchange);
    assert_eq!((answer.status, answer.body.as_slice()), (200, b"abc".as_slice()));
    assert!(answer.body_truncated && slot.is_none());
}

#[tokio::test]
async fn the_total_deadline_ends_a_body_too() {
    let peer = Peer::replying("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    let answer = answer(send(&client(), &peer.target(), SHORT).await);
    assert_eq!((answer.status, answer.body_truncated), (200, true));
}

#[tokio::test]
async fn an_endless_body_is_cut_at_the_bound() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let mut slot = None;
    let exchange = send_in(&client(), &mut slot, &peer.target(), LONG).await;
    let answer = answer(exchange);
    assert_eq!((answer.body.len(), answer.body_truncated), (settings().response_body_limit, true));
    assert!(slot.is_none());
}

#[tokio::test]
async fn a_body_a_little_longer_than_what_is_kept_costs_no_connection() {
    let long = "x".repeat(20_000);
    let peer =
        Peer::replying(format!("HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n{long}")).await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    for _ in 0..3 {
        let answer = answer(send_in(&client, &mut slot, &target, LONG).await);
        assert_eq!((answer.body.len(), answer.body_truncated), (4096, true));
    }
    assert_eq!(peer.accepted(), 1);
}

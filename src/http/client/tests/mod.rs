//! Every outcome, on real sockets.

mod peer;

use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;

use peer::{LONG, Peer, answer, client, outcome_of, read_request, send, send_in};

use crate::model::outcome::{Cause, Outcome};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_request_arrives_as_it_was_made_and_the_answer_comes_back() {
    let seen = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&seen);
    let peer = Peer::serving(move |mut stream, _| {
        let sink = Arc::clone(&sink);
        async move {
            let request = read_request(&mut stream).await.unwrap();
            *sink.lock().unwrap() = request;
            stream
                .write_all(b"HTTP/1.1 201 Created\r\nX-One: 1\r\ncontent-length: 5\r\n\r\nhello")
                .await
                .unwrap();
        }
    })
    .await;

    let answer = answer(send(&client(), &peer.target(), LONG).await);

    assert_eq!(
        *seen.lock().unwrap(),
        format!(
            "POST /hook?a=b HTTP/1.1\r\nhost: {}\r\ncontent-length: 7\r\n\r\n{{\"n\":1}}",
            peer.address
        )
    );
    assert_eq!((answer.status, answer.body.as_slice()), (201, b"hello".as_slice()));
    assert_eq!(answer.header("x-one"), Some("1"));
    assert!(!answer.body_truncated);
}

#[tokio::test]
async fn a_kept_connection_serves_the_next_request() {
    let peer = Peer::replying(OK).await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    let first = send_in(&client, &mut slot, &target, LONG).await;
    assert!(!first.reused && first.phases.connect.is_some());
    for _ in 0..3 {
        let next = send_in(&client, &mut slot, &target, LONG).await;
        assert!(next.reused && next.phases.connect.is_none() && next.phases.headers.is_some());
        assert!(next.outcome.answer().unwrap().accepted());
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn what_is_not_http_is_a_protocol_failure() {
    let outcome = outcome_of("220 mail.example ESMTP\r\n\r\n").await;
    assert!(matches!(outcome, Outcome::Unreachable { cause: Cause::Protocol, .. }), "{outcome:?}");
}

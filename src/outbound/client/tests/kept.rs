//! Connections that are kept, and requests that are never sent twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::peer::{LONG, Peer, SHORT, client, read_request, send_in, settings};
use crate::model::outcome::{Cause, Outcome};
use crate::outbound::client::{Client, ClientSettings};
use crate::outbound::target::Target;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_kept_connection_serves_the_next_request() {
    let peer = Peer::replying(OK).await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    assert!(!send_in(&client, &mut slot, &target, LONG).await.reused);
    for _ in 0..100 {
        let next = send_in(&client, &mut slot, &target, LONG).await;
        assert!(next.reused && next.phases.connect.is_none() && next.phases.headers.is_some());
        assert!(next.outcome.answer().unwrap().accepted());
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn two_paths_of_one_origin_share_a_connection_and_two_origins_do_not() {
    let (one, two) = (Peer::replying(OK).await, Peer::replying(OK).await);
    let (client, mut slot) = (client(), None);
    let other_path = Target::parse(&format!("http://{}/other", one.address)).unwrap();
    assert!(!send_in(&client, &mut slot, &one.target(), LONG).await.reused);
    assert!(send_in(&client, &mut slot, &other_path, LONG).await.reused);
    assert!(!send_in(&client, &mut slot, &two.target(), LONG).await.reused);
    assert_eq!((one.accepted(), two.accepted()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_says_close_leaves_no_connection() {
    let peer =
        Peer::replying("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let (client, mut slot) = (client(), None);
    for _ in 0..2 {
        assert!(!send_in(&client, &mut slot, &peer.target(), LONG).await.reused);
        assert!(slot.is_none());
    }
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_and_the_request_sent_once() {
    let requests = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(Notify::new());
    let (count, tell) = (Arc::clone(&requests), Arc::clone(&closed));
    let peer = Peer::serving(move |mut stream, _| {
        let (count, tell) = (Arc::clone(&count), Arc::clone(&tell));
        async move {
            read_request(&mut stream).await;
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(OK).await.unwrap();
            drop(stream);
            tell.notify_one();
        }
    })
    .await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    for sent in 1..=5 {
        let exchange = send_in(&client, &mut slot, &target, LONG).await;
        assert!(exchange.outcome.answer().is_some(), "{exchange:?}");
        closed.notified().await;
        assert_eq!((requests.load(Ordering::SeqCst), peer.accepted()), (sent, sent));
    }
}

#[tokio::test]
async fn a_farewell_on_an_idle_connection_is_not_taken_for_an_answer() {
    let (idle, said) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (wait, tell) = (Arc::clone(&idle), Arc::clone(&said));
    let peer = Peer::serving(move |mut stream, number| {
        let (wait, tell) = (Arc::clone(&wait), Arc::clone(&tell));
        async move {
            read_request(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            if number == 0 {
                wait.notified().await;
                let bye = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(bye).await.unwrap();
                tell.notify_one();
            }
            let _end = stream.read_u8().await;
        }
    })
    .await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    assert!(send_in(&client, &mut slot, &target, LONG).await.outcome.answer().is_some());
    idle.notify_one();
    said.notified().await;
    let next = send_in(&client, &mut slot, &target, LONG).await;
    assert_eq!(next.outcome.answer().unwrap().status, 200);
    assert_eq!(peer.accepted(), 2);
}

#[tokio::test]
async fn a_request_lost_with_a_kept_connection_is_told_and_not_sent_again() {
    let peer = Peer::serving(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        read_request(&mut stream).await;
    })
    .await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    assert!(send_in(&client, &mut slot, &target, LONG).await.outcome.answer().is_some());
    let second = send_in(&client, &mut slot, &target, LONG).await;
    assert!(second.reused && second.unheard);
    assert!(
        matches!(second.outcome, Outcome::Unreachable { cause: Cause::Closed | Cause::Reset, .. }),
        "{second:?}"
    );
    assert_eq!(peer.accepted(), 1);
    assert!(slot.is_none());
}

#[tokio::test]
async fn a_stale_or_old_connection_is_not_used_again() {
    let base = settings();
    for limits in [
        ClientSettings { idle_timeout: Duration::ZERO, ..base.clone() },
        ClientSettings { connection_life: Duration::ZERO, ..base },
    ] {
        let peer = Peer::replying(OK).await;
        let (client, mut slot) = (Client::new(limits).unwrap(), None);
        for _ in 0..2 {
            assert!(!send_in(&client, &mut slot, &peer.target(), LONG).await.reused);
        }
        assert_eq!(peer.accepted(), 2);
    }
}

#[tokio::test]
async fn a_send_that_is_dropped_takes_its_connection_along() {
    let ended = Arc::new(Notify::new());
    let tell = Arc::clone(&ended);
    let peer = Peer::serving(move |mut stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            while read_request(&mut stream).await.is_some() {}
            tell.notify_one();
        }
    })
    .await;
    let (client, mut slot, target) = (client(), None, peer.target());
    let cut = tokio::time::timeout(SHORT, send_in(&client, &mut slot, &target, LONG)).await;
    assert!(cut.is_err() && slot.is_none());
    ended.notified().await;
}

#[tokio::test]
async fn a_deadline_of_one_request_is_not_the_next_ones() {
    let peer = Peer::replying(OK).await;
    let (client, target, mut slot) = (client(), peer.target(), None);
    for timeout in [LONG, SHORT, LONG, SHORT, Duration::from_secs(1), LONG] {
        let exchange = send_in(&client, &mut slot, &target, timeout).await;
        assert!(exchange.outcome.answer().is_some());
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn what_was_closed_on_a_new_connection_or_within_an_answer_is_not_unheard() {
    for reply in ["", "HTTP/1.1 20"] {
        let peer = Peer::serving(move |mut stream, number| async move {
            read_request(&mut stream).await;
            if number == 0 && !reply.is_empty() {
                stream.write_all(OK).await.unwrap();
                read_request(&mut stream).await;
            }
            stream.write_all(reply.as_bytes()).await.unwrap();
        })
        .await;
        let (client, target, mut slot) = (client(), peer.target(), None);
        if !reply.is_empty() {
            assert!(send_in(&client, &mut slot, &target, LONG).await.outcome.answer().is_some());
        }
        let lost = send_in(&client, &mut slot, &target, LONG).await;
        assert!(!lost.unheard && lost.outcome.answer().is_none(), "{lost:?}");
    }
}

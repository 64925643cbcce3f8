//! Egress through a CONNECT proxy.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::peer::{LONG, Peer, SHORT, impatient, read_request, send, send_in, settings};
use super::tls::{Authority, GOOD, target};
use crate::model::outcome::{Cause, Outcome, Phase, Refusal};
use crate::model::proxy::{ProxyUrl, ProxyUrlError};
use crate::outbound::client::{Client, ClientSettings};
use crate::outbound::target::Target;

/// A proxy that opens tunnels, and what it was asked.
async fn proxy() -> (Peer, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&asked);
    let peer = Peer::serving(move |mut stream, _| {
        let sink = Arc::clone(&sink);
        async move {
            let request = read_request(&mut stream).await.unwrap();
            let to = request.split(' ').nth(1).unwrap().to_owned();
            sink.lock().unwrap().push(request);
            let mut inner = TcpStream::connect(to).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Tunnel\r\nvia: x\r\n\r\n").await.unwrap();
            let _ended = copy_bidirectional(&mut stream, &mut inner).await;
        }
    })
    .await;
    (peer, asked)
}

fn through(proxy: &Peer, userinfo: &str) -> Client {
    let proxy = format!("http://{userinfo}{}", proxy.address).parse().unwrap();
    Client::new(ClientSettings { proxy: Some(proxy), ..settings() }).unwrap()
}

#[tokio::test]
async fn a_request_goes_through_a_tunnel_to_the_judged_address() {
    let receiver = Peer::replying("HTTP/1.1 204 No Content\r\n\r\n").await;
    let (proxy, asked) = proxy().await;
    let url = format!("http://receiver.example:{}/", receiver.address.port());
    let client = through(&proxy, "us%65r:p%40ss@");
    let exchange = send(&client, &Target::parse(&url).unwrap(), LONG).await;
    assert_eq!(exchange.outcome.answer().unwrap().status, 204);
    let to = receiver.address;
    let authorization = "Proxy-Authorization: Basic dXNlcjpwQHNz";
    assert_eq!(
        *asked.lock().unwrap(),
        [format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{authorization}\r\n\r\n")]
    );
    assert_eq!(receiver.accepted(), 1);
}

#[tokio::test]
async fn tls_goes_through_the_tunnel_and_still_proves_the_name() {
    let authority = Authority::new();
    let receiver = authority.peer(GOOD).await;
    let (proxy, asked) = proxy().await;
    let url = format!("http://{}", proxy.address);
    let proxied = ClientSettings { proxy: Some(url.parse().unwrap()), ..settings() };
    let client = authority.client_with(proxied);
    let (target, mut slot) = (target(&receiver), None);
    for _ in 0..3 {
        let exchange = send_in(&client, &mut slot, &target, LONG).await;
        assert!(exchange.outcome.answer().unwrap().accepted());
    }
    assert_eq!(asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_proxy_does_not_open_what_the_rules_forbid() {
    let (proxy, asked) = proxy().await;
    let target = Target::parse("https://169.254.169.254/").unwrap();
    let outcome = send(&through(&proxy, ""), &target, LONG).await.outcome;
    assert!(matches!(outcome, Outcome::Refused { why: Refusal::ForbiddenAddress, .. }));
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(proxy.accepted(), 0);
}

#[tokio::test]
async fn a_proxy_that_refuses_fails_or_babbles_is_a_proxy_failure() {
    let endless = "x".repeat(100_000);
    for reply in ["HTTP/1.1 403 Forbidden\r\n\r\n", "SSH-2.0-x\r\n\r\n", endless.as_str()] {
        let proxy = Peer::replying(reply).await;
        let target = Target::parse("http://127.0.0.1:9/").unwrap();
        match send(&through(&proxy, ""), &target, LONG).await.outcome {
            Outcome::Unreachable { cause: Cause::Proxy, detail } => {
                assert!(detail.starts_with("the proxy opened no tunnel: "), "{detail}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_proxy_that_is_gone_is_a_proxy_failure_and_a_silent_one_a_connect_time_out() {
    let silent = Peer::replying("").await;
    let target = Target::parse("http://127.0.0.1:9/").unwrap();
    let proxy = format!("http://{}", silent.address).parse().unwrap();
    let client = Client::new(ClientSettings { proxy: Some(proxy), ..impatient() }).unwrap();
    let exchange = send(&client, &target, LONG).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Connect });
    assert!((SHORT..LONG).contains(&exchange.phases.connect.unwrap()));

    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let gone = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let settings = ClientSettings { proxy: Some(gone.parse().unwrap()), ..settings() };
    let outcome = send(&Client::new(settings).unwrap(), &target, LONG).await.outcome;
    assert!(matches!(outcome, Outcome::Unreachable { cause: Cause::Proxy, .. }), "{outcome:?}");
}

#[test]
fn a_proxys_password_is_not_shown() {
    let proxy: ProxyUrl = "http://user:hunter2@proxy.internal:3128".parse().unwrap();
    assert_eq!(format!("{proxy:?}"), "ProxyUrl(http://proxy.internal:3128)");
    assert_eq!("https://proxy:1".parse::<ProxyUrl>(), Err(ProxyUrlError::Scheme));
    assert_eq!("http://proxy:1/x".parse::<ProxyUrl>(), Err(ProxyUrlError::Path));
    let v6: ProxyUrl = "http://[::1]:3128".parse().unwrap();
    assert_eq!(format!("{v6:?}"), "ProxyUrl(http://[::1]:3128)");
}

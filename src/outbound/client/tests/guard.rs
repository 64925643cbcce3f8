//! Refused targets, and that a refusal sends nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::peer::{LONG, Peer, SHORT, entries, impatient, send, send_in, settings};
use crate::model::outcome::{Cause, Outcome, Phase, Refusal};
use crate::outbound::addresses::AddressRules;
use crate::outbound::client::{Client, ClientSettings};
use crate::outbound::resolve::{Lookup, Resolver};
use crate::outbound::target::Target;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn refusal(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused { why, detail } => {
            assert!(!detail.is_empty());
            why
        }
        other => panic!("not refused, but {other:?}"),
    }
}

fn client_with(resolver: Resolver) -> Client {
    Client::new(ClientSettings { resolver, ..settings() }).unwrap()
}

fn named(peer: &Peer) -> Target {
    Target::parse(&format!("http://receiver.example:{}/", peer.address.port())).unwrap()
}

fn loopback() -> IpAddr {
    Ipv4Addr::LOCALHOST.into()
}

#[tokio::test]
async fn a_forbidden_address_is_refused_before_anything_is_dialled() {
    let peer = Peer::replying(OK).await;
    let rules = AddressRules::new(&[], &entries(&["127.0.0.0/8", "receiver.example"]), vec![]);
    let client = Client::new(ClientSettings { rules, ..settings() }).unwrap();
    for target in [peer.target(), named(&peer)] {
        let exchange = send(&client, &target, LONG).await;
        assert!(exchange.phases.connect.is_none());
        assert_eq!(refusal(exchange.outcome), Refusal::ForbiddenAddress);
    }
    assert_eq!(peer.accepted(), 0);
}

#[tokio::test]
async fn plain_http_is_refused_without_a_lookup_where_nothing_opens_it() {
    let peer = Peer::replying(OK).await;
    let resolver = Resolver::fixed([loopback()]);
    let rules = AddressRules::new(&entries(&["127.0.0.0/8"]), &entries(&["other.example"]), vec![]);
    let client =
        Client::new(ClientSettings { rules, resolver: resolver.clone(), ..settings() }).unwrap();
    assert_eq!(refusal(send(&client, &named(&peer), LONG).await.outcome), Refusal::NotHttps);
    assert_eq!((resolver.lookups(), peer.accepted()), (0, 0));
}

#[tokio::test]
async fn a_mixed_answer_is_refused_whole() {
    let peer = Peer::replying(OK).await;
    let metadata = IpAddr::from([169, 254, 169, 254]);
    for mixed in [vec![loopback(), metadata], vec![metadata, loopback()]] {
        let client = client_with(Resolver::fixed(mixed));
        let outcome = send(&client, &named(&peer), LONG).await.outcome;
        assert_eq!(refusal(outcome), Refusal::ForbiddenAddress);
    }
    assert_eq!(peer.accepted(), 0);
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_each_connection_and_a_rebound_one_is_refused() {
    let peer = Peer::replying(OK).await;
    let resolver = Resolver::scripted([
        Lookup::Addresses(vec![loopback()]),
        Lookup::Addresses(vec![IpAddr::from([169, 254, 169, 254])]),
    ]);
    let client = client_with(resolver.clone());
    let mut slot = None;
    let first = send_in(&client, &mut slot, &named(&peer), LONG).await;
    assert!(first.outcome.answer().is_some() && first.phases.resolve.is_some());
    assert_eq!(resolver.lookups(), 1);
    let second = send_in(&client, &mut slot, &named(&peer), LONG).await;
    assert_eq!(refusal(second.outcome), Refusal::ForbiddenAddress);
    assert_eq!((resolver.lookups(), peer.accepted()), (2, 1));
}

#[tokio::test]
async fn our_own_listener_is_refused_even_where_loopback_is_open() {
    let peer = Peer::replying(OK).await;
    let open = entries(&["127.0.0.0/8"]);
    let rules = AddressRules::new(&open, &open, vec![peer.address]);
    let client = Client::new(ClientSettings { rules, ..settings() }).unwrap();
    for url in [peer.url(), format!("http://127.0.0.2:{}/", peer.address.port())] {
        let outcome = send(&client, &Target::parse(&url).unwrap(), LONG).await.outcome;
        assert_eq!(refusal(outcome), Refusal::ForbiddenAddress);
    }
    assert_eq!(peer.accepted(), 0);
}

#[tokio::test]
async fn a_name_without_addresses_is_a_dns_failure() {
    for answer in [Lookup::NoSuchName, Lookup::Addresses(vec![])] {
        let client = client_with(Resolver::scripted([answer]));
        let target = Target::parse("https://receiver.example/").unwrap();
        let outcome = send(&client, &target, LONG).await.outcome;
        assert!(matches!(outcome, Outcome::Unreachable { cause: Cause::Dns, .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_silent_name_server_is_a_resolve_time_out() {
    let resolver = Resolver::scripted([Lookup::Hangs]);
    let client = Client::new(ClientSettings { resolver, ..impatient() }).unwrap();
    let target = Target::parse("https://receiver.example/").unwrap();
    let exchange = send(&client, &target, LONG).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Resolve });
    assert!((SHORT..LONG).contains(&exchange.phases.resolve.unwrap()));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    // Nothing listens on ::1 at this port, so IPv6, which goes first, is refused.
    let peer = Peer::replying(OK).await;
    let client = client_with(Resolver::fixed([loopback(), Ipv6Addr::LOCALHOST.into()]));
    let exchange = send(&client, &named(&peer), LONG).await;
    assert!(exchange.outcome.answer().is_some(), "{exchange:?}");
}

#[tokio::test]
async fn localhost_is_loopback_without_asking_anybody() {
    let system = Resolver::system().unwrap();
    for name in ["localhost", "localhost.", "a.localhost"] {
        let found = system.lookup(name).await.unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }
}

#[tokio::test]
async fn a_host_name_opens_what_it_resolves_to() {
    let peer = Peer::replying(OK).await;
    let open = entries(&["receiver.example"]);
    let rules = AddressRules::new(&open, &open, vec![]);
    let client = Client::new(ClientSettings { rules, ..settings() }).unwrap();
    assert!(send(&client, &named(&peer), LONG).await.outcome.answer().is_some());
    assert_eq!(refusal(send(&client, &peer.target(), LONG).await.outcome), Refusal::NotHttps);
}

//! TLS: whom it proves, and each way in which it fails.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::peer::{LONG, Peer, SHORT, impatient, read_request, send, send_in, settings};
use crate::model::outcome::{Cause, Outcome, Phase};
use crate::outbound::client::{Client, ClientError, ClientSettings};
use crate::outbound::target::Target;

/// The name that the certificates are for.
pub(super) const NAME: &str = "receiver.example";

/// A certificate authority of the tests' own.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new() -> Self {
        Self::named("the tests' authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A client that trusts this authority and no other.
    pub(super) fn client(&self) -> Client {
        self.client_with(settings())
    }

    pub(super) fn client_with(&self, settings: ClientSettings) -> Client {
        let extra_ca = Some(self.0.pem().into_bytes());
        Client::new(ClientSettings { extra_ca, ..settings }).unwrap()
    }

    /// A server's side of TLS with a certificate from this authority.
    pub(super) fn acceptor(&self, certified: Certified, alpn: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![certified.name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(certified.from, 1, 1);
        params.not_after = date_time_ymd(certified.until, 1, 1);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        acceptor_with(certificate.der().clone(), &key, alpn)
    }

    /// A peer that answers every request over TLS.
    pub(super) async fn peer(&self, certified: Certified) -> Peer {
        let acceptor = self.acceptor(certified, &["http/1.1"]);
        Peer::serving(move |stream, _| answering(acceptor.clone(), stream)).await
    }
}

/// What a certificate says.
#[derive(Clone, Copy)]
pub(super) struct Certified {
    name: &'static str,
    from: i32,
    until: i32,
}

pub(super) const GOOD: Certified = Certified { name: NAME, from: 2000, until: 3000 };

fn acceptor_with(
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    alpn: &[&str],
) -> TlsAcceptor {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn answering(acceptor: TlsAcceptor, stream: TcpStream) {
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    while read_request(&mut stream).await.is_some() {
        let reply = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        if stream.write_all(reply).await.is_err() {
            return;
        }
    }
}

pub(super) fn target(peer: &Peer) -> Target {
    Target::parse(&format!("https://{NAME}:{}/hook", peer.address.port())).unwrap()
}

async fn cause(client: &Client, target: &Target) -> Cause {
    let exchange = send(client, target, LONG).await;
    assert!(exchange.phases.tls.is_some() && exchange.phases.headers.is_none());
    match exchange.outcome {
        Outcome::Unreachable { cause, detail } => {
            assert!(!detail.is_empty());
            cause
        }
        other => panic!("not unreachable, but {other:?}"),
    }
}

#[tokio::test]
async fn a_good_certificate_is_trusted_and_the_connection_kept() {
    let authority = Authority::new();
    let peer = authority.peer(GOOD).await;
    let (client, target, mut slot) = (authority.client(), target(&peer), None);
    let first = send_in(&client, &mut slot, &target, LONG).await;
    assert!(first.outcome.answer().unwrap().accepted());
    assert!(first.phases.resolve.is_some() && first.phases.tls.is_some());
    for _ in 0..10 {
        let next = send_in(&client, &mut slot, &target, LONG).await;
        assert!(next.reused && next.outcome.answer().unwrap().accepted());
    }
    assert_eq!(peer.accepted(), 1);
}

#[tokio::test]
async fn a_trailing_dot_is_no_part_of_the_certified_name() {
    let authority = Authority::new();
    let peer = authority.peer(GOOD).await;
    let target = Target::parse(&format!("https://{NAME}.:{}/", peer.address.port())).unwrap();
    assert!(send(&authority.client(), &target, LONG).await.outcome.answer().is_some());
}

#[tokio::test]
async fn an_address_can_be_certified_too() {
    let authority = Authority::new();
    let peer = authority.peer(Certified { name: "127.0.0.1", ..GOOD }).await;
    let target = Target::parse(&format!("https://{}/", peer.address)).unwrap();
    assert!(send(&authority.client(), &target, LONG).await.outcome.answer().is_some());
}

#[tokio::test]
async fn a_certificate_outside_its_time_is_expired() {
    let authority = Authority::new();
    for certified in [Certified { until: 2001, ..GOOD }, Certified { from: 2999, ..GOOD }] {
        let peer = authority.peer(certified).await;
        assert_eq!(cause(&authority.client(), &target(&peer)).await, Cause::TlsExpired);
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_a_wrong_name() {
    let authority = Authority::new();
    let peer = authority.peer(Certified { name: "other.example", ..GOOD }).await;
    assert_eq!(cause(&authority.client(), &target(&peer)).await, Cause::TlsWrongName);
}

#[tokio::test]
async fn a_certificate_from_elsewhere_has_an_unknown_issuer() {
    let peer = Authority::named("another").peer(GOOD).await;
    assert_eq!(cause(&Authority::new().client(), &target(&peer)).await, Cause::TlsUnknownIssuer);

    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
    let acceptor = acceptor_with(params.self_signed(&key).unwrap().der().clone(), &key, &[]);
    let peer = Peer::serving(move |stream, _| answering(acceptor.clone(), stream)).await;
    assert_eq!(cause(&Authority::new().client(), &target(&peer)).await, Cause::TlsUnknownIssuer);
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_is_another_tls_failure() {
    let peer = Peer::serving(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        let _rest = read_request(&mut stream).await;
    })
    .await;
    assert_eq!(cause(&Authority::new().client(), &target(&peer)).await, Cause::TlsOther);
}

#[tokio::test]
async fn a_connection_closed_or_reset_during_the_handshake_is_closed_or_reset() {
    for (abort, expected) in [(false, Cause::Closed), (true, Cause::Reset)] {
        let peer = Peer::serving(move |mut stream, _| async move {
            let mut hello = [0; 4096];
            stream.readable().await.unwrap();
            let read = tokio::io::AsyncReadExt::read(&mut stream, &mut hello).await.unwrap();
            assert!(read > 0);
            if abort {
                stream.set_zero_linger().unwrap();
            }
        })
        .await;
        assert_eq!(cause(&Authority::new().client(), &target(&peer)).await, expected);
    }
}

#[tokio::test]
async fn a_handshake_that_never_ends_times_out_in_tls() {
    let peer = Peer::replying("").await;
    let exchange = send(&Authority::new().client_with(impatient()), &target(&peer), LONG).await;
    assert_eq!(exchange.outcome, Outcome::TimedOut { phase: Phase::Tls });
    assert!(
        exchange.phases.connect.is_some() && (SHORT..LONG).contains(&exchange.phases.tls.unwrap())
    );
}

#[tokio::test]
async fn a_body_over_tls_that_ends_without_a_farewell_is_flagged() {
    let authority = Authority::new();
    let acceptor = authority.acceptor(GOOD, &[]);
    let peer = Peer::serving(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream: TlsStream<TcpStream> = acceptor.accept(stream).await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\npart").await.unwrap();
            stream.flush().await.unwrap();
        }
    })
    .await;
    let outcome = send(&authority.client(), &target(&peer), LONG).await.outcome;
    let answer = outcome.answer().unwrap();
    assert_eq!((answer.body.as_slice(), answer.body_truncated), (b"part".as_slice(), true));
}

#[test]
fn extra_authorities_that_cannot_be_used_are_an_error_at_the_start() {
    let with = |pem: &str| {
        Client::new(ClientSettings { extra_ca: Some(pem.into()), ..settings() }).unwrap_err()
    };
    assert!(matches!(with(""), ClientError::NoExtraCa));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(with(garbage), ClientError::BadExtraCa(_)));
    let broken = "-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----\n";
    assert!(matches!(with(broken), ClientError::ExtraCa(_)));
}

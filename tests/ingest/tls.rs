//! TLS of the door: what it shows, what it refuses, and a certificate that is renewed under it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::{Authority, Line, Relay, TestDatabase, until, value};

/// The files of a certificate and its key, which come and go.
struct Files {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), authority: Authority::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces a file as a whole, as those do who renew certificates.
    fn put(&self, name: &str, text: &str) {
        let new = self.path("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path(name)).unwrap();
    }

    /// A relay that shows what is in the files.
    async fn relay(&self, database: &TestDatabase, head_timeout: &str) -> Relay {
        let relay = Relay::on(&database.url()).taking_in().set("ingest.head_timeout", head_timeout);
        relay
            .set("ingest.certificate_file", self.path("certificate").to_str().unwrap())
            .set("ingest.key_file", self.path("key").to_str().unwrap())
            .start()
            .await
    }

    /// A connection of a sender that trusts the authority.
    async fn connect(&self, door: SocketAddr) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(der(&self.authority.pem())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        connector.connect(name, TcpStream::connect(door).await.unwrap()).await.unwrap()
    }

    /// The certificate that is shown to new connections now.
    async fn shown(&self, door: SocketAddr) -> CertificateDer<'static> {
        let stream = self.connect(door).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_nothing_else() {
    let files = Files::new();
    let (certificate, key) = files.authority.identity(&["localhost"]).pem();
    files.put("certificate", &certificate);
    files.put("key", &key);
    let database = TestDatabase::new().await;
    let relay = files.relay(&database, "1s").await;
    let mut line = Line::over(files.connect(relay.door()).await);
    assert_eq!(line.shop("one", "{}").await.unwrap().status, 200);
    assert_eq!(line.shop("two", "{}").await.unwrap().status, 200, "the connection is kept");

    let mut plain = Line::to(relay.door()).await.unwrap();
    assert!(plain.shop("three", "{}").await.is_err());
    // A connection that never shakes hands makes room for others.
    Line::to(relay.door()).await.unwrap().ended().await;
    let client = database.client().await;
    assert_eq!(value::<i64>(&client, "select count(*) from posthaste.outbox").await, 2);
}

#[tokio::test]
async fn a_certificate_that_is_replaced_is_shown_and_one_that_cannot_be_used_is_not() {
    let files = Files::new();
    let [old, new] = [0, 1].map(|_| files.authority.identity(&["localhost"]).pem());
    files.put("certificate", &old.0);
    files.put("key", &old.1);
    let database = TestDatabase::new().await;
    let relay = files.relay(&database, "1m").await;
    assert_eq!(files.shown(relay.door()).await, der(&old.0));
    let mut kept = Line::over(files.connect(relay.door()).await);
    // It is looked at when a connection comes.
    let refused = async |times: usize| {
        until("what cannot be used to be noticed", || async {
            let shown = files.shown(relay.door()).await;
            let times = relay.log().matches("cannot be used; showing the old one").count() == times;
            times.then_some(shown)
        })
        .await
    };

    // Between the two files no connection is turned away.
    files.put("certificate", &new.0);
    assert_eq!(refused(1).await, der(&old.0));
    files.put("key", &new.1);
    until("the new certificate", || async {
        (files.shown(relay.door()).await == der(&new.0)).then_some(())
    })
    .await;

    for (times, broken) in [(2, "-----BEGIN CERTIFICATE-----\nA"), (3, "")] {
        files.put("certificate", broken);
        assert_eq!(refused(times).await, der(&new.0));
    }
    std::fs::remove_file(files.path("key")).unwrap();
    assert_eq!(refused(4).await, der(&new.0));
    assert!(!relay.log().contains("PRIVATE KEY"));
    // Open connections stay.
    assert_eq!(kept.shop("one", "{}").await.unwrap().status, 200);
    files.put("key", &old.1);
    files.put("certificate", &old.0);
    until("the old certificate", || async {
        (files.shown(relay.door()).await == der(&old.0)).then_some(())
    })
    .await;
}

//! The tools of the other tests do what they say: a test that stands on a broken tool proves
//! nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::{
    Authority, Gate, Receiver, Relay, Reply, TestDatabase, cluster_options, until, within,
};

const REQUEST: &[u8] =
    b"POST /hook?x=1 HTTP/1.1\r\nHost: here\r\nWebhook-Id: msg_1\r\nContent-Length: 2\r\n\r\n{}";

/// Sends the request and reads until the connection ends, or until a whole empty answer is there.
async fn post(receiver: &Receiver) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(receiver.address()).await?;
    read_answer(&mut stream).await
}

async fn read_answer(stream: &mut TcpStream) -> std::io::Result<String> {
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        if within("an answer", stream.read_buf(&mut answer)).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8(answer).unwrap())
}

#[tokio::test]
async fn a_receiver_keeps_what_came_and_answers_as_scripted() {
    let receiver = Receiver::start().await;
    receiver.script([Reply::status(503).header("retry-after", "7")]);
    let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
    let first = read_answer(&mut stream).await.unwrap();
    assert!(first.starts_with("HTTP/1.1 503 ") && first.contains("retry-after: 7"), "{first}");
    let second = read_answer(&mut stream).await.unwrap();
    assert!(second.starts_with("HTTP/1.1 200 "), "{second}");
    let received = receiver.next().await;
    assert_eq!((received.method.as_str(), received.path.as_str()), ("POST", "/hook?x=1"));
    assert_eq!((received.id(), received.body.as_slice()), ("msg_1", b"{}".as_slice()));
    assert_eq!(receiver.wait_for(2).await.len(), 2);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_receiver_breaks_connections_in_three_ways() {
    let receiver = Receiver::start().await;
    receiver.script([Reply::DropBeforeReading, Reply::DropAfterReading, Reply::Reset]);
    assert_eq!(post(&receiver).await.unwrap(), "");
    assert_eq!(receiver.received().len(), 0);
    assert_eq!(post(&receiver).await.unwrap(), "");
    assert_eq!(receiver.received().len(), 1);
    let reset = post(&receiver).await.unwrap_err();
    assert_eq!(reset.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_held_reply_waits_for_its_gate() {
    let receiver = Receiver::start().await;
    let gate = Gate::default();
    receiver.script([Reply::status(204).held_by(&gate)]);
    let answer = async {
        let answer = post(&receiver).await.unwrap();
        assert!(gate.is_open(), "answered before the gate was opened");
        answer
    };
    let opener = async {
        receiver.next().await;
        gate.open();
    };
    let (answer, ()) = tokio::join!(answer, opener);
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
}

#[tokio::test]
async fn a_body_may_drip_or_never_end_and_raw_bytes_are_sent_as_they_are() {
    let receiver = Receiver::start().await;
    let every = Duration::from_millis(1);
    receiver.script([
        Reply::Drip { body: b"ab\r\n\r\n".to_vec(), every },
        Reply::Raw(b"SSH-2.0-not-http\r\n".to_vec()),
        Reply::EndlessBody,
    ]);
    let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut dripped = Vec::new();
    while !dripped.ends_with(b"ab\r\n\r\n") {
        within("the drip", stream.read_buf(&mut dripped)).await.unwrap();
    }
    assert_eq!(post(&receiver).await.unwrap(), "SSH-2.0-not-http\r\n");
    let mut stream = TcpStream::connect(receiver.address()).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    let mut much = vec![0; 1 << 20];
    within("a megabyte", stream.read_exact(&mut much)).await.unwrap();
}

#[tokio::test]
async fn a_tls_receiver_shows_a_certificate_of_its_authority() {
    let authority = Authority::new();
    let receiver = Receiver::start_tls(authority.identity(&["localhost"])).await;
    let socket = TcpStream::connect(receiver.address()).await.unwrap();
    let mut stream =
        trusting(&authority).connect("localhost".try_into().unwrap(), socket).await.unwrap();
    stream.write_all(REQUEST).await.unwrap();
    assert_eq!(receiver.next().await.id(), "msg_1");

    let expired = Receiver::start_tls(authority.expired_identity(&["localhost"])).await;
    let socket = TcpStream::connect(expired.address()).await.unwrap();
    let refused =
        trusting(&authority).connect("localhost".try_into().unwrap(), socket).await.unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");
}

fn trusting(authority: &Authority) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::{CertificateDer, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    std::sync::Arc::new(config).into()
}

#[tokio::test]
async fn the_server_is_the_one_that_is_named() {
    let database = TestDatabase::new().await;
    let binaries = database.cluster().binaries();
    if let Some(named) = cluster_options().binaries {
        assert_eq!(binaries.path("postgres"), named.join("postgres"));
    }
    let output = Command::new(binaries.path("postgres")).arg("--version").output().await.unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let row = database.row("show server_version", &[]).await;
    assert!(version.contains(row.get::<_, &str>(0)), "{version}");
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other) = tokio::join!(TestDatabase::new(), TestDatabase::new());
    one.client().await.batch_execute("create table mine ()").await.unwrap();
    let row = other.row("select to_regclass('mine')::text as mine", &[]).await;
    assert_eq!(row.get::<_, Option<&str>>("mine"), None);
    let (name, cluster) = (one.name().to_owned(), one.cluster());
    drop(one);
    until("the dropped database to be gone", || async {
        let left = tokio_postgres::connect(&cluster.url_for(&name), tokio_postgres::NoTls).await;
        (left.err()?.code()?.code() == "3D000").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_relay_is_the_real_one_and_obeys_signals() {
    let database = TestDatabase::new().await;
    let receiver = Receiver::start().await;
    let client = database.client().await;
    let url = receiver.url("/hook");
    client.execute("insert into posthaste.endpoints (url) values ($1)", &[&url]).await.unwrap();
    let event = "insert into posthaste.outbox (event_type, payload) values ('order.paid', '{}')";

    let mut first = Relay::start(&database).await;
    client.execute(event, &[]).await.unwrap();
    assert_eq!(receiver.next().await.json()["type"], "order.paid");
    first.freeze();
    first.thaw();
    first.kill().await;
    assert_eq!(first.get("/ready").await, None);

    let mut second = Relay::on(&database.url()).set("relay.grace", "1s").start().await;
    client.execute(event, &[]).await.unwrap();
    let ended = "select from posthaste.delivery_attempts where event_id = 2";
    database.row(ended, &[]).await;
    assert!(second.stop().await.success());
}

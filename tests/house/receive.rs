//! `posthaste receive`, seen from outside: what it prints, what it believes, how it fails on
//! demand, and that it ends.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};

use jiff::Timestamp;
use posthaste::sandbox::watchdog;
use serde_json::{Value, json};
use standardwebhooks::Webhook;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const BODY: &str = r#"{"type":"order.paid","data":{"order_id":1}}"#;

/// Killed when dropped.
struct Receive {
    child: Child,
    address: SocketAddr,
    output: BufReader<ChildStdout>,
}

fn posthaste(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.arg("receive").args(arguments).env_clear().stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Receive {
    /// On any free port.
    fn start(arguments: &[&str]) -> Self {
        let mut child = posthaste(&[&["0"], arguments].concat()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        let address = said.trim_end().strip_prefix("receiving at http://").expect(&said);
        let address = address.parse().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, address, output }
    }

    /// The status of the answer to a webhook with this id and secret, or nothing if there was none.
    fn post(&self, id: &str, secret: &str) -> Option<u16> {
        let now = Timestamp::now().as_second();
        let signature = Webhook::new(secret).unwrap().sign(id, now, BODY.as_bytes()).unwrap();
        self.send(&format!(
            "webhook-id: {id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: {signature}\r\n"
        ))
    }

    fn send(&self, headers: &str) -> Option<u16> {
        let length = BODY.len();
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "POST /hooks?shop=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\
             content-length: {length}\r\n\r\n{BODY}"
        )
        .unwrap();
        let mut answer = String::new();
        // Refused before it is read whole, a request may end in a reset.
        drop(stream.read_to_string(&mut answer));
        answer.split(' ').nth(1).map(|status| status.parse().unwrap())
    }

    fn object(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn it_prints_and_verifies_each_webhook_and_ends_after_the_count() {
    let mut receive =
        Receive::start(&["--json", "--secret", SECRET, "--fail", "1", "--count", "4"]);
    assert_eq!(receive.post("evt_1", SECRET), Some(503), "the first fails, as was asked for");
    let object = receive.object();
    let field = |name: &str| object[name].clone();
    assert_eq!((field("method"), field("path")), (json!("POST"), json!("/hooks?shop=1")));
    assert_eq!((field("body"), field("number")), (json!(BODY), json!(1)));
    assert_eq!(object["headers"]["webhook-id"], "evt_1");
    assert_eq!((field("signature"), field("answered")), (json!("verified"), json!(503)));
    assert_eq!(field("duplicate_of"), Value::Null);

    assert_eq!(receive.post("evt_1", SECRET), Some(200), "the others do not");
    assert_eq!(receive.object()["duplicate_of"], 1);

    assert_eq!(receive.post("evt_2", OTHER), Some(401));
    let object = receive.object();
    assert_eq!(object["signature"], "not verified");
    assert_eq!(object["reason"], "the signature does not match");
    assert_eq!(receive.send(""), Some(401));
    assert_eq!(receive.object()["reason"], "webhook-id is missing");
    assert_eq!(receive.child.wait().unwrap().code(), Some(0), "four have come");
    assert!(TcpStream::connect(receive.address).is_err());
}

#[test]
fn people_read_it_as_text_and_secrets_may_come_from_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secrets");
    std::fs::write(&file, format!("{OTHER}\n\n{SECRET}\n")).unwrap();
    let file = file.to_str().unwrap();
    let mut receive = Receive::start(&["--secret-file", file, "--close", "--count", "1"]);
    assert_eq!(receive.post("evt_1", SECRET), None, "the connection was closed");
    let mut text = String::new();
    receive.output.read_to_string(&mut text).unwrap();
    assert!(text.starts_with("\n#1 POST /hooks?shop=1\n   webhook-id: evt_1\n"), "{text}");
    let end = format!("\n\n   {BODY}\n\n   signature verified; connection closed\n");
    assert!(text.ends_with(&end), "{text}");
}

#[test]
fn without_a_secret_nothing_is_verified_and_long_bodies_are_refused() {
    let mut receive = Receive::start(&["--json", "--max-body", "1kB"]);
    assert_eq!(receive.send("x-shop: a\r\n"), Some(200));
    assert_eq!(receive.object()["signature"], "not checked");
    drop(receive);
    let mut receive = Receive::start(&["--json", "--max-body", "10B", "--status", "204"]);
    assert_eq!(receive.send(""), Some(413));
    let object = receive.object();
    assert_eq!((&object["body"], &object["answered"]), (&Value::Null, &json!(413)));
}

#[test]
fn a_status_is_given_always_and_a_signal_ends_it_in_order() {
    for signal in ["TERM", "INT"] {
        let mut receive = Receive::start(&["--status", "410"]);
        assert_eq!(receive.send(""), Some(410));
        assert_eq!(receive.send(""), Some(410));
        // A sender that keeps its connection without a word does not hold the end up.
        let _idle = TcpStream::connect(receive.address).unwrap();
        watchdog::signal(receive.child.id(), signal).unwrap();
        assert_eq!(receive.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn a_reader_that_has_gone_ends_it() {
    let mut receive = Receive::start(&[]);
    drop(std::mem::replace(&mut receive.output, closed()));
    while receive.child.try_wait().unwrap().is_none() {
        // It learns of it when it prints; by then it may not take connections any more.
        drop(TcpStream::connect(receive.address).map(|mut stream| {
            drop(stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"));
            drop(stream.read(&mut [0]));
        }));
    }
    assert_eq!(receive.child.wait().unwrap().code(), Some(0));
}

/// An output that has ended.
fn closed() -> BufReader<ChildStdout> {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    child.wait().unwrap();
    BufReader::new(output)
}

#[test]
fn what_cannot_be_is_said_at_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (arguments, code, expected) in [
        (&[port.as_str()][..], 1, "another process has that port"),
        (&["x"], 2, "127.0.0.1:9310"),
        (&["0", "--secret", "hunter2"], 2, "use the secrets: secret 1 "),
        (&["0", "--secret-file", "/no/such/file"], 2, "read /no/such/file"),
        (&["0", "--status", "100"], 2, "200 to 999"),
        (&["0", "--delay", "2"], 2, "2 has no unit"),
        (&["0", "--count", "0"], 2, "0 is not in 1.."),
        (&["0", "--status", "500", "--close"], 2, "cannot be used with"),
    ] {
        let output = posthaste(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

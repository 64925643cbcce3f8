//! The output and exit codes of `posthaste`, seen from outside: as a shell, a container or a probe
//! sees it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, Command, Output, Stdio},
};

use posthaste::sandbox::watchdog;
use serde_json::Value;

/// No server listens on port 1.
const NO_DATABASE: &str = "postgres://app:hunter2@127.0.0.1:1/shop";

fn posthaste(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn ended(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = posthaste(arguments, environment).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn settings_that_cannot_be_used_exit_with_2_and_are_said_once() {
    let (code, said) = ended(&["run"], &[]);
    assert_eq!(code, Some(2));
    assert!(said.starts_with("posthaste: settings: database.url: not set; "), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    let variable = ("POSTHASTE_RELAY__BACTH", "1");
    let (code, said) = ended(&["run"], &[("DATABASE_URL", NO_DATABASE), variable]);
    assert_eq!(code, Some(2));
    assert_eq!(
        said,
        "posthaste: settings: POSTHASTE_RELAY__BACTH: relay.bacth: no such setting; did you mean relay.batch?\n"
    );
}

#[test]
fn a_connection_string_with_what_is_not_served_is_refused_by_the_name_of_both() {
    let url = "postgres://u:hunter2@127.0.0.1:1/x?sslcert=%2Fetc%2Fclient.pem";
    for (name, environment) in [
        ("database.url", &[("DATABASE_URL", url)][..]),
        (
            "database.direct_url",
            &[("DATABASE_URL", NO_DATABASE), ("POSTHASTE_DATABASE__DIRECT_URL", url)],
        ),
    ] {
        let (code, said) = ended(&["run"], environment);
        let expected = "cannot be used: sslcert is not supported: Posthaste cannot show a client certificate to the database";
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(&format!("{name} {expected}")), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in
        [&["run", "--no-such-flag"][..], &["no-such-command"], &[], &["run", "--set", "x"]]
    {
        assert_eq!(ended(arguments, &[]).0, Some(2), "{arguments:?}");
    }
    assert_eq!(ended(&["--version"], &[]).0, Some(0));
}

#[test]
fn a_taken_port_ends_the_start_and_the_setting_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let setting = format!("http.listen={address}");
    let (code, said) = ended(&["run", "--set", &setting], &[("DATABASE_URL", NO_DATABASE)]);
    assert_eq!(code, Some(1));
    assert!(said.contains(&format!("\nposthaste: listen on {address} (http.listen): ")), "{said}");
    assert!(said.contains("\nhint: another process has that port"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_database_that_does_not_come_ends_the_start_with_one_message() {
    let settings = ["run", "--set", "database.startup_timeout=0s", "--set", "http.listen=off"];
    let (code, said) = ended(&settings, &[("DATABASE_URL", NO_DATABASE)]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("\nposthaste: reach the database: connect to the database at 127.0.0.1:1"),
        "{said}"
    );
    assert_eq!(said.lines().filter(|line| line.starts_with("posthaste:")).count(), 1, "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_database_that_is_away_is_waited_for_and_a_stop_then_exits_with_0() {
    let patience = ("POSTHASTE_DATABASE__STARTUP_TIMEOUT", "1h");
    let mut relay = Relay::start(&[("DATABASE_URL", NO_DATABASE), patience]);
    let address = relay.line_with("address")["address"].as_str().unwrap().to_owned();
    let away = relay.line_with("error");
    assert_eq!(away["message"], "waiting for the database");
    assert!(!away.to_string().contains("hunter2"), "{away}");
    assert!(get(&address, "/live").starts_with("HTTP/1.1 200 "), "a restart would not help");
    let ready = get(&address, "/ready");
    assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
    assert!(ready.contains("the database cannot be reached"), "{ready}");
    assert!(get(&address, "/metrics").contains("\nposthaste_build_info{version="));

    let url = format!("http://{address}/ready");
    let unhealthy = ended(&["health", "--url", &url], &[]);
    let said = format!("posthaste: {url}: not ready: the database cannot be reached\n");
    assert_eq!(unhealthy, (Some(1), said));
    let alive = format!("http://{address}/live");
    assert_eq!(ended(&["health", "--url", &alive], &[]), (Some(0), String::new()));
    let configured = [("DATABASE_URL", NO_DATABASE), ("POSTHASTE_HTTP__LISTEN", &address)];
    assert_eq!(ended(&["health"], &configured), unhealthy, "http.listen says where");

    relay.signal("TERM");
    assert_eq!(relay.child.wait().unwrap().code(), Some(0));
}

#[test]
fn health_without_a_relay_exits_with_1_and_without_an_address_with_2() {
    let (code, said) = ended(&["health", "--url", "http://127.0.0.1:1/ready"], &[]);
    assert_eq!(code, Some(1));
    assert!(
        said.starts_with("posthaste: ask for the relay's health: connect to 127.0.0.1:1: "),
        "{said}"
    );
    let off = [("DATABASE_URL", NO_DATABASE), ("POSTHASTE_HTTP__LISTEN", "off")];
    let (code, said) = ended(&["health"], &off);
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(ended(&["health", "--url", "https://x/"], &[]).0, Some(2));
}

struct Relay {
    child: Child,
    log: BufReader<ChildStderr>,
    read: Vec<Value>,
}

impl Relay {
    fn start(environment: &[(&str, &str)]) -> Self {
        let listen = "http.listen=127.0.0.1:0";
        let mut child = posthaste(&["run", "--set", listen], environment).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { child, log, read: Vec::new() }
    }

    /// The first line of the log that has this field; each line must be an object. What is said
    /// side by side may come in any order.
    fn line_with(&mut self, field: &str) -> Value {
        loop {
            if let Some(line) = self.read.iter().find(|line| line.get(field).is_some()) {
                return line.clone();
            }
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "the log ended without {field}");
            self.read.push(serde_json::from_str(&line).unwrap());
        }
    }

    fn signal(&self, name: &str) {
        watchdog::signal(self.child.id(), name).unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // it has ended, or the test has failed and must not leave it behind
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

//! Reads what came back on a connection, and takes nothing for an answer that is none: a whole
//! message of HTTP, with a status that [INGEST](../../docs/INGEST.md) lists and a body that is what
//! its type says.

use serde_json::Value;

/// As the table in docs/INGEST.md has them.
const DOCUMENTED: [u16; 15] =
    [200, 202, 400, 401, 403, 404, 405, 408, 411, 413, 415, 422, 429, 431, 503];

/// None of these is for a sender.
const OF_THE_INSIDE: [&str; 8] =
    ["posthaste.", "insert", "select ", "panick", ".rs", "/tmp", "error:", "sqlstate"];

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// `null`: there is none.
    pub(super) body: Value,
}

/// All that was said, in order.
pub(super) fn read(mut said: &[u8], secrets: &[String]) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    while !said.is_empty() {
        let (answer, length) = one(said);
        // what hyper does not take for HTTP it answers itself, with nothing but a status, and hangs
        // up
        let is_bare = answer.body.is_null() && answer.status >= 200;
        assert!(!is_bare || length == said.len(), "goes on after {answer:?}");
        let text = String::from_utf8_lossy(&said[..length]).to_lowercase();
        for inside in OF_THE_INSIDE {
            assert!(!text.contains(inside), "tells of {inside:?}: {text}");
        }
        for secret in secrets.iter().filter(|secret| secret.len() > 4) {
            assert!(!text.contains(&secret.to_lowercase()), "tells a secret: {text}");
        }
        said = &said[length..];
        if answer.status != 100 {
            answers.push(answer);
        }
    }
    answers
}

fn one(said: &[u8]) -> (Answer, usize) {
    let end = said.windows(4).position(|it| it == b"\r\n\r\n").expect("an answer's head ends") + 4;
    let head = std::str::from_utf8(&said[..end]).expect("an answer's head is text");
    let mut lines = head.trim_end().split("\r\n");
    let first = lines.next().expect("a status line");
    let rest = first.strip_prefix("HTTP/1.1 ").or_else(|| first.strip_prefix("HTTP/1.0 "));
    let (status, reason) = rest.and_then(|rest| rest.split_once(' ')).expect("a status line");
    let status: u16 = status.parse().expect("a status is a number");
    assert!(!reason.is_empty(), "{head}");
    let headers: Vec<(String, &str)> = lines
        .map(|line| line.split_once(": ").expect("a header"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .collect();
    let header = |name: &str| {
        let values: Vec<_> = headers.iter().filter(|(it, _)| it == name).collect();
        assert!(values.len() < 2, "{name} more than once: {head}");
        values.first().map(|(_, value)| *value)
    };
    if status == 100 {
        return (Answer { status, body: Value::Null }, end);
    }
    assert!(DOCUMENTED.contains(&status), "no status of ours: {head}");
    assert_eq!(header("transfer-encoding"), None, "{head}");
    let length: usize = header("content-length").expect("a length").parse().expect("a number");
    let body = said.get(end..end + length).expect("an answer's body is whole");
    if body.is_empty() {
        assert!([400, 431].contains(&status), "an answer without a word: {head}");
        return (Answer { status, body: Value::Null }, end);
    }
    let body: Value = serde_json::from_slice(body).expect("an answer's body is JSON");
    if status < 300 {
        assert_eq!(header("content-type"), Some("application/json"));
    } else {
        assert_eq!(header("content-type"), Some("application/problem+json"));
        is_problem(&body, status, reason);
        let asks_to_wait = header("retry-after").is_some();
        assert_eq!(asks_to_wait, [429, 503].contains(&status), "{head}");
        assert_eq!(header("allow").is_some(), status == 405, "{head}");
        assert_eq!(header("www-authenticate").is_some(), status == 401, "{head}");
    }
    (Answer { status, body }, end + length)
}

/// Of RFC 9457, with no more in it than ours has.
fn is_problem(body: &Value, status: u16, reason: &str) {
    let members = body.as_object().expect("a problem is an object");
    let mut names: Vec<_> = members.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["detail", "status", "title", "type"]);
    assert_eq!(members["type"], "about:blank");
    assert_eq!(members["title"], reason);
    assert_eq!(members["status"], status);
    let detail = members["detail"].as_str().expect("a problem says what is wrong");
    assert!((1..200).contains(&detail.len()) && detail.is_ascii(), "{detail:?}");
}

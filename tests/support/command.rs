//! Commands of the real binary that end by themselves, as an operator types them.

use std::process::Output;

use serde_json::Value;
use tokio::process::Command;

use super::within;

/// How a command ended and what it said, on standard output and then on standard error. It reads no
/// settings but the database's URL and those in `arguments`.
pub async fn posthaste(url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(arguments).env_clear().env("DATABASE_URL", url);
    command.env("POSTHASTE_HTTP__LISTEN", "off").kill_on_drop(true);
    command.current_dir(env!("CARGO_TARGET_TMPDIR"));
    let Output { status, stdout, stderr } =
        within("posthaste", command.output()).await.expect("run posthaste");
    let said = [stdout, stderr].map(|said| String::from_utf8(said).expect("it speaks UTF-8"));
    (status.code(), said.concat())
}

/// The exit code of `posthaste doctor`, and its findings as JSON.
pub async fn doctor(url: &str, settings: &[&str]) -> (Option<i32>, Value) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_posthaste"));
    command.args(["doctor", "--json"]).env_clear().env("DATABASE_URL", url);
    for setting in settings {
        command.args(["--set", setting]);
    }
    command.current_dir(env!("CARGO_TARGET_TMPDIR")).kill_on_drop(true);
    let Output { status, stdout, stderr } =
        within("the doctor", command.output()).await.expect("run posthaste");
    let said = String::from_utf8(stdout).expect("it speaks UTF-8");
    assert!(!said.contains("hunter2") && !String::from_utf8_lossy(&stderr).contains("hunter2"));
    (status.code(), serde_json::from_str(&said).expect("it is JSON"))
}

/// The finding about this; null if there is none.
pub fn about<'a>(said: &'a Value, what: &str) -> &'a Value {
    let all = said["findings"].as_array().expect("findings are a list");
    all.iter().find(|finding| finding["check"] == what).unwrap_or(&Value::Null)
}

//! A command of the real binary that ends by itself, as an operator types it.

use std::process::Output;

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

//! Operators steer with SQL, and so its tests are SQL: every script of `tests/sql` runs here, each
//! in a database of its own, through psql as a person would.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::support::{TestDatabase, within};

/// Every statement of the relay under its file's name, for scripts to execute.
fn prepared() -> String {
    let queries = Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/queries");
    let mut text = String::new();
    for entry in std::fs::read_dir(queries).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        writeln!(text, "prepare {name} as\n{};", std::fs::read_to_string(&path).unwrap()).unwrap();
    }
    text + "set client_min_messages = warning;\n"
}

/// Runs a script; returns what psql complained of, if it did.
async fn run(script: std::path::PathBuf) -> Option<String> {
    let database = TestDatabase::new().await;
    let psql = database.cluster().binaries().path("psql");
    let mut command = Command::new(psql);
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-d", &database.url()]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut psql = command.spawn().expect("psql comes with the server or its client package");
    let text = prepared() + &std::fs::read_to_string(&script).unwrap();
    let mut input = psql.stdin.take().unwrap();
    let write = async move {
        // psql stops reading at the first error, which it then tells.
        drop(input.write_all(text.as_bytes()).await);
    };
    let (output, ()) =
        within("a script to end", async { tokio::join!(psql.wait_with_output(), write) }).await;
    let output = output.unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then(|| format!("{}: {complaint}", script.display()))
}

#[tokio::test]
async fn every_script_of_the_control_plane_passes() {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sql");
    let mut running = JoinSet::new();
    for entry in std::fs::read_dir(scripts).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            running.spawn(run(path));
        }
    }
    assert!(running.len() >= 7, "the scripts are where they were");
    let complaints: Vec<_> = running.join_all().await.into_iter().flatten().collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

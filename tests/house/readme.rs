//! README is true: every code block is taken from it and run, in order, as by a person who pastes
//! them into one terminal; what README says comes out, must.
//!
//! `sh` and `sql` go to one bash and the psql that it starts; a block without a language is what
//! the terminal shows after that; `toml` must be settings and `python` must compile. A block that
//! cannot run here is marked in README by a comment that gives the reason.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use posthaste::config::{self, Sources};
use regex::Regex;

use crate::support::{cluster_options, until};

/// The port that README's receiver listens at; here it is any that is free.
const PORT: &str = "9310";
/// The terminal that README has SQL pasted into.
const PSQL: &str = r#"psql "$DATABASE_URL""#;
/// More than these must not be left out.
const MARKED_MAX: usize = 3;

#[derive(Debug)]
struct Block {
    /// Where it begins, counted from 1.
    line: usize,
    language: String,
    text: String,
    /// The comment says that it is not run, and why.
    is_marked: bool,
}

fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(path).unwrap();
    let mut above = "";
    let mut lines = readme.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(language) = line.strip_prefix("```") {
            let text = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text = text.fold(String::new(), |text, line| text + line + "\n");
            let is_marked = above.starts_with("<!-- not run: ");
            let language = language.to_owned();
            blocks.push(Block { line: index + 1, language, text, is_marked });
        }
        above = line;
    }
    blocks
}

/// A person's terminal: bash, and psql within it. Whatever they and their jobs say is one text.
struct Terminal {
    bash: Child,
    /// Closed at the end, which ends bash and all that it has started.
    input: Option<ChildStdin>,
    screen: std::path::PathBuf,
    directory: tempfile::TempDir,
    /// Whether psql reads what is pasted.
    in_psql: bool,
    pasted: usize,
}

/// Has bash clean up when its input ends, because README is through or the test has died; and tells
/// how one can see that psql, which reads ahead, has left the input to bash.
const SETUP: &str = r#"
trap 'kill $(jobs -p) 2>/dev/null; scripts/private-postgres stop' EXIT
psql() { command psql "$@" && echo "psql has ended" >&2; }
set -e
"#;

impl Terminal {
    fn open() -> Self {
        // A server that is started as another user must find its way into it.
        let readable = std::fs::Permissions::from_mode(0o755);
        let directory = tempfile::Builder::new().permissions(readable).tempdir().unwrap();
        let screen = directory.path().join("screen");
        let output = File::options().create(true).append(true).open(&screen).unwrap();
        let posthaste = Path::new(env!("CARGO_BIN_EXE_posthaste")).parent().unwrap();
        let mut path = vec![posthaste.to_owned()];
        path.extend(cluster_options().binaries);
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut bash = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_remove("POSTHASTE_TEST_POSTGRES")
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("TMPDIR", directory.path())
            .env("POSTHASTE_HTTP__LISTEN", "127.0.0.1:0")
            .env("PSQLRC", "/dev/null")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("there is a bash");
        let mut input = bash.stdin.take();
        input.as_mut().unwrap().write_all(SETUP.as_bytes()).unwrap();
        Self { bash, input, screen, directory, in_psql: false, pasted: 0 }
    }

    fn shows(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.screen).unwrap()).into_owned()
    }

    /// Gives the terminal this text, waits until it has been done, and returns what has been shown
    /// since.
    async fn paste(&mut self, block: &Block) -> String {
        let from = self.shows().len();
        self.pasted += 1;
        let done = format!("pasted {}", self.pasted);
        if self.in_psql && block.language == "sh" {
            self.type_in("\\q\n");
            until("psql to end", || async {
                self.shows()[from..].contains("psql has ended").then_some(())
            })
            .await;
        }
        let enters = block.language == "sql" && !self.in_psql;
        let mut text = if enters { PSQL.to_owned() + "\n" } else { String::new() };
        text += &block.text;
        self.in_psql = block.language == "sql" || block.text.trim_end().ends_with(PSQL);
        let say = if self.in_psql { "\\! echo" } else { "echo" };
        writeln!(text, "{say} {done}").unwrap();
        self.type_in(&text);
        let bash = &mut self.bash;
        let screen = &self.screen;
        let ended = until("a block of README to be done", || {
            let shown = std::fs::read_to_string(screen).unwrap().split_off(from);
            let has_ended = bash.try_wait().unwrap().is_some();
            let is_done = shown.lines().any(|line| line == done);
            async move { (has_ended || is_done).then_some((shown, is_done)) }
        });
        let (shown, is_done) = ended.await;
        let complaints = ["ERROR:", "FATAL:", "invalid command", "psql: error", "posthaste: "];
        let complains = complaints.iter().any(|complaint| shown.contains(complaint));
        assert!(is_done && !complains, "README.md:{}:\n{}---\n{shown}", block.line, block.text);
        shown
    }

    fn type_in(&mut self, text: &str) {
        let mut input = self.input.as_ref().expect("it is open");
        input.write_all(text.as_bytes()).expect("bash reads on");
    }

    /// Waits until the terminal shows what README says after this block; what only asks is asked
    /// again.
    async fn expect(&mut self, asked: &Block, from: usize, expected: &Block) {
        let wanted = essence(&expected.text, true);
        if is_question(&asked.text) {
            let mut shown = String::new();
            for _ in 0..600 {
                let here = self.shows().len();
                shown = self.paste(asked).await;
                if essence(&self.shows()[here..], false).contains(&wanted) {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            panic!("README.md:{}: is not\n{shown}", expected.line);
        }
        let what = format!("README.md:{}:\n{wanted}", expected.line);
        until(&what, || {
            let shows = essence(&self.shows()[from..], false).contains(&wanted);
            async move { shows.then_some(()) }
        })
        .await;
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the terminal ---\n{}---", self.shows());
        }
        drop(self.input.take());
        drop(self.bash.wait());
        // A server that would not stop would be found by its directory.
        assert!(std::thread::panicking() || self.directory.path().read_dir().unwrap().count() == 1);
    }
}

/// Whether it changes nothing, so that it may be asked again until what it asks for has happened.
fn is_question(text: &str) -> bool {
    let views = ["posthaste.delivery_attempts", "posthaste.explain("];
    text.starts_with("select ") && views.iter().any(|view| text.contains(view))
}

/// The part that is the same each time: times, ids, signatures, measures and widths are not. Rows
/// of a table are counted, as psql does it below them.
fn essence(text: &str, is_expected: bool) -> String {
    let alike = [
        (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d(:\d\d)?)?", "TIME"),
        (r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", "TIME"),
        (r"evt_\w+", "ID"),
        (r"whsec_\S+|v1,[\w+/=]+", "SECRET"),
        (r"\d+\.\d+(\.\d+)?|\d{4,}", "NUMBER"),
        (r"-{2,}", "-"),
        (r"[ \t]+", " "),
    ];
    let mut essence = text.to_owned();
    for (pattern, word) in alike {
        essence = Regex::new(pattern).unwrap().replace_all(&essence, word).into_owned();
    }
    let lines: Vec<_> = essence.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut essence = lines.join("\n") + "\n";
    let is_table = lines.get(1).is_some_and(|line| line.chars().all(|c| "-+".contains(c)));
    if is_expected && is_table {
        let rows = lines.len() - 2;
        writeln!(essence, "({rows} row{})", if rows == 1 { "" } else { "s" }).unwrap();
    }
    essence
}

/// Settings that README shows are taken, with files that are there in place of those it names.
fn assert_settings(block: &Block) {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path().to_str().unwrap();
    let text = block.text.replace("/run/secrets", here).replace("/var/lib/posthaste", here);
    std::fs::write(directory.path().join("gitlab"), "s3cret").unwrap();
    std::fs::create_dir(directory.path().join("spool")).unwrap();
    let file = directory.path().join("posthaste.toml");
    std::fs::write(&file, text).unwrap();
    let environment = vec![("DATABASE_URL".into(), "postgres://app@localhost/shop".into())];
    let sources = Sources { config_file: Some(file), environment, ..Sources::default() };
    if let Err(error) = config::load(&sources) {
        panic!("README.md:{}: {error}", block.line);
    }
}

fn assert_compiles(block: &Block) {
    let program = "import sys; compile(sys.argv[1], 'README.md', 'exec')";
    let python = Command::new("python3").args(["-c", program, &block.text]).output();
    let output = python.expect("there is a python3");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "README.md:{}: {said}", block.line);
}

#[tokio::test]
async fn every_block_of_the_readme_runs_in_order_and_shows_what_it_says() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let mut blocks = blocks();
    for block in &mut blocks {
        block.text = block.text.replace(PORT, &port.to_string());
    }
    let mut terminal = Terminal::open();
    let mut last: Option<(&Block, usize)> = None;
    for block in blocks.iter().filter(|block| !block.is_marked) {
        match (block.language.as_str(), last) {
            ("sh" | "sql", _) => {
                last = Some((block, terminal.shows().len()));
                terminal.paste(block).await;
            }
            ("", Some((asked, from))) => terminal.expect(asked, from, block).await,
            ("toml", _) => assert_settings(block),
            ("python", _) => assert_compiles(block),
            _ => panic!("README.md:{}: a block that nothing is known of", block.line),
        }
    }
}

#[test]
fn few_blocks_of_the_readme_are_not_run() {
    let blocks = blocks();
    assert!(blocks.len() > 30, "only {} blocks were found", blocks.len());
    let marked = blocks.iter().filter(|block| block.is_marked).count();
    assert!(marked <= MARKED_MAX, "{marked} blocks are not run");
}

//! Ends a child process when this process ends, however that happens. A [`Drop`] does not run after
//! SIGKILL, and not for a `static`; a pipe is closed in both cases.
//!
//! The watchdog is a small shell that reads process numbers from a pipe of which only this process
//! has the other end. When the pipe closes it ends the process whose number came last. It is in a
//! process group of its own, so that a Ctrl-C at the terminal does not end it before its work is
//! done. Used by [`postgres`](super::postgres), and by other code that starts processes beside it.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

/// `$1` is the signal, `$2` a directory to remove at the end, or nothing. The last line read is the
/// process that is alive; an empty one says that there is none. After 5 s the signal becomes
/// SIGKILL.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ] && kill -s "$1" "$pid" 2>/dev/null; then
  tries=0
  while [ "$tries" -lt 100 ] && kill -s 0 "$pid" 2>/dev/null; do sleep 0.05; tries=$((tries + 1)); done
  kill -s KILL "$pid" 2>/dev/null
fi
[ -z "$2" ] || rm -rf -- "$2"
"#;

/// Watches over one process at a time. Dropping it is the same as dying: the process is ended,
/// unless it was [forgotten](Self::forget) before.
#[derive(Debug)]
pub struct Watchdog {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Watchdog {
    /// Starts a watchdog that will send `signal` (a name such as `QUIT`), and then remove
    /// `directory`.
    ///
    /// # Errors
    /// If there is no `sh`, or no process can be started.
    pub fn start(signal: &str, directory: Option<&Path>) -> std::io::Result<Self> {
        let mut command = Command::new("sh");
        command.arg("-c").arg(SCRIPT).arg("watchdog").arg(signal);
        command.arg(directory.unwrap_or_else(|| Path::new("")));
        // It must not hold this process's output open: a reader would wait for the watchdog.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut shell = command.current_dir("/").process_group(0).spawn()?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// From now on, ends process `pid` when this process ends.
    ///
    /// # Errors
    /// If the watchdog is gone.
    pub fn watch(&mut self, pid: u32) -> std::io::Result<()> {
        self.tell(&pid.to_string())
    }

    /// The process has ended; its number may soon be another's.
    ///
    /// # Errors
    /// If the watchdog is gone.
    pub fn forget(&mut self) -> std::io::Result<()> {
        self.tell("")
    }

    fn tell(&mut self, line: &str) -> std::io::Result<()> {
        match &mut self.pipe {
            Some(pipe) => writeln!(pipe, "{line}"),
            None => Ok(()),
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.take());
        // Ends within the script's own bound.
        drop(self.shell.wait());
    }
}

/// Sends a signal by its name (`TERM`, `STOP`): the shell knows how, everywhere.
///
/// # Errors
/// If there is no such process, or it belongs to another user.
pub fn signal(pid: u32, name: &str) -> std::io::Result<()> {
    let mut kill = Command::new("sh");
    kill.args(["-c", r#"kill -s "$1" "$2""#, "kill", name, &pid.to_string()]);
    let output = kill.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watched_process_ends_with_its_watchdog_and_the_directory_goes() {
        let directory = tempfile::tempdir().unwrap().keep();
        let mut watchdog = Watchdog::start("TERM", Some(&directory)).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        watchdog.watch(child.id()).unwrap();
        // This test has to reap the child; the watchdog waits for that, so another thread does.
        let ended = std::thread::spawn(move || child.wait().unwrap());
        drop(watchdog);
        assert!(!ended.join().unwrap().success());
        assert!(!directory.exists());
    }

    #[test]
    fn a_forgotten_process_is_left_alone() {
        let mut watchdog = Watchdog::start("KILL", None).unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        watchdog.watch(child.id()).unwrap();
        watchdog.forget().unwrap();
        drop(watchdog);
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

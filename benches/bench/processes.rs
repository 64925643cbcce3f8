//! Resources that processes have used, read from `/proc` (Linux). The kernel counts in ticks of 10
//! ms, so a figure per delivery is as good as the run is long.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// `_SC_CLK_TCK`, which is 100 on every Linux that matters.
const TICK: Duration = Duration::from_millis(10);

/// One line of `/proc/PID/stat`.
struct Stat {
    parent: u32,
    /// User and system time of its own.
    own: u32,
    /// The same of children that have ended and were waited for.
    reaped: u32,
}

/// Processor time of one process, threads that have ended included.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    Ok(TICK * stat(pid)?.own)
}

/// Processor time of a process and its children, those that have ended included.
pub(crate) fn cpu_of_tree(pid: u32) -> Result<Duration> {
    let root = stat(pid)?;
    let mut ticks = root.own + root.reaped;
    for entry in fs::read_dir("/proc")? {
        let Some(other) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that has ended since the directory was read is in `reaped` at the next look.
        if let Ok(child) = stat(other)
            && child.parent == pid
        {
            ticks += child.own + child.reaped;
        }
    }
    Ok(TICK * ticks)
}

/// A line of `/proc/PID/status` in KiB: `VmRSS` is what it has in memory, `VmHWM` the most it had.
pub(crate) fn memory(pid: u32, line: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let value = found.and_then(|rest| rest.split_whitespace().next());
    value
        .with_context(|| format!("no {line} for process {pid}"))?
        .parse()
        .context("a number of KiB")
}

/// How many TCP connections to a port of this machine are open, by whatever process.
pub(crate) fn connections_to(port: u16) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let (table, port) = (fs::read_to_string("/proc/net/tcp")?, format!(":{port:04X}"));
    let is_one = |line: &&str| {
        let mut words = line.split_whitespace().skip(2);
        words.next().is_some_and(|remote| remote.ends_with(&port))
            && words.next() == Some(ESTABLISHED)
    };
    Ok(table.lines().filter(is_one).count())
}

fn stat(pid: u32) -> Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name stands in parentheses and may hold anything; what follows the last one is numbers.
    let fields: Vec<&str> =
        text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let number = |at: usize| -> Result<u32> {
        fields
            .get(at)
            .with_context(|| format!("/proc/{pid}/stat is short"))?
            .parse()
            .context("a number")
    };
    Ok(Stat {
        parent: number(1)?,
        own: number(11)? + number(12)?,
        reaped: number(13)? + number(14)?,
    })
}

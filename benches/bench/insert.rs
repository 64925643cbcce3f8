//! What the bell costs the application: transactions a second of one outbox insert each, by pgbench,
//! with fsync on. The ceiling is the same insert with no trigger to ring.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::lab::{Bed, Lab, Session};
use super::load;
use super::relay::Relay;
use super::report::{busy, median, row, table, whole};

const CLIENTS: [usize; 2] = [8, 32];
const LASTING: Duration = Duration::from_secs(5);
const RUNS: usize = 3;

/// Who is awake, and how the insert tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bell {
    /// No trigger.
    None,
    /// The shipped one; a relay that is awake holds its lock, so it is not rung.
    Awake,
    /// The shipped one; somebody listens and holds no lock, so every commit rings.
    Asleep,
    /// The usual trigger, that notifies always; somebody listens.
    Notify,
    /// The shipped one and a real relay, which wakes up and routes what is inserted. It takes its
    /// share of this machine.
    Relay,
}

const BELLS: [(Bell, &str); 5] = [
    (Bell::None, "no trigger"),
    (Bell::Awake, "the bell, a relay awake"),
    (Bell::Relay, "the bell, a relay at work on this machine"),
    (Bell::Asleep, "the bell, every relay asleep"),
    (Bell::Notify, "a plain NOTIFY trigger"),
];

const PLAIN_NOTIFY: &str = "
    alter table posthaste.outbox disable trigger outbox_rings_the_bell;
    create function public.notify() returns trigger language plpgsql as
      $$ begin perform pg_notify('posthaste', ''); return null; end $$;
    create trigger notifies after insert on posthaste.outbox
      for each statement execute function public.notify();";

pub(crate) async fn measure(lab: &mut Lab) -> Result<()> {
    let mut rows = vec![row(&["inserts", "clients", "TPS", "of no trigger"])];
    for clients in CLIENTS {
        let mut rates = BELLS.map(|_| Vec::new());
        // In turns, so that a neighbour on the machine disturbs all of them alike.
        for _ in 0..RUNS {
            for (rates, (bell, _)) in rates.iter_mut().zip(BELLS) {
                rates.push(once(lab, bell, clients).await?);
            }
        }
        let medians = rates.map(median);
        for (rate, (_, name)) in medians.iter().zip(BELLS) {
            let ratio = format!("{:.2}", rate / medians[0]);
            rows.push(vec![name.to_owned(), clients.to_string(), whole(*rate), ratio]);
        }
    }
    table(&rows);
    println!("\nMedians of {RUNS} runs of {LASTING:?}, taken in turns; {}.", busy());
    Ok(())
}

async fn once(lab: &mut Lab, bell: Bell, clients: usize) -> Result<f64> {
    let bed = lab.bed().await?;
    let session = Session::open(&bed.url).await?;
    let mut relay = None;
    match bell {
        Bell::None => {
            bed.batch_execute("alter table posthaste.outbox disable trigger outbox_rings_the_bell")
                .await?;
        }
        Bell::Awake => session.batch_execute("select pg_advisory_lock(1886352244, 1)").await?,
        Bell::Asleep => session.batch_execute("listen posthaste").await?,
        Bell::Notify => {
            bed.batch_execute(PLAIN_NOTIFY).await?;
            session.batch_execute("listen posthaste").await?;
        }
        Bell::Relay => relay = Some(Relay::start(lab, &bed).await?),
    }
    let rate = pgbench(lab, &bed, clients).await?;
    if let Some(relay) = relay {
        relay.stop().await?;
    }
    drop(session);
    bed.drop(lab).await?;
    Ok(rate)
}

async fn pgbench(lab: &Lab, bed: &Bed, clients: usize) -> Result<f64> {
    let script = tempfile::NamedTempFile::new()?;
    let payload = load::payload();
    std::fs::write(
        script.path(),
        format!(
            "insert into posthaste.outbox (event_type, payload) values ('order.paid', '{payload}');\n"
        ),
    )?;
    let mut command = Command::new(lab.cluster.binaries().path("pgbench"));
    command.args(["--no-vacuum", "--protocol=prepared", "--jobs=2"]);
    command.args(["--client", &clients.to_string(), "--time", &LASTING.as_secs().to_string()]);
    command.arg("--file").arg(script.path()).arg(&bed.url);
    let output = command.output().await.context("run pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "pgbench failed:\n{text}\n{errors}");
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    tps.with_context(|| format!("pgbench tells no TPS:\n{text}"))?
        .parse()
        .context("TPS is a number")
}

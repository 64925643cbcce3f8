//! The bell's cost to the application: transactions a second of one outbox insert each, by
//! pgbench, with fsync on. The ceiling is the same insert with no trigger to ring.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use super::lab::{Bed, Lab, Session, silence};
use super::load;
use super::relay::Relay;
use super::report::busy;

/// One waits for the disk with each insert; many share its writes.
const CLIENTS: [usize; 2] = [1, 32];
const LASTING: Duration = Duration::from_secs(3);
/// … and in full.
const IN_FULL: Duration = Duration::from_secs(15);
const RUNS: usize = 3;

/// Whether a relay is awake, and how the insert tells of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bell {
    /// No trigger.
    None,
    /// The shipped one; a relay that is awake keeps it silent.
    Awake,
    /// The shipped one; a session listens and does not silence it, so every commit rings.
    Asleep,
    /// The usual trigger, that notifies always; a session listens.
    Notify,
    /// The shipped one and a real relay, which wakes up and routes what is inserted. It takes its
    /// share of this machine.
    Relay,
}

const NO_TRIGGER: &str = "no trigger";
const BELLS: [(Bell, &str); 5] = [
    (Bell::None, NO_TRIGGER),
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
    let lasting = if lab.in_full { IN_FULL } else { LASTING };
    for clients in CLIENTS {
        let figure = format!("TPS of {clients} client{}", if clients == 1 { "" } else { "s" });
        let mut rates = BELLS.map(|_| Vec::new());
        // In turns, so that a neighbour on the machine disturbs all of them alike.
        for _ in 0..RUNS {
            for (rates, (bell, _)) in rates.iter_mut().zip(BELLS) {
                rates.push(once(lab, bell, clients, lasting).await?);
            }
        }
        for (rates, (bell, name)) in rates.into_iter().zip(BELLS) {
            lab.results.keep((name, &figure), 0, rates);
            let target = if bell == Bell::Awake && clients > 1 { "≥ 0.85" } else { "" };
            if bell != Bell::None {
                lab.results.compare((name, &figure), (NO_TRIGGER, &figure), target)?;
            }
        }
    }
    lab.results.show();
    println!("\nMedians of {RUNS} runs of {lasting:?}, taken in turns; {}.", busy());
    Ok(())
}

async fn once(lab: &mut Lab, bell: Bell, clients: usize, lasting: Duration) -> Result<f64> {
    let bed = lab.bed().await?;
    let session = Session::open(&bed.url).await?;
    let (mut relay, mut silent) = (None, None);
    match bell {
        Bell::None => {
            bed.batch_execute("alter table posthaste.outbox disable trigger outbox_rings_the_bell")
                .await?;
        }
        Bell::Awake => silent = Some(silence(&bed.url).await?),
        Bell::Asleep => session.batch_execute("listen posthaste").await?,
        Bell::Notify => {
            bed.batch_execute(PLAIN_NOTIFY).await?;
            session.batch_execute("listen posthaste").await?;
        }
        Bell::Relay => relay = Some(Relay::start(lab, &bed).await?),
    }
    let payload = load::payload();
    let script = format!(
        "insert into posthaste.outbox (event_type, payload) values ('order.paid', '{payload}');\n"
    );
    let rate = pgbench(lab, &bed, &script, clients, lasting, "").await?;
    if let Some(relay) = relay {
        relay.stop().await?;
    }
    drop((session, silent));
    bed.drop(lab).await?;
    Ok(rate)
}

/// Transactions a second of this script, with these options for each session.
pub(crate) async fn pgbench(
    lab: &Lab,
    bed: &Bed,
    text: &str,
    clients: usize,
    lasting: Duration,
    options: &str,
) -> Result<f64> {
    let script = tempfile::NamedTempFile::new()?;
    std::fs::write(script.path(), text)?;
    let mut command = Command::new(lab.cluster.binaries().path("pgbench"));
    command.args(["--no-vacuum", "--protocol=prepared"]);
    command.args(["--jobs", &clients.min(2).to_string()]);
    command.args(["--client", &clients.to_string(), "--time", &lasting.as_secs().to_string()]);
    command.arg("--file").arg(script.path()).arg(&bed.url).env("PGOPTIONS", options);
    let output = command.output().await.context("run pgbench")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "pgbench failed:\n{text}\n{errors}");
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = ")?.split(' ').next());
    tps.with_context(|| format!("pgbench tells no TPS:\n{text}"))?
        .parse()
        .context("TPS is a number")
}

//! Whatever is killed, and whenever: what was answered with a 2xx arrives.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use crate::support::{
    Line, Receiver, Relay, RelayBuilder, Server, endpoint, inconsistencies, settled, until, value,
};

/// How much comes, and for how long.
struct Load {
    time: Duration,
    /// Webhooks a second over all senders, whether or not those before were taken in time.
    rate: u32,
    senders: usize,
    /// Milliseconds between one fault that is fixed and the next.
    calm: Range<u64>,
}

/// A sender, and when its next webhook is due.
struct Schedule {
    door: SocketAddr,
    began: Instant,
    between: Duration,
    next: AtomicU32,
    is_over: watch::Receiver<bool>,
}

/// The fates of all that was sent.
#[derive(Default)]
struct Said {
    taken: BTreeSet<String>,
    spooled: usize,
    /// Of those, so many answers said that it had been taken before.
    known: usize,
    refused: usize,
    /// Nothing was heard: it was sent again.
    unheard: usize,
    slowest: Duration,
}

impl Said {
    fn and(mut self, other: Self) -> Self {
        self.taken.extend(other.taken);
        self.spooled += other.spooled;
        self.known += other.known;
        self.refused += other.refused;
        self.unheard += other.unheard;
        self.slowest = self.slowest.max(other.slowest);
        self
    }
}

/// Sends what is due, one after the other, until it is over.
async fn send(schedule: Arc<Schedule>) -> Said {
    let (mut said, mut line) = (Said::default(), None);
    loop {
        let n = schedule.next.fetch_add(1, Ordering::Relaxed);
        let due = schedule.began + schedule.between * n;
        let mut is_over = schedule.is_over.clone();
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            _ = is_over.wait_for(|over| *over) => return said,
        }
        // A webhook without an answer is sent again under the same id, as a good sender does.
        let id = format!("{n}");
        while !said.taken.contains(&id) {
            if *is_over.borrow() {
                return said;
            }
            if line.is_none() {
                line = Line::to(schedule.door).await.ok();
            }
            let Some(open) = &mut line else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            match open.shop(&id, format!("{id:?}")).await {
                Ok(answer) if answer.status < 300 => {
                    said.spooled += usize::from(answer.status == 202);
                    said.known += usize::from(answer.json()["status"] == "duplicate");
                    said.taken.insert(id.clone());
                }
                Ok(answer) => {
                    assert!([503, 429].contains(&answer.status), "{answer:?}");
                    said.refused += 1;
                    // Too many at once, who all come again at once, is too many for ever.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    line = None;
                }
                Err(_) => {
                    said.unheard += 1;
                    line = None;
                }
            }
        }
        said.slowest = said.slowest.max(due.elapsed());
    }
}

/// Waits as long as it goes on: there may be a backlog of minutes.
async fn none_left<F: Future<Output = i64>>(what: &str, count: impl Fn() -> F) {
    let mut left = i64::MAX;
    while left > 0 {
        left = until(&format!("less to be {what} than {left}"), || async {
            let now = count().await;
            (now < left).then_some(now)
        })
        .await;
    }
}

/// Everything that was taken has arrived, and is one event.
async fn reckon_up(taken: &BTreeSet<String>, receiver: &Receiver, client: &Client) {
    let owed = "select (select count(*) from posthaste.unrouted_events) \
                      + (select count(*) from posthaste.live_deliveries)";
    none_left("owed", || value::<i64>(client, owed)).await;
    settled(client).await;
    let text = |body: Vec<u8>| serde_json::from_slice::<String>(&body).unwrap();
    let arrived: BTreeSet<String> =
        receiver.received().into_iter().map(|received| text(received.body)).collect();
    let missing: Vec<_> = taken.difference(&arrived).collect();
    assert!(missing.is_empty(), "answered 2xx and never arrived: {missing:?}");
    let twice = "select payload::text from posthaste.outbox group by 1 having count(*) > 1";
    assert_eq!(client.query(twice, &[]).await.unwrap().len(), 0);
    eprintln!("lost 0 of {}, doubled 0", taken.len());
    assert_eq!(inconsistencies(client).await, [""; 0]);
}

/// Kills relay and server at random while webhooks come, then reckons up.
async fn whatever_is_killed(load: Load, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut server = Server::start(&[]).await;
    let receiver = Receiver::start().await;
    let raw = endpoint(&receiver.url("/")).with("body_format", "raw");
    raw.with("schedule", "{1 s}").with("max_attempts", 1000).add(&server.client().await).await;
    let spool = tempfile::tempdir().unwrap();
    let log = spool.path().join("relay.log");
    let build = |relay: RelayBuilder| {
        relay
            .set("ingest.spool", spool.path().to_str().unwrap())
            .set("ingest.commit_timeout", "500ms")
            .set("health.failure_threshold", "1000000")
            .log_to(log.clone())
    };
    let mut relay = build(Relay::on(&server.url()).taking_in()).start().await;
    let door = relay.door();
    let again = async |server: &Server| {
        // It takes in also while the server is away.
        let relay = build(Relay::on(&server.url()).taking_in_at(door)).spawn();
        relay.lets_in().await;
        relay
    };

    let (over, is_over) = watch::channel(false);
    let between = Duration::from_secs(1) / load.rate;
    let began = Instant::now();
    let next = AtomicU32::new(0);
    let schedule = Arc::new(Schedule { door, began, between, next, is_over });
    let mut senders = JoinSet::new();
    for _ in 0..load.senders {
        senders.spawn(send(Arc::clone(&schedule)));
    }
    let (mut kills, mut ended, mut restarts) = (0, 0, 0);
    while began.elapsed() < load.time {
        tokio::time::sleep(Duration::from_millis(random.u64(load.calm.clone()))).await;
        let (restart, kill) = [(true, true), (true, false), (false, true)][random.usize(0..3)];
        if restart {
            restarts += 1;
            server.kill().await;
            tokio::time::sleep(Duration::from_millis(random.u64(0..2000))).await;
        }
        // It ends by itself if the server goes away while it begins.
        if relay.ended().is_some() {
            ended += 1;
            relay = again(&server).await;
        } else if kill {
            kills += 1;
            relay.kill().await;
            relay = again(&server).await;
        }
        if restart {
            server.start_again().await;
        }
    }
    let time = began.elapsed();
    over.send(true).unwrap();
    let all = senders.join_all().await.into_iter().fold(Said::default(), Said::and);
    let taken = all.taken.len();
    eprintln!(
        "seed {seed}: {taken} taken in {time:.0?} ({:.0} a second of {} due), of which {} spooled and {} had been \
         taken unheard; {} answers that it cannot be kept, {} times no answer, {:.1?} at most until one was \
         taken; kill -9 of the relay {kills} times and of PostgreSQL {restarts}; {ended} relays ended by themselves",
        taken as f64 / time.as_secs_f64(),
        load.rate,
        all.spooled,
        all.known,
        all.refused,
        all.unheard,
        all.slowest,
    );
    if relay.ended().is_some() {
        relay = again(&server).await;
    }
    relay.ready().await;
    none_left("spooled", async || relay.spool().await["files"].as_i64().unwrap()).await;
    reckon_up(&all.taken, &receiver, &server.client().await).await;
    assert!(taken > 100 && kills > 0 && restarts > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_killed_what_was_answered_arrives_as_one_event() {
    let load = Load { time: Duration::from_secs(10), rate: 200, senders: 16, calm: 50..1500 };
    whatever_is_killed(load, 7).await;
}

/// 500 a second. `INGEST_MINUTES` says for how long; 10 unless it is given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn whatever_is_killed_for_long_what_was_answered_arrives_as_one_event() {
    let given = std::env::vars().find(|(name, _)| name == "INGEST_MINUTES");
    let minutes = given.map_or(10, |(_, minutes)| minutes.parse().expect("a number of minutes"));
    let time = Duration::from_secs(60 * minutes);
    let load = Load { time, rate: 500, senders: 64, calm: 500..4000 };
    whatever_is_killed(load, fastrand::u64(..)).await;
}

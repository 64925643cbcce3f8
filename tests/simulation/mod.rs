//! Random operation lists, with faults, against the real store: nothing is lost, nothing goes to
//! the wrong endpoint, states are legal, attempts stay within policy.
//!
//! A list ([`operations`]) runs in a [`world`] of simulated relays, receivers and applications on a
//! real PostgreSQL with a manual clock ([`ground`]). Relays step the values that the running relay
//! steps, make the crate's own statements and judge by its own model; how much time passes, who has
//! its turn, and what goes wrong, is the list's choice. Then faults stop, everything comes to its
//! end ([`settle`]), and what happened is compared with what must have ([`check`], [`truth`]). A
//! list that fails is made shorter ([`shrink`]) and printed as Rust: with the fix it is pinned in
//! [`pinned`].
//!
//! `cargo test` runs some lists, always the same; `make simulate` others, for as long as one likes.

#![expect(unreachable_pub, reason = "a test binary exports nothing: `pub` means for this folder")]

mod application;
mod check;
mod generate;
mod ground;
mod issue;
mod lane;
mod operations;
mod pinned;
mod receive;
mod relay;
mod settings;
mod settle;
mod shrink;
mod statement;
mod truth;
mod world;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use posthaste::clock::Clock;

use ground::Ground;
use operations::Operation;
use truth::Broken;
use world::World;

/// Runs a list to its end, and checks it. Returns what happened.
async fn run(ground: &mut Ground, list: &[Operation]) -> Result<BTreeMap<String, u64>, Broken> {
    let mut world = World::new(ground).await;
    let ran = play(&mut world, list).await;
    let counts = std::mem::take(&mut world.counts);
    Box::pin(world.leave()).await;
    ran.map(|()| counts)
}

async fn play(world: &mut World<'_>, list: &[Operation]) -> Result<(), Broken> {
    for (index, operation) in list.iter().enumerate() {
        world
            .happen(*operation)
            .await
            .map_err(|Broken(what)| Broken(format!("at {index}, {operation:?}: {what}")))?;
    }
    world.settle().await?;
    world.check().await?;
    world.count_duplicates();
    Ok(())
}

/// So many lists, from this seed on, for at most so long.
#[derive(Debug, Clone, Copy)]
struct Budget {
    seed: u64,
    lists: u64,
    time: Duration,
}

/// Runs lists until one fails or the budget is spent.
///
/// # Panics
/// With the shortest list found, when one fails.
async fn simulate(budget: Budget) -> BTreeMap<String, u64> {
    let mut ground = Ground::prepare().await;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let began: Instant = Clock.instant();
    for seed in budget.seed..budget.seed + budget.lists {
        if Clock.since(began) > budget.time {
            break;
        }
        let list = generate::list(seed);
        match Box::pin(run(&mut ground, &list)).await {
            Ok(happened) => {
                *counts.entry("lists".to_owned()).or_default() += 1;
                for (what, count) in happened {
                    *counts.entry(what).or_default() += count;
                }
            }
            Err(broken) => {
                eprintln!("list {seed} fails: {}\nmaking it shorter …", broken.0);
                let (list, broken) = shrink::shrink(&mut ground, list, broken).await;
                panic!("list {seed} fails:\n{}\n{}", broken.0, shrink::printed(&list));
            }
        }
    }
    counts
}

/// In every test run: enough to meet most of what can happen, in some seconds.
#[tokio::test]
async fn no_list_of_operations_loses_sends_wrongly_or_leaves_behind() {
    let budget = Budget { seed: 1, lists: 60, time: Duration::from_secs(15) };
    let counts = Box::pin(simulate(budget)).await;
    assert!(counts["lists"] > 0);
}

/// `make simulate`: other lists, for as long as one likes.
#[tokio::test]
#[ignore = "runs for as long as one likes: make simulate"]
async fn simulate_for_long() {
    let setting = |name: &str, otherwise: u64| {
        let said = std::env::vars().find(|(known, _)| known == name).map(|(_, value)| value);
        said.map_or(otherwise, |value| value.parse().expect("a number"))
    };
    let budget = Budget {
        seed: setting("SEED", 1_000),
        lists: setting("LISTS", u64::MAX / 2),
        time: Duration::from_secs(60 * setting("MINUTES", 10)),
    };
    for (what, count) in Box::pin(simulate(budget)).await {
        eprintln!("{count:>9} {what}");
    }
}

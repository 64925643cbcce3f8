//! Makes a failing list short: leaves out ever smaller pieces, then makes single operations
//! plainer, for as long as it still fails.

use posthaste::store::routing::FEW;

use super::ground::Ground;
use super::operations::{Fate, Operation, PLAIN, Size};
use super::run;
use super::truth::Broken;

/// The shortest list found that fails, and how it fails.
pub async fn shrink(
    ground: &mut Ground,
    list: Vec<Operation>,
    broken: Broken,
) -> (Vec<Operation>, Broken) {
    let mut best = (list, broken);
    loop {
        let before = best.0.len();
        Box::pin(leave_out(ground, &mut best)).await;
        let plainer = Box::pin(make_plainer(ground, &mut best)).await;
        if best.0.len() == before && !plainer {
            return best;
        }
    }
}

/// As Rust, for `pinned.rs`.
pub fn printed(list: &[Operation]) -> String {
    let lines: Vec<String> = list.iter().map(|operation| format!("    {operation:?},")).collect();
    format!("[\n{}\n]", lines.join("\n"))
}

async fn leave_out(ground: &mut Ground, best: &mut (Vec<Operation>, Broken)) {
    let mut piece = best.0.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        while at < best.0.len() {
            let mut fewer = best.0.clone();
            fewer.drain(at..(at + piece).min(best.0.len()));
            match Box::pin(run(ground, &fewer)).await {
                Err(broken) => *best = (fewer, broken),
                Ok(_) => at += piece,
            }
        }
        if piece == 1 {
            return;
        }
        piece /= 2;
    }
}

async fn make_plainer(ground: &mut Ground, best: &mut (Vec<Operation>, Broken)) -> bool {
    let mut did = false;
    for at in 0..best.0.len() {
        for plainer in plainer(best.0[at]) {
            let mut list = best.0.clone();
            list[at] = plainer;
            if let Err(broken) = Box::pin(run(ground, &list)).await {
                *best = (list, broken);
                did = true;
                break;
            }
        }
    }
    did
}

/// What could stand in an operation's place, plainest first.
fn plainer(operation: Operation) -> Vec<Operation> {
    let mut candidates = Vec::new();
    let mut fine = operation;
    if let Some(fate) = fine.fate() {
        *fate = Fate::Fine;
        candidates.push(fine);
    }
    match operation {
        Operation::Insert { on, count, event } => {
            candidates.push(Operation::Insert { on: 0, count: 1, event: PLAIN });
            candidates.push(Operation::Insert { on, count, event: PLAIN });
            candidates.push(Operation::Insert { on, count: 1, event });
        }
        Operation::Look { relay, fate, .. } => {
            candidates.push(Operation::Turn { relay, fate });
            candidates.push(Operation::Look { relay, most: FEW, fate });
        }
        Operation::Start { relay, .. } => {
            candidates.push(Operation::Start { relay, size: Size::Usual });
        }
        Operation::Pass { seconds } => {
            let shorter = [1, 3, 16].into_iter().filter(|fewer| *fewer < seconds);
            candidates.extend(shorter.map(|seconds| Operation::Pass { seconds }));
        }
        Operation::Send { relay, which } if which > 0 => {
            candidates.push(Operation::Send { relay, which: 0 });
        }
        Operation::Answer { relay, which, answer } if which > 0 => {
            candidates.push(Operation::Answer { relay, which: 0, answer });
        }
        _ => {}
    }
    candidates.retain(|candidate| *candidate != operation);
    candidates
}

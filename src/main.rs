//! The process: parses arguments, starts the log and the runtime, hands over to [`posthaste::cli`],
//! and says how it ended. Exit codes: 0 done, or stopped in order; 1 failed; 2 wrong usage or
//! settings; 128 and the signal's number when a second signal ends it at once.

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
    iter::successors,
    process::ExitCode,
};

use clap::Parser;
use posthaste::{
    cli::{Arguments, CliError, Work},
    observe::log,
    stopper::{Signals, Stopper},
};
use tokio::runtime;

fn main() -> ExitCode {
    start(Arguments::parse()).unwrap_or_else(|error| {
        report(&error);
        ExitCode::from(error.exit_code())
    })
}

fn start(arguments: Arguments) -> Result<ExitCode, CliError> {
    let work = Work::prepare(arguments)?;
    log::start(&work.log(), io::stderr().is_terminal())?;
    let mut runtime = runtime::Builder::new_multi_thread();
    if let Some(threads) = work.worker_threads() {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build().map_err(CliError::Runtime)?;
    let ended = runtime.block_on(async {
        let signals = Signals::listen().map_err(CliError::Signals)?;
        let stopper = Stopper::new();
        tokio::select! {
            ended = Box::pin(work.perform(stopper.clone())) => ended.map(|()| ExitCode::SUCCESS),
            code = signals.watch(&stopper) => Ok(ExitCode::from(code)),
        }
    });
    // after a second signal, tasks that have not ended are not waited for
    runtime.shutdown_background();
    ended
}

/// Prints `posthaste: operation: cause: its cause`, and a hint. A closed standard error is ignored.
fn report(error: &CliError) {
    let chain = successors(Some(error as &dyn Error), |&error| error.source());
    let chain: Vec<_> = chain.map(ToString::to_string).collect();
    let hint = error.hint().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
    drop(write!(io::stderr(), "posthaste: {}\n{hint}", chain.join(": ")));
}

//! The arguments of `posthaste`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::receive::ReceiveOptions;
use crate::config::Sources;
use crate::demo::DemoOptions;

/// A Postgres-native outbox relay: insert a row in your transaction, and the webhook arrives.
#[derive(Debug, Parser)]
#[command(name = "posthaste", version, after_help = EXIT_CODES)]
pub struct Arguments {
    #[command(flatten)]
    pub settings: SettingArguments,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, or stopped in order; 1 failed; 2 wrong usage or settings; \
                          130 or 143 ended at once by a second signal.";

/// Settings given on the command line; they override all others.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingArguments {
    /// Read settings from this file [default: posthaste.toml, if there is one].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The database's URL. Other users of this machine can read it here; rather set `DATABASE_URL`.
    #[arg(long, global = true, value_name = "URL")]
    pub database_url: Option<String>,
    /// Log at this level, or by this filter.
    #[arg(long, global = true, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Any setting, as section.key=value; may be repeated.
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deliver what the outbox holds, until stopped.
    Run {
        /// Bring the schema up to date first. Without this, a missing or older schema is refused.
        #[arg(long)]
        migrate: bool,
    },
    /// Bring the schema in the database up to date.
    Migrate {
        /// Print the SQL instead, to be applied by another tool.
        #[arg(long)]
        print: bool,
        /// Print only the migrations after this version, which the database is at.
        #[arg(long, requires = "print", value_name = "VERSION", default_value_t = 0)]
        from: i32,
        /// Print no `begin` and no `commit`, for a tool that puts it into a transaction of its own.
        #[arg(long, requires = "print")]
        bare: bool,
    },
    /// Take over a restored copy of a database, before any relay runs on it.
    Adopt {
        /// Disable every endpoint and keep its deliveries, so that the copy sends nothing.
        #[arg(long)]
        hold: bool,
    },
    /// Check everything that a relay needs, and say how to fix it. Fails if something does not
    /// work.
    Doctor {
        /// Print JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Ask the relay of these settings whether it is ready: exit code 0 if it is. For container
    /// health checks.
    Health {
        /// Ask this URL instead of the one that http.listen gives.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
    },
    /// Receive webhooks and print them, to try things out: verifies signatures, and fails on
    /// demand.
    Receive(ReceiveOptions),
    /// Show Posthaste at work: a private Postgres, a receiver with moods, and events.
    Demo(DemoOptions),
}

impl SettingArguments {
    pub(super) fn sources(&self) -> Sources {
        let short = |key: &str, value: &Option<String>| Some((key.to_owned(), value.clone()?));
        let flags =
            [short("database.url", &self.database_url), short("log.level", &self.log_level)];
        let flags = flags.into_iter().flatten().chain(self.set.iter().cloned()).collect();
        Sources::of_process(self.config.clone(), flags)
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => {
            Ok((key.trim().to_owned(), value.to_owned()))
        }
        // the text is not repeated: it may be a secret without its key
        _ => Err("write section.key=value, such as relay.batch=200".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn settings_may_stand_before_or_after_the_command() {
        let before = ["posthaste", "--set", "relay.batch=1", "run", "--migrate"];
        let after = ["posthaste", "run", "--migrate", "--set", "relay.batch=1"];
        for line in [before, after] {
            let arguments = Arguments::try_parse_from(line).unwrap();
            assert_eq!(arguments.settings.set, [("relay.batch".to_owned(), "1".to_owned())]);
            assert!(matches!(arguments.command, Command::Run { migrate: true }));
        }
    }

    #[test]
    fn flags_become_settings_and_a_value_may_hold_an_equals_sign() {
        let line =
            ["posthaste", "run", "--database-url", "postgres://a?x=y", "--set", "relay.name=a=b"];
        let settings = Arguments::try_parse_from(line).unwrap().settings;
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            settings.sources().flags,
            [pair("database.url", "postgres://a?x=y"), pair("relay.name", "a=b")]
        );
        assert!(Arguments::try_parse_from(["posthaste", "run", "--set", "hunter2"]).is_err());
    }
}

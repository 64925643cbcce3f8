//! The command line: one call for each command. Errors are gathered here with their exit codes;
//! `main` prints them.

mod arguments;
mod database;
mod doctor;
mod error;
mod health;
mod output;
mod receive;
mod run;

use crate::config::{self, Config, LogFormat, LogSettings};
use crate::demo;
use crate::stopper::Stopper;
use crate::store::adopt::{self, Adopted};
use crate::store::roles::{self, Lacking};
use crate::store::visit::Visit;
use crate::store::{migrate, place, reach, refill};

use database::database;
use output::say;

pub use arguments::{Arguments, Command, SettingArguments};
pub use error::{CliError, ReceiveError};
pub use receive::ReceiveOptions;

/// A command, with the settings it needs.
#[derive(Debug)]
pub enum Work {
    Run { config: Box<Config>, migrate: bool },
    Migrate { config: Box<Config> },
    PrintMigrations { from: i32, form: migrate::ScriptForm },
    Adopt { config: Box<Config>, hold: bool },
    Doctor { config: Box<Config>, as_json: bool },
    Health { url: String },
    Receive(ReceiveOptions),
    Demo(demo::DemoOptions),
}

impl Work {
    /// Reads the settings that the command needs; commands without a configured database need none.
    ///
    /// # Errors
    ///
    /// If the settings cannot be used.
    pub fn prepare(arguments: Arguments) -> Result<Self, CliError> {
        let settings = arguments.settings;
        let load = || config::load(&settings.sources()).map(Box::new);
        Ok(match arguments.command {
            Command::Run { migrate } => Self::Run { config: load()?, migrate },
            Command::Migrate { print: false, .. } => Self::Migrate { config: load()? },
            Command::Migrate { print: true, from, bare } => {
                let form =
                    if bare { migrate::ScriptForm::Bare } else { migrate::ScriptForm::Whole };
                Self::PrintMigrations { from, form }
            }
            Command::Adopt { hold } => Self::Adopt { config: load()?, hold },
            Command::Doctor { json } => Self::Doctor { config: load()?, as_json: json },
            Command::Health { url: Some(url) } => Self::Health { url },
            Command::Health { url: None } => Self::Health { url: health::url(&*load()?)? },
            Command::Receive(options) => Self::Receive(options),
            Command::Demo(arguments) => Self::Demo(arguments),
        })
    }

    fn config(&self) -> Option<&Config> {
        match self {
            Self::Run { config, .. }
            | Self::Migrate { config }
            | Self::Adopt { config, .. }
            | Self::Doctor { config, .. } => Some(config),
            Self::PrintMigrations { .. }
            | Self::Health { .. }
            | Self::Receive(_)
            | Self::Demo(_) => None,
        }
    }

    /// The log settings; commands without settings log warnings and errors alone.
    #[must_use]
    pub fn log(&self) -> LogSettings {
        match self.config() {
            Some(config) => config.log.clone(),
            None => LogSettings { level: "warn".to_owned(), format: LogFormat::Text },
        }
    }

    /// Threads of the runtime. `None`: the runtime's default.
    #[must_use]
    pub fn worker_threads(&self) -> Option<usize> {
        self.config().map(|config| config.relay.worker_threads())
    }

    /// Runs the command. Ends early, and in order, when a stop is asked for.
    ///
    /// # Errors
    ///
    /// If the command fails.
    pub async fn perform(self, stopper: Stopper) -> Result<(), CliError> {
        match self {
            Self::Run { config, migrate } => run::run(&config, migrate, stopper).await,
            Self::Migrate { config } => {
                let database = database(&config)?;
                let visit = &mut Visit::to(&database);
                place::arrive(visit).await.map_err(CliError::Reach)?;
                reach::is_one_database(visit).await.map_err(CliError::Reach)?;
                if refill::run(visit).await.map_err(CliError::Migrate)? {
                    say("put back the rows of a schema that was loaded without them\n")?;
                }
                let applied = migrate::run(visit).await.map_err(CliError::Migrate)?;
                match &applied[..] {
                    [] => say("nothing to do: the schema is up to date\n")?,
                    applied => applied.iter().try_for_each(|migration| {
                        say(&format!("applied {:04} {}\n", migration.version, migration.name))
                    })?,
                }
                let lacking = roles::lacking(visit).await.map_err(CliError::Migrate)?;
                if lacking.is_nothing() { Ok(()) } else { say(&for_administrator(&lacking)) }
            }
            Self::PrintMigrations { from, form } => {
                say(&migrate::print(from, form).map_err(CliError::Print)?)
            }
            Self::Adopt { config, hold } => {
                let database = database(&config)?;
                let visit = &mut Visit::to(&database);
                place::arrive(visit).await.map_err(CliError::Reach)?;
                migrate::check(visit).await.map_err(CliError::Schema)?;
                let adopted = adopt::adopt(&database, hold).await.map_err(CliError::Adopt)?;
                say(&took_over(adopted))
            }
            Self::Doctor { config, as_json } => doctor::run(&config, as_json).await,
            Self::Health { url } => health::run(&url).await,
            Self::Receive(options) => receive::run(options, &stopper).await,
            Self::Demo(options) => {
                demo::run(options, stopper).await?;
                Ok(())
            }
        }
    }
}

fn took_over(Adopted { was_copy, events, held }: Adopted) -> String {
    let held = if held > 0 {
        format!("disabled {held} endpoints, and holds their deliveries\n")
    } else {
        String::new()
    };
    let taken = if was_copy {
        format!(
            "took over this copy; {events} events that were neither delivered nor tried are routed again\n"
        )
    } else {
        "nothing to take over: the ledger is this database's own\n".to_owned()
    };
    format!("{held}{taken}")
}

/// SQL, with comments, for an administrator, where this role may not make roles.
fn for_administrator(lacking: &Lacking) -> String {
    let found = lacking.found();
    let sql = lacking.sql().join("\n");
    format!(
        "-- roles {found}. This role may not make them; an administrator may, in this database:\n{sql}\n"
    )
}

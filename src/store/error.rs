//! Errors of the database and of the way to it. Told apart by SQLSTATE and variant, never by text.

use std::error::Error;
use std::iter::successors;
use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

/// A statement failed, or could not be run. Never the receiver's fault.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Url(String),
    #[error("read the certificate authorities in {path}")]
    Authorities { path: String, source: std::io::Error },
    #[error("build the connection pool")]
    Build(#[source] deadpool::managed::BuildError),
    #[error("connect to the database at {address}")]
    Connect { address: String, source: tokio_postgres::Error },
    #[error("connect to the database at {address}: no answer within {within:?}")]
    ConnectTimeout { address: String, within: Duration },
    #[error("{doing}: no answer within {within:?}")]
    NoAnswer { doing: &'static str, within: Duration },
    #[error("every connection of the pool is in use, and none came back in time")]
    NoConnection,
    #[error("{doing}")]
    Query { doing: &'static str, source: tokio_postgres::Error },
    #[error("read {table} {row}: this relay cannot read its values")]
    Unreadable { table: &'static str, row: i64, source: tokio_postgres::Error },
    #[error("{doing}: the relay panicked: {said}")]
    Panicked { doing: &'static str, said: String },
    #[error("{doing}: the statement returned no row")]
    NoRow { doing: &'static str },
    #[error(
        "{doing}: the session has lost its settings or prepared statements; if database.url leads through a pooler in transaction mode, set database.pooler = \"transaction\""
    )]
    Forgotten { doing: &'static str, source: tokio_postgres::Error },
    #[error(
        "{setting} ({address}) leads through a pooler in transaction mode, where no session lasts"
    )]
    NoSessions { setting: &'static str, address: String },
    #[error("database.direct_url ({direct}) leads to another database than database.url ({url})")]
    Elsewhere { direct: String, url: String },
    #[error(
        "{address} leads to more than one database: first to {first}, now to {found}. It must lead to one cluster, and there to the server that takes writes; other servers behind it are not supported. Then restart the relay"
    )]
    Strayed { address: String, first: String, found: String },
    #[error(
        "the database {name} is encoded in {encoding}, and Posthaste needs UTF8; make another: create database … encoding 'UTF8' template template0"
    )]
    Encoding { name: String, encoding: String },
    #[error("the server is PostgreSQL {version}, and Posthaste needs 14 or newer")]
    ServerTooOld { version: String },
    #[error(
        "the schema is at migration {found}, but this posthaste knows only up to {known}; run a newer posthaste"
    )]
    SchemaNewer { found: i32, known: i32 },
    #[error("the schema is at migration {found} of {known}; run `posthaste migrate`")]
    SchemaOlder { found: i32, known: i32 },
    #[error("the database has no posthaste schema; run `posthaste migrate`")]
    SchemaMissing,
    #[error(
        "the database's migration {version} ({name}) is not this version's: it was edited, or made by a version \
         before the first release; of such a version nothing is migrated: `drop schema posthaste, \
         posthaste_internal cascade` (its events and endpoints go with it), then `posthaste migrate`"
    )]
    MigrationChanged { version: i32, name: String },
    #[error(
        "the posthaste schema was loaded without its rows, as pg_dump -s and a structure.sql leave it; run `posthaste migrate`, which puts them back"
    )]
    SchemaWithoutRows,
    #[error(
        "row-level security hides the rows of {tables} from this role, and with them the state of the schema; as the owner: `{fix}`"
    )]
    LedgerHidden { tables: String, fix: String },
    #[error(
        "the posthaste schema was loaded without its rows, and it is not the one that this posthaste makes ({count} differ: {differences}); run the version that made it first, or, if nothing is in it, drop schema posthaste, posthaste_internal cascade and migrate anew"
    )]
    SchemaUnlike { count: usize, differences: String },
    #[error(
        "this database is a copy: its ledger was written in database {ledger} (cluster and oid), and this is {here}; `posthaste adopt` takes it over and sends what the original had not, `posthaste adopt --hold` takes it over and sends nothing"
    )]
    Copy { ledger: String, here: String },
    #[error("there is no version {given} of the schema; write 0 to {newest}")]
    NoVersion { given: i32, newest: i32 },
    #[error("apply migration {version} ({name})")]
    Migration { version: i32, name: &'static str, source: tokio_postgres::Error },
    #[error("{doing}: it is locked by {holders}")]
    HeldUp { doing: String, holders: String, source: tokio_postgres::Error },
    #[error(
        "a relay runs on this database: stop it first, or disable endpoints one by one with posthaste.disable_endpoint"
    )]
    Served,
    #[error("the session with the database ended")]
    SessionEnded,
}

impl StoreError {
    /// Names the operation that failed, for `map_err`.
    pub(super) fn query(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        // A prepared statement is missing, or one exists that this session has not prepared.
        const STRANGE: [SqlState; 2] =
            [SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT];
        move |source| match source.code() {
            Some(code) if STRANGE.contains(code) => Self::Forgotten { doing, source },
            _ => Self::Query { doing, source },
        }
    }

    /// Names the row that cannot be read, for `map_err`.
    pub(super) fn unreadable(
        table: &'static str,
        row: i64,
    ) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Unreadable { table, row, source }
    }

    /// The operation and every cause of its failure, for the log: `operation: cause: its cause`.
    #[must_use]
    pub fn in_full(&self) -> String {
        in_full(self)
    }

    /// The server's error code, if the server answered.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Query { source, .. }
            | Self::Forgotten { source, .. }
            | Self::Connect { source, .. }
            | Self::HeldUp { source, .. }
            | Self::Migration { source, .. } => source.code(),
            _ => None,
        }
    }

    /// Whether the server refused the data, and would refuse them again: the database is well.
    #[must_use]
    pub fn is_about_the_data(&self) -> bool {
        // Class 22 data, 23 constraints, 54 limits of the server's own.
        self.sqlstate().is_some_and(|code| matches!(&code.code()[..2], "22" | "23" | "54"))
    }

    /// Why a relay with this error is not ready, for its health page. Of the server's answer it
    /// holds the code alone, as the server's words may quote rows.
    #[must_use]
    pub fn in_brief(&self) -> String {
        match self.sqlstate() {
            _ if self.is_away() => "the database is away".to_owned(),
            Some(code) => {
                format!("{self}: the database refuses it ({}), see the log", code.code())
            }
            None if self.is_read_only() => format!("{self}: the database takes no writes"),
            None => self.to_string(),
        }
    }

    /// Whether nothing answers where the database should be, or only to say that it goes or comes.
    /// A database that is too busy, locked or read-only answers.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match self.sqlstate().map(SqlState::code) {
            // Class 08 connection; 57P01 to 57P03: it shuts down, has crashed or is starting.
            Some(code) => code.starts_with("08") || matches!(code, "57P01" | "57P02" | "57P03"),
            None => {
                self.is_transient() && !self.is_read_only() && !matches!(self, Self::NoConnection)
            }
        }
    }

    /// Whether the driver has turned away from a server since it takes no writes. It says so by an
    /// error of input and output that the operating system knows nothing of.
    fn is_read_only(&self) -> bool {
        let Self::Connect { source, .. } = self else { return false };
        let cause = source.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
        cause.is_some_and(|cause| {
            cause.kind() == std::io::ErrorKind::PermissionDenied && cause.raw_os_error().is_none()
        })
    }

    /// Whether a single row may be the reason: data that a statement cannot take, an error that an
    /// application's trigger or function raises, or more work than there is time for. A statement
    /// for fewer rows may then succeed. Any other error fails every statement.
    #[must_use]
    pub fn may_be_of_some_row(&self) -> bool {
        if matches!(self, Self::Unreadable { .. } | Self::Panicked { .. }) {
            return true;
        }
        // Classes 21 cardinality, 22 data, 23 constraints, 38 and 39 external routines, 54 limits
        // of the server's own, P0 PL/pgSQL, XX internal errors; 57014 is the statement's time-out,
        // 53200 out of memory.
        self.sqlstate().map(SqlState::code).is_some_and(|code| {
            matches!(&code[..2], "21" | "22" | "23" | "38" | "39" | "54" | "P0" | "XX")
                || matches!(code, "57014" | "53200")
        })
    }

    /// Whether the database ended the statement since it took too long, or waited too long for a
    /// lock.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        self.sqlstate() == Some(&SqlState::QUERY_CANCELED) || self.is_locked_out()
    }

    /// Whether it was a lock that the statement waited for too long, as those do that are bounded.
    #[must_use]
    pub fn is_locked_out(&self) -> bool {
        self.sqlstate() == Some(&SqlState::LOCK_NOT_AVAILABLE)
    }

    /// Tells errors of one kind from those of another.
    #[must_use]
    pub fn kind(&self) -> String {
        // The same wait ends by another clock where a statement is bounded.
        if self.is_overdue() {
            return SqlState::QUERY_CANCELED.code().to_owned();
        }
        self.sqlstate().map_or_else(|| self.to_string(), |code| code.code().to_owned())
    }

    /// Its SQLSTATE and the database's own words, or those of the relay.
    pub(super) fn state_and_words(&self) -> (Option<&str>, String) {
        let (Self::Query { source, .. } | Self::Forgotten { source, .. }) = self else {
            return (None, in_full(self));
        };
        let said = source.as_db_error();
        (
            self.sqlstate().map(SqlState::code),
            said.map_or_else(|| in_full(self), |said| said.message().to_owned()),
        )
    }

    /// Whether the relay's role lacks the privilege.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.sqlstate() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// Whether trying again later can help: the database is away, starting, failing over or busy.
    /// Everything else (wrong password, no such database, a bug in a statement) needs an operator.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::ConnectTimeout { .. }
            | Self::NoAnswer { .. }
            | Self::NoConnection
            | Self::SessionEnded => true,
            Self::Connect { .. } | Self::Query { .. } => {
                self.sqlstate().is_none_or(|code| {
                    // Class 08 connection, 40 rollback, 53 resources, 57 operator, 58 system;
                    // 25006 read only (a standby that is about to be promoted), 55P03 lock.
                    matches!(&code.code()[..2], "08" | "40" | "53" | "57" | "58")
                        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                        || *code == SqlState::LOCK_NOT_AVAILABLE
                })
            }
            _ => false,
        }
    }
}

/// An error with its causes, each said once: some libraries' errors include their cause. Of the
/// server's answer only message and code, as its details may quote rows.
pub(super) fn in_full(error: &(dyn Error + 'static)) -> String {
    let causes =
        successors(
            Some(error),
            |&cause| {
                if server_said(cause).is_some() { None } else { cause.source() }
            },
        );
    let mut told = String::new();
    for cause in causes {
        let said = server_said(cause).map_or_else(
            || cause.to_string(),
            |said| format!("{} ({})", said.message(), said.code().code()),
        );
        if told.is_empty() {
            told = said;
        } else if !told.ends_with(&said) {
            told = format!("{told}: {said}");
        }
    }
    told
}

fn server_said<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a DbError> {
    error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error)
}

//! How one statement is run on one connection.
//!
//! On a session that is ours a statement is prepared once, and its plan is pinned by what the
//! session was told when it was made. A pooler in transaction mode lends us another session each
//! time, which must be given back as it was. There a statement is not prepared, and stands in a
//! transaction that tells the session its settings for as long as itself: three messages that are
//! sent together and cost one round trip.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use futures_util::TryStreamExt as _;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, RowStream};

use super::StoreError;
use super::connect::Database;
use super::session::{for_session, for_transaction, is_elsewhere};

/// Our three messages travel together. Where the last does not arrive (a cut cable, a frozen relay)
/// the transaction is ended after this, or it would keep its locks until the connection is missed.
const PARTED: &str = "set idle_in_transaction_session_timeout = '10s';";

/// What a statement is given for `$1`, `$2` and so on.
pub(super) type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// Whose the sessions are that run our statements.
#[derive(Debug, Clone)]
pub(super) enum Sessions {
    /// Ours as long as their connection, and told this at its beginning.
    Ours { settings: Arc<str> },
    /// A pooler's, for a transaction that begins with these words.
    Lent { begin: Arc<str>, way: Database },
}

/// What came of a statement.
pub(super) struct StatementResult {
    pub(super) rows: Vec<Row>,
    /// How many rows it wrote, or returned.
    pub(super) affected: u64,
}

impl Sessions {
    /// Those that this way to the database leads to. `settings` is a sequence of `set`.
    pub(super) fn of(database: &Database, settings: &str) -> Self {
        if !database.is_pooled() {
            return Self::Ours { settings: for_session(settings).into() };
        }
        Self::for_transactions(database, settings)
    }

    /// Those that are told nothing which outlasts a transaction, whatever they turn out to be.
    pub(super) fn for_transactions(database: &Database, settings: &str) -> Self {
        let local = for_transaction(&format!("{settings}{PARTED}"));
        let begin = format!("begin isolation level read committed; {local}").into();
        Self::Lent { begin, way: database.clone() }
    }

    /// Tells a new connection what is to hold as long as it does.
    pub(super) async fn greet(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        match self {
            Self::Ours { settings } => client.batch_execute(settings).await,
            Self::Lent { .. } => Ok(()),
        }
    }

    /// Runs a statement on a connection of a pool.
    pub(super) async fn run(
        &self,
        client: &ClientWrapper,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<StatementResult, StoreError> {
        let prepared = async {
            let prepared = client.prepare_cached(sql).await?;
            gather(client.query_raw(&prepared, parameters.iter().copied()).await?).await
        };
        match self {
            Self::Ours { .. } => prepared.await.map_err(StoreError::query(doing)),
            Self::Lent { begin, way } => lent(client, (begin, way), sql, doing, parameters).await,
        }
    }

    /// The same, in a transaction in which no statement may take longer than `bound`, nor wait for
    /// a lock for more than three quarters of it: so the one is told from the other.
    pub(super) async fn run_within(
        &self,
        client: &ClientWrapper,
        bound: Duration,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<StatementResult, StoreError> {
        let (bound, waiting) = (bound.as_millis(), bound.mul_f64(0.75).as_millis());
        let bound =
            format!("set local statement_timeout = {bound}; set local lock_timeout = {waiting};");
        let begin = match self {
            Self::Ours { .. } => format!("begin isolation level read committed; {bound}"),
            Self::Lent { begin, way } => {
                let begin = format!("{begin}{bound}");
                return lent(client, (&begin, way), sql, doing, parameters).await;
            }
        };
        // First, or the statement would follow the end of its transaction.
        let prepared = client.prepare_cached(sql).await.map_err(StoreError::query(doing))?;
        let answer =
            async { gather(client.query_raw(&prepared, parameters.iter().copied()).await?).await };
        // As in `lent`.
        let (began, answer, ended) = tokio::join!(biased; client.batch_execute(&begin), answer, client.batch_execute("commit"));
        began.map_err(StoreError::query(doing))?;
        let answer = answer.map_err(StoreError::query(doing))?;
        ended.map_err(StoreError::query(doing))?;
        Ok(answer)
    }

    /// Runs a statement on a connection outside of any pool, where preparing it would not pay.
    pub(super) async fn run_once(
        &self,
        client: &Client,
        sql: &'static str,
        doing: &'static str,
        parameters: &Parameters<'_>,
    ) -> Result<StatementResult, StoreError> {
        match self {
            Self::Ours { .. } => {
                unprepared(client, sql, parameters).await.map_err(StoreError::query(doing))
            }
            Self::Lent { begin, way } => lent(client, (begin, way), sql, doing, parameters).await,
        }
    }
}

impl StatementResult {
    /// The row of a statement that always returns one.
    pub(super) fn one(mut self, doing: &'static str) -> Result<Row, StoreError> {
        self.rows.pop().ok_or(StoreError::NoRow { doing })
    }
}

/// In a transaction of its own, in the database that this way led to at first.
async fn lent(
    client: &Client,
    (begin, way): (&str, &Database),
    sql: &str,
    doing: &'static str,
    parameters: &Parameters<'_>,
) -> Result<StatementResult, StoreError> {
    let begin = format!("{begin}{}", way.known().insistence());
    // Polled in this order, each sends its message before the first waits for an answer. A caller
    // that drops this future has sent all three, and leaves no transaction open.
    let (began, answer, ended) = tokio::join!(
        biased;
        client.batch_execute(&begin),
        unprepared(client, sql, parameters),
        client.batch_execute("commit"),
    );
    // After an error there is nothing to commit, and the last one says nothing new.
    began.map_err(|error| strayed(way, error, doing))?;
    let answer = answer.map_err(StoreError::query(doing))?;
    ended.map_err(StoreError::query(doing))?;
    Ok(answer)
}

/// A pooler may lead to one server with one transaction and to another with the next.
fn strayed(way: &Database, error: tokio_postgres::Error, doing: &'static str) -> StoreError {
    if !is_elsewhere(&error) {
        return StoreError::query(doing)(error);
    }
    let said = error.as_db_error().map(tokio_postgres::error::DbError::message);
    let found = said.and_then(|said| said.split('"').nth(1)).unwrap_or("another");
    way.known().stray(&way.address(), found)
}

/// Parsed, planned, run and forgotten, in one round trip.
async fn unprepared(
    client: &Client,
    sql: &str,
    parameters: &Parameters<'_>,
) -> Result<StatementResult, tokio_postgres::Error> {
    let types = parameter_types(sql).expect("a test looks for the casts of every statement");
    let typed = parameters.iter().copied().zip(types);
    gather(client.query_typed_raw(sql, typed).await?).await
}

async fn gather(stream: RowStream) -> Result<StatementResult, tokio_postgres::Error> {
    let mut stream = pin!(stream);
    let mut rows = Vec::new();
    while let Some(row) = stream.try_next().await? {
        rows.push(row);
    }
    Ok(StatementResult { rows, affected: stream.rows_affected().unwrap_or(0) })
}

/// The types of `$1`, `$2` and so on, by the casts in the statement itself. Nothing, if one has no
/// cast or one to a type that no statement has had yet.
#[must_use]
pub fn parameter_types(sql: &str) -> Option<Vec<Type>> {
    let mut types: Vec<Option<Type>> = Vec::new();
    for (number, cast) in sql.split('$').skip(1).filter_map(|text| text.split_once("::")) {
        // Also cuts off a mention in a comment, which a cast follows later.
        let Ok(number @ 1..) = number.parse::<usize>() else { continue };
        let end = cast.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(cast.len());
        let (name, rest) = cast.split_at(end);
        types.resize(types.len().max(number), None);
        types[number - 1] = Some(type_named(name, rest.starts_with("[]"))?);
    }
    types.into_iter().collect()
}

fn type_named(name: &str, is_array: bool) -> Option<Type> {
    let (one, many) = match name {
        "bool" => (Type::BOOL, Type::BOOL_ARRAY),
        "smallint" => (Type::INT2, Type::INT2_ARRAY),
        "int" => (Type::INT4, Type::INT4_ARRAY),
        "bigint" => (Type::INT8, Type::INT8_ARRAY),
        "float4" => (Type::FLOAT4, Type::FLOAT4_ARRAY),
        "float8" => (Type::FLOAT8, Type::FLOAT8_ARRAY),
        "text" => (Type::TEXT, Type::TEXT_ARRAY),
        "timestamptz" => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
        "interval" => (Type::INTERVAL, Type::INTERVAL_ARRAY),
        "varbit" => (Type::VARBIT, Type::VARBIT_ARRAY),
        _ => return None,
    };
    Some(if is_array { many } else { one })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_is_lent_is_told_nothing_that_outlasts_the_transaction() {
        let url = "postgres://localhost/x";
        let database = Database::parse(url, None, None, Duration::from_secs(1)).unwrap();
        let plans = crate::store::QUEUE_PLANS;
        let Sessions::Lent { begin, .. } = Sessions::of(&database.behind_pooler(), plans) else {
            panic!("it is not lent");
        };
        let (begin, told) = begin.split_once(';').unwrap();
        assert_eq!(begin, "begin isolation level read committed");
        let told: Vec<_> = told.split(';').map(str::trim).filter(|told| !told.is_empty()).collect();
        assert!(told.len() > 8, "{told:?}");
        let (set_back, told) = told.split_last().unwrap();
        assert!(told.iter().all(|told| told.starts_with("set local ")), "{told:?}");
        assert!(set_back.contains("'0', true)") && !set_back.contains("false"), "{set_back}");
    }

    #[test]
    fn parameters_have_the_types_that_they_are_cast_to() {
        let sql = "-- $1 one  $2 others, see $3::text\nselect $2::bigint[], $1::int, $2::bigint[] || $3::text";
        let types = parameter_types(sql);
        assert_eq!(types, Some(vec![Type::INT4, Type::INT8_ARRAY, Type::TEXT]));
        assert_eq!(parameter_types("select 1"), Some(Vec::new()));
        assert_eq!(parameter_types("select $2::int, $1"), None);
        assert_eq!(parameter_types("select $1::inet"), None);
    }
}

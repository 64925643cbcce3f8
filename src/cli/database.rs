//! The database that the settings name.

use super::error::CliError;
use crate::config::{Config, Pooler};
use crate::model::secret::Secret;
use crate::store::Database;

pub(super) fn database(config: &Config) -> Result<Database, CliError> {
    let settings = &config.database;
    let parse = |setting: &'static str, url: &Secret| {
        let password = settings.password.as_ref().map(Secret::expose);
        let ca_file = settings.ca_file.as_deref();
        Database::parse(url.expose(), password, ca_file, settings.connect_timeout)
            .map_err(|source| CliError::Database { setting, source })
    };
    let database = match settings.pooler {
        Pooler::None => parse("database.url", &settings.url)?,
        Pooler::Transaction => parse("database.url", &settings.url)?.behind_pooler(),
    };
    Ok(match &settings.direct_url {
        Some(url) => database.with_direct(parse("database.direct_url", url)?),
        None => database,
    })
}

//! Placeholder with the signatures that the command line uses; replaced when the store comes in.

use std::{path::Path, time::Duration};

/// Where the outbox is and how it is reached.
#[derive(Debug, Clone)]
pub struct Database;

#[derive(Debug, thiserror::Error)]
#[error("the store is not built in")]
pub struct StoreError;

impl Database {
    pub fn parse(
        _url: &str,
        _password: Option<&str>,
        _ca_file: Option<&Path>,
        _connect_timeout: Duration,
    ) -> Result<Self, StoreError> {
        Ok(Self)
    }
}

impl StoreError {
    #[must_use]
    pub fn is_transient(&self) -> bool {
        true
    }
}

pub mod migrate {
    use super::{Database, StoreError};

    #[derive(Debug)]
    pub struct Migration {
        pub version: i32,
        pub name: &'static str,
        pub sql: &'static str,
    }

    #[expect(clippy::unused_async, reason = "placeholder")]
    pub async fn run(_database: &Database) -> Result<Vec<&'static Migration>, StoreError> {
        Err(StoreError)
    }

    #[expect(clippy::unused_async, reason = "placeholder")]
    pub async fn check(_database: &Database) -> Result<(), StoreError> {
        Err(StoreError)
    }

    #[must_use]
    pub fn print() -> String {
        String::new()
    }
}

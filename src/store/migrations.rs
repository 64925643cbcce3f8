//! The schema and its migrations, embedded in the binary, and the lock under which they are
//! applied.

use ring::digest::{SHA256, digest};

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub version: i32,
    pub name: &'static str,
    pub sql: &'static str,
}

macro_rules! sum {
    ($($subject:literal),* $(,)?) => {
        concat!($(include_str!(concat!("../../sql/schema/", $subject, ".sql")), "\n"),*)
    };
}

/// The schema as it is, a file for each subject, in the order in which one builds on the other.
const SCHEMA: &str = sum![
    "01_outbox",
    "02_endpoints",
    "03_deliveries",
    "04_attempts",
    "05_routing",
    "06_relays",
    "07_rules",
    "08_partitions",
    "09_received",
    "10_announcements",
    "11_steering_endpoints",
    "12_steering_deliveries",
    "13_inspection",
    "13_lists",
    "14_set_aside",
    "15_consistency",
    "16_roles",
];

/// All migrations, in order. What has been released is never edited.
///
/// Nothing has been yet: so there is one, and it is the schema. A release puts its text into
/// `sql/migrations`, and from then on a change is a migration and an edit of the schema that come
/// to the same.
pub const MIGRATIONS: &[Migration] = &[Migration { version: 1, name: "0001_schema", sql: SCHEMA }];

/// Where the applied versions are written down.
pub(super) const LEDGER: &str = include_str!("../../sql/migrations/ledger.sql");

/// One migrator at a time: only a role that may write to the ledger can hold the others off. The
/// time-out is far more than a migration takes.
pub(super) const LOCK: &str =
    "set local lock_timeout = '10s'; lock table posthaste.migrations in exclusive mode;";

/// A lock that an application holds for long makes the migration fail, and changes nothing.
pub(super) const TIMEOUTS: &str =
    "set local lock_timeout = '2s'; set local statement_timeout = '5min';";

impl Migration {
    /// SHA-256 of the text, in hex.
    #[must_use]
    pub fn checksum(&self) -> String {
        digest(&SHA256, self.sql.as_bytes())
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// What is being done while it is applied, for an error.
    pub(super) fn doing(&self) -> String {
        format!("apply migration {} ({})", self.version, self.name)
    }

    /// Its text, and what writes it down.
    pub(super) fn script(&self) -> String {
        let Self { version, name, sql } = self;
        let checksum = self.checksum();
        format!(
            "{sql}\ninsert into posthaste.migrations (version, name, checksum) values ({version}, '{name}', '{checksum}');\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_schema_is_part_of_it() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/schema");
        let mut files: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let texts = files.iter().map(|file| std::fs::read_to_string(file).unwrap() + "\n");
        assert_eq!(texts.collect::<String>(), SCHEMA);
    }

    #[test]
    fn migrations_are_numbered_without_a_gap_and_named_by_their_number() {
        for (place, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(usize::try_from(migration.version), Ok(place + 1));
            assert!(migration.name.starts_with(&format!("{:04}_", migration.version)));
        }
    }
}

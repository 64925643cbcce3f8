//! Finds PostgreSQL's server programs, for [`postgres`](super::postgres). Distributions install
//! them outside of the `PATH`, in one directory for each major version.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs that a private cluster needs.
const NEEDED: [&str; 3] = ["initdb", "postgres", "pg_ctl"];

/// Parents of version directories and the path from there to the programs: Debian and Ubuntu; the
/// PostgreSQL project's RPMs; Homebrew on both kinds of Mac.
const VERSIONED: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql@"),
    ("/usr/local/opt", "postgresql@"),
];

/// The directory of one installation's programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries(PathBuf);

/// Why no installation was found.
#[derive(Debug, thiserror::Error)]
pub enum BinariesError {
    #[error("{} does not hold initdb, postgres and pg_ctl", .0.display())]
    NotThere(PathBuf),
    #[error(
        "no PostgreSQL server programs (initdb, postgres, pg_ctl) were found; install the server: \
         `apt-get install postgresql` on Debian and Ubuntu, `dnf install postgresql-server` on \
         Fedora, `brew install postgresql@17` on macOS"
    )]
    NotInstalled,
}

impl Binaries {
    /// The programs in `given`; or those that `pg_config` names; or the newest installed.
    ///
    /// # Errors
    /// If they are not in the directory given, or nowhere.
    pub fn find(given: Option<&Path>) -> Result<Self, BinariesError> {
        match given {
            Some(directory) => complete(directory.to_owned())
                .ok_or_else(|| BinariesError::NotThere(directory.to_owned())),
            None => configured()
                .and_then(complete)
                .or_else(|| installed().into_iter().find_map(complete))
                .ok_or(BinariesError::NotInstalled),
        }
    }

    /// One program. A client such as `psql` may be absent here; then it is the newest
    /// installation's, or the `PATH`'s.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        let found = std::iter::once(self.0.clone())
            .chain(installed())
            .map(|directory| directory.join(program))
            .find(|path| path.is_file());
        found.unwrap_or_else(|| program.into())
    }
}

fn complete(directory: PathBuf) -> Option<Binaries> {
    NEEDED.iter().all(|program| directory.join(program).is_file()).then_some(Binaries(directory))
}

/// With development headers of one version and the server of another, this directory may not exist.
fn configured() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

/// Newest first.
fn installed() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = VERSIONED
        .iter()
        .filter_map(|(parent, prefix)| Some((std::fs::read_dir(parent).ok()?, prefix)))
        .flat_map(|(entries, prefix)| {
            entries.filter_map(move |entry| {
                let entry = entry.ok()?;
                let version = major_version(entry.file_name().to_str()?, prefix)?;
                Some((version, entry.path().join("bin")))
            })
        })
        .collect();
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn major_version(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_number_after_the_prefix() {
        assert_eq!(major_version("pgsql-17", "pgsql-"), Some(17));
        assert_eq!(major_version("9.6", ""), None);
        assert_eq!(major_version("bin", ""), None);
    }

    #[test]
    fn a_directory_given_is_used_or_refused_by_name() {
        let error = Binaries::find(Some(Path::new("/no/such/place"))).unwrap_err();
        assert!(error.to_string().contains("/no/such/place"), "{error}");
    }
}

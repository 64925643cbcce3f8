//! Settings: built-in `default.toml` < `posthaste.toml` < `DATABASE_URL` < `POSTHASTE_*` < flags.
//!
//! `default.toml` is the reference manual and the list of keys: no other key exists, and a key that
//! is there and is not read fails a test. [`load`] is the only place where the process's
//! environment is read; everything past it is handed typed values that are within bounds.

mod bounds;
mod check;
mod error;
mod filter;
mod ingest;
mod known;
mod layer;
mod sections;
mod serde_as;
mod settings;
mod units;

use std::{
    collections::BTreeSet,
    env,
    ffi::OsString,
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use figment::Figment;

use known::{KnownKeys, SOURCES};
use layer::{CONFIG_FILE_VARIABLE, Layer};
use sections::Sections;

use crate::model::secret::Secret;

pub use error::{ConfigError, Problem};
pub use ingest::{Content, IngestSettings, SourceSettings};
pub use settings::{
    AddressSettings, Config, DatabaseSettings, DeliverySettings, HealthSettings, HttpSettings,
    KeepResponses, LogFormat, LogSettings, Origin, Pooler, RelaySettings, RetrySettings,
    UpkeepSettings, WakeMode,
};
pub use units::EventType;
pub(crate) use units::{parse_duration, parse_size};

/// The reference: every setting, its default and its reason.
pub const DEFAULTS: &str = include_str!("default.toml");
/// Read from the working directory if it is there and no other file is named.
const CUSTOMARY_FILE: &str = "posthaste.toml";
/// A larger settings file or secret is another file, mounted by mistake.
const FILE_BOUND: u64 = 1 << 20;

/// Where settings are looked for besides the built-in defaults. The default is nowhere, for tests.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// `--config`. Must exist. Otherwise `POSTHASTE_CONFIG`, otherwise the customary file.
    pub config_file: Option<PathBuf>,
    /// Where `posthaste.toml` is looked for. `None`: nowhere.
    pub directory: Option<PathBuf>,
    /// Names and values of variables; the later of two with one name counts.
    pub environment: Vec<(OsString, OsString)>,
    /// Keys, with their section, and values as text.
    pub flags: Vec<(String, String)>,
}

impl Sources {
    /// The working directory and environment of this process, and what its command line said.
    #[must_use]
    pub fn of_process(config_file: Option<PathBuf>, flags: Vec<(String, String)>) -> Self {
        Self {
            config_file,
            directory: Some(PathBuf::new()),
            environment: env::vars_os().collect(),
            flags,
        }
    }

    fn variable(&self, name: &str) -> Option<&OsString> {
        let found = self.environment.iter().rfind(|(variable, _)| variable == name);
        found.map(|(_, value)| value).filter(|value| !value.is_empty())
    }
}

/// Reads, types and checks the settings.
///
/// # Errors
///
/// Every problem: unknown keys, values that do not fit or are out of bounds, files that cannot be
/// read, no database.
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let known = KnownKeys::new(DEFAULTS);
    let (layers, names) = layers(sources, &known, &mut problems);
    let figment = layers.iter().fold(Figment::new(), |figment, layer| figment.merge(layer));
    let place =
        |key: &str| layers.iter().rev().find_map(|layer| layer.place(key)).map(str::to_owned);

    let mut sections = Sections::new(figment, &known, &place);
    let typed = sections.read_all(&names);
    problems.extend(sections.problems);
    let Some(mut config) = typed else { return Err(ConfigError { problems }) };
    config.origin = origin(sources);
    config.open_secret = config.origin.is_open_to_all().and_then(|path| {
        let secret = layers.iter().find_map(Layer::secret_in_file)?;
        Some((path.to_owned(), secret))
    });
    // A problem that follows from one that was told already is not told again.
    let mut told: BTreeSet<_> = problems.iter().filter_map(|one| one.key.clone()).collect();
    if problems.iter().any(|problem| problem.key.is_none()) {
        // It may stand in the file that could not be read.
        told.insert("database.url".to_owned());
    }
    let mut more = Vec::new();
    read_secrets(&mut config, &place, &mut more);
    fill_in(&mut config, sources);
    let violations = check::check(&config);
    more.extend(
        violations
            .into_iter()
            .filter(|violation| violation.with.is_none_or(|with| !told.contains(with)))
            .map(|violation| Problem {
                place: place(&violation.key).or_else(|| place(violation.with?)),
                key: Some(violation.key.into_owned()),
                what: violation.what,
            }),
    );
    problems.extend(
        more.into_iter().filter(|one| one.key.as_ref().is_none_or(|key| !told.contains(key))),
    );
    problems.sort_by_cached_key(|problem| in_order(problem.place.as_deref()));
    if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
}

/// Problems of one file by their lines; those without a place at the end.
fn in_order(place: Option<&str>) -> (bool, String, Option<usize>) {
    let (file, line) = place
        .and_then(|place| {
            let (file, line) = place.rsplit_once(':')?;
            Some((file, Some(line.parse().ok()?)))
        })
        .unwrap_or((place.unwrap_or_default(), None));
    (place.is_none(), file.to_owned(), line)
}

/// All layers, and the names of the sources of ingest.
fn layers(
    sources: &Sources,
    known: &KnownKeys,
    problems: &mut Vec<Problem>,
) -> (Vec<Layer>, Vec<String>) {
    let mut layers = Vec::new();
    if let Some((path, text)) = settings_file(sources, problems) {
        layers.push(Layer::file(&path, &text, known, problems));
    }
    layers.push(Layer::database_url(&sources.environment, known, problems));
    layers.push(Layer::environment(&sources.environment, known, problems));
    layers.push(Layer::flags(&sources.flags, known, problems));
    let mut names: Vec<_> = layers.iter().flat_map(Layer::sources).collect();
    names.sort();
    names.dedup();
    layers.insert(0, Layer::defaults(known).with_sources(&names, known));
    (layers, names)
}

/// Where the settings come from, as an absolute path: the process may have been started anywhere.
fn origin(sources: &Sources) -> Origin {
    let absolute = |path: PathBuf| -> PathBuf {
        std::path::absolute(&path).unwrap_or(path).components().collect()
    };
    let named = sources.config_file.clone();
    let named = named.or_else(|| Some(sources.variable(CONFIG_FILE_VARIABLE)?.into()));
    match (named, &sources.directory) {
        (Some(file), _) => Origin::File(absolute(file)),
        (None, Some(directory)) if directory.join(CUSTOMARY_FILE).exists() => {
            Origin::File(absolute(directory.join(CUSTOMARY_FILE)))
        }
        // An empty path is the working directory.
        (None, Some(directory)) => Origin::NoneIn(absolute(Path::new(".").join(directory))),
        (None, None) => Origin::Nowhere,
    }
}

/// The file's name and text: one that is named must be there, the customary one may be missing.
fn settings_file(sources: &Sources, problems: &mut Vec<Problem>) -> Option<(PathBuf, String)> {
    let named =
        sources.config_file.clone().map(|path| (path, "--config")).or_else(|| {
            Some((sources.variable(CONFIG_FILE_VARIABLE)?.into(), CONFIG_FILE_VARIABLE))
        });
    let (path, place) = match named {
        Some((path, place)) => (path, place.to_owned()),
        None => {
            let path = sources.directory.as_ref()?.join(CUSTOMARY_FILE);
            if !path.exists() {
                return None;
            }
            let place = path.display().to_string();
            (path, place)
        }
    };
    match read_file(&path) {
        Ok(text) => Some((path, text)),
        Err(what) => {
            problems.push(Problem { place: Some(place), key: None, what });
            None
        }
    }
}

/// Reads the secrets' files into the settings.
fn read_secrets(
    config: &mut Config,
    place: &impl Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) {
    let database = &mut config.database;
    if database.url_file.is_none() && database.url.expose().trim().is_empty() {
        problems.push(Problem {
            place: None,
            key: Some("database.url".to_owned()),
            what:
                "not set; set DATABASE_URL, or POSTHASTE_DATABASE__URL, or url under [database] in \
                   posthaste.toml, or name a file that holds it in database.url_file"
                    .to_owned(),
        });
    }
    let mut secret = |key: &str, path: Option<&PathBuf>| {
        let refused = |what| {
            problems.push(Problem { place: place(key), key: Some(key.to_owned()), what });
        };
        let text = read_file(path?).and_then(|text| {
            let text = text.trim_end_matches(['\r', '\n']);
            if text.is_empty() { Err("the file is empty".to_owned()) } else { Ok(text.to_owned()) }
        });
        text.map(Secret::new).map_err(refused).ok()
    };
    if let Some(url) = secret("database.url_file", database.url_file.as_ref()) {
        database.url = url;
    }
    if let Some(url) = secret("database.direct_url_file", database.direct_url_file.as_ref()) {
        database.direct_url = Some(url);
    }
    database.password = secret("database.password_file", database.password_file.as_ref());
    for (name, source) in &mut config.ingest.sources {
        if let Err(what) = source.read_secrets(|path| read_file(path)) {
            let key = format!("{SOURCES}{name}.secret_file");
            problems.push(Problem { place: place(&key), key: Some(key), what });
        }
    }
}

/// Replaces empty texts by the host's name and this build's user agent.
fn fill_in(config: &mut Config, sources: &Sources) {
    if config.relay.name.is_empty() {
        config.relay.name = host_name(sources);
    }
    if config.delivery.user_agent.is_empty() {
        config.delivery.user_agent = concat!("posthaste/", env!("CARGO_PKG_VERSION")).to_owned();
    }
}

fn host_name(sources: &Sources) -> String {
    let told = sources.variable("HOSTNAME").and_then(|name| name.to_str()).map(str::to_owned);
    // shells do not export HOSTNAME; the kernel's or the system's own note is the same name
    let noted = || {
        ["/proc/sys/kernel/hostname", "/etc/hostname"]
            .iter()
            .find_map(|path| read_file(Path::new(path)).ok())
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty())
    };
    told.or_else(noted).unwrap_or_else(|| "relay".to_owned())
}

/// The text of a file of bounded size. The error never holds any of it.
fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let file = fs::File::open(path).map_err(|error| format!("cannot open {shown}: {error}"))?;
    let mut text = String::new();
    file.take(FILE_BOUND + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() as u64 > FILE_BOUND {
        return Err(format!("{shown} is larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;

//! From layers of values to sections in their types. A value that does not fit is reported and
//! replaced by its default, so that one start finds every problem.

use figment::{Figment, error::Kind, value::Value};
use serde::de::DeserializeOwned;

use super::error::{Problem, misfit};
use super::ingest::IngestSettings;
use super::known::{KnownKeys, SOURCES};
use super::layer::Layer;
use super::settings::{Config, Origin};

/// The values of all layers, and their problems.
pub(super) struct Sections<'a, P> {
    figment: Figment,
    known: &'a KnownKeys,
    place: &'a P,
    pub(super) problems: Vec<Problem>,
}

impl<'a, P: Fn(&str) -> Option<String>> Sections<'a, P> {
    pub(super) fn new(figment: Figment, known: &'a KnownKeys, place: &'a P) -> Self {
        Self { figment, known, place, problems: Vec::new() }
    }

    /// Every section in its type. `None` if something is missing that has no default.
    pub(super) fn read_all(&mut self, sources: &[String]) -> Option<Config> {
        // all are read before one of them is unwrapped, so that a problem in each is reported
        let database = self.read("database");
        let http = self.read("http");
        let ingest = self.read_ingest(sources);
        let relay = self.read("relay");
        let delivery = self.read("delivery");
        let retry = self.read("retry");
        let health = self.read("health");
        let addresses = self.read("addresses");
        let upkeep = self.read("upkeep");
        let log = self.read("log");
        Some(Config {
            origin: Origin::Nowhere,
            open_secret: None,
            database: database?,
            http: http?,
            ingest: ingest?,
            relay: relay?,
            delivery: delivery?,
            retry: retry?,
            health: health?,
            addresses: addresses?,
            upkeep: upkeep?,
            log: log?,
        })
    }

    /// The section and those of its sources.
    fn read_ingest(&mut self, sources: &[String]) -> Option<IngestSettings> {
        let ingest = self.read("ingest");
        let sources: Vec<_> = sources
            .iter()
            .map(|name| Some((name.clone(), self.read(&format!("{SOURCES}{name}"))?)))
            .collect();
        let sources = sources.into_iter().collect::<Option<_>>()?;
        Some(IngestSettings { sources, ..ingest? })
    }

    fn read<T: DeserializeOwned>(&mut self, section: &str) -> Option<T> {
        // Each turn takes one value away that does not fit.
        loop {
            let error = match self.figment.focus(section).extract() {
                Ok(read) => return Some(read),
                Err(error) => error,
            };
            // an entry of a list has its number as a second part; the place is that of the list
            let name = match &error.kind {
                Kind::MissingField(name) => Some(&**name),
                _ => error.path.first().map(String::as_str),
            };
            let key = name.map_or_else(|| section.to_owned(), |name| format!("{section}.{name}"));
            self.problems.push(Problem {
                place: (self.place)(&key),
                key: Some(key.clone()),
                what: misfit(&error.kind),
            });
            let entry = error.path.get(1).and_then(|number| number.parse().ok());
            self.figment = self.figment.clone().merge(Layer::of(&key, self.fixed(&key, entry)?));
        }
    }

    /// Replaces a value that does not fit: by the list without its entry of this number, or by the
    /// default. `None` where there is no other value.
    fn fixed(&self, key: &str, entry: Option<usize>) -> Option<Value> {
        let given = self.figment.find_value(key).ok()?;
        if let (Value::Array(_, mut entries), Some(entry)) = (given.clone(), entry)
            && entry < entries.len()
        {
            entries.remove(entry);
            return Some(entries.into());
        }
        // A default that does not fit either would loop.
        self.known.kind(key).filter(|default| **default != given).cloned()
    }
}

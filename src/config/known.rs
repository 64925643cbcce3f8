//! The keys of `default.toml`: there are no others. Suggests the nearest for a key that does not
//! exist.

use figment::{
    providers::{Format, Toml},
    value::{Dict, Value},
};

use super::error::{Problem, nearest};

/// The sources of ingest; each is a section of its own, named by the operator.
pub(super) const SOURCES: &str = "ingest.sources.";
/// Of settings with the same name, the relay's is suggested first and those of ingest last.
const RELAY: &str = "relay.";
const INGEST: &str = "ingest.";
/// The section with the defaults of every source.
const EXAMPLE: &str = "example";

/// The keys and the kind of each value: the defaults.
#[derive(Debug)]
pub(super) struct KnownKeys {
    sections: Dict,
    /// The settings of every source of ingest.
    source: Dict,
}

impl KnownKeys {
    /// # Panics
    ///
    /// If the built-in defaults are not TOML, which a test rules out.
    pub(super) fn new(defaults: &str) -> Self {
        let mut sections: Dict =
            Toml::from_str(defaults).expect("the built-in defaults are TOML, as a test shows");
        let sources = match sections.get_mut("ingest") {
            Some(Value::Dict(_, ingest)) => ingest.remove("sources"),
            _ => None,
        };
        let source = sources
            .and_then(|sources| sources.as_dict()?.get(EXAMPLE)?.as_dict().cloned())
            .expect("the built-in defaults say what a source is, as a test shows");
        Self { sections, source }
    }

    pub(super) fn values(&self) -> &Dict {
        &self.sections
    }

    /// The settings of every source of ingest.
    pub(super) fn source(&self) -> &Dict {
        &self.source
    }

    /// The section's settings, if there is such a section.
    pub(super) fn section(&self, name: &str) -> Option<&Dict> {
        self.sections.get(name).and_then(Value::as_dict)
    }

    /// Every key with its section.
    #[cfg(test)]
    pub(super) fn keys(&self) -> Vec<String> {
        self.keys_with_source(EXAMPLE)
    }

    /// Every key; those of sources are given for the source of this name.
    fn keys_with_source(&self, source: &str) -> Vec<String> {
        let mut keys = Vec::new();
        for (section, values) in &self.sections {
            keys.extend(
                values.as_dict().into_iter().flatten().map(|(k, _)| format!("{section}.{k}")),
            );
        }
        keys.extend(self.source.keys().map(|key| format!("{SOURCES}{source}.{key}")));
        keys
    }

    /// The default of a key: a value that is set must be of its kind.
    pub(super) fn kind(&self, key: &str) -> Option<&Value> {
        if let Some((source, key)) = key.strip_prefix(SOURCES).and_then(|rest| rest.split_once('.'))
        {
            return self.source.get(key).filter(|_| is_source_name(source));
        }
        let (section, key) = key.split_once('.')?;
        self.section(section)?.get(key)
    }

    pub(super) fn unknown(&self, key: String, place: Option<String>) -> Problem {
        let source = key.strip_prefix(SOURCES).and_then(|rest| rest.split('.').next());
        let mut keys = self.keys_with_source(source.unwrap_or(EXAMPLE));
        if !key.starts_with(INGEST) {
            // A setting of sources is not meant at the top.
            keys.retain(|known| !known.starts_with(SOURCES));
        }
        keys.sort_by_key(|known| (!known.starts_with(RELAY), known.starts_with(INGEST)));
        let near = nearest(&key, keys.iter().map(String::as_str));
        let what = if near.is_empty() {
            "no such setting".to_owned()
        } else {
            format!("no such setting; did you mean {}?", near.join(" or "))
        };
        Problem { place, key: Some(key), what }
    }

    pub(super) fn unknown_section(&self, key: String, place: Option<String>) -> Problem {
        let what = match nearest(&key, self.sections.keys().map(String::as_str)).first() {
            Some(near) => format!("no such section; did you mean [{near}]?"),
            None => {
                let sections: Vec<_> =
                    self.sections.keys().map(|name| format!("[{name}]")).collect();
                format!("no such section; there are {}", sections.join(" "))
            }
        };
        Problem { place, key: Some(key), what }
    }
}

/// A source's name is part of a URL's path, of variables' names and of events' types.
pub(super) fn is_source_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    (1..=64).contains(&name.len()) && name.chars().all(plain) && name != "posthaste"
}

//! What keys there are: those of `default.toml`. Says of one that is none which was likely meant.

use figment::{
    providers::{Format, Toml},
    value::{Dict, Value},
};

use super::error::{Problem, nearest};

/// What keys there are, and what kind of value each has: the defaults.
#[derive(Debug)]
pub(super) struct Known(Dict);

impl Known {
    /// # Panics
    ///
    /// If the built-in defaults are not TOML, which a test rules out.
    pub(super) fn new(defaults: &str) -> Self {
        Self(Toml::from_str(defaults).expect("the built-in defaults are TOML, as a test shows"))
    }

    pub(super) fn values(&self) -> &Dict {
        &self.0
    }

    /// The section's settings, if there is such a section.
    pub(super) fn section(&self, name: &str) -> Option<&Dict> {
        self.0.get(name).and_then(Value::as_dict)
    }

    /// Every key with its section.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for (section, values) in &self.0 {
            keys.extend(
                values.as_dict().into_iter().flatten().map(|(k, _)| format!("{section}.{k}")),
            );
        }
        keys
    }

    /// The default of a key: a value that is set must be of its kind.
    pub(super) fn kind(&self, key: &str) -> Option<&Value> {
        let (section, key) = key.split_once('.')?;
        self.section(section)?.get(key)
    }

    pub(super) fn unknown(&self, key: String, place: Option<String>) -> Problem {
        let keys = self.keys();
        let what = match nearest(&key, keys.iter().map(String::as_str)) {
            Some(near) => format!("no such setting; did you mean {near}?"),
            None => "no such setting".to_owned(),
        };
        Problem { place, key: Some(key), what }
    }

    pub(super) fn unknown_section(&self, key: String, place: Option<String>) -> Problem {
        let what = match nearest(&key, self.0.keys().map(String::as_str)) {
            Some(near) => format!("no such section; did you mean [{near}]?"),
            None => {
                let sections: Vec<_> = self.0.keys().map(|name| format!("[{name}]")).collect();
                format!("no such section; there are {}", sections.join(" "))
            }
        };
        Problem { place, key: Some(key), what }
    }
}

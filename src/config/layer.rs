//! One source of settings: the built-in defaults, a file, the environment or the flags.
//!
//! Knows for each key where it was written, and reports keys that do not exist. The values' types
//! are left to [`settings`](super::settings).

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use figment::{
    Metadata, Profile, Provider,
    providers::{Format, Toml},
    value::{Dict, Map, Num, Value},
};
use toml_edit::{ImDocument, TableLike};

use super::error::Problem;
use super::known::{KnownKeys, SOURCES, is_source_name};

const PREFIX: &str = "POSTHASTE_";
/// Names a settings file; not a setting itself.
pub(super) const CONFIG_FILE_VARIABLE: &str = "POSTHASTE_CONFIG";
/// Many platforms set it.
const DATABASE_URL: &str = "DATABASE_URL";

/// Settings from one source, laid over those from the sources before it.
#[derive(Debug, Clone)]
pub(super) struct Layer {
    name: &'static str,
    values: Dict,
    /// For each key, sections included, where it is written.
    places: BTreeMap<String, String>,
}

/// A setting given as text, in a variable or a flag.
struct Assignment {
    key: String,
    text: String,
    place: String,
}

impl Layer {
    pub(super) fn defaults(known: &KnownKeys) -> Self {
        Self { name: "defaults", values: known.values().clone(), places: BTreeMap::new() }
    }

    /// The first key of a file that holds a secret.
    pub(super) fn secret_in_file(&self) -> Option<String> {
        let is_secret = |key: &&String| {
            let name = key.rsplit('.').next().unwrap_or_default();
            let text = value(&self.values, key).and_then(Value::as_str).unwrap_or_default();
            match name {
                "secret" | "old_secret" => !text.is_empty(),
                // With a user's password in it, or a word for one.
                "url" | "direct_url" | "proxy" => {
                    let user = text.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
                    user.is_some_and(|(user, _)| user.contains(':')) || text.contains("password")
                }
                _ => false,
            }
        };
        (self.name == "file").then(|| self.places.keys().find(is_secret).cloned()).flatten()
    }

    /// One value alone.
    pub(super) fn of(key: &str, value: Value) -> Self {
        let mut layer = Self { name: "fixed", values: Dict::new(), places: BTreeMap::new() };
        put(&mut layer.values, key, value);
        layer
    }

    /// The sources of ingest that this layer names.
    pub(super) fn sources(&self) -> Vec<String> {
        let ingest = self.values.get("ingest").and_then(Value::as_dict);
        let sources = ingest.and_then(|ingest| ingest.get("sources")?.as_dict());
        sources.into_iter().flatten().map(|(name, _)| name.clone()).collect()
    }

    /// Gives each of these sources the defaults of every source.
    pub(super) fn with_sources(mut self, names: &[String], known: &KnownKeys) -> Self {
        for name in names {
            for (key, value) in known.source() {
                put(&mut self.values, &format!("{SOURCES}{name}.{key}"), value.clone());
            }
        }
        self
    }

    /// Reads a TOML file. Unknown keys are left out and reported.
    pub(super) fn file(
        path: &Path,
        text: &str,
        known: &KnownKeys,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let shown = path.display().to_string();
        let mut layer = Self { name: "file", values: Dict::new(), places: BTreeMap::new() };
        let document = match ImDocument::parse(text) {
            Ok(document) => document,
            Err(error) => {
                // the error's own display quotes the line, which may hold a password
                let line = error.span().map_or(1, |span| line_of(text, span.start));
                let what = format!("not TOML: {}", error.message());
                problems.push(Problem { place: Some(format!("{shown}:{line}")), key: None, what });
                return layer;
            }
        };
        note_lines(document.as_table(), "", &mut |key, offset| {
            layer.places.insert(key, format!("{shown}:{}", line_of(text, offset)));
        });
        match Toml::from_str::<Dict>(text) {
            Ok(values) => layer.values = values,
            Err(error) => {
                let what = format!("not TOML: {}", error.message());
                problems.push(Problem { place: Some(shown), key: None, what });
            }
        }
        layer.drop_unknown(known, problems);
        layer.settle_urls(problems);
        layer
    }

    /// `DATABASE_URL`, below our own variables.
    pub(super) fn database_url(
        environment: &[(OsString, OsString)],
        known: &KnownKeys,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let given = environment
            .iter()
            .filter(|(name, value)| name == DATABASE_URL && !value.is_empty())
            .map(|(_, value)| ("database.url".to_owned(), DATABASE_URL.to_owned(), value.clone()));
        Self::texts("database url", given, known, problems)
    }

    /// `POSTHASTE_SECTION__KEY`. Variables that orchestrators set under the same prefix are passed
    /// over.
    pub(super) fn environment(
        environment: &[(OsString, OsString)],
        known: &KnownKeys,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let given = environment.iter().filter_map(|(name, value)| {
            let name = name.to_str()?;
            let key = name.strip_prefix(PREFIX)?.to_ascii_lowercase().replace("__", ".");
            let ours = name != CONFIG_FILE_VARIABLE && !is_service_link(name);
            ours.then(|| (key, name.to_owned(), value.clone()))
        });
        Self::texts("environment", given, known, problems)
    }

    /// `--set section.key=value`.
    pub(super) fn flags(
        flags: &[(String, String)],
        known: &KnownKeys,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let given =
            flags.iter().map(|(key, text)| (key.clone(), format!("--set {key}"), text.into()));
        Self::texts("flags", given, known, problems)
    }

    /// Where this layer gives a value to the key, if it does.
    pub(super) fn place(&self, key: &str) -> Option<&str> {
        self.places.get(key).map(String::as_str)
    }

    /// Settings given as text take the kind of value that their default has. Each item is a key,
    /// the place where it is written, and the text.
    fn texts(
        name: &'static str,
        given: impl Iterator<Item = (String, String, OsString)>,
        known: &KnownKeys,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut layer = Self { name, values: Dict::new(), places: BTreeMap::new() };
        for (key, place, text) in given {
            let Some(kind) = known.kind(&key) else {
                problems.push(known.unknown(key, Some(place)));
                continue;
            };
            match text.into_string() {
                Ok(text) => layer.set(&Assignment { key, text, place }, kind),
                Err(_) => problems.push(Problem {
                    place: Some(place),
                    key: Some(key),
                    what: "the value is not UTF-8".to_owned(),
                }),
            }
        }
        layer.settle_urls(problems);
        layer
    }

    fn set(&mut self, assignment: &Assignment, kind: &Value) {
        put(&mut self.values, &assignment.key, typed(&assignment.text, kind));
        self.places.insert(assignment.key.clone(), assignment.place.clone());
    }

    fn drop_unknown(&mut self, known: &KnownKeys, problems: &mut Vec<Problem>) {
        let places = &self.places;
        let place = |key: &str| places.get(key).cloned();
        self.values.retain(|section, value| {
            let Some(there) = known.section(section) else {
                problems.push(match value {
                    Value::Dict(..) => known.unknown_section(section.clone(), place(section)),
                    _ => known.unknown(section.clone(), place(section)),
                });
                return false;
            };
            let Value::Dict(_, keys) = value else {
                let what = format!("is a section; write [{section}] and its settings below it");
                problems.push(Problem { place: place(section), key: Some(section.clone()), what });
                return false;
            };
            keys.retain(|key, value| {
                let full = format!("{section}.{key}");
                if section == "ingest" && key == "sources" {
                    return keep_known_sources(value, known, places, problems);
                }
                let is_known = there.contains_key(key);
                if !is_known {
                    let place = place(&full);
                    problems.push(known.unknown(full, place));
                }
                is_known
            });
            true
        });
    }

    /// A layer that names a URL or its file overrules both of the layers below it.
    fn settle_urls(&mut self, problems: &mut Vec<Problem>) {
        for pair in [["url", "url_file"], ["direct_url", "direct_url_file"]] {
            self.settle_url(pair, problems);
        }
    }

    fn settle_url(&mut self, [url, file]: [&str; 2], problems: &mut Vec<Problem>) {
        let Some(Value::Dict(_, keys)) = self.values.get_mut("database") else { return };
        let given =
            |key: &str| keys.get(key).and_then(Value::as_str).is_some_and(|s| !s.is_empty());
        let overruled = match (given(url), given(file)) {
            (true, false) => file,
            (false, true) => url,
            (false, false) => return,
            (true, true) => {
                let key = format!("database.{file}");
                let what = format!("database.{url} is given beside it; give one of the two");
                problems.push(Problem {
                    place: self.places.get(&key).cloned(),
                    key: Some(key),
                    what,
                });
                return;
            }
        };
        keys.insert(overruled.to_owned(), "".into());
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

/// The value of a key.
fn value<'a>(values: &'a Dict, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => values.get(key),
        Some((section, key)) => value(values.get(section)?.as_dict()?, key),
    }
}

/// Puts a value where its key says, below its section.
fn put(values: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            values.insert(key.to_owned(), value);
        }
        Some((section, key)) => {
            let section = values.entry(section.to_owned()).or_insert_with(|| Dict::new().into());
            if let Value::Dict(_, values) = section {
                put(values, key, value);
            }
        }
    }
}

/// Drops and reports names that no source can have, and settings that do not exist. Whether the
/// value is a section at all.
fn keep_known_sources(
    sources: &mut Value,
    known: &KnownKeys,
    places: &BTreeMap<String, String>,
    problems: &mut Vec<Problem>,
) -> bool {
    let mut wrong = |key: String, what: &str| {
        let place = places.get(&key).cloned();
        problems.push(Problem { place, key: Some(key), what: what.to_owned() });
        false
    };
    let Value::Dict(_, sources) = sources else {
        return wrong(
            "ingest.sources".to_owned(),
            "is a section of sections; write [ingest.sources.NAME] and its settings below it",
        );
    };
    let mut unknown = Vec::new();
    sources.retain(|name, settings| {
        let full = format!("{SOURCES}{name}");
        if !is_source_name(name) {
            return wrong(
                full,
                "not a source's name; write 1 to 64 of a-z, 0-9, \"_\" and \"-\", and not \"posthaste\"",
            );
        }
        let Value::Dict(_, settings) = settings else {
            return wrong(
                full,
                "is a section; write [ingest.sources.NAME] and its settings below it",
            );
        };
        settings.retain(|key, _| {
            let is_known = known.source().contains_key(key);
            if !is_known {
                unknown.push(format!("{full}.{key}"));
            }
            is_known
        });
        true
    });
    for key in unknown {
        let place = places.get(&key).cloned();
        problems.push(known.unknown(key, place));
    }
    true
}

/// The text as a value of the same kind. A text that does not fit stays a text, and the setting's
/// type objects.
fn typed(text: &str, kind: &Value) -> Value {
    match kind {
        Value::Num(..) => match text.trim().parse::<i64>() {
            Ok(number) => Value::from(Num::I64(number)),
            Err(_) => Value::from(text),
        },
        Value::Array(..) if text.trim_start().starts_with('[') => {
            Toml::from_str::<Dict>(&format!("list = {text}"))
                .ok()
                .and_then(|mut values| values.remove("list"))
                .unwrap_or_else(|| Value::from(text))
        }
        Value::Array(..) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.map(Value::from).collect::<Vec<_>>())
        }
        _ => Value::from(text),
    }
}

/// Whether Kubernetes set this variable, as it does for every Service in the namespace. A Service
/// named `posthaste` would otherwise keep the relay from starting.
fn is_service_link(name: &str) -> bool {
    let is_port = |rest: &str| rest.is_empty() || rest.starts_with('_');
    !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.split_once("_SERVICE_PORT").is_some_and(|(_, rest)| is_port(rest))
            || name.ends_with("_PORT")
            || name
                .split_once("_PORT_")
                .is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit())))
}

/// Tells every key of the table, with its section, and where it begins.
fn note_lines(table: &dyn TableLike, prefix: &str, note: &mut impl FnMut(String, usize)) {
    for (name, item) in table.iter() {
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if let Some(nested) = item.as_table_like() {
            note_lines(nested, &full, note);
        }
        if let Some(span) = table.get_key_value(name).and_then(|(key, _)| key.span()) {
            note(full, span.start);
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

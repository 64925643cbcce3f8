//! Selects a value of a request: a header, or a path of the body. Parsed once from the settings;
//! read without building the document, so that a body costs no more memory than its bytes.

use std::fmt;
use std::str::FromStr;

use serde::de::{DeserializeSeed, Deserializer as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// `header:X-Name` or `$.a.b[0]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// In lower case.
    Header(String),
    Path(JsonPath),
}

/// A path to one place in a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<PathStep>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PathStep {
    Key(String),
    Index(usize),
}

/// The text is neither a header nor a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "write \"header:X-Name\" or a path such as \"$.project.id\", \"$.items[0].id\" or \"$['a key']\""
)]
pub struct NotASelector;

impl FromStr for Selector {
    type Err = NotASelector;

    fn from_str(text: &str) -> Result<Self, NotASelector> {
        let Some(name) = text.strip_prefix("header:") else { return text.parse().map(Self::Path) };
        let name = name.trim().to_ascii_lowercase();
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let fits = (1..=128).contains(&name.len()) && name.chars().all(is_token);
        if fits { Ok(Self::Header(name)) } else { Err(NotASelector) }
    }
}

impl FromStr for JsonPath {
    type Err = NotASelector;

    fn from_str(text: &str) -> Result<Self, NotASelector> {
        let mut rest = text.strip_prefix('$').ok_or(NotASelector)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = if let Some(named) = rest.strip_prefix('.') {
                let end = named.find(['.', '[']).unwrap_or(named.len());
                let (key, after) = named.split_at(end);
                if key.is_empty() || key.contains(|c: char| c.is_control() || c == '*') {
                    return Err(NotASelector);
                }
                (PathStep::Key(key.to_owned()), after)
            } else if let Some(quoted) = rest.strip_prefix("['") {
                let (key, after) = quoted.split_once("']").ok_or(NotASelector)?;
                (PathStep::Key(key.to_owned()), after)
            } else {
                let (number, after) = rest
                    .strip_prefix('[')
                    .and_then(|rest| rest.split_once(']'))
                    .ok_or(NotASelector)?;
                (PathStep::Index(number.parse().map_err(|_| NotASelector)?), after)
            };
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() { Err(NotASelector) } else { Ok(Self(steps)) }
    }
}

impl JsonPath {
    /// The text, number or boolean at this path, as text. `None`: nothing, an object or an array.
    /// Of a key that comes twice, the first counts.
    #[must_use]
    pub fn find(&self, json: &[u8]) -> Option<String> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let mut found = None;
        // A found value stays valid, whatever comes after it.
        drop(Walk { steps: &self.0, found: &mut found }.deserialize(&mut deserializer));
        found
    }

    /// The only key, if it is a path of one: the name of a form's field.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        match &self.0[..] {
            [PathStep::Key(key)] => Some(key),
            _ => None,
        }
    }
}

struct Walk<'a> {
    steps: &'a [PathStep],
    found: &'a mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl Walk<'_> {
    fn stands(self, value: &(impl ToString + ?Sized)) {
        if self.steps.is_empty() && self.found.is_none() {
            *self.found = Some(value.to_string());
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.stands(&value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.stands(&value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.stands(&value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.stands(&value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.stands(value);
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((PathStep::Index(index), steps)) = self.steps.split_first() else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        for _ in 0..*index {
            if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        seq.next_element_seed(Walk { steps, found: self.found })?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let step = match self.steps.split_first() {
            Some((PathStep::Key(key), steps)) => Some((key, steps)),
            _ => None,
        };
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match step {
                Some((wanted, steps)) if *wanted == *key => {
                    map.next_value_seed(Walk { steps, found: self.found })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Deeper than any sender's JSON. Parsers behind Posthaste, as PostgreSQL's, go as deep.
const DEPTH_MAX: usize = 128;

/// Whether this is one JSON text, and not nested too deep. Builds nothing.
#[must_use]
pub fn is_json(text: &str) -> bool {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = (&mut deserializer).deserialize_ignored_any(IgnoredAny);
    parsed.is_ok() && deserializer.end().is_ok() && depth(text) <= DEPTH_MAX
}

/// How deep a JSON text is nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string) = (0_usize, 0, false);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            // skip the escaped character
            b'\\' if in_string => {
                bytes.next();
            }
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(path: &str, json: &str) -> Option<String> {
        path.parse::<JsonPath>().unwrap().find(json.as_bytes())
    }

    #[test]
    fn a_path_leads_to_one_place() {
        let json = r#"{"a": {"b": [1, {"c d": "x\u00fc"}, true]}, "n": 12.5, "z": null, "a.b": "dot", "big": 18446744073709551615}"#;
        for (path, found) in [
            ("$.a.b[0]", Some("1")),
            ("$.a.b[1]['c d']", Some("xü")),
            ("$.a.b[2]", Some("true")),
            ("$.n", Some("12.5")),
            ("$['a.b']", Some("dot")),
            ("$.big", Some("18446744073709551615")),
            ("$.z", None),
            ("$.a", None),
            ("$.a.b", None),
            ("$.a.b[3]", None),
            ("$.a.b.c", None),
            ("$.n.x", None),
            ("$[0]", None),
        ] {
            assert_eq!(find(path, json).as_deref(), found, "{path}");
        }
        assert_eq!(find("$[1]", "[1, 2]").as_deref(), Some("2"));
        assert_eq!(find("$.a", r#"{"a": 1, "a": 2}"#).as_deref(), Some("1"));
        assert_eq!(find("$.a", "not json"), None);
    }

    #[test]
    fn what_is_no_pick_says_what_one_is() {
        for text in
            ["", "$", "$.", "a", "$..a", "$.a[", "$.a[x]", "$.*", "$[-1]", "header:", "header:a b"]
        {
            assert_eq!(text.parse::<Selector>(), Err(NotASelector), "{text}");
        }
        assert_eq!("header:X-Kind".parse(), Ok(Selector::Header("x-kind".to_owned())));
        assert_eq!("$.a".parse::<JsonPath>().unwrap().field(), Some("a"));
        assert_eq!("$.a.b".parse::<JsonPath>().unwrap().field(), None);
    }

    #[test]
    fn what_is_json_is_told_without_building_it() {
        for text in ["{}", " [1, 2.5e9] \n", "\"\\ud800\"", "null", "1e999999"] {
            assert!(is_json(text), "{text}");
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(is_json(&deep(128)));
        assert!(
            is_json(&format!("[{:?}, {:?}]", deep(200), "\\\"[".repeat(200))),
            "text is not nested"
        );
        for text in [
            "",
            "{",
            "{} {}",
            "01",
            "NaN",
            "{'a':1}",
            "\u{feff}{}",
            "[1,]",
            &deep(129),
            &deep(100_000),
        ] {
            assert!(!is_json(text), "{text}");
        }
    }
}

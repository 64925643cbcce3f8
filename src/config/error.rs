//! Problems of the settings, told so that an operator can fix them: the place (file and line, or
//! variable), the key, what is wrong, and what would be right. Never shows a secret.

use std::fmt;

use figment::error::{Actual, Kind};

/// The settings cannot be used. Lists every problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// A problem of a setting, or of a file of settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `posthaste.toml:3`, `POSTHASTE_RELAY__BATCH`, `--set relay.batch`. `None`: not set anywhere.
    pub place: Option<String>,
    /// As in `default.toml`, with its section: `relay.batch`. `None`: not about one key.
    pub key: Option<String>,
    /// Tells what is wrong, and what would be right.
    pub what: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problems[..] {
            [problem] => write!(f, "settings: {problem}"),
            problems => {
                write!(f, "settings: {} things are wrong", problems.len())?;
                problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Tells why a value does not fit its setting's type.
pub(super) fn misfit(kind: &Kind) -> String {
    match kind {
        Kind::InvalidType(Actual::Str(text), expected)
            if expectation(expected) == WHOLE && text.trim().parse::<u64>().is_ok() =>
        {
            format!("{text:?} does not fit; write {}, without quotes", text.trim())
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            format!("{} does not fit; write {}", shown(actual), expectation(expected))
        }
        Kind::UnknownVariant(actual, expected) => {
            let choices: Vec<_> = expected.iter().map(|choice| format!("{choice:?}")).collect();
            format!("{actual:?} does not fit; write {}", choices.join(" or "))
        }
        other => other.to_string(),
    }
}

fn shown(actual: &Actual) -> String {
    match actual {
        Actual::Bool(value) => value.to_string(),
        Actual::Unsigned(value) => value.to_string(),
        Actual::Signed(value) => value.to_string(),
        Actual::Float(value) => value.to_string(),
        Actual::Str(text) => format!("{text:?}"),
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a section".to_owned(),
        other => other.to_string(),
    }
}

const WHOLE: &str = "a whole number, 0 or more";

/// serde's name of a type, in an operator's words.
fn expectation(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => WHOLE,
        "a string" => "text in quotes",
        "a sequence" => "a list such as [\"10.0.0.0/8\"]",
        other => other,
    }
}

/// The known names that were most likely meant: those that are nearest, if any is near.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    /// More than a typing error or two, and a suggestion is a guess.
    const NEAR: usize = 3;
    let plain = |name: &str| name.replace(['.', '_', '-'], "");
    let last = |name: &str| name.rsplit('.').next().map(plain).unwrap_or_default();
    let near = |a: &str, b: &str| {
        Some(strsim::osa_distance(a, b)).filter(|far| *far <= NEAR && far * 2 <= b.len())
    };
    let mut nearest = Vec::new();
    let mut least = usize::MAX;
    for candidate in known {
        let whole = near(&plain(name), &plain(candidate));
        // The right name in the wrong section is as near as one wrong letter.
        let in_section = near(&last(name), &last(candidate)).map(|far| far + 1);
        let Some(far) = whole.into_iter().chain(in_section).min() else { continue };
        if far < least {
            least = far;
            nearest.clear();
        }
        if far == least {
            nearest.push(candidate);
        }
    }
    nearest
}

//! From a setting's text to its value: durations, sizes, addresses, "off". Each error says what
//! would be right; [`load`](super::load) adds the place of the text.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use jiff::{Span, SpanRelativeTo};

use crate::model::selector::Selector;

/// An operator's word for "none". An empty text says the same.
const OFF: &str = "off";

/// A duration such as `"500ms"`, `"1h 30m"` or `"30d"`; a day is 24 hours.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    if is_bare(text) {
        return Err(format!(
            "{text} has no unit; write {text}s, {text}m, {text}h or {text}d (in a settings file in quotes: \"{text}s\")"
        ));
    }
    let wrong = || {
        format!(
            "{text:?} is not a duration; write a number with a unit, such as \"500ms\", \"2s\" or \"30d\""
        )
    };
    let span: Span = text.parse().map_err(|_| wrong())?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative"))
}

/// A size such as `"4096B"`, `"16KiB"` or `"1MB"`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    if is_bare(text) {
        return Err(format!(
            "{text} has no unit; write {text}B, {text}KiB or {text}MiB (in a settings file in quotes: \"{text}KiB\")"
        ));
    }
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor: Option<u64> = match unit.trim() {
        "B" => Some(1),
        "kB" | "KB" => Some(1_000),
        "MB" => Some(1_000_000),
        "GB" => Some(1_000_000_000),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        _ => None,
    };
    digits.parse().ok().zip(factor).and_then(|(n, factor): (u64, u64)| n.checked_mul(factor)).ok_or_else(
        || {
            format!(
                "{text:?} is not a size; write a whole number with a unit, such as \"4096B\", \"16KiB\" or \"64MiB\""
            )
        },
    )
}

/// A number alone.
fn is_bare(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

pub(super) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an address and port; write \"127.0.0.1:7878\", \"0.0.0.0:7878\", \"[::]:7878\" or \"off\""
        )
    })
}

/// `None` for an empty text or "off".
pub(super) fn unless_off<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match text.trim() {
        "" | OFF => Ok(None),
        text => parse(text).map(Some),
    }
}

/// The origin of an event's type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventType {
    /// The sender's own convention.
    Conventional,
    Fixed(String),
    Picked(Selector),
}

impl EventType {
    /// Reads `event_type` of a source.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::Conventional);
        }
        if text.starts_with('$') || text.starts_with("header:") {
            return text
                .parse()
                .map(Self::Picked)
                .map_err(|wrong| format!("{text:?} is no path or header; {wrong}"));
        }
        let word = |word: &str| {
            !word.is_empty()
                && !word.contains(|c: char| c.is_whitespace() || c == '*' || c.is_control())
        };
        if text.len() > 256 || !text.split('.').all(word) || text.starts_with("posthaste.") {
            return Err(format!(
                "{text:?} is not an event type; write dotted words such as \"build.finished\" (not posthaste.…), \
                 \"header:X-Kind\", \"$.kind\", or nothing"
            ));
        }
        Ok(Self::Fixed(text.to_owned()))
    }
}

/// A header's name, or a beginning of names.
pub(super) fn parse_header_pattern(text: &str) -> Result<String, String> {
    let pattern = text.trim().to_ascii_lowercase();
    let name = pattern.strip_suffix('*').unwrap_or(&pattern);
    let fits = (pattern == "*" || !name.is_empty())
        && name.len() <= 128
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    if fits {
        Ok(pattern)
    } else {
        Err(format!(
            "{text:?} is not a header's name; write \"x-acme-kind\", \"x-acme-*\" or \"*\""
        ))
    }
}

/// A CIDR, or an address alone.
pub(super) fn parse_network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        format!("{text:?} is not a network; write \"34.74.90.64/28\" or \"2001:db8::1\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_with_a_unit() {
        for (text, seconds) in
            [("500ms", 0.5), ("2s", 2.0), ("0s", 0.0), ("1h 30m", 5400.0), ("30d", 2_592_000.0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        assert!(parse_duration("2").unwrap_err().starts_with("2 has no unit"));
        for text in ["", "5 parsecs", "2 months", "1e3s", "NaN", "99999999999999999999s"] {
            let wrong = parse_duration(text).unwrap_err();
            assert!(wrong.contains("is not a duration"), "{text}: {wrong}");
        }
        assert!(parse_duration("-2s").unwrap_err().contains("negative"));
        assert!(parse_duration("2s ago").unwrap_err().contains("negative"));
    }

    #[test]
    fn a_size_is_a_whole_number_with_a_unit() {
        for (text, bytes) in
            [("0B", 0), ("4096B", 4096), ("16KiB", 16384), ("64 MiB", 67_108_864), ("1kB", 1000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "4096", "KiB", "-1B", "1.5MiB", "1mib", "99999999999GiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}

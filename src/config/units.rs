//! How a setting's text becomes a value: durations, sizes and "off". Each says in its error
//! what would be right; where the text came from is added by [`load`](super::load).

use std::{
    fmt::{self, Display},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use jiff::{Span, SpanRelativeTo};
use serde::{Deserialize, Deserializer, de};

use super::filter::parse_filter;
use super::ingest::{EventType, header_pattern, network};
use crate::model::selector::Selector;
use crate::outbound::client::ProxyUrl;

/// What an operator writes for "none of it". An empty text says the same.
const OFF: &str = "off";

/// A text that must not be shown: a URL with a password, a password.
#[derive(Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for whoever opens the connection and nobody else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden(…)")
    }
}

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

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is not an address and port; write \"127.0.0.1:7878\", \"0.0.0.0:7878\", \"[::]:7878\" or \"off\""
        )
    })
}

/// `None` for an empty text or "off".
fn unless_off<T>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    match text.trim() {
        "" | OFF => Ok(None),
        text => parse(text).map(Some),
    }
}

pub(super) mod serde_as {
    //! The functions above in the shape that `#[serde(deserialize_with)]` asks for.

    use super::{
        Deserialize, Deserializer, Display, Duration, EventType, Hidden, IpNet, PathBuf, ProxyUrl,
        Selector, SocketAddr, de, fmt, header_pattern, network, parse_duration, parse_filter,
        parse_listen, parse_size, unless_off,
    };

    pub(in crate::config) fn duration<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Duration, D::Error> {
        parsed(d, parse_duration)
    }

    pub(in crate::config) fn duration_or_off<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        parsed(d, |text| {
            unless_off(text, parse_duration).map_err(|wrong| format!("{wrong}, or \"off\""))
        })
    }

    pub(in crate::config) fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
        parsed(d, |text| {
            usize::try_from(parse_size(text)?).map_err(|_| format!("{text:?} is out of reach"))
        })
    }

    pub(in crate::config) fn listen<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        parsed(d, |text| unless_off(text, parse_listen))
    }

    pub(in crate::config) fn proxy<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<ProxyUrl>, D::Error> {
        parsed(d, |text| {
            unless_off(text, |text| {
                text.parse::<ProxyUrl>().map_err(|error| {
                    format!("{error}; write http://host:port, or \"off\" for no proxy")
                })
            })
        })
    }

    pub(in crate::config) fn filter<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
        parsed(d, parse_filter)
    }

    /// Empty: none. A file named "off" is a file.
    pub(in crate::config) fn path<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        Ok(Some(String::deserialize(d)?).filter(|text| !text.is_empty()).map(PathBuf::from))
    }

    pub(in crate::config) fn path_or_off<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<PathBuf>, D::Error> {
        parsed(d, |text| unless_off(text, |text| Ok::<_, String>(PathBuf::from(text))))
    }

    pub(in crate::config) fn event_type<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<EventType, D::Error> {
        parsed(d, EventType::parse)
    }

    /// Empty: none.
    pub(in crate::config) fn pick<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Selector>, D::Error> {
        parsed(d, |text| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|wrong| format!("{text:?} is neither; {wrong}")),
        })
    }

    pub(in crate::config) fn header_patterns<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<String>, D::Error> {
        all(d, header_pattern)
    }

    pub(in crate::config) fn networks<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Vec<IpNet>, D::Error> {
        all(d, network)
    }

    /// Each of the list; of those that do not fit, all are told.
    fn all<'de, T, D: Deserializer<'de>>(
        d: D,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, D::Error> {
        let (mut fit, mut wrong) = (Vec::new(), Vec::new());
        for text in Vec::<String>::deserialize(d)? {
            match parse(&text) {
                Ok(one) => fit.push(one),
                Err(what) => wrong.push(what),
            }
        }
        if wrong.is_empty() { Ok(fit) } else { Err(de::Error::custom(wrong.join("; "))) }
    }

    /// Empty: none.
    pub(in crate::config) fn unless_empty<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<String>, D::Error> {
        Ok(Some(String::deserialize(d)?).filter(|text| !text.is_empty()))
    }

    /// Empty: none.
    pub(in crate::config) fn hidden<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Hidden>, D::Error> {
        let text = String::deserialize(d)?;
        Ok((!text.trim().is_empty()).then(|| Hidden::new(text)))
    }

    fn parsed<'de, T, W: Display, D: Deserializer<'de>>(
        d: D,
        parse: impl FnOnce(&str) -> Result<T, W>,
    ) -> Result<T, D::Error> {
        let Written { text, in_quotes } = Written::deserialize(d)?;
        match parse(&text) {
            Ok(value) if in_quotes => Ok(value),
            Ok(_) => Err(de::Error::custom(format!("{text} does not fit; write {text:?}"))),
            Err(wrong) => Err(de::Error::custom(wrong)),
        }
    }

    /// What stands where a text belongs. A number or a word without quotes is kept, so that all that is
    /// wrong with it can be told at once, the missing unit too.
    struct Written {
        text: String,
        in_quotes: bool,
    }

    impl<'de> Deserialize<'de> for Written {
        fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
            d.deserialize_any(WrittenVisitor)
        }
    }

    struct WrittenVisitor;

    impl WrittenVisitor {
        fn bare(value: impl Display) -> Written {
            Written { text: value.to_string(), in_quotes: false }
        }
    }

    impl de::Visitor<'_> for WrittenVisitor {
        type Value = Written;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E>(self, text: &str) -> Result<Written, E> {
            Ok(Written { text: text.to_owned(), in_quotes: true })
        }

        fn visit_bool<E>(self, value: bool) -> Result<Written, E> {
            Ok(Self::bare(value))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Written, E> {
            Ok(Self::bare(value))
        }

        fn visit_u64<E>(self, value: u64) -> Result<Written, E> {
            Ok(Self::bare(value))
        }

        fn visit_f64<E>(self, value: f64) -> Result<Written, E> {
            Ok(Self::bare(value))
        }
    }
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

    #[test]
    fn what_is_hidden_is_not_shown() {
        assert!(!format!("{:?}", Hidden::new("hunter2".to_owned())).contains("hunter2"));
    }
}

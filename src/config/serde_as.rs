//! How a setting is read, in the shape that `#[serde(deserialize_with)]` asks for. The texts are
//! parsed by [`units`](super::units).

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};

use super::filter::parse_filter;
use super::units::{
    EventType, parse_duration, parse_header_pattern, parse_listen, parse_network, parse_size,
    unless_off,
};
use crate::model::proxy::ProxyUrl;
use crate::model::secret::Secret;
use crate::model::selector::Selector;

pub(super) fn duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parsed(d, parse_duration)
}

pub(super) fn duration_or_off<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<Duration>, D::Error> {
    parsed(d, |text| {
        unless_off(text, parse_duration).map_err(|wrong| format!("{wrong}, or \"off\""))
    })
}

pub(super) fn bytes<'de, D: Deserializer<'de>>(d: D) -> Result<usize, D::Error> {
    parsed(d, |text| {
        usize::try_from(parse_size(text)?).map_err(|_| format!("{text:?} is out of reach"))
    })
}

pub(super) fn listen<'de, D: Deserializer<'de>>(d: D) -> Result<Option<SocketAddr>, D::Error> {
    parsed(d, |text| unless_off(text, parse_listen))
}

pub(super) fn proxy<'de, D: Deserializer<'de>>(d: D) -> Result<Option<ProxyUrl>, D::Error> {
    parsed(d, |text| {
        unless_off(text, |text| {
            text.parse::<ProxyUrl>().map_err(|error| {
                format!("{error}; write http://host:port, or \"off\" for no proxy")
            })
        })
    })
}

pub(super) fn filter<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    parsed(d, parse_filter)
}

/// Empty: none. A file named "off" is a file.
pub(super) fn path<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
    Ok(Some(String::deserialize(d)?).filter(|text| !text.is_empty()).map(PathBuf::from))
}

pub(super) fn path_or_off<'de, D: Deserializer<'de>>(d: D) -> Result<Option<PathBuf>, D::Error> {
    parsed(d, |text| unless_off(text, |text| Ok::<_, String>(PathBuf::from(text))))
}

pub(super) fn event_type<'de, D: Deserializer<'de>>(d: D) -> Result<EventType, D::Error> {
    parsed(d, EventType::parse)
}

/// Empty: none.
pub(super) fn selector<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Selector>, D::Error> {
    parsed(d, |text| match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|wrong| format!("{text:?} is neither; {wrong}")),
    })
}

pub(super) fn header_patterns<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    all(d, parse_header_pattern)
}

pub(super) fn networks<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpNet>, D::Error> {
    all(d, parse_network)
}

/// Each entry of the list; the error tells every entry that does not fit.
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
pub(super) fn unless_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Some(String::deserialize(d)?).filter(|text| !text.is_empty()))
}

/// Empty: none.
pub(super) fn hidden<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Secret>, D::Error> {
    let text = String::deserialize(d)?;
    Ok((!text.trim().is_empty()).then(|| Secret::new(text)))
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

/// A value that should be a text. A number or a word without quotes is kept, so that the error
/// tells everything at once, a missing unit too.
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

//! Reads the event's id and name from the body. Only after the body has been verified, and never a
//! reason to refuse it: the listener decides whether a body must be JSON.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::headers::usable;

/// Reads the members of `T`, which are [`Text`]s; a body that is no object has none of them.
pub(super) fn peek<T: DeserializeOwned + Default>(body: &[u8]) -> T {
    // Serde would take an array for the fields in order.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return T::default();
    }
    serde_json::from_slice(body).unwrap_or_default()
}

/// A member that counts if it is a string, and spoils nothing if it is not.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Text {
    Said(String),
    Something(IgnoredAny),
}

impl Text {
    pub(super) fn usable(this: Option<Self>) -> Option<String> {
        match this {
            Some(Self::Said(text)) => usable(text.as_bytes()),
            Some(Self::Something(_)) | None => None,
        }
    }
}

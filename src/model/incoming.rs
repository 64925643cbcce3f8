//! An incoming webhook, ready to be stored: checked, named, and with its bytes as they were.

use bytes::Bytes;

/// The part of a request that is stored. Becomes one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The name of its source.
    pub source: String,
    /// The sender's id, or one drawn before the first try: it makes storing a second time harmless.
    /// At most [`TEXT_MAX`] characters.
    pub sender_id: String,
    /// Dotted words.
    pub event_type: String,
    pub tenant: Option<String>,
    /// At most [`TEXT_MAX`] characters.
    pub ordering_key: Option<String>,
    /// `{"name": "value"}`, as JSON.
    pub headers: String,
    /// A JSON text: the body as it came, or one string that holds it where it is not JSON.
    pub payload: Payload,
}

/// Bytes that are known to be UTF-8. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

/// Characters that the columns hold.
pub const TEXT_MAX: usize = 256;
/// The most headers of an event, the most bytes of one's value, and of all names and values
/// together: `headers_are_at_most_64_texts_of_4_kib_and_16_kib_in_all`.
pub const HEADERS_MAX: usize = 64;
pub const HEADER_VALUE_MAX: usize = 4 << 10;
pub const HEADER_BYTES_MAX: usize = 16 << 10;

impl Incoming {
    /// About how much memory it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.payload.as_str().len() + self.headers.len() + 512
    }
}

impl Payload {
    /// `None`: not UTF-8.
    #[must_use]
    pub fn new(bytes: Bytes) -> Option<Self> {
        std::str::from_utf8(&bytes).is_ok().then_some(Self(bytes))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it was checked in new")
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

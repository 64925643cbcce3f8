//! The application's events. All of an event follows from the seed and its serial number, so
//! that a receiver can tell to the byte what it should have been.

use std::fmt::Write as _;

use fastrand::Rng;

/// Connections that insert. Serial number `n` is writer `n % WRITERS`'s, and so is every ordering
/// key in it: one writer per key, so the order of commits per key is the order of serial numbers.
pub const WRITERS: u32 = 20;
const KEYS_PER_WRITER: u32 = 4;

/// Types with their share of a hundred events.
const TYPES: [(&str, u32); 11] = [
    ("order.paid", 25),
    ("order.refunded", 8),
    ("order.shipped.eu", 8),
    ("order.shipped.us", 9),
    ("user.created", 8),
    ("user.updated", 8),
    ("user.deleted", 4),
    ("invoice.sent", 2),
    ("invoice.overdue", 3),
    ("stock.moved", 23),
    ("audit.login", 2),
];
const TENANTS: [(Option<&str>, u32); 4] =
    [(None, 40), (Some("acme"), 30), (Some("globex"), 20), (Some("umbrella"), 10)];

/// One event, as its serial number says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub serial: u32,
    pub event_type: &'static str,
    pub tenant: Option<&'static str>,
    pub key: Option<u32>,
    /// From 0 to 999.
    pub amount: u32,
    pub eu: bool,
    /// Proves that the payload is this event's and whole.
    pub mark: u64,
    pub note: usize,
}

impl Event {
    pub fn of(seed: u64, serial: u32) -> Self {
        // Seeds that lie side by side would give like numbers.
        let mut rng = Rng::with_seed(seed ^ u64::from(serial).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let key = serial % WRITERS * KEYS_PER_WRITER + rng.u32(..KEYS_PER_WRITER);
        Self {
            serial,
            event_type: pick(&TYPES, &mut rng),
            tenant: pick(&TENANTS, &mut rng),
            key: (rng.u32(..10) > 0).then_some(key),
            amount: rng.u32(..1000),
            eu: rng.bool(),
            mark: rng.u64(..),
            note: rng.usize(..300),
        }
    }

    /// JSON that does not survive a parser: white space, a repeated name, a price spelt in its own
    /// way.
    pub fn payload(&self) -> String {
        let Self { serial, amount, eu, mark, note, .. } = self;
        let mut text = format!(
            "{{\"soak\": {serial}, \"amount\":{amount},\t\"eu\" : {eu}, \"price\": {amount}.50, \
             \"note\": \"é€😀\", \"mark\": \"{mark:016x}\", \"note\": \""
        );
        text.extend((0..*note).map(|n| char::from(b'a' + u8::try_from(n % 26).unwrap_or(0))));
        text.push_str("\"}");
        text
    }

    /// Serial number of a payload made by [`payload`](Self::payload).
    pub fn serial_in(payload: &str) -> Option<u32> {
        let digits = payload.strip_prefix("{\"soak\": ")?;
        digits.split_once(',')?.0.parse().ok()
    }

    /// The ordering key as it stands in the outbox.
    pub fn ordering_key(&self) -> Option<String> {
        self.key.map(|key| {
            let mut name = String::from("key ");
            write!(name, "{key}").expect("a String takes everything");
            name
        })
    }
}

fn pick<T: Copy>(shares: &[(T, u32)], rng: &mut Rng) -> T {
    let all: u32 = shares.iter().map(|(_, share)| share).sum();
    let mut draw = rng.u32(..all);
    for &(value, share) in shares {
        if draw < share {
            return value;
        }
        draw -= share;
    }
    unreachable!("the draw is below the sum of the shares")
}

#[test]
fn an_event_follows_from_seed_and_serial_number() {
    let event = Event::of(7, 123);
    assert_eq!(event, Event::of(7, 123));
    assert_ne!(event.payload(), Event::of(8, 123).payload());
    assert_eq!(Event::serial_in(&event.payload()), Some(123));
    assert_eq!(event.key.unwrap() / KEYS_PER_WRITER, 123 % WRITERS);
    let parsed: serde_json::Value = serde_json::from_str(&event.payload()).unwrap();
    assert_eq!(parsed["amount"], event.amount);
}

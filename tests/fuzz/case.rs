//! Makes a case of bytes: a source, a request as its sender signs it, and what was done to it
//! since.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use posthaste::signing::verify::Scheme;

use super::oracle;

/// The timestamps that jiff has.
const SECONDS: std::ops::RangeInclusive<i64> = -377_705_023_201..=253_402_207_200;

/// Where a forger would begin.
const DICTIONARY: [&str; 24] = [
    "v1,",
    "v1a,",
    "v1=",
    "v0=",
    "t=",
    "sha256=",
    "sha1=",
    "Bearer ",
    ",",
    " ",
    "  ",
    "=",
    "==",
    ".",
    ":",
    "whsec_",
    "0",
    "-",
    "+",
    "9223372036854775807",
    "18446744073709551616",
    "\t",
    "null",
    "\"",
];

/// Every header by which a request is believed, or called by a name.
pub(super) const NAMES: [&str; 19] = [
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "stripe-signature",
    "x-hub-signature-256",
    "x-slack-signature",
    "x-slack-request-timestamp",
    "x-shopify-hmac-sha256",
    "x-shopify-webhook-id",
    "x-gitlab-token",
    "x-webhook-token",
    "authorization",
    "idempotency-key",
    "x-github-delivery",
    "x-github-event",
    "x-gitlab-event",
];

const BODIES: [&str; 6] = [
    "Hello, World!",
    r#"{"test": 2432232314}"#,
    r#"{"id":"evt_1","type":"invoice.paid","data":{"object":{"id":"in_1"}}}"#,
    r#"{"type":"event_callback","event_id":"Ev1","event":{"type":"reaction_added"}}"#,
    r#"{"id":{"type":["\u0000"]},"type":"\ud800","event_id":null,"event":[]}"#,
    "1614265330.5",
];

/// Bytes to choose by; zeros when they are used up.
#[derive(Debug)]
pub(super) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn byte(&mut self) -> u8 {
        let (byte, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *byte
    }

    fn below(&mut self, bound: usize) -> usize {
        let number = usize::from(self.byte()) << 8 | usize::from(self.byte());
        number % bound.max(1)
    }

    fn choose<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }

    fn integer(&mut self) -> i64 {
        i64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }
}

#[derive(Debug)]
pub(super) struct Case {
    pub(super) scheme: Scheme,
    pub(super) secrets: Vec<String>,
    pub(super) headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) now: i64,
    /// Signed with a secret the source knows, in time, and not changed since.
    pub(super) untouched: bool,
}

impl Case {
    pub(super) fn make(bytes: &mut Bytes<'_>) -> Self {
        let (scheme, secrets) = source(bytes);
        let signed_with = secrets[0].clone();
        let known = match bytes.below(5) {
            0 => vec![secrets[1].clone()],
            1 => vec![secrets[1].clone(), secrets[0].clone()],
            2 => secrets.to_vec(),
            _ => vec![signed_with.clone()],
        };
        let signed_at = 1_500_000_000 + i64::try_from(bytes.below(200_000_000)).expect("it fits");
        let body = match bytes.below(8) {
            0 => bytes.take(64),
            1 => bytes.take(8).repeat(4096),
            2 => Vec::new(),
            // begins like what stands before a body when it is signed
            3 => format!("{signed_at}.{{}}").into_bytes(),
            _ => bytes.choose(&BODIES).as_bytes().to_vec(),
        };
        let (time, is_plain) = match bytes.below(24) {
            0 => (format!("+{signed_at}"), false),
            1 => (format!("-{signed_at}"), false),
            2 => (format!("{signed_at}.0"), false),
            3 => (format!("0{signed_at}"), true),
            _ => (signed_at.to_string(), true),
        };
        let off = match bytes.below(10) {
            0 => bytes.integer() % 1_000,
            1 => bytes.integer(),
            2 => 301,
            3 => -301,
            4 => 300,
            5 => -300,
            _ => 0,
        };
        let now = signed_at.saturating_add(off).clamp(*SECONDS.start(), *SECONDS.end());
        let mut case = Self {
            scheme,
            headers: sign(scheme, &signed_with, &time, &body, bytes),
            body,
            now,
            untouched: known.contains(&signed_with) && now.abs_diff(signed_at) <= 300 && is_plain,
            secrets: if scheme == Scheme::None { Vec::new() } else { known },
        };
        for _ in 0..bytes.below(5) {
            case.untouched = false;
            case.change(bytes);
        }
        case
    }

    fn change(&mut self, bytes: &mut Bytes<'_>) {
        let which = bytes.below(self.headers.len());
        match bytes.below(13) {
            0 => change_bytes(&mut self.body, bytes),
            1 => {
                self.headers.swap_remove(which);
                if self.headers.is_empty() {
                    self.headers.push((b"host".to_vec(), b"a".to_vec()));
                }
            }
            2 => {
                let copy = self.headers[which].clone();
                self.headers.push(copy);
            }
            3 => self.headers[which].0 = bytes.choose(&NAMES).as_bytes().to_vec(),
            4 => {
                let name = bytes.choose(&NAMES).as_bytes().to_vec();
                let value = self.headers[which].1.clone();
                self.headers.push((name, value));
            }
            5 => {
                let length = bytes.below(40);
                self.headers[which].1 = bytes.take(length);
            }
            6 => {
                let other = bytes.below(self.headers.len());
                let value = self.headers[other].1.clone();
                self.headers[which].1 = value;
            }
            7 => {
                // a list that goes on, or a value without end
                let times = bytes.choose(&[1, 2, 7, 8, 9, 100]);
                let value = &mut self.headers[which].1;
                let between = bytes.choose(&[&b" "[..], b",", b""]);
                *value = vec![value.clone(); times].join(between);
                value.truncate(20_000);
            }
            8 => move_boundary(self, which, bytes),
            9 => self.headers[which].1.make_ascii_uppercase(),
            10 => shift_along(self),
            _ => change_bytes(&mut self.headers[which].1, bytes),
        }
    }

    /// Whether its headers, put on a connection, are read as what they are.
    pub(super) fn is_faithful(&self) -> bool {
        /// Less than `ingest.max_head`, with what every request has.
        const HEAD: usize = 15 * 1024;
        let length: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        length < HEAD && self.header_map().len() == self.headers.len()
    }

    /// As a server hands them on: a header that is none does not get that far.
    pub(super) fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            let (name, value) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value));
            if let (Ok(name), Ok(value)) = (name, value) {
                map.append(name, value);
            }
        }
        map
    }
}

/// Bytes of the body's beginning become the header's end, or the other way round: with what stands
/// between them the same bytes may have been signed.
fn move_boundary(case: &mut Case, which: usize, bytes: &mut Bytes<'_>) {
    let value = &mut case.headers[which].1;
    let moved = bytes.below(12);
    let between = bytes.choose(&[&b"."[..], b":", b""]);
    if bytes.below(2) == 0 {
        let moved: Vec<u8> = case.body.drain(..moved.min(case.body.len())).collect();
        value.extend(between);
        value.extend(moved);
    } else {
        let mut moved = value.split_off(value.len().saturating_sub(moved));
        moved.extend(between);
        case.body.splice(0..0, moved);
    }
}

/// Two headers and the body as they would be if the first dot were another one: the same bytes in
/// all, if the parts are joined by dots.
fn shift_along(case: &mut Case) {
    let Some(dot) = case.body.iter().position(|&byte| byte == b'.') else { return };
    let [(_, first), (_, second), ..] = &mut case.headers[..] else { return };
    first.push(b'.');
    first.extend(std::mem::take(second));
    second.extend(case.body.drain(..=dot));
    second.pop();
}

/// Also for the bytes of a whole request.
pub(super) fn change_bytes(of: &mut Vec<u8>, bytes: &mut Bytes<'_>) {
    let at = bytes.below(of.len() + 1);
    match bytes.below(7) {
        0 if at < of.len() => of[at] ^= 1 << bytes.below(8),
        1 if at < of.len() => of[at] = bytes.byte(),
        2 => of.truncate(at),
        3 => drop(of.drain(at..(at + bytes.below(9)).min(of.len()))),
        4 => {
            let word = bytes.choose(&DICTIONARY);
            of.splice(at..at, word.bytes());
        }
        5 => {
            let put = bytes.take(3);
            of.splice(at..at, put);
        }
        _ => of.push(bytes.byte()),
    }
}

/// A scheme and three secrets of its kind, of which the first signs.
fn source(bytes: &mut Bytes<'_>) -> (Scheme, [String; 3]) {
    let plain = ["It's a Secret to Everybody", "whsec_2bTn0dYqvKx8", "k"].map(str::to_owned);
    let signing = [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "whsec_cG9zdGhhc3RlIHZlcmlmaWVzIHdoYXQgaXQgaGVhcnM=",
    ]
    .map(str::to_owned);
    let public = [1, 2, 3].map(oracle::public_key);
    let tokens = ["glsecret-7Jx", "Basic YTpi", "glsecret-7J"].map(str::to_owned);
    let [token, ..] = tokens.clone();
    match bytes.below(12) {
        0 => (Scheme::Github, plain),
        1 => (Scheme::Stripe, plain),
        2 => (Scheme::Slack, plain),
        3 => (Scheme::Shopify, plain),
        4 => (Scheme::Standard, signing),
        5 => (Scheme::Standard, public),
        6 => (Scheme::Standard, [public[0].clone(), signing[1].clone(), signing[2].clone()]),
        7 => (Scheme::Gitlab, signing),
        8 => (Scheme::Gitlab, [signing[0].clone(), token, signing[1].clone()]),
        9 => (Scheme::Gitlab, tokens),
        10 => (Scheme::Token, tokens),
        _ => (Scheme::None, plain),
    }
}

/// The headers a sender would add.
fn sign(
    scheme: Scheme,
    secret: &str,
    time: &str,
    body: &[u8],
    bytes: &mut Bytes<'_>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    let plain = |parts: &[&[u8]]| oracle::mac(secret.as_bytes(), parts);
    let hex = |parts: &[&[u8]]| oracle::hex(&plain(parts));
    let standard = |family: &str| {
        let signature = oracle::standard_signature(secret, b"msg_1", time.as_bytes(), body);
        vec![
            (format!("{family}-id"), "msg_1".to_owned()),
            (format!("{family}-timestamp"), time.to_owned()),
            (format!("{family}-signature"), signature),
        ]
    };
    let one = |name: &str, value: String| vec![(name.to_owned(), value)];
    let mut headers = match scheme {
        Scheme::Github => one("X-Hub-Signature-256", format!("sha256={}", hex(&[body]))),
        Scheme::Shopify => one("X-Shopify-Hmac-Sha256", oracle::base64(&plain(&[body]))),
        Scheme::Stripe => {
            let mac = hex(&[time.as_bytes(), b".", body]);
            one("Stripe-Signature", format!("t={time},v1={mac},v0={mac}"))
        }
        Scheme::Slack => vec![
            ("X-Slack-Request-Timestamp".to_owned(), time.to_owned()),
            (
                "X-Slack-Signature".to_owned(),
                format!("v0={}", hex(&[b"v0:", time.as_bytes(), b":", body])),
            ),
        ],
        Scheme::Standard => standard(bytes.choose(&["webhook", "webhook", "svix"])),
        Scheme::Gitlab if secret.starts_with("whsec_") => standard("webhook"),
        Scheme::Gitlab => one("X-Gitlab-Token", secret.to_owned()),
        Scheme::Token if bytes.below(3) == 0 => one("X-Webhook-Token", secret.to_owned()),
        Scheme::Token => one("Authorization", format!("Bearer {secret}")),
        Scheme::None => one("Host", "a".to_owned()),
    };
    if bytes.below(2) == 0 {
        let name = bytes.choose(&["Idempotency-Key", "X-GitHub-Delivery", "X-Shopify-Webhook-Id"]);
        headers.push((name.to_owned(), "908a6d9e-45fd-46c8-97e6-c4f350f219dd".to_owned()));
    }
    headers.into_iter().map(|(name, value)| (name.into_bytes(), value.into_bytes())).collect()
}

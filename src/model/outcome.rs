//! Outcomes: observed facts of the wire only. Made by
//! [`outbound::client`](crate::outbound::client), read by [`verdict`](super::verdict), which
//! decides, and stored with the attempt.

use std::time::Duration;

use super::header::bytes_of_pairs;

/// The outcome of one HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver sent a final response head. Its body may have been cut short.
    Answered(Answer),
    /// A deadline passed before a response head arrived.
    TimedOut { phase: Phase },
    /// No response head arrived.
    Unreachable { cause: Cause, detail: String },
    /// The relay refused to send.
    Refused { why: Refusal, detail: String },
    /// A relay died, or lost its claim, while it may have been sending.
    Interrupted,
}

/// A receiver's response, as far as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order they came; bytes that are not UTF-8 are read as Latin-1.
    pub headers: Vec<(String, String)>,
    /// The first bytes of the body, at most the configured bound.
    pub body: Vec<u8>,
    /// Whether the body had more than was kept, was cut off, or did not end in time.
    pub body_truncated: bool,
    /// Oddities of the answer, and parts of it that are not kept.
    pub detail: Option<String>,
}

/// The part of a request that a deadline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Resolve,
    Connect,
    Tls,
    /// From the first byte written to the end of the response head.
    Headers,
}

/// Why no response arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The name did not resolve to any address.
    Dns,
    /// The peer refused the TCP connection.
    ConnectionRefused,
    /// The connection was reset.
    Reset,
    /// The connection was closed before a whole response head arrived.
    Closed,
    /// No route to the network or host.
    NoRoute,
    TlsExpired,
    TlsWrongName,
    TlsUnknownIssuer,
    /// Any other TLS failure; the detail says which.
    TlsOther,
    /// The answer is not HTTP that the client accepts (too many headers, too long a head).
    Protocol,
    /// The egress proxy refused or failed the tunnel.
    Proxy,
    /// Any other IO error.
    Io,
}

/// Why the relay refused to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The host resolves to an address that must not be dialled.
    ForbiddenAddress,
    /// The URL is plain HTTP, which the settings do not allow for its host.
    NotHttps,
    /// The URL, a header or a secret of the endpoint cannot be used, or its row cannot be read.
    BadEndpoint,
    /// The event's own headers exceed the bounds for good: the delivery is dead at once.
    BadEvent,
    /// The relay has a bug that this delivery or its endpoint meets; the detail says where.
    Fault,
}

/// How long the parts of a request took. `None`: the part did not take place (a kept-alive
/// connection neither resolves nor connects).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phases {
    pub resolve: Option<Duration>,
    pub connect: Option<Duration>,
    pub tls: Option<Duration>,
    /// From the first byte written to the end of the response head.
    pub headers: Option<Duration>,
    pub body: Option<Duration>,
}

impl Phases {
    /// How long this part of the request took.
    #[must_use]
    pub fn of(&self, phase: Phase) -> Option<Duration> {
        match phase {
            Phase::Resolve => self.resolve,
            Phase::Connect => self.connect,
            Phase::Tls => self.tls,
            Phase::Headers => self.headers,
        }
    }
}

impl Outcome {
    /// Every word that [`kind`](Self::kind) may say.
    pub const KINDS: [&str; 5] = ["answered", "timed_out", "unreachable", "refused", "interrupted"];

    /// The word stored in `attempts.outcome`, matched by `rules.outcome`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::TimedOut { .. } => "timed_out",
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::Interrupted => "interrupted",
        }
    }

    /// The word stored in `attempts.cause`: the kind of time-out, failure or refusal.
    #[must_use]
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::Answered(_) | Self::Interrupted => None,
            Self::TimedOut { phase } => Some(phase.as_str()),
            Self::Unreachable { cause, .. } => Some(cause.as_str()),
            Self::Refused { why, .. } => Some(why.as_str()),
        }
    }

    /// The bytes of an answer that are kept until it is recorded.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Self::Answered(Answer { headers, body, .. }) = self else { return 0 };
        body.len() + bytes_of_pairs(headers)
    }

    /// Details for the operator, shown beside the cause.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Unreachable { detail, .. } | Self::Refused { detail, .. } => Some(detail),
            Self::Answered(answer) => answer.detail.as_deref(),
            Self::TimedOut { .. } | Self::Interrupted => None,
        }
    }

    /// Keeps of a response what one line tells of it: neither its headers nor its body.
    pub fn forget_response(&mut self) {
        if let Self::Answered(answer) = self {
            answer.headers = Vec::new();
            answer.body = Vec::new();
        }
    }

    /// The receiver's response, if there was one.
    #[must_use]
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answered(answer) => Some(answer),
            Self::TimedOut { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Interrupted => None,
        }
    }
}

/// In words for an operator: `answered 503`, `timed out (connect)`, `unreachable (dns)`.
impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answered(answer) => write!(f, "answered {}", answer.status),
            Self::TimedOut { phase } => write!(f, "timed out ({})", phase.as_str()),
            Self::Unreachable { cause, .. } => write!(f, "unreachable ({})", cause.as_str()),
            Self::Refused { why, .. } => write!(f, "refused ({})", why.as_str()),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl Answer {
    /// Whether the status says that the receiver has taken the event (2xx).
    #[must_use]
    pub fn accepted(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of this name (given in lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

impl Phase {
    pub const ALL: [Self; 4] = [Self::Resolve, Self::Connect, Self::Tls, Self::Headers];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Headers => "headers",
        }
    }

    /// The missing event of this phase after this wait, in words.
    #[must_use]
    pub fn late(self, waited: Duration) -> String {
        let waited = waited.as_secs_f64();
        match self {
            Self::Resolve => format!("no name server answered within {waited:.1} s"),
            Self::Connect => format!("no connection was made within {waited:.1} s"),
            Self::Tls => {
                format!("connected, and the TLS handshake did not finish within {waited:.1} s")
            }
            Self::Headers => format!("sent, and no answer came within {waited:.1} s"),
        }
    }
}

impl Cause {
    pub const ALL: [Self; 12] = [
        Self::Dns,
        Self::ConnectionRefused,
        Self::Reset,
        Self::Closed,
        Self::NoRoute,
        Self::TlsExpired,
        Self::TlsWrongName,
        Self::TlsUnknownIssuer,
        Self::TlsOther,
        Self::Protocol,
        Self::Proxy,
        Self::Io,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::ConnectionRefused => "connection_refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::NoRoute => "no_route",
            Self::TlsExpired => "tls_expired",
            Self::TlsWrongName => "tls_wrong_name",
            Self::TlsUnknownIssuer => "tls_unknown_issuer",
            Self::TlsOther => "tls",
            Self::Protocol => "protocol",
            Self::Proxy => "proxy",
            Self::Io => "io",
        }
    }
}

impl Refusal {
    /// Whether it holds for every event until the settings or the endpoint change.
    #[must_use]
    pub fn is_standing(self) -> bool {
        match self {
            Self::ForbiddenAddress | Self::NotHttps | Self::BadEndpoint => true,
            Self::BadEvent | Self::Fault => false,
        }
    }

    pub const ALL: [Self; 5] =
        [Self::ForbiddenAddress, Self::NotHttps, Self::BadEndpoint, Self::BadEvent, Self::Fault];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ForbiddenAddress => "forbidden_address",
            Self::NotHttps => "not_https",
            Self::BadEndpoint => "bad_endpoint",
            Self::BadEvent => "bad_event",
            Self::Fault => "fault",
        }
    }
}

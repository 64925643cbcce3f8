//! What happened on the wire: observed facts only. Made by [`outbound::client`](crate::outbound::client),
//! read by [`verdict`](super::verdict), stored with the attempt. What to do about it is not said here.

use std::time::Duration;

/// What happened to one HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver sent a final response head. Its body may have been cut short.
    Answered(Answer),
    /// A deadline passed before a response head arrived.
    TimedOut { phase: Phase },
    /// No response head could be had.
    Unreachable { cause: Cause, detail: String },
    /// We would not send.
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
    /// The first bytes of the body, at most the kept bound.
    pub body: Vec<u8>,
    /// Whether the body had more than was kept, was cut off, or did not end in time.
    pub body_truncated: bool,
    /// What was odd about the answer, or is not kept of it.
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

/// Why no response could be had.
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
    /// What came back is not HTTP, or not HTTP we accept (too many headers, too long a head).
    Protocol,
    /// The egress proxy refused or failed the tunnel.
    Proxy,
    /// Any other IO error.
    Io,
}

/// Why we would not send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The host resolves to an address that must not be dialled.
    ForbiddenAddress,
    /// The URL is plain HTTP and its host is not opened for it.
    NotHttps,
    /// The URL, a header or a secret of the endpoint cannot be used, or its row cannot be read.
    BadEndpoint,
    /// The event's own headers are more than are sent. Waiting changes nothing: it is dead at once.
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

    /// The word stored in `attempts.cause`: what kind of time-out, failure or refusal it was.
    #[must_use]
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::Answered(_) | Self::Interrupted => None,
            Self::TimedOut { phase } => Some(phase.as_str()),
            Self::Unreachable { cause, .. } => Some(cause.as_str()),
            Self::Refused { why, .. } => Some(why.as_str()),
        }
    }

    /// What the operator reads beside the cause.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Unreachable { detail, .. } | Self::Refused { detail, .. } => Some(detail),
            Self::Answered(answer) => answer.detail.as_deref(),
            Self::TimedOut { .. } | Self::Interrupted => None,
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

/// What an operator reads: `answered 503`, `timed out (connect)`, `unreachable (dns)`.
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

    /// What did not come in this time, in words.
    #[must_use]
    pub fn late(self, waited: Duration) -> String {
        let waited = waited.as_secs_f64();
        match self {
            Self::Resolve => format!("no name server answered within {waited:.1} s"),
            Self::Connect => format!("no connection could be had within {waited:.1} s"),
            Self::Tls => {
                format!("connected, and no TLS handshake came to an end within {waited:.1} s")
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
    /// Whether it stands until the settings or the endpoint change, whatever the event.
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

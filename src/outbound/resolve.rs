//! From a host name to addresses: one lookup for each new connection.
//! [`addresses`](super::addresses) judges the answer; a host that is an address already needs no
//! lookup.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// Looks names up: the system's way, or from a script.
#[derive(Clone)]
pub struct Resolver(NameSource);

#[derive(Clone)]
enum NameSource {
    System(Arc<TokioResolver>),
    Scripted(Arc<ScriptedAnswers>),
}

/// One scripted answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    Addresses(Vec<IpAddr>),
    NoSuchName,
    /// No answer ever comes.
    Hangs,
}

/// Why a name gave no address.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("the name does not exist or has no address")]
    NoAddress,
    #[error("no name server answered in time")]
    TimedOut,
    #[error("the name could not be looked up")]
    Failed(#[source] NetError),
}

/// The system's resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("set up the system's resolver")]
pub struct ResolverError(#[source] NetError);

/// The longest time a failure is kept, whatever the name server allows: deliveries should not go on
/// failing by a mistake in DNS that has been fixed.
const FAILURE_KEPT: Duration = Duration::from_secs(10);

/// The longest time an address is kept, whatever the name server allows: receivers fail over by
/// DNS.
const ANSWER_KEPT: Duration = Duration::from_secs(300);

impl Resolver {
    /// As `/etc/resolv.conf` and `/etc/hosts` say, with a cache in this process. Without a readable
    /// `resolv.conf`, as in an empty container, only `/etc/hosts` and `localhost` resolve.
    ///
    /// # Errors
    ///
    /// [`ResolverError`] if the configuration cannot be used.
    pub fn system() -> Result<Self, ResolverError> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no usable resolv.conf: names are looked up in /etc/hosts only");
            let no_servers = ResolverConfig::from_parts(None, vec![], vec![]);
            TokioResolver::builder_with_config(no_servers, TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6; // every address must be judged
        options.negative_max_ttl = Some(FAILURE_KEPT);
        options.positive_max_ttl = Some(ANSWER_KEPT);
        let resolver = builder.build().map_err(ResolverError)?;
        Ok(Self(NameSource::System(Arc::new(resolver))))
    }

    /// Every name has these addresses.
    #[must_use]
    pub fn fixed(addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::scripted([Lookup::Addresses(addresses.into_iter().collect())])
    }

    /// Each lookup, of whatever name, takes the next answer; the last one stays. An empty script
    /// knows no names.
    #[must_use]
    pub fn scripted(answers: impl IntoIterator<Item = Lookup>) -> Self {
        let script = ScriptedAnswers {
            answers: Mutex::new(answers.into_iter().collect()),
            asked: AtomicUsize::new(0),
        };
        Self(NameSource::Scripted(Arc::new(script)))
    }

    /// How many lookups a scripted resolver has answered; 0 for the system's.
    #[must_use]
    pub fn lookups(&self) -> usize {
        match &self.0 {
            NameSource::System(_) => 0,
            NameSource::Scripted(script) => script.asked.load(Ordering::Relaxed),
        }
    }

    /// Every address of `name`. `localhost` and all names below it are loopback without a lookup
    /// (RFC 6761).
    ///
    /// # Errors
    ///
    /// [`LookupError`]; an answer without addresses is one too.
    pub async fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = match &self.0 {
            NameSource::Scripted(script) => script.next().await?,
            NameSource::System(_) if is_localhost(name) => known_addresses(name),
            NameSource::System(resolver) => {
                resolver.lookup_ip(name).await.map_err(LookupError::from)?.iter().collect()
            }
        };
        if found.is_empty() { Err(LookupError::NoAddress) } else { Ok(found) }
    }
}

/// The addresses of `name` that need no lookup.
#[must_use]
pub fn known_addresses(name: &str) -> Vec<IpAddr> {
    if is_localhost(name) {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else {
        Vec::new()
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

impl From<NetError> for LookupError {
    fn from(error: NetError) -> Self {
        if error.is_nx_domain() || error.is_no_records_found() {
            Self::NoAddress
        } else if matches!(error, NetError::Timeout) {
            Self::TimedOut
        } else {
            Self::Failed(error)
        }
    }
}

struct ScriptedAnswers {
    answers: Mutex<VecDeque<Lookup>>,
    asked: AtomicUsize,
}

impl ScriptedAnswers {
    async fn next(&self) -> Result<Vec<IpAddr>, LookupError> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() }
        };
        match answer {
            Some(Lookup::Addresses(addresses)) => Ok(addresses),
            Some(Lookup::NoSuchName) | None => Err(LookupError::NoAddress),
            Some(Lookup::Hangs) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            NameSource::System(_) => "Resolver(system)",
            NameSource::Scripted(_) => "Resolver(scripted)",
        })
    }
}

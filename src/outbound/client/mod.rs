//! Sends one request and says what happened; every failure of it is an [`Outcome`].
//!
//! Runs between signing and judging. [`addresses`](super::addresses) decides which addresses it may
//! dial, [`verdict`](crate::model::verdict) what follows from an outcome.
//!
//! The caller owns the connection, in a slot that it hands in with every request. One worker with
//! one slot has at most one connection, so a window of requests is enforced by the number of
//! workers. No request is sent twice here: it goes out on a second connection only if the first was
//! found closed before a byte of the request was written. When a kept connection was closed without
//! an answer, [`Exchange::unheard`] tells it, and the caller decides. Redirects are answers like
//! any other.

mod alarm;
mod connect;
mod connection;
mod dial;
mod ear;
mod failure;
mod head;
mod protocol;
mod proxy;
mod settings;
mod tasks;
mod wire;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use connect::Connector;
pub use connection::Connection;
use connection::Exchanged;
pub use settings::ClientSettings;
use settings::Limits;

use super::target::Target;
use crate::clock::Clock;
use crate::model::outcome::{Cause, Outcome, Phases};

/// The sending half of the relay. Cheap to clone; shared by all workers.
#[derive(Clone)]
pub struct Client(Arc<ClientParts>);

struct ClientParts {
    connector: Connector,
    limits: Limits,
}

/// The client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    #[error("read the extra certificate authorities: not PEM")]
    ExtraCa(#[source] rustls::pki_types::pem::Error),
    #[error("read the extra certificate authorities: no certificate among them")]
    NoExtraCa,
    #[error("use the extra certificate authorities")]
    BadExtraCa(#[source] rustls::Error),
}

/// The outcome of one request, and how it came about.
#[derive(Debug)]
pub struct Exchange {
    pub outcome: Outcome,
    pub phases: Phases,
    /// Whether it went over a connection that was already open.
    pub reused: bool,
    /// Whether that connection was closed before a byte of an answer came: perhaps as the receiver
    /// closes any connection that has served it, perhaps with the request half done.
    pub unheard: bool,
}

impl Client {
    /// # Errors
    ///
    /// [`ClientError`] if the extra certificate authorities cannot be used. A system without any is
    /// only warned about: plain HTTP may be all that is wanted.
    pub fn new(settings: ClientSettings) -> Result<Self, ClientError> {
        let tls = Arc::new(tls_config(&settings)?);
        let limits = Limits {
            head_bytes: settings.head_bytes,
            head_count: settings.head_count,
            response_body_limit: settings.response_body_limit,
            body_timeout: settings.body_timeout,
            idle_timeout: settings.idle_timeout,
            connection_life: settings.connection_life,
        };
        let connector = Connector {
            rules: settings.rules,
            resolver: settings.resolver,
            tls,
            proxy: settings.proxy,
            resolve_timeout: settings.resolve_timeout,
            connect_timeout: settings.connect_timeout,
            tls_timeout: settings.tls_timeout,
        };
        Ok(Self(Arc::new(ClientParts { connector, limits })))
    }

    /// Sends `request` to `target` within `timeout`, over the connection in `slot` if it is open
    /// and goes there, else over a new one, which is left in `slot` if it can serve another
    /// request. URI and `Host` are the target's, whatever the request says.
    ///
    /// To make a connection may take long. Once it is there `is_wanted` is asked, and if it says no
    /// the request is not written and its outcome [interrupted](Outcome::Interrupted).
    ///
    /// Dropping the future ends the exchange and closes the connection; the request may or may not
    /// have arrived.
    pub async fn send(
        &self,
        slot: &mut Option<Connection>,
        target: &Target,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        is_wanted: &(dyn Fn() -> bool + Sync),
    ) -> Exchange {
        let started = Clock.instant();
        let deadline = started + timeout.min(TIMEOUT_MAX);
        let limits = &self.0.limits;
        let mut phases = Phases::default();
        let mut unsent = request;
        // Out of the slot while it is in use: if this future is dropped, so is the connection.
        if let Some(mut kept) = slot.take()
            && kept.serves(target, started, limits)
            && kept.is_open().await
        {
            match kept.exchange(target, unsent, deadline, limits, &mut phases).await {
                Exchanged::Finished { outcome, reusable } => {
                    *slot = reusable.then_some(kept);
                    return Exchange { outcome, phases, reused: true, unheard: false };
                }
                Exchanged::Unheard(outcome) => {
                    return Exchange { outcome, phases, reused: true, unheard: true };
                }
                Exchanged::Unsent(request) => unsent = *request,
            }
        }
        Box::pin(self.send_anew(slot, target, unsent, deadline, is_wanted)).await
    }

    /// Whether `target` could be sent to, as far as its name and addresses tell: nothing is
    /// dialled.
    ///
    /// # Errors
    ///
    /// The [`Outcome`] that a request would have: refused, or that the name does not resolve.
    pub async fn judge(&self, target: &Target, timeout: Duration) -> Result<(), Outcome> {
        let deadline = Clock.instant() + timeout.min(TIMEOUT_MAX);
        self.0.connector.judged(target, deadline, &mut Phases::default()).await.map(drop)
    }

    async fn send_anew(
        &self,
        slot: &mut Option<Connection>,
        target: &Target,
        request: Request<Full<Bytes>>,
        deadline: Instant,
        is_wanted: &(dyn Fn() -> bool + Sync),
    ) -> Exchange {
        let (limits, mut phases) = (&self.0.limits, Phases::default());
        let outcome = match self.0.connector.open(target, deadline, limits, &mut phases).await {
            Err(outcome) => outcome,
            Ok(new) if !is_wanted() => {
                *slot = Some(new);
                Outcome::Interrupted
            }
            Ok(mut new) => {
                match new.exchange(target, request, deadline, limits, &mut phases).await {
                    Exchanged::Finished { outcome, reusable } => {
                        *slot = reusable.then_some(new);
                        outcome
                    }
                    Exchanged::Unheard(outcome) => outcome,
                    // Closed at once, and so would be the next one.
                    Exchanged::Unsent(_) => failure::unreachable(
                        Cause::Closed,
                        "the connection was closed before the request was written",
                    ),
                }
            }
        };
        Exchange { outcome, phases, reused: false, unheard: false }
    }
}

/// Far beyond any sensible time-out; it keeps adding to the clock from overflowing.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

fn tls_config(settings: &ClientSettings) -> Result<ClientConfig, ClientError> {
    let roots = roots(settings)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The authorities that are trusted.
fn roots(settings: &ClientSettings) -> Result<Arc<RootCertStore>, ClientError> {
    let none = || Arc::new(RootCertStore::empty());
    let mut roots = if settings.system_roots { system_roots() } else { none() };
    if let Some(pem) = &settings.extra_ca {
        add_extra_roots(Arc::make_mut(&mut roots), pem)?;
    }
    Ok(roots)
}

/// The system's authorities: a hundred and more, which take milliseconds to read.
fn system_roots() -> Arc<RootCertStore> {
    static READ: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(READ.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(
                %error,
                "some of the system's certificate authorities could not be read"
            );
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!("the system trusts no certificate authority: https endpoints will fail");
        }
        Arc::new(roots)
    }))
}

/// Reads what the first client of the process needs of the system, on a thread of its own: a
/// process that starts has other things to wait for.
pub async fn read_system() {
    // Whatever becomes of the thread, the first client reads what is not read yet.
    drop(tokio::task::spawn_blocking(system_roots).await);
}

fn add_extra_roots(roots: &mut RootCertStore, pem: &[u8]) -> Result<(), ClientError> {
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(ClientError::ExtraCa)?;
        roots.add(certificate).map_err(ClientError::BadExtraCa)?;
        added += 1;
    }
    if added == 0 { Err(ClientError::NoExtraCa) } else { Ok(()) }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("rules", &self.0.connector.rules)
            .field("resolver", &self.0.connector.resolver)
            .field("proxy", &self.0.connector.proxy)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

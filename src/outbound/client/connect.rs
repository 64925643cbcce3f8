//! From a target to an open connection: resolve, judge every address, dial a judged address, then
//! TLS. There is one lookup and no other afterwards, so DNS rebinding has no room.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout_at;
use tower_service::Service;

use super::connection::Connection;
use super::dial::{in_turn, race};
use super::ear::{Overheard, Stream};
use super::failure;
use super::proxy;
use super::settings::Limits;
use super::wire::{ReadAllowance, Wire};
use crate::clock::Clock;
use crate::model::outcome::{Cause, Outcome, Phase, Phases};
use crate::model::proxy::ProxyUrl;
use crate::outbound::addresses::{AddressRules, NotAdmitted, Objection};
use crate::outbound::resolve::{LookupError, Resolver, known_addresses};
use crate::outbound::target::Target;

/// Opens connections, guarded.
pub(super) struct Connector {
    pub(super) rules: AddressRules,
    pub(super) resolver: Resolver,
    pub(super) tls: Arc<rustls::ClientConfig>,
    pub(super) proxy: Option<ProxyUrl>,
    pub(super) resolve_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) tls_timeout: Duration,
}

/// A TLS handshake with a long certificate chain takes some 10 kB.
const HANDSHAKE_BYTES: usize = 256 * 1024;

impl Connector {
    /// Opens a connection, or says why not.
    pub(super) async fn open(
        &self,
        target: &Target,
        deadline: Instant,
        limits: &Limits,
        phases: &mut Phases,
    ) -> Result<Connection, Outcome> {
        let addresses = self.judged(target, deadline, phases).await?;

        let started = Clock.instant();
        let tcp = within(deadline, started + self.connect_timeout, Phase::Connect, async {
            self.connect(&in_turn(&addresses, target.port())).await
        })
        .await;
        phases.connect = Some(Clock.since(started));

        let allowance = ReadAllowance::new(HANDSHAKE_BYTES);
        let wire = Wire::new(tcp??, allowance.clone());
        let started = Clock.instant();
        let opened = within(deadline, started + self.tls_timeout, Phase::Tls, async {
            let stream = self.secure(wire, target).await?;
            Box::pin(Connection::handshake(stream, allowance, target, deadline, limits))
                .await
                .map_err(|error| failure::of(&error, Phase::Headers))
        })
        .await;
        if target.is_https() {
            phases.tls = Some(Clock.since(started));
        }
        opened?
    }

    /// The addresses of a target, every one of which may be dialled.
    pub(super) async fn judged(
        &self,
        target: &Target,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<Vec<IpAddr>, Outcome> {
        if !target.is_https() && !self.rules.may_be_plain(target.host()) {
            // No lookup is made; addresses that are known without one are judged all the same.
            let known =
                target.ip().map_or_else(|| known_addresses(target.lookup_name()), |ip| vec![ip]);
            return Err(self.refused(target, NotAdmitted::NotHttps, &known));
        }
        let addresses = self.resolve(target, deadline, phases).await?;
        self.rules
            .admit(target.host(), target.port(), target.is_https(), &addresses)
            .map_err(|not| self.refused(target, not, &addresses))?;
        Ok(addresses)
    }

    /// The outcome, with every objection to the target in its detail.
    fn refused(&self, target: &Target, not: NotAdmitted, addresses: &[IpAddr]) -> Outcome {
        let (host, port) = (target.host(), target.port());
        let against = self.rules.objections(host, port, target.is_https(), addresses);
        failure::refused(not.why(), &Objection::in_words(&against))
    }

    async fn resolve(
        &self,
        target: &Target,
        deadline: Instant,
        phases: &mut Phases,
    ) -> Result<Vec<IpAddr>, Outcome> {
        if let Some(ip) = target.ip() {
            return Ok(vec![ip]);
        }
        let started = Clock.instant();
        let lookup = self.resolver.lookup(target.lookup_name());
        let found = within(deadline, started + self.resolve_timeout, Phase::Resolve, lookup).await;
        phases.resolve = Some(Clock.since(started));
        found?.map_err(|error| match error {
            LookupError::TimedOut => Outcome::TimedOut { phase: Phase::Resolve },
            LookupError::NoAddress | LookupError::Failed(_) => {
                let name = target.lookup_name();
                failure::unreachable(Cause::Dns, &format!("{name}: {}", failure::describe(&error)))
            }
        })
    }

    /// A TCP connection to one of these judged addresses, by way of the proxy if there is one.
    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Outcome> {
        let tcp = match &self.proxy {
            Some(proxy) => proxy::tunnel(proxy, &self.resolver, addresses).await?,
            None => {
                let tcp = race(addresses).await.map_err(|error| {
                    let doing = format!("connect to {}", named(addresses));
                    failure::while_doing(&doing, &error, Phase::Connect)
                })?;
                self.judge_connected(&tcp)?;
                tcp
            }
        };
        tcp.set_nodelay(true).map_err(|error| failure::of(&error, Phase::Connect))?;
        Ok(tcp)
    }

    fn judge_connected(&self, tcp: &TcpStream) -> Result<(), Outcome> {
        let io = |error: io::Error| failure::of(&error, Phase::Connect);
        let (peer, local) = (tcp.peer_addr().map_err(io)?, tcp.local_addr().map_err(io)?);
        self.rules
            .judge_connected(peer, local.ip())
            .map_err(|own| failure::refused(NotAdmitted::Forbidden(own).why(), &own.to_string()))
    }

    /// TLS with the target's name if the URL says https; ALPN chooses the protocol.
    async fn secure(&self, wire: Wire, target: &Target) -> Result<Stream, Outcome> {
        let mut connector = HttpsConnector::from((Dialled(Some(wire)), Arc::clone(&self.tls)));
        connector.call(target.dial().clone()).await.map(Overheard::new).map_err(|error| {
            let doing = format!("TLS with {}:{}", target.host(), target.port());
            failure::while_doing(&doing, &*error, Phase::Tls)
        })
    }
}

/// The inner connector of hyper-rustls: it hands out the connection that has been judged and
/// dialled already, and could not dial another.
struct Dialled(Option<Wire>);

impl Service<Uri> for Dialled {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<TokioIo<Wire>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let wire = self.0.take().ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected));
        std::future::ready(wire.map(TokioIo::new))
    }
}

/// The addresses that were dialled, the first of them by number.
fn named(addresses: &[SocketAddr]) -> String {
    match addresses {
        [] => "no address".to_owned(),
        [one] => one.to_string(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

/// Runs a phase until its own deadline or the whole request's, whichever comes first.
async fn within<F: Future>(
    deadline: Instant,
    own: Instant,
    phase: Phase,
    part: F,
) -> Result<F::Output, Outcome> {
    timeout_at(deadline.min(own).into(), part).await.map_err(|_| Outcome::TimedOut { phase })
}

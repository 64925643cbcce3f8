//! Connects to the database, with libpq's sslmode in full. Pools and sessions build on it.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::tls::{MakeTlsConnect, NoTlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;
use super::session::{Identity, KnownDatabase};
use super::tls::{Check, client_config};
use super::url::{self, Mode, Roots, Way};

/// A database and how to reach it: by one URL, or by two, of which one leads through a pooler.
#[derive(Clone)]
pub struct Database {
    /// One for each host of the URL.
    hosts: Arc<[Config]>,
    tls: DatabaseTls,
    /// For each host.
    connect_timeout: Duration,
    /// The host of the last connection, tried first: hosts that are away then cost no wait.
    favourite: Arc<AtomicUsize>,
    /// A pooler in transaction mode lies in between.
    is_pooled: bool,
    /// The way to sessions that last, if it is another.
    direct: Option<Box<Database>>,
    /// The identity of the database.
    known: Arc<KnownDatabase>,
}

/// Whether and how connections are encrypted.
#[derive(Clone)]
enum DatabaseTls {
    Off,
    On(MakeRustlsConnect),
}

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// An open connection, which its driver polls.
enum OpenConnection {
    Plain(Box<Connection<Socket, NoTlsStream>>),
    Encrypted(Box<Connection<Socket, TlsStream>>),
}

/// Drives a session: it must be polled for the client to work, and ends with it. It passes the
/// payloads of notifications to the closure.
pub(super) type SessionDriver =
    Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

impl Database {
    /// Reads a `postgres://` URL or `keyword=value` string as libpq does. `ca_file` adds
    /// authorities in PEM to the system's; `password` goes over the URL's, and the URL's
    /// `connect_timeout` over ours.
    ///
    /// # Errors
    /// When the URL or the file cannot be read.
    pub fn parse(
        url: &str,
        password: Option<&str>,
        ca_file: Option<&Path>,
        connect_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let Way { mut config, mode, roots, sends_name, connect_timeout: said } = url::read(url)?;
        let connect_timeout = said.unwrap_or(connect_timeout);
        if let Some(password) = password {
            config.password(password);
        }
        config.connect_timeout(connect_timeout).target_session_attrs(TargetSessionAttrs::ReadWrite);
        let roots = match &roots {
            Roots::Unsaid => ca_file,
            Roots::System => None,
            Roots::File(path) => Some(path.as_path()),
        };
        let (mode, check) = match mode {
            Mode::Disable => (SslMode::Disable, Check::Nothing),
            Mode::Prefer => (SslMode::Prefer, Check::Nothing),
            // As in libpq: require checks the authority only where one is given.
            Mode::Require if roots.is_none() => (SslMode::Require, Check::Nothing),
            Mode::Require | Mode::VerifyCa => (SslMode::Require, Check::Authority),
            Mode::VerifyFull => (SslMode::Require, Check::AuthorityAndName),
        };
        config.ssl_mode(mode);
        let tls = if mode == SslMode::Disable {
            DatabaseTls::Off
        } else {
            let mut tls = client_config(check, roots)?;
            tls.enable_sni = sends_name;
            DatabaseTls::On(MakeRustlsConnect::new(tls))
        };
        let hosts = apart(&config);
        let (favourite, known) = (Arc::default(), Arc::default());
        let (is_pooled, direct) = (false, None);
        Ok(Self { hosts, tls, connect_timeout, favourite, is_pooled, direct, known })
    }

    /// The same, behind a pooler in transaction mode, which soon lends a session to another client.
    #[must_use]
    pub fn behind_pooler(self) -> Self {
        Self { is_pooled: true, ..self }
    }

    /// The same, with a second way for sessions that last.
    #[must_use]
    pub fn with_direct(self, direct: Self) -> Self {
        Self { direct: Some(Box::new(direct)), ..self }
    }

    /// Whether sessions last only as long as their transaction.
    pub(super) fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Whether all sessions last, on one server.
    #[must_use]
    pub fn keeps_every_session(&self) -> bool {
        !self.is_pooled && self.direct.is_none()
    }

    /// Whether there is a way to sessions that last, for locks and notifications.
    pub(super) fn keeps_sessions(&self) -> bool {
        !self.direct().is_pooled
    }

    /// The way to sessions that last, if there is one.
    pub(super) fn direct(&self) -> &Self {
        self.direct.as_deref().unwrap_or(self)
    }

    /// Host and port, or socket, of the last connection's server; before any connection, of the
    /// first host. Never the password.
    #[must_use]
    pub fn address(&self) -> String {
        address(&self.hosts[self.favourite.load(Ordering::Relaxed)])
    }

    /// Every host and port it may connect to; requests to endpoints must not go there.
    #[must_use]
    pub fn hosts(&self) -> Vec<(String, u16)> {
        let named = |host: &Config| match host.get_hosts() {
            [Host::Tcp(name)] => Some((name.clone(), port(host))),
            _ => None,
        };
        let numbered = |host: &Config| {
            host.get_hostaddrs().first().map(|address| (address.to_string(), port(host)))
        };
        let own = self.hosts.iter().flat_map(|host| named(host).into_iter().chain(numbered(host)));
        own.chain(self.direct.iter().flat_map(|direct| direct.hosts())).collect()
    }

    /// Whether it may be reached by a socket of this machine, for which there is no address.
    pub(super) fn is_local(&self) -> bool {
        let by_socket = |host: &Config| matches!(host.get_hosts(), [Host::Unix(_)]);
        self.hosts.iter().any(by_socket) || self.direct.as_deref().is_some_and(Self::is_local)
    }

    /// Opens a session, with the driver that must be polled beside it. No setting has been made
    /// yet: only the caller knows whether the session is its own.
    pub(super) async fn session(
        &self,
        on_notification: impl Fn(&str) + Send + 'static,
    ) -> Result<(Client, SessionDriver), StoreError> {
        let (client, opened, address) = Box::pin(self.open()).await?;
        let mut driver = match opened {
            OpenConnection::Plain(connection) => drive(*connection, on_notification),
            OpenConnection::Encrypted(connection) => drive(*connection, on_notification),
        };
        let doing = "ask which database this is";
        tokio::select! {
            found = answered(doing, self.connect_timeout, Identity::of(&client)) => {
                self.known.meet(&address, found?)?;
            }
            ended = &mut driver => {
                return Err(ended.err().map_or(StoreError::SessionEnded, StoreError::query(doing)));
            }
        }
        Ok((client, driver))
    }

    /// The database that this way leads to, and insists on.
    pub(super) fn known(&self) -> &Arc<KnownDatabase> {
        &self.known
    }

    /// Sessions opened so far. A newer one may be in a server that has taken over.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.known.opened() + self.direct.as_deref().map_or(0, Self::opened)
    }

    /// Where a way led if it led to another database than at first. Holds no secrets, since the
    /// relay shows it.
    #[must_use]
    pub fn strayed(&self) -> Option<&str> {
        self.known.strayed().or_else(|| self.direct.as_deref()?.strayed())
    }

    /// Connects to the first host that accepts writes. Each of its addresses has the time-out for
    /// itself: an address that accepts the connection and then stays silent is passed over as well.
    async fn open(&self) -> Result<(Client, OpenConnection, String), StoreError> {
        let favourite = self.favourite.load(Ordering::Relaxed);
        let mut failed = StoreError::SessionEnded;
        for place in (0..self.hosts.len()).map(|n| (favourite + n) % self.hosts.len()) {
            for way in self.ways_to(&self.hosts[place]).await {
                let address = address(&way);
                failed = match tokio::time::timeout(self.connect_timeout, self.dial(&way)).await {
                    Ok(Ok((client, opened))) => {
                        self.favourite.store(place, Ordering::Relaxed);
                        return Ok((client, opened, address));
                    }
                    Ok(Err(source)) => StoreError::Connect { address, source },
                    Err(_) => StoreError::ConnectTimeout { address, within: self.connect_timeout },
                };
            }
        }
        Err(failed)
    }

    /// The host by each address that its name has. An unknown name fails when dialled.
    async fn ways_to(&self, host: &Config) -> Vec<Config> {
        let name = match (host.get_hosts(), host.get_hostaddrs()) {
            ([Host::Tcp(name)], []) if name.parse::<IpAddr>().is_err() => name.as_str(),
            _ => return vec![host.clone()],
        };
        let lookup = tokio::net::lookup_host((name, port(host)));
        let Ok(Ok(found)) = tokio::time::timeout(self.connect_timeout, lookup).await else {
            return vec![host.clone()];
        };
        found.map(|found| host.clone().hostaddr(found.ip()).clone()).collect()
    }

    async fn dial(&self, way: &Config) -> Result<(Client, OpenConnection), tokio_postgres::Error> {
        Ok(match &self.tls {
            DatabaseTls::Off => {
                let (client, connection) = way.connect(NoTls).await?;
                (client, OpenConnection::Plain(Box::new(connection)))
            }
            DatabaseTls::On(tls) => {
                let (client, connection) = way.connect(tls.clone()).await?;
                (client, OpenConnection::Encrypted(Box::new(connection)))
            }
        })
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }
}

/// The same settings for each of the hosts alone.
fn apart(all: &Config) -> Arc<[Config]> {
    let (hosts, addresses, ports) = (all.get_hosts(), all.get_hostaddrs(), all.get_ports());
    let one = |place: usize| {
        let mut one = Config::new();
        match hosts.get(place) {
            Some(Host::Tcp(name)) => one.host(name),
            Some(Host::Unix(path)) => one.host_path(path),
            None => &mut one,
        };
        // As in libpq: a server offers no TLS on a socket of this machine, so none is asked for.
        let ssl_mode = match hosts.get(place) {
            Some(Host::Unix(_)) => SslMode::Disable,
            _ => all.get_ssl_mode(),
        };
        addresses.get(place).map(|address| one.hostaddr(*address));
        ports.get(place).or(ports.first()).map(|port| one.port(*port));
        all.get_user().map(|user| one.user(user));
        all.get_password().map(|password| one.password(password));
        all.get_dbname().map(|name| one.dbname(name));
        all.get_options().map(|options| one.options(options));
        all.get_application_name().map(|name| one.application_name(name));
        all.get_connect_timeout().map(|timeout| one.connect_timeout(*timeout));
        all.get_tcp_user_timeout().map(|timeout| one.tcp_user_timeout(*timeout));
        all.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
        all.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
        one.keepalives(all.get_keepalives())
            .keepalives_idle(all.get_keepalives_idle())
            .ssl_mode(ssl_mode)
            .ssl_negotiation(all.get_ssl_negotiation())
            .channel_binding(all.get_channel_binding())
            .target_session_attrs(all.get_target_session_attrs());
        one
    };
    (0..hosts.len().max(addresses.len())).map(one).collect()
}

/// Host and port of one host, or its socket.
fn address(host: &Config) -> String {
    match (host.get_hosts(), host.get_hostaddrs()) {
        ([Host::Tcp(name)], _) => format!("{name}:{}", port(host)),
        ([Host::Unix(path)], _) => path.display().to_string(),
        (_, [address, ..]) => SocketAddr::new(*address, port(host)).to_string(),
        _ => format!("localhost:{}", port(host)),
    }
}

fn port(host: &Config) -> u16 {
    host.get_ports().first().copied().unwrap_or(5432)
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("address", &self.address()).finish_non_exhaustive()
    }
}

fn drive<S, T>(
    mut connection: Connection<S, T>,
    on_notification: impl Fn(&str) + Send + 'static,
) -> SessionDriver
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(async move {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message? {
                on_notification(notification.payload());
            }
        }
        Ok(())
    })
}

/// Ends a wait that no statement time-out ends, because the server itself may hang.
pub(super) async fn answered<T>(
    doing: &'static str,
    within: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let done = tokio::time::timeout(within, work).await;
    done.map_err(|_| StoreError::NoAnswer { doing, within })?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_the_address_and_no_password() {
        let database =
            Database::parse("postgres://u:hunter2@db:6000/x", None, None, Duration::from_secs(1))
                .unwrap();
        assert_eq!(database.address(), "db:6000");
        assert!(!format!("{database:?}").contains("hunter2"));
    }
}

//! How the database is reached: the URL with libpq's sslmode in full, TLS by rustls, and what every
//! session sets. Pools and sessions are built on it.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;

/// Set by statement, not by start-up option: poolers refuse those. Routing compares snapshots of
/// single statements, so the isolation level must be the one that takes them anew.
pub const SESSION: &str = "set application_name = 'posthaste'; set timezone = 'UTC'; \
     set default_transaction_isolation = 'read committed'; set search_path = pg_catalog, pg_temp;";

/// A database and how to reach it: by one way, or by two, of which one leads through a pooler.
#[derive(Clone)]
pub struct Database {
    config: Config,
    tls: Tls,
    connect_timeout: Duration,
    /// A pooler in transaction mode lies in between.
    is_pooled: bool,
    /// The way to sessions that are kept, if it is another.
    direct: Option<Box<Database>>,
}

/// Whether and how connections are encrypted.
#[derive(Clone)]
pub(super) enum Tls {
    Off,
    On(MakeRustlsConnect),
}

/// What a session's driver does: it must be polled for the client to work, and ends with it.
/// The payloads of notifications are handed to the closure.
pub(super) type Driver = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

impl Database {
    /// Reads a `postgres://` URL or `key=value` string as libpq does, `sslmode` (disable, prefer,
    /// require, verify-ca, verify-full) and `sslrootcert` included. `ca_file` adds authorities in
    /// PEM to the system's; `password` goes over the URL's.
    ///
    /// # Errors
    /// When the URL or the file cannot be read.
    pub fn parse(
        url: &str,
        password: Option<&str>,
        ca_file: Option<&Path>,
        connect_timeout: Duration,
    ) -> Result<Self, StoreError> {
        let (plain, ssl) = split_ssl(url);
        let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
            // The message names the option; it never repeats the password.
            StoreError::Url(
                std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), ToString::to_string),
            )
        })?;
        if let Some(password) = password {
            config.password(password);
        }
        config
            .connect_timeout(connect_timeout)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(20));
        if config.get_target_session_attrs() == TargetSessionAttrs::Any {
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        let roots = ssl.root_cert.as_deref().map(Path::new).or(ca_file);
        let (mode, check) = match ssl.mode.as_str() {
            "disable" => (SslMode::Disable, Check::Nothing),
            "allow" | "prefer" | "" => (SslMode::Prefer, Check::Nothing),
            // As in libpq: require checks the authority only where one is given.
            "require" => {
                (SslMode::Require, if roots.is_some() { Check::Authority } else { Check::Nothing })
            }
            "verify-ca" => (SslMode::Require, Check::Authority),
            "verify-full" => (SslMode::Require, Check::AuthorityAndName),
            other => {
                return Err(StoreError::Url(format!(
                    "sslmode is {other}; it is one of disable, prefer, require, verify-ca, verify-full"
                )));
            }
        };
        config.ssl_mode(mode);
        let tls = match mode {
            SslMode::Disable => Tls::Off,
            _ => Tls::On(MakeRustlsConnect::new(client_config(check, roots)?)),
        };
        Ok(Self { config, tls, connect_timeout, is_pooled: false, direct: None })
    }

    /// The same, behind a pooler in transaction mode: what a session is told is soon another's.
    #[must_use]
    pub fn behind_pooler(self) -> Self {
        Self { is_pooled: true, ..self }
    }

    /// The same, with another way to it for sessions that are kept.
    #[must_use]
    pub fn with_direct(self, direct: Self) -> Self {
        Self { direct: Some(Box::new(direct)), ..self }
    }

    /// Whether sessions last only as long as their transaction.
    pub(super) fn is_pooled(&self) -> bool {
        self.is_pooled
    }

    /// Whether there is a way to sessions that are kept, for what hangs on them.
    pub(super) fn keeps_sessions(&self) -> bool {
        !self.direct().is_pooled
    }

    /// The way to sessions that are kept, if there is one.
    pub(super) fn direct(&self) -> &Self {
        self.direct.as_deref().unwrap_or(self)
    }

    /// Host and port, or socket, of the (first) server; never the password.
    #[must_use]
    pub fn address(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(name)) => name.clone(),
            Some(tokio_postgres::config::Host::Unix(path)) => return path.display().to_string(),
            None => "localhost".to_owned(),
        };
        format!("{host}:{}", self.config.get_ports().first().copied().unwrap_or(5432))
    }

    /// Every host and port it may connect to, for those who must not dial it.
    #[must_use]
    pub fn hosts(&self) -> Vec<(String, u16)> {
        let ports = self.config.get_ports();
        let own = self.config.get_hosts().iter().enumerate().filter_map(|(i, host)| match host {
            tokio_postgres::config::Host::Tcp(name) => {
                Some((name.clone(), ports.get(i).or(ports.first()).copied().unwrap_or(5432)))
            }
            tokio_postgres::config::Host::Unix(_) => None,
        });
        own.chain(self.direct.iter().flat_map(|direct| direct.hosts())).collect()
    }

    /// Opens a session of one's own, with the driver that must be polled beside it.
    pub(super) async fn session(
        &self,
        on_notification: impl Fn(&str) + Send + 'static,
    ) -> Result<(Client, Driver), StoreError> {
        let connect = async {
            match &self.tls {
                Tls::Off => {
                    let (client, connection) = self.config.connect(NoTls).await?;
                    Ok((client, drive(connection, on_notification)))
                }
                Tls::On(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    Ok((client, drive(connection, on_notification)))
                }
            }
        };
        tokio::time::timeout(self.connect_timeout, connect)
            .await
            .map_err(|_| StoreError::ConnectTimeout {
                address: self.address(),
                seconds: self.connect_timeout.as_secs(),
            })?
            .map_err(|source| StoreError::Connect { address: self.address(), source })
    }

    /// Asks the server to break off what the session is doing.
    pub(super) async fn cancel(
        &self,
        token: &tokio_postgres::CancelToken,
    ) -> Result<(), StoreError> {
        match &self.tls {
            Tls::Off => token.cancel_query(NoTls).await,
            Tls::On(tls) => token.cancel_query(tls.clone()).await,
        }
        .map_err(StoreError::query("cancel waiting for the bell's lock"))
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> &Tls {
        &self.tls
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("address", &self.address()).finish_non_exhaustive()
    }
}

fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    on_notification: impl Fn(&str) + Send + 'static,
) -> Driver
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

/// The TLS words of a connection string, which tokio-postgres knows only in part.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ssl {
    mode: String,
    root_cert: Option<String>,
}

fn split_ssl(text: &str) -> (String, Ssl) {
    let mut ssl = Ssl::default();
    let mut take = |key: &str, value: &str| match key {
        "sslmode" => {
            value.clone_into(&mut ssl.mode);
            true
        }
        "sslrootcert" => {
            ssl.root_cert = Some(value.to_owned());
            true
        }
        _ => false,
    };
    let plain = if let Some((base, query)) = text.split_once('?').filter(|_| text.contains("://")) {
        let rest: Vec<&str> = query
            .split('&')
            .filter(|pair| pair.split_once('=').is_none_or(|(key, value)| !take(key, value)))
            .collect();
        if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) }
    } else if text.contains("://") {
        text.to_owned()
    } else {
        text.split_whitespace()
            .filter(|pair| {
                pair.split_once('=').is_none_or(|(key, value)| !take(key, value.trim_matches('\'')))
            })
            .collect::<Vec<_>>()
            .join(" ")
    };
    (plain, ssl)
}

/// How much of the server's certificate is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

fn client_config(check: Check, extra_roots: Option<&Path>) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring serves the default versions");
    let mut roots = RootCertStore::empty();
    if check != Check::Nothing {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(path) = extra_roots {
        let unreadable =
            |source| StoreError::Authorities { path: path.display().to_string(), source };
        for cert in
            CertificateDer::pem_file_iter(path).map_err(|e| unreadable(std::io::Error::other(e)))?
        {
            let cert = cert.map_err(|e| unreadable(std::io::Error::other(e)))?;
            roots.add(cert).map_err(|e| unreadable(std::io::Error::other(e)))?;
        }
    }
    let inner = (check != Check::Nothing && !roots.is_empty())
        .then(|| {
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
        })
        .transpose()
        .map_err(|e| StoreError::Url(format!("no usable certificate authority: {e}")))?;
    if check != Check::Nothing && inner.is_none() {
        return Err(StoreError::Url("sslmode asks for a certificate check, but no authority is known: give sslrootcert or database.ca_file".to_owned()));
    }
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { check, inner, provider }))
        .with_no_client_auth())
}

/// libpq's notion of checking: as much as sslmode asks for, and no more.
#[derive(Debug)]
struct Verifier {
    check: Check,
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Authority => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_is_read_in_every_spelling_and_left_out_of_the_rest() {
        for (text, plain, mode, root) in [
            ("postgres://a/b", "postgres://a/b", "", None),
            ("postgres://a/b?sslmode=verify-full", "postgres://a/b", "verify-full", None),
            (
                "postgres://a/b?application_name=x&sslmode=verify-ca&sslrootcert=/ca.pem",
                "postgres://a/b?application_name=x",
                "verify-ca",
                Some("/ca.pem"),
            ),
            ("host=a dbname=b sslmode=require", "host=a dbname=b", "require", None),
        ] {
            let (got, ssl) = split_ssl(text);
            assert_eq!(got, plain);
            assert_eq!(ssl, Ssl { mode: mode.to_owned(), root_cert: root.map(str::to_owned) });
        }
    }

    #[test]
    fn an_unknown_sslmode_is_refused_with_those_that_exist() {
        let error =
            Database::parse("postgres://a/b?sslmode=full", None, None, Duration::from_secs(1))
                .unwrap_err();
        assert!(error.to_string().contains("verify-full"), "{error}");
    }

    #[test]
    fn debug_shows_the_address_and_no_password() {
        let database =
            Database::parse("postgres://u:hunter2@db:6000/x", None, None, Duration::from_secs(1))
                .unwrap();
        assert_eq!(database.address(), "db:6000");
        assert!(!format!("{database:?}").contains("hunter2"));
    }
}

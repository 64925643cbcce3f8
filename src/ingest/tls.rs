//! TLS of the listener: the certificate and key that it shows. They are looked at again while it runs, so
//! that a certificate is renewed by replacing its files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{Context, Digest, SHA256};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::IngestError;
use crate::clock::Clock;

/// A connection that comes this long after the last look looks again. A certificate is renewed days before it
/// runs out, and two small files are soon read.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The certificate and key that are shown now. What is in the files and cannot be used changes nothing.
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    shown: Mutex<Shown>,
}

struct Shown {
    acceptor: TlsAcceptor,
    /// Of the files as they were at the last look, usable or not.
    files: Option<Seen>,
    looked: Instant,
}

/// What the two files held; nothing that tells the key.
#[derive(Clone, Copy)]
struct Seen(Digest);

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref() == other.0.as_ref()
    }
}

/// Holds a private key. Not shown.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls(…)")
    }
}

impl Tls {
    pub(super) fn open(certificate: &Path, key: &Path) -> Result<Self, IngestError> {
        let (files, acceptor) = read(certificate, key);
        let shown = Shown { acceptor: acceptor?, files, looked: Clock.instant() };
        Ok(Self { certificate: certificate.into(), key: key.into(), shown: Mutex::new(shown) })
    }

    /// With what the files hold, as of a moment ago.
    pub(super) async fn acceptor(&self) -> TlsAcceptor {
        if self.is_to_look() {
            let (certificate, key) = (self.certificate.clone(), self.key.clone());
            let looked = tokio::task::spawn_blocking(move || read(&certificate, &key)).await;
            if let Ok((files, acceptor)) = looked {
                self.renew(files, acceptor);
            }
        }
        self.shown().acceptor.clone()
    }

    /// At most one looks; the others go on with what is shown.
    fn is_to_look(&self) -> bool {
        let mut shown = self.shown();
        let is_time = Clock.since(shown.looked) >= LOOK_EVERY;
        if is_time {
            shown.looked = Clock.instant();
        }
        is_time
    }

    fn renew(&self, files: Option<Seen>, acceptor: Result<TlsAcceptor, IngestError>) {
        let mut shown = self.shown();
        // said once for each change, not with every look
        if files == shown.files {
            return;
        }
        shown.files = files;
        match acceptor {
            Ok(acceptor) => {
                shown.acceptor = acceptor;
                tracing::info!("showing the certificate that ingest.certificate_file holds now");
            }
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, why, "the new certificate of ingest cannot be used; showing the old one");
            }
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // what is behind this lock is whole at every moment
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the files hold, and what can be made of it. `None`: one of them cannot be read.
fn read(certificate: &Path, key: &Path) -> (Option<Seen>, Result<TlsAcceptor, IngestError>) {
    let unreadable = |setting, path: &Path| {
        let path = path.to_owned();
        move |source| IngestError::Certificate { setting, path, source }
    };
    let of_certificate = || unreadable("ingest.certificate_file", certificate);
    let of_key = || unreadable("ingest.key_file", key);
    let files = std::fs::read(certificate)
        .map_err(of_certificate())
        .and_then(|chain| Ok((chain, std::fs::read(key).map_err(of_key())?)));
    let (chain, secret) = match files {
        Ok(files) => files,
        Err(error) => return (None, Err(error)),
    };
    let mut seen = Context::new(&SHA256);
    seen.update(&chain.len().to_le_bytes());
    seen.update(&chain);
    seen.update(&secret);
    let made = || {
        // says which part of the file is no PEM, and nothing of what it holds
        let chain = CertificateDer::pem_slice_iter(&chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(io::Error::other)
            .map_err(of_certificate())?;
        let key = PrivateKeyDer::from_pem_slice(&secret).map_err(io::Error::other);
        acceptor(chain, key.map_err(of_key())?)
    };
    (Some(Seen(seen.finish())), made())
}

/// Refuses a key that is not the certificate's.
fn acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<TlsAcceptor, IngestError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

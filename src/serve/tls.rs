//! TLS of a listener: the certificate and key that it shows. It looks at their files again while it
//! runs, so an operator renews a certificate by replacing the files.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{Context, Digest, SHA256};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::clock::Clock;

/// A connection that comes this long after the last look looks again. A certificate is renewed days
/// before it runs out, and two small files are soon read.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("read {section}.{setting} {}", path.display())]
    Read { section: &'static str, setting: &'static str, path: PathBuf, source: io::Error },
    #[error("use the certificate and key of {section}")]
    Use { section: &'static str, source: rustls::Error },
}

/// The certificate and key that are shown now. Files that hold nothing usable change nothing.
pub struct CertificateFiles {
    paths: CertificatePaths,
    shown: Mutex<ShownCertificate>,
}

#[derive(Clone)]
struct CertificatePaths {
    /// The section of the settings with `certificate_file` and `key_file`.
    section: &'static str,
    certificate: PathBuf,
    key: PathBuf,
}

struct ShownCertificate {
    acceptor: TlsAcceptor,
    /// Of the files as they were at the last look, usable or not.
    files: Option<FilesDigest>,
    looked: Instant,
}

/// A digest of what the two files held; it does not tell the key.
#[derive(Clone, Copy)]
struct FilesDigest(Digest);

impl PartialEq for FilesDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ref() == other.0.as_ref()
    }
}

/// Holds a private key. Not shown.
impl fmt::Debug for CertificateFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CertificateFiles(…)")
    }
}

impl CertificateFiles {
    /// Reads both files, which are settings of this section.
    ///
    /// # Errors
    /// If a file cannot be read, or the key is not the certificate's.
    pub fn open(
        section: &'static str,
        certificate: &Path,
        key: &Path,
    ) -> Result<Self, CertificateError> {
        let paths = CertificatePaths { section, certificate: certificate.into(), key: key.into() };
        let (files, acceptor) = paths.read();
        let shown = ShownCertificate { acceptor: acceptor?, files, looked: Clock.instant() };
        Ok(Self { paths, shown: Mutex::new(shown) })
    }

    /// With what the files hold, as of a moment ago.
    pub(super) async fn acceptor(&self) -> TlsAcceptor {
        if self.is_to_look() {
            let paths = self.paths.clone();
            let looked = tokio::task::spawn_blocking(move || paths.read()).await;
            if let Ok((files, acceptor)) = looked {
                self.renew(files, acceptor);
            }
        }
        self.shown().acceptor.clone()
    }

    /// At most one connection looks; the others go on with what is shown.
    fn is_to_look(&self) -> bool {
        let mut shown = self.shown();
        let is_time = Clock.since(shown.looked) >= LOOK_EVERY;
        if is_time {
            shown.looked = Clock.instant();
        }
        is_time
    }

    fn renew(&self, files: Option<FilesDigest>, acceptor: Result<TlsAcceptor, CertificateError>) {
        let mut shown = self.shown();
        // Said once for each change, not with every look.
        if files == shown.files {
            return;
        }
        shown.files = files;
        let section = self.paths.section;
        match acceptor {
            Ok(acceptor) => {
                shown.acceptor = acceptor;
                tracing::info!("showing the certificate that {section}.certificate_file holds now");
            }
            Err(error) => {
                let why = error.source().map(ToString::to_string);
                tracing::warn!(
                    %error,
                    why,
                    "the new certificate of {section} cannot be used; showing the old one"
                );
            }
        }
    }

    fn shown(&self) -> MutexGuard<'_, ShownCertificate> {
        // The value behind this lock is whole at every moment.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CertificatePaths {
    /// The files' digest, and the acceptor that shows them. `None`: one of them cannot be read.
    fn read(&self) -> (Option<FilesDigest>, Result<TlsAcceptor, CertificateError>) {
        let files = std::fs::read(&self.certificate)
            .map_err(|source| self.unreadable_certificate(source))
            .and_then(|chain| {
                let key = std::fs::read(&self.key);
                Ok((chain, key.map_err(|source| self.unreadable_key(source))?))
            });
        let (chain, key) = match files {
            Ok(files) => files,
            Err(error) => return (None, Err(error)),
        };
        let mut digest = Context::new(&SHA256);
        digest.update(&chain.len().to_le_bytes());
        digest.update(&chain);
        digest.update(&key);
        (Some(FilesDigest(digest.finish())), self.parse(&chain, &key))
    }

    /// An error says which part of the file is no PEM, and nothing of what it holds.
    fn parse(&self, chain: &[u8], key: &[u8]) -> Result<TlsAcceptor, CertificateError> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.unreadable_certificate(io::Error::other(error)))?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| self.unreadable_key(io::Error::other(error)))?;
        acceptor(chain, key)
            .map_err(|source| CertificateError::Use { section: self.section, source })
    }

    fn unreadable_certificate(&self, source: io::Error) -> CertificateError {
        let (section, path) = (self.section, self.certificate.clone());
        CertificateError::Read { section, setting: "certificate_file", path, source }
    }

    fn unreadable_key(&self, source: io::Error) -> CertificateError {
        let (section, path) = (self.section, self.key.clone());
        CertificateError::Read { section, setting: "key_file", path, source }
    }
}

/// Refuses a key that is not the certificate's.
fn acceptor(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

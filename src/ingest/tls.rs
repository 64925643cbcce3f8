//! TLS of the listener: the certificate and key that it shows.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::IngestError;

pub(super) fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, IngestError> {
    let unreadable = |setting, path: &Path| {
        let path = path.to_owned();
        // says which part of the file is no PEM, and nothing of what it holds
        move |error: rustls::pki_types::pem::Error| IngestError::Certificate {
            setting,
            path,
            source: io::Error::other(error),
        }
    };
    let of_certificate = || unreadable("ingest.certificate_file", certificate);
    let chain = CertificateDer::pem_file_iter(certificate)
        .map_err(of_certificate())?
        .collect::<Result<Vec<_>, _>>()
        .map_err(of_certificate())?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable("ingest.key_file", key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring serves the default versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

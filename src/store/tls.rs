//! TLS towards the database: checks of the server's certificate what libpq's sslmode asks for.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::StoreError;

/// How much of the server's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    Authority,
    AuthorityAndName,
}

pub(super) fn client_config(
    check: Check,
    extra_roots: Option<&Path>,
) -> Result<ClientConfig, StoreError> {
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
        .with_custom_certificate_verifier(Arc::new(CertificateVerifier { check, inner, provider }))
        .with_no_client_auth())
}

/// Checks as libpq does: as much as sslmode asks for, and no more.
///
/// Where nothing is checked, neither is the handshake's signature. It proves that the server has
/// the key of the certificate it shows; when any certificate will do, it may show one of its own
/// making, so the proof is worth nothing. To check the signature the certificate has to be read,
/// and rustls does not read X.509 version 1, which the recipe of PostgreSQL's manual makes.
#[derive(Debug)]
struct CertificateVerifier {
    check: Check,
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for CertificateVerifier {
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
        if self.inner.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if self.inner.is_none() {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

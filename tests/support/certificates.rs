//! Certificates made for a test: an authority of its own, and what it signs, good and bad.

use std::sync::Arc;

use base64::Engine as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority that is trusted only where [`pem`](Self::pem) is given.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// The certificate and key of a TLS server.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        Self::named("ours")
    }

    /// Another one: a chain is looked up by its authority's name.
    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("draw the authority's key");
        Self(CertifiedIssuer::self_signed(params, key).expect("sign the authority"))
    }

    /// For a file of trusted authorities.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for these names or addresses, valid now.
    pub fn identity(&self, names: &[&str]) -> Identity {
        self.sign(&params(names))
    }

    /// One whose time is over.
    pub fn expired_identity(&self, names: &[&str]) -> Identity {
        let mut params = params(names);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Identity {
        let key = KeyPair::generate().expect("draw a key");
        let certificate = params.signed_by(&key, &self.0).expect("sign a certificate");
        Identity {
            certificate: certificate.der().clone(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        }
    }
}

impl Identity {
    /// Its certificate and its key, for files.
    pub fn pem(&self) -> (String, String) {
        let pem = |label: &str, der: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
        };
        let key = self.key.secret_der();
        (pem("CERTIFICATE", self.certificate.as_ref()), pem("PRIVATE KEY", key))
    }

    /// A server that shows this certificate and speaks HTTP/1.1.
    pub fn server_config(self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring knows the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate], self.key)
            .expect("the key is the certificate's");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    CertificateParams::new(names).expect("names and addresses")
}

//! Errors at the start of the ingest listener.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::serve::tls::CertificateError;
use crate::signing::verify::VerifierError;
use crate::store::StoreError;

/// Webhooks cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error("listen on {address} (ingest.listen)")]
    Bind { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("use the spool {}", path.display())]
    Spool { path: PathBuf, source: io::Error },
    #[error("the spool {} is in use by another process", path.display())]
    SpoolInUse { path: PathBuf },
    #[error("ingest.sources.{name}.secret")]
    Secret { name: String, source: VerifierError },
    #[error(transparent)]
    Store(#[from] StoreError),
}

//! The HTTP client as a relay's settings have it.

use crate::config::Config;
use crate::outbound::addresses::AddressRules;
use crate::outbound::client::{Client, ClientError, ClientSettings};
use crate::outbound::resolve::{Resolver, ResolverError};
use crate::store::{Store, StoreError, reach};

/// Why a relay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("set up the HTTP client")]
    Client(#[from] ClientError),
    #[error("set up the resolver")]
    Resolver(#[from] ResolverError),
    #[error("read delivery.ca_file {path}")]
    CaFile { path: String, source: std::io::Error },
}

/// The HTTP client, with the addresses that it may dial.
pub(super) async fn client(config: &Config, store: &Store) -> Result<Client, RelayError> {
    let resolver = Resolver::system()?;
    let listeners = [config.http.listen, config.ingest.listen];
    let mut own: Vec<std::net::SocketAddr> = listeners.into_iter().flatten().collect();
    // The start has been waiting for the database already.
    let (listened, names) = reach::listens_at(store).await?;
    own.extend(listened);
    for (host, port) in store.database().hosts().into_iter().chain(names) {
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => resolver.lookup(&host).await.unwrap_or_default(),
        };
        own.extend(addresses.into_iter().map(|address| std::net::SocketAddr::new(address, port)));
    }
    let rules = AddressRules::new(&config.addresses.allow, &config.addresses.allow_http, own);
    let delivery = &config.delivery;
    let mut settings = ClientSettings::new(rules, resolver);
    settings.resolve_timeout = delivery.resolve_timeout;
    settings.connect_timeout = delivery.connect_timeout;
    settings.tls_timeout = delivery.tls_timeout;
    settings.response_body_limit = delivery.response_body_limit;
    settings.body_timeout = delivery.body_timeout;
    settings.idle_timeout = delivery.idle_timeout;
    if let Some(path) = &delivery.ca_file {
        settings.extra_ca =
            Some(std::fs::read(path).map_err(|source| RelayError::CaFile {
                path: path.display().to_string(),
                source,
            })?);
    }
    settings.proxy.clone_from(&delivery.proxy);
    Ok(Client::new(settings)?)
}

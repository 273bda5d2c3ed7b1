//! What an operator decides about the proxy, and what it is put together from.

use onggi_common_host::{Clock, Entropy};
use onggi_common_identity::Verifier;
use onggi_common_service::config::Filters;
use onggi_object_client::Nodes;
use onggi_object_encryption::Keymaster;
use onggi_object_model::Policy;
use onggi_object_replica::Consistency;
use onggi_object_ring::HashSecrets;
use onggi_object_wire::{ClusterKeys, Realms};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// What an operator decides about the proxy.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the ring files are: `account.ring.gz`, `container.ring.gz`, `object.ring.gz`, `object-1.ring.gz`, …
    pub rings_dir: PathBuf,
    /// The storage policies; the object ring of each is looked for.
    pub policies: Vec<Policy>,
    /// The identity service, `host:port`: v1 authentication is relayed there.
    pub identity_address: String,
    /// Hosts below this domain name accounts and containers; `None` when no host does.
    pub storage_domain: Option<String>,
    /// What is refused, slowed down or told before a request reaches the objects.
    pub filters: Filters,
    /// The root secrets of encryption at rest; the default encrypts nothing.
    pub keymaster: Arc<Keymaster>,
    /// Which clusters containers are copied to and from; `None` for none.
    pub container_sync: Option<SyncOptions>,
    /// What an acknowledged write needs.
    pub write_consistency: Consistency,
}

impl Options {
    /// One policy, and the default consistency.
    #[must_use]
    pub fn new(rings_dir: PathBuf, identity_address: String) -> Self {
        Self {
            rings_dir,
            policies: vec![Policy::single()],
            identity_address,
            storage_domain: None,
            filters: Filters::default(),
            keymaster: Arc::default(),
            container_sync: None,
            write_consistency: Consistency::default(),
        }
    }
}

/// Which clusters containers are copied to and from.
#[derive(Debug, Clone)]
pub struct SyncOptions {
    /// The realms of the moment.
    pub realms: watch::Receiver<Arc<Realms>>,
    /// The realm and the cluster this is, as `/info` tells.
    pub current: Option<(String, String)>,
    /// The cluster's keys: its nodes sign with them when they read what they are to send.
    pub keys: ClusterKeys,
    /// The addresses nodes reach this proxy under, `host:port`.
    pub authorities: Vec<String>,
}

/// What a proxy is put together from.
#[derive(Clone)]
pub struct Parts {
    /// The storage nodes.
    pub nodes: Nodes,
    /// Who bears a token.
    pub verifier: Arc<Verifier>,
    /// The texts around hashed paths.
    pub secrets: HashSecrets,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Random bytes for request ids.
    pub entropy: Arc<dyn Entropy>,
}

impl core::fmt::Debug for Parts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

//! The secrets of a cluster: its key ring, and what each part derives from it.

use anyhow::Result;
use onggi_common_host::entropy::SystemEntropy;
use onggi_common_identity::keys::{self, KeyRing, Purpose};
use onggi_common_service::Config;
use onggi_object_ring::HashSecrets;
use onggi_object_wire::ClusterKeys;

/// The key ring, made when missing.
///
/// # Errors
/// When it can be neither read nor made.
pub(crate) fn key_ring(config: &Config) -> Result<KeyRing> {
    Ok(keys::load_or_create(
        &config.state_path("keys/cluster.json"),
        &SystemEntropy,
    )?)
}

/// What path hashes are salted with.
pub(crate) fn hash_secrets(ring: &KeyRing) -> HashSecrets {
    HashSecrets::new(
        ring.path_hash_prefix().clone(),
        ring.path_hash_suffix().clone(),
    )
}

/// The keys that sign requests to storage nodes.
///
/// # Errors
/// When the ring has more keys than a node takes.
pub(crate) fn cluster_keys(ring: &KeyRing) -> Result<ClusterKeys> {
    let keys = ring.derive(Purpose::Nodes);
    let secrets: Vec<_> = keys.iter().map(|key| *key.expose()).collect();
    Ok(ClusterKeys::derive(&secrets)?)
}

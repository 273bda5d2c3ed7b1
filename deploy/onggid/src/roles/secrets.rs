//! The secrets of a cluster: its key ring, and what each part derives from it.

use anyhow::{Context as _, Result};
use onggi_common_host::entropy::SystemEntropy;
use onggi_common_host::private;
use onggi_common_identity::keys::{self, KeyRing, Purpose};
use onggi_common_service::Config;
use onggi_common_service::config::Object;
use onggi_object_encryption::{Keymaster, RootSecrets};
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

/// The root secrets that objects are encrypted under; none when the configuration names none.
///
/// # Errors
/// When the key file cannot be read, others can read it, it is malformed, or has no secret of the name that is to be used.
pub(crate) fn keymaster(object: &Object) -> Result<Keymaster> {
    let Some(encryption) = &object.encryption else {
        return Ok(Keymaster::default());
    };
    let path = &encryption.key_file;
    let text = private::read(path).context("object.encryption.key_file")?;
    let secrets = RootSecrets::parse(&text).with_context(|| path.display().to_string())?;
    if !encryption.enabled {
        return Ok(Keymaster::reading(secrets));
    }
    Keymaster::new(secrets, encryption.active.as_deref()).context("object.encryption.active")
}

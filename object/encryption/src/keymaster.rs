//! Which root secret is used, and the keys that are derived from them.

use crate::seal::{OpenError, SealKey};
use crate::secrets::{RootSecrets, SecretId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use onggi_object_model::{ContainerPath, ObjectPath};
use sha2::Sha256;

/// The root secrets of a cluster. Without any, nothing is encrypted and what is encrypted cannot be read.
#[derive(Debug, Clone, Default)]
pub struct Keymaster {
    secrets: RootSecrets,
    active: Option<SecretId>,
}

/// A root secret that is to be used and is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no root secret {active:?}; there are {known:?}")]
pub struct ActiveError {
    /// What it is called.
    pub active: String,
    /// Those that are there.
    pub known: Vec<SecretId>,
}

impl Keymaster {
    /// Encrypts what is written from now on under the secret of this id, or under the last one. Reads under all.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn new(secrets: RootSecrets, active: Option<&str>) -> Result<Self, ActiveError> {
        let found = match active {
            None => secrets.ids().next_back(),
            Some(active) => secrets.ids().find(|id| id.as_str() == active),
        };
        let found = found.cloned().ok_or_else(|| ActiveError {
            active: active.unwrap_or_default().to_owned(),
            known: secrets.ids().cloned().collect(),
        })?;
        Ok(Self {
            secrets,
            active: Some(found),
        })
    }

    /// Encrypts nothing that is written from now on, and reads what was encrypted before.
    #[must_use]
    pub const fn reading(secrets: RootSecrets) -> Self {
        Self {
            secrets,
            active: None,
        }
    }

    /// The id of the root secret that is used for what is written from now on; `None` when that is not encrypted.
    #[must_use]
    pub const fn active(&self) -> Option<&SecretId> {
        self.active.as_ref()
    }

    fn derive(&self, id: &SecretId, path: &str) -> Result<SealKey, OpenError> {
        let secret = self.secrets.get(id);
        let secret = secret.ok_or_else(|| OpenError::UnknownSecret { id: id.clone() })?;
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        mac.update(path.as_bytes());
        Ok(SealKey::new(mac.finalize().into_bytes().into()))
    }

    pub(crate) fn container_key(
        &self,
        id: &SecretId,
        path: &ContainerPath,
    ) -> Result<SealKey, OpenError> {
        self.derive(id, &format!("/{}/{}", path.account, path.container))
    }

    pub(crate) fn object_key(
        &self,
        id: &SecretId,
        path: &ObjectPath,
    ) -> Result<SealKey, OpenError> {
        self.derive(id, &text_of(path))
    }
}

/// An object's path as keys are derived from it.
pub(crate) fn text_of(path: &ObjectPath) -> String {
    format!("/{}/{}/{}", path.account, path.container, path.object)
}

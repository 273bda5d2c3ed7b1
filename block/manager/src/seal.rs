//! CHAP secrets at rest: they must be recoverable, so they are sealed under a key that lies beside the store, in a file
//! only its owner reads.
//!
//! XChaCha20-Poly1305, a random nonce each, bound to the attachment: a sealed secret moved to another row does not open.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use onggi_common_host::Entropy;
use onggi_common_host::durable::{self, DurableError, Visibility};
use onggi_common_units::Secret;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;

/// A sealed text: hexadecimal nonce and ciphertext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sealed {
    nonce: String,
    sealed: String,
}

/// Secrets that cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// There are sealed secrets and no key.
    #[error("the key file {path} is missing, and secrets are sealed under it: restore it from a backup", path = path.display())]
    Missing {
        /// The key file.
        path: PathBuf,
    },
    /// The key file holds something else.
    #[error("the key file {path} is no key: 64 hexadecimal digits are; restore it from a backup", path = path.display())]
    Malformed {
        /// The key file.
        path: PathBuf,
    },
    /// The key is not the one the secrets are sealed under.
    #[error("the key in {path} is not the one the secrets are sealed under: restore that one from a backup", path = path.display())]
    WrongKey {
        /// The key file.
        path: PathBuf,
    },
    /// The key file cannot be read.
    #[error("reading the key file {path}: {source}", path = path.display())]
    Unreadable {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key file cannot be made.
    #[error(transparent)]
    Unwritable(#[from] DurableError),
}

/// The key.
pub(crate) struct Seal {
    cipher: XChaCha20Poly1305,
    path: PathBuf,
}

impl Seal {
    /// Reads the key, or makes one when there is none and nothing was sealed yet.
    pub(crate) fn open(
        path: &Path,
        was_used: bool,
        entropy: &dyn Entropy,
    ) -> Result<Self, SealError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => Secret::new(text),
            Err(error) if error.kind() == ErrorKind::NotFound && !was_used => make(path, entropy)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(SealError::Missing {
                    path: path.to_owned(),
                });
            }
            Err(source) => {
                return Err(SealError::Unreadable {
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let key = unhex(text.expose().trim())
            .filter(|key| key.len() == KEY_BYTES)
            .ok_or_else(|| SealError::Malformed {
                path: path.to_owned(),
            })?;
        let cipher = XChaCha20Poly1305::new(Key::from_slice(&key));
        Ok(Self {
            cipher,
            path: path.to_owned(),
        })
    }

    /// Seals a text for one place.
    pub(crate) fn seal(&self, place: &[u8], text: &Secret, entropy: &dyn Entropy) -> Sealed {
        let mut nonce = [0; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let payload = Payload {
            msg: text.expose().as_bytes(),
            aad: place,
        };
        let sealed = self
            .cipher
            .encrypt(XNonce::from_slice(&nonce), payload)
            .expect("a text of a few bytes is below the cipher's limit of 256 GiB");
        Sealed {
            nonce: hex(&nonce),
            sealed: hex(&sealed),
        }
    }

    /// Opens what was sealed for a place.
    pub(crate) fn open_sealed(&self, place: &[u8], sealed: &Sealed) -> Result<Secret, SealError> {
        let wrong = || SealError::WrongKey {
            path: self.path.clone(),
        };
        let nonce = unhex(&sealed.nonce)
            .filter(|nonce| nonce.len() == NONCE_BYTES)
            .ok_or_else(wrong)?;
        let bytes = unhex(&sealed.sealed).ok_or_else(wrong)?;
        let payload = Payload {
            msg: &bytes,
            aad: place,
        };
        let text = self
            .cipher
            .decrypt(XNonce::from_slice(&nonce), payload)
            .ok()
            .ok_or_else(wrong)?;
        String::from_utf8(text)
            .map(Secret::new)
            .ok()
            .ok_or_else(wrong)
    }
}

fn make(path: &Path, entropy: &dyn Entropy) -> Result<Secret, SealError> {
    let mut key = [0; KEY_BYTES];
    entropy.fill(&mut key);
    let text = Secret::new(hex(&key) + "\n");
    if let Some(parent) = path.parent() {
        durable::create_dir_all(parent)?;
    }
    durable::replace(path, text.expose().as_bytes(), Visibility::Owner)?;
    Ok(text)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|[high, low]| (high << 4) | low).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemEntropy;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_opens_in_its_place_under_its_key_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/block.key");
        let seal = Seal::open(&path, false, &SystemEntropy).unwrap();
        let secret = Secret::new("sixteen-byte-key");
        let sealed = seal.seal(b"here", &secret, &SystemEntropy);
        assert!(!format!("{sealed:?}").contains("sixteen"));
        assert_eq!(seal.open_sealed(b"here", &sealed).unwrap(), secret);
        assert!(seal.open_sealed(b"there", &sealed).is_err());
        let again = Seal::open(&path, true, &SystemEntropy).unwrap();
        assert_eq!(again.open_sealed(b"here", &sealed).unwrap(), secret);
        let other = Seal::open(&dir.path().join("other"), false, &SystemEntropy).unwrap();
        assert!(matches!(
            other.open_sealed(b"here", &sealed),
            Err(SealError::WrongKey { .. })
        ));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_lost_or_broken_key_is_named_and_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("block.key");
        let error = Seal::open(&path, true, &SystemEntropy)
            .map(|_| ())
            .unwrap_err();
        assert!(
            matches!(&error, SealError::Missing { path: found } if *found == path),
            "{error}"
        );
        durable::replace(&path, b"not a key", Visibility::Owner).unwrap();
        let error = Seal::open(&path, true, &SystemEntropy)
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(error, SealError::Malformed { .. }), "{error}");
    }
}

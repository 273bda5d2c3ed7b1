//! The exports on stable storage: one sealed file each, because a spec holds CHAP secrets. Beside them what units
//! keep across a restart, sealed the same way.
//!
//! | bytes | |
//! |---|---|
//! | 8 | magic and version, `ONGGIEX1` for exports; authenticated with the name of the target |
//! | 24 | nonce, random |
//! | rest | the spec as JSON, or what is kept, under XChaCha20-Poly1305 with the key of the key file |
//!
//! A file that does not open is set aside under another name and told of; the others are served.

use crate::export::ExportSpec;
use crate::kept::Kind;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use onggi_common_host::durable::{self, DurableError, Visibility};
use onggi_common_host::{Entropy, durable::sync_dir};
use onggi_common_units::Secret;
use std::io;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"ONGGIEX1";
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
const SUFFIX: &str = "export";

/// Why the exports cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be written.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A file or directory could not be read.
    #[error("reading {path}: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file holds no key.
    #[error("{path} is not a key: 64 hexadecimal digits are wanted", path = path.display())]
    BadKey {
        /// The key file.
        path: PathBuf,
    },
    /// There are exports, and the key that opens them is gone.
    #[error(
        "there are exports in {exports} but no key file {path}: bring the key back, or remove the exports and put them again",
        path = path.display(),
        exports = exports.display()
    )]
    KeyLost {
        /// The key file.
        path: PathBuf,
        /// Where the exports are.
        exports: PathBuf,
    },
    /// What was kept of a unit does not open.
    #[error(
        "the {what} kept in {path} does not open with the target's key, so the volume is not served: make sure that \
         nobody relies on it, remove the file, and put the export again",
        path = path.display()
    )]
    Damaged {
        /// What it is about.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Sealing failed.
    #[error("sealing the export {iqn}")]
    Seal {
        /// Which.
        iqn: String,
    },
}

/// The directory of exports and the key to it.
pub(crate) struct Store {
    directory: PathBuf,
    /// Where the directories of what units keep are.
    state: PathBuf,
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in `state_dir`, making it and its key at first start.
    pub(crate) fn open(
        state_dir: &Path,
        key_file: &Path,
        entropy: &dyn Entropy,
    ) -> Result<Self, StoreError> {
        let directory = state_dir.join("exports");
        durable::create_dir_all(&directory)?;
        for kind in Kind::ALL {
            durable::create_dir_all(&state_dir.join(kind.name()))?;
        }
        let key = match std::fs::read_to_string(key_file) {
            Ok(text) => {
                let bad = || StoreError::BadKey {
                    path: key_file.to_owned(),
                };
                parse_key(&Secret::new(text)).ok_or_else(bad)?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if !files(&directory)?.is_empty() {
                    return Err(StoreError::KeyLost {
                        path: key_file.to_owned(),
                        exports: directory,
                    });
                }
                make_key(key_file, entropy)?
            }
            Err(source) => {
                return Err(StoreError::Read {
                    path: key_file.to_owned(),
                    source,
                });
            }
        };
        Ok(Self {
            directory,
            state: state_dir.to_owned(),
            cipher: XChaCha20Poly1305::new(&Key::from(key)),
        })
    }

    fn path(&self, iqn: &str) -> PathBuf {
        self.directory.join(format!("{iqn}.{SUFFIX}"))
    }

    /// Keeps an export.
    pub(crate) fn put(&self, spec: &ExportSpec, entropy: &dyn Entropy) -> Result<(), StoreError> {
        let sealing = || StoreError::Seal {
            iqn: spec.iqn.clone(),
        };
        let plain = serde_json::to_vec(spec).ok().ok_or_else(sealing)?;
        let bytes = self.seal((MAGIC, &spec.iqn), &plain, entropy)?;
        Ok(durable::replace(
            &self.path(&spec.iqn),
            &bytes,
            Visibility::Owner,
        )?)
    }

    fn seal(
        &self,
        (magic, iqn): (&[u8; 8], &str),
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; NONCE_BYTES];
        entropy.fill(&mut nonce);
        let aad = associated(magic, iqn);
        let payload = Payload {
            msg: plain,
            aad: &aad,
        };
        let sealed = self
            .cipher
            .encrypt(XNonce::from_slice(&nonce), payload)
            .ok()
            .ok_or_else(|| StoreError::Seal {
                iqn: iqn.to_owned(),
            })?;
        Ok([magic, &nonce[..], &sealed].concat())
    }

    fn kept_path(&self, kind: Kind, iqn: &str) -> PathBuf {
        let name = kind.name();
        self.state.join(name).join(format!("{iqn}.{name}"))
    }

    /// Keeps something of the unit of an export.
    pub(crate) fn put_kept(
        &self,
        kind: Kind,
        iqn: &str,
        plain: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<(), StoreError> {
        let bytes = self.seal((kind.magic(), iqn), plain, entropy)?;
        let path = self.kept_path(kind, iqn);
        Ok(durable::replace(&path, &bytes, Visibility::Owner)?)
    }

    /// What was kept; `None` when there is nothing.
    pub(crate) fn load_kept(&self, kind: Kind, iqn: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.kept_path(kind, iqn);
        match std::fs::read(&path) {
            Ok(bytes) => self
                .unseal((kind.magic(), iqn), &bytes)
                .map(Some)
                .ok_or_else(|| self.damaged_kept(kind, iqn)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Read { path, source }),
        }
    }

    /// The error that what was kept does not open.
    pub(crate) fn damaged_kept(&self, kind: Kind, iqn: &str) -> StoreError {
        StoreError::Damaged {
            what: kind.name(),
            path: self.kept_path(kind, iqn),
        }
    }

    /// Forgets what was kept. If it is nothing, that is fine.
    pub(crate) fn remove_kept(&self, kind: Kind, iqn: &str) -> Result<(), StoreError> {
        Ok(durable::remove(&self.kept_path(kind, iqn))?)
    }

    /// Forgets an export. A missing one is fine.
    pub(crate) fn remove(&self, iqn: &str) -> Result<(), StoreError> {
        Ok(durable::remove(&self.path(iqn))?)
    }

    /// All exports that open. What does not is set aside as `….damaged`.
    pub(crate) fn load(&self) -> Result<Vec<ExportSpec>, StoreError> {
        let mut specs = Vec::new();
        for path in files(&self.directory)? {
            let bytes = std::fs::read(&path).map_err(|source| StoreError::Read {
                path: path.clone(),
                source,
            })?;
            match self.export(&path, &bytes) {
                Some(spec) => specs.push(spec),
                None => self.set_aside(&path, &bytes)?,
            }
        }
        Ok(specs)
    }

    fn export(&self, path: &Path, bytes: &[u8]) -> Option<ExportSpec> {
        let iqn = path.file_stem()?.to_str()?;
        let plain = self.unseal((MAGIC, iqn), bytes)?;
        let spec: ExportSpec = serde_json::from_slice(&plain).ok()?;
        (spec.iqn == iqn).then_some(spec)
    }

    fn unseal(&self, (magic, iqn): (&[u8; 8], &str), bytes: &[u8]) -> Option<Vec<u8>> {
        let sealed = bytes.strip_prefix(magic)?;
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES)?;
        let aad = associated(magic, iqn);
        let payload = Payload {
            msg: sealed,
            aad: &aad,
        };
        self.cipher.decrypt(XNonce::from_slice(nonce), payload).ok()
    }

    fn set_aside(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        let aside = path.with_extension("damaged");
        tracing::error!(
            path = %path.display(),
            "this export does not open with the target's key: it is damaged or of another version. It is kept as \
             .damaged and not served; have the control plane put it again"
        );
        durable::replace(&aside, bytes, Visibility::Owner)?;
        durable::remove(path)?;
        Ok(sync_dir(&self.directory)?)
    }
}

// The name is authenticated with the seal: a file renamed to another target's name does not open.
fn associated(magic: &[u8; 8], iqn: &str) -> Vec<u8> {
    [magic, iqn.as_bytes()].concat()
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let reading = |source| StoreError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(reading)? {
        let path = entry.map_err(reading)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == SUFFIX)
        {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn parse_key(text: &Secret) -> Option<[u8; KEY_BYTES]> {
    let digits = text.expose().trim();
    if digits.len() != 2 * KEY_BYTES || !digits.is_ascii() {
        return None;
    }
    let mut key = [0; KEY_BYTES];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(key)
}

fn make_key(path: &Path, entropy: &dyn Entropy) -> Result<[u8; KEY_BYTES], StoreError> {
    let mut key = [0; KEY_BYTES];
    entropy.fill(&mut key);
    let mut text = String::new();
    for byte in key {
        text.push_str(&format!("{byte:02x}"));
    }
    text.push('\n');
    if let Some(parent) = path.parent() {
        durable::create_dir_all(parent)?;
    }
    durable::replace(path, text.as_bytes(), Visibility::Owner)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::tests::spec;
    use onggi_common_host::SystemEntropy;

    fn open(dir: &Path) -> Result<Store, StoreError> {
        Store::open(dir, &dir.join("key"), &SystemEntropy)
    }

    #[test]
    fn exports_come_back_and_their_secrets_are_not_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(dir.path(), 1);
        open(dir.path())
            .unwrap()
            .put(&spec, &SystemEntropy)
            .unwrap();
        let store = open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap(), std::slice::from_ref(&spec));
        let bytes = std::fs::read(store.path(&spec.iqn)).unwrap();
        let secret = spec.access[0]
            .chap
            .as_ref()
            .unwrap()
            .secret
            .expose()
            .as_bytes()
            .to_vec();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
        store.remove(&spec.iqn).unwrap();
        store.remove(&spec.iqn).unwrap();
        assert!(open(dir.path()).unwrap().load().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_or_renamed_file_is_set_aside_and_the_others_are_served() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).unwrap();
        let (one, two) = (spec(dir.path(), 1), spec(dir.path(), 2));
        store.put(&one, &SystemEntropy).unwrap();
        store.put(&two, &SystemEntropy).unwrap();
        let path = store.path(&one.iqn);
        let mut bytes = std::fs::read(&path).unwrap();
        let stolen = store.path("iqn.2026-11.org.onggi:stolen");
        durable::replace(&stolen, &bytes, Visibility::Owner).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        durable::replace(&path, &bytes, Visibility::Owner).unwrap();
        assert_eq!(store.load().unwrap(), [two]);
        assert!(path.with_extension("damaged").exists() && !path.exists());
        assert!(!stolen.exists());
    }

    #[test]
    fn a_lost_or_broken_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path())
            .unwrap()
            .put(&spec(dir.path(), 1), &SystemEntropy)
            .unwrap();
        let key = dir.path().join("key");
        durable::replace(&key, b"nonsense", Visibility::Owner).unwrap();
        assert!(matches!(open(dir.path()), Err(StoreError::BadKey { .. })));
        durable::remove(&key).unwrap();
        assert!(
            open(dir.path())
                .unwrap_err()
                .to_string()
                .contains("bring the key back")
        );
    }
}

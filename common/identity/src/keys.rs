//! The cluster's key ring: one private file from which every shared secret is derived.
//!
//! | field | meaning |
//! |---|---|
//! | `format`, `version` | `onggi-key-ring`, 1; anything else is refused |
//! | `keys[]` | `id` (8 hexadecimal digits) and `secret` (64): the first signs, all verify |
//! | `path_hash` | `prefix` and `suffix` of the object path hash; they never change, or every object is lost to view |
//!
//! A key never serves two purposes: each use takes `HMAC-SHA256(secret, context of the purpose)`.

use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use onggi_common_host::Entropy;
use onggi_common_host::durable::{self, DurableError, Visibility};
use onggi_common_units::Secret;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const FORMAT: &str = "onggi-key-ring";
const VERSION: u32 = 1;
/// Bytes of a key ring file; a longer one is none of ours.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Keys in a ring: the signing one and those it replaced.
const KEYS_MAX: usize = 16;

/// Which key of the ring signed something.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u32);

impl KeyId {
    /// The id as it travels.
    #[must_use]
    pub const fn to_be_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// Takes an id that travelled.
    #[must_use]
    pub const fn from_be_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_be_bytes(bytes))
    }

    /// Reads the eight hexadecimal digits `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u32::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a derived key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Signing tokens.
    Tokens,
    /// Signing requests to and between storage nodes.
    Nodes,
    /// Sealing secrets that must be recoverable (CHAP) in files and rows.
    Sealing,
    /// Signing the revocation feed between the identity service and other processes.
    Feed,
}

impl Purpose {
    /// What keeps the derived keys apart. Changing one makes everything signed or sealed with it invalid.
    const fn context(self) -> &'static [u8] {
        match self {
            Self::Tokens => b"onggi 2026-11 token signature",
            Self::Nodes => b"onggi 2026-11 storage node request signature",
            Self::Sealing => b"onggi 2026-11 sealed secret",
            Self::Feed => b"onggi 2026-11 revocation feed signature",
        }
    }
}

/// A 256-bit key for one purpose.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    secret: Zeroizing<[u8; 32]>,
}

impl Key {
    /// Which key of the ring it comes from.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key itself, for the one place that must use it.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.secret
    }

    /// HMAC-SHA256 over the parts in order. The caller keeps parts from running into each other.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.keyed(parts).finalize().into_bytes().into()
    }

    /// Whether `mac` belongs to the parts; the comparison takes the same time for every wrong one.
    #[must_use]
    pub fn is_mac_of(&self, mac: &[u8], parts: &[&[u8]]) -> bool {
        self.keyed(parts).verify_slice(mac).is_ok()
    }

    fn keyed(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = keyed(&self.secret[..]);
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of every length")
}

/// The keys of a ring for one purpose, the signing one first.
#[derive(Debug, Clone)]
pub struct Keys(Vec<Key>);

impl Keys {
    /// The key that signs.
    #[must_use]
    pub fn current(&self) -> &Key {
        self.0
            .first()
            .expect("a key ring has a key: checked when it was parsed")
    }

    /// The key with this id, if the ring still has it.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }

    /// All keys, the signing one first.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}

/// The cluster's shared secrets.
#[derive(Clone)]
pub struct KeyRing {
    keys: Vec<Key>,
    path_hash_prefix: Secret,
    path_hash_suffix: Secret,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(Key::id))
            .finish()
    }
}

impl KeyRing {
    /// The ring's keys for one purpose.
    #[must_use]
    pub fn derive(&self, purpose: Purpose) -> Keys {
        let derive = |key: &Key| {
            let secret = Zeroizing::new(key.mac(&[purpose.context()]));
            Key { id: key.id, secret }
        };
        Keys(self.keys.iter().map(derive).collect())
    }

    /// What is hashed before an object's path.
    #[must_use]
    pub const fn path_hash_prefix(&self) -> &Secret {
        &self.path_hash_prefix
    }

    /// What is hashed after an object's path.
    #[must_use]
    pub const fn path_hash_suffix(&self) -> &Secret {
        &self.path_hash_suffix
    }

    /// A ring of fresh keys.
    #[must_use]
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut id = [0; 4];
        let mut secret = Zeroizing::new([0; 32]);
        entropy.fill(&mut id);
        entropy.fill(&mut secret[..]);
        Self {
            keys: vec![Key {
                id: KeyId::from_be_bytes(id),
                secret,
            }],
            path_hash_prefix: Secret::new(entropy.hex_id().to_string()),
            path_hash_suffix: Secret::new(entropy.hex_id().to_string()),
        }
    }

    fn parse(text: &[u8]) -> Result<Self, RingError> {
        let file: RingFile = serde_json::from_slice(text).map_err(|source| RingError::Json {
            line: source.line(),
        })?;
        if file.format != FORMAT || file.version != VERSION {
            return Err(RingError::Version {
                format: file.format,
                version: file.version,
            });
        }
        if file.keys.is_empty() || file.keys.len() > KEYS_MAX {
            return Err(RingError::Count {
                count: file.keys.len(),
            });
        }
        let keys = file.keys.iter().enumerate();
        let keys = keys.map(|(index, entry)| entry.parse().ok_or(RingError::Key { index }));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            path_hash_prefix: Secret::new(file.path_hash.prefix),
            path_hash_suffix: Secret::new(file.path_hash.suffix),
        })
    }

    fn render(&self) -> Zeroizing<String> {
        let keys = self.keys.iter().map(|key| KeyEntry {
            id: key.id.to_string(),
            secret: Zeroizing::new(hex(&key.secret[..])),
        });
        let file = RingFile {
            format: FORMAT.to_owned(),
            version: VERSION,
            keys: keys.collect(),
            path_hash: PathHash {
                prefix: self.path_hash_prefix.expose().to_owned(),
                suffix: self.path_hash_suffix.expose().to_owned(),
            },
        };
        let text = serde_json::to_string_pretty(&file).expect("texts and numbers are always JSON");
        Zeroizing::new(text)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RingFile {
    format: String,
    version: u32,
    keys: Vec<KeyEntry>,
    path_hash: PathHash,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PathHash {
    prefix: String,
    suffix: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    id: String,
    secret: Zeroizing<String>,
}

impl KeyEntry {
    fn parse(&self) -> Option<Key> {
        let id = KeyId::parse(&self.id)?;
        let digits = self.secret.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut secret = Zeroizing::new([0u8; 32]);
        for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Key { id, secret })
    }
}

/// What is wrong with a key ring's text. It never holds a piece of it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Not the JSON of a key ring.
    #[error("line {line} is not what a key ring holds")]
    Json {
        /// Where.
        line: usize,
    },
    /// Another file, or one of a later version.
    #[error("it is {format:?} version {version}, not {FORMAT:?} version {VERSION}")]
    Version {
        /// The format it names.
        format: String,
        /// The version it names.
        version: u32,
    },
    /// No key, or too many.
    #[error("it has {count} keys, not 1 to {KEYS_MAX}")]
    Count {
        /// How many.
        count: usize,
    },
    /// A key that is no key.
    #[error("key {index} is not an 8-digit id with a 64-digit secret")]
    Key {
        /// Which, from 0.
        index: usize,
    },
}

/// The key ring could not be had.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// Reading or locking failed.
    #[error("{operation} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A new ring could not be written.
    #[error(transparent)]
    Write(#[from] DurableError),
    /// Others could read it.
    #[error("{path} may be read by others (mode {mode:o}); chmod 600 it, and make new keys if this machine has other users", path = path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is damaged or not a key ring.
    #[error("{path}: {source}; restore it from a backup: without it tokens, node requests and sealed secrets are void", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: RingError,
    },
}

/// Reads the ring at `path`, or makes one there. Processes that start together get the same ring.
///
/// # Errors
/// When the file cannot be read or made, others may read it, or it is damaged: a damaged ring is never replaced.
pub fn load_or_create(path: &Path, entropy: &dyn Entropy) -> Result<KeyRing, KeysError> {
    if let Some(ring) = load(path)? {
        return Ok(ring);
    }
    if let Some(directory) = path.parent() {
        durable::create_dir_all(directory)?;
    }
    let mut lock_name = path.file_name().unwrap_or_default().to_owned();
    lock_name.push(".lock");
    let lock_path = path.with_file_name(lock_name);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path);
    let lock = lock.map_err(at("opening", &lock_path))?;
    lock.lock().map_err(at("locking", &lock_path))?;
    // Whoever held the lock before may have made it meanwhile.
    let ring = match load(path)? {
        Some(ring) => ring,
        None => {
            let ring = KeyRing::generate(entropy);
            durable::replace(path, ring.render().as_bytes(), Visibility::Owner)?;
            ring
        }
    };
    drop(lock);
    Ok(ring)
}

/// Reads the ring at `path`; `None` when there is no such file.
///
/// # Errors
/// When it cannot be read, others may read it, or it is damaged.
pub fn load(path: &Path) -> Result<Option<KeyRing>, KeysError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("opening", path)(error)),
    };
    let mode = file
        .metadata()
        .map_err(at("inspecting", path))?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeysError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = Zeroizing::new(Vec::new());
    file.by_ref()
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(at("reading", path))?;
    let parsed = KeyRing::parse(&text);
    parsed.map(Some).map_err(|source| KeysError::Malformed {
        path: path.to_owned(),
        source,
    })
}

fn at(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_owned();
    move |source| KeysError::Io {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemEntropy;

    fn write(path: &Path, text: &str, visibility: Visibility) {
        durable::replace(path, text.as_bytes(), visibility).unwrap();
    }

    #[test]
    fn processes_that_start_together_get_the_same_ring() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/cluster.json");
        let macs: Vec<_> = std::thread::scope(|scope| {
            let start = || load_or_create(&path, &SystemEntropy).unwrap();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            let rings = threads.into_iter().map(|thread| thread.join().unwrap());
            rings
                .map(|ring| ring.derive(Purpose::Tokens).current().mac(&[b"x"]))
                .collect()
        });
        assert!(macs.windows(2).all(|pair| pair[0] == pair[1]));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn each_purpose_has_its_own_keys_and_a_ring_survives_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        let made = load_or_create(&path, &SystemEntropy).unwrap();
        let read = load(&path).unwrap().unwrap();
        assert_eq!(made.path_hash_prefix(), read.path_hash_prefix());
        let key = |ring: &KeyRing, purpose| *ring.derive(purpose).current().expose();
        assert_eq!(key(&made, Purpose::Nodes), key(&read, Purpose::Nodes));
        let all = [
            Purpose::Tokens,
            Purpose::Nodes,
            Purpose::Sealing,
            Purpose::Feed,
        ];
        let distinct: std::collections::HashSet<_> = all.iter().map(|p| key(&made, *p)).collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn a_damaged_or_exposed_ring_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster.json");
        let planted = "00112233445566778899aabbccddeeff00112233445566778899aabbccddee";
        for text in [
            String::new(),
            "{".to_owned(),
            r#"{"format":"onggi-key-ring","version":2,"keys":[],"path_hash":{"prefix":"","suffix":""}}"#.to_owned(),
            r#"{"format":"onggi-key-ring","version":1,"keys":[],"path_hash":{"prefix":"","suffix":""}}"#.to_owned(),
            format!(r#"{{"format":"onggi-key-ring","version":1,"keys":[{{"id":"00000001","secret":"{planted}"}}],"path_hash":{{"prefix":"","suffix":""}}}}"#),
        ] {
            write(&path, &text, Visibility::Owner);
            let error = load_or_create(&path, &SystemEntropy).unwrap_err();
            assert!(matches!(error, KeysError::Malformed { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains("00112233"), "{error:?}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        write(&path, "{}", Visibility::World);
        assert!(matches!(
            load(&path),
            Err(KeysError::Exposed { mode: 0o644, .. })
        ));
    }

    #[test]
    fn rings_and_keys_do_not_print_their_secrets() {
        let ring = KeyRing::generate(&SystemEntropy);
        let secret = hex(&ring.keys[0].secret[..]);
        let printed = format!("{ring:?} {:?}", ring.derive(Purpose::Tokens));
        assert!(!printed.contains(&secret[..8]), "{printed}");
        assert!(ring.render().contains(&secret));
    }

    #[test]
    fn a_mac_of_other_parts_is_refused() {
        let keys = KeyRing::generate(&SystemEntropy).derive(Purpose::Feed);
        let mac = keys.current().mac(&[b"a", b"b"]);
        assert!(keys.current().is_mac_of(&mac, &[b"ab"]));
        assert!(!keys.current().is_mac_of(&mac, &[b"abc"]));
        assert!(!keys.current().is_mac_of(&mac[..31], &[b"ab"]));
        assert!(keys.find(keys.current().id()).is_some());
    }
}

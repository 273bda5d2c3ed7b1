//! Encryption at rest, next to the stored object: everything above sees plain bytes, tags and metadata, everything below
//! what storage nodes keep.

use crate::fault::Fault;
use crate::object::get::Known;
use bytes::{Bytes, BytesMut};
use onggi_common_host::Entropy;
use onggi_object_encryption::{BodyCipher, Fresh, Keymaster, NONCE_BYTES, OpenError, Sealing};
use onggi_object_model::listing::annotation;
use onggi_object_model::{ContainerPath, Listing, ListingEntry, Metadata, ObjectEntry, ObjectPath};
use std::sync::Arc;

/// What a listing shows as the tag of an object whose tag cannot be opened.
pub(crate) const UNKNOWN: &str = "unknown";

/// The root secrets, and random bytes to use them with.
pub(crate) struct Encryption {
    keymaster: Arc<Keymaster>,
    entropy: Arc<dyn Entropy>,
}

/// What is wrong is for the log.
fn refuse(path: &ObjectPath, error: &OpenError) -> Fault {
    tracing::error!(%path, %error, "an object's encryption cannot be undone");
    Fault::Undecryptable
}

/// Bytes that may be changed: in their place when nobody else has them.
fn change(bytes: Bytes, change: impl FnOnce(&mut [u8])) -> Bytes {
    let mut own = bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(shared.as_ref()));
    change(&mut own);
    own.freeze()
}

/// The next bytes of a body as they are stored.
pub(crate) fn encrypt(sealing: &mut Sealing, bytes: Bytes) -> Bytes {
    change(bytes, |bytes| sealing.encrypt(bytes))
}

/// The next bytes of a body as they were put.
pub(crate) fn decrypt(cipher: &mut BodyCipher, bytes: Bytes) -> Bytes {
    change(bytes, |bytes| cipher.apply(bytes))
}

impl Encryption {
    pub(crate) fn new(keymaster: Arc<Keymaster>, entropy: Arc<dyn Entropy>) -> Self {
        Self { keymaster, entropy }
    }

    /// Whether what is written is encrypted.
    pub(crate) fn is_on(&self) -> bool {
        self.keymaster.active().is_some()
    }

    /// Seals what is known of a new object before its bytes; `None` when it is not encrypted.
    pub(crate) fn seal_new(
        &self,
        path: &ObjectPath,
        metadata: &mut Metadata,
        system: &mut Metadata,
    ) -> Result<Option<Sealing>, Fault> {
        if !self.is_on() {
            return Ok(None);
        }
        let fresh = Fresh::draw(|bytes| self.entropy.fill(bytes));
        let begun = self.keymaster.begin(path, metadata, system, fresh);
        begun.map_err(|error| refuse(path, &error))
    }

    /// Seals metadata that is posted.
    pub(crate) fn seal_metadata(
        &self,
        path: &ObjectPath,
        metadata: &mut Metadata,
    ) -> Result<(), Fault> {
        if !self.is_on() {
            return Ok(());
        }
        let mut nonce = [0; NONCE_BYTES];
        self.entropy.fill(&mut nonce);
        let sealed = self.keymaster.seal_metadata(path, metadata, &nonce);
        sealed.map_err(|error| refuse(path, &error))
    }

    /// Makes what nodes know about an object what it was before it was sealed.
    pub(crate) fn open(
        &self,
        path: &ObjectPath,
        known: &mut Known,
    ) -> Result<Option<BodyCipher>, Fault> {
        let opened = self
            .keymaster
            .open(path, &mut known.info, &mut known.system);
        opened.map_err(|error| refuse(path, &error))
    }

    /// The same for a page of a container's listing. The names in it help even who has lost a root secret, so a line whose
    /// tag does not open stays, and says so.
    pub(crate) fn open_page(
        &self,
        path: &ContainerPath,
        page: Listing<ObjectEntry>,
    ) -> Listing<ObjectEntry> {
        let mut opener = self.keymaster.listing(path);
        let mut failed = None;
        let page = page.map(|mut entry| {
            if let Err(error) = opener.open(&mut entry) {
                entry.annotations.insert(annotation::HASH, UNKNOWN);
                failed = Some(error);
            }
            entry
        });
        if let Some(error) = failed {
            tracing::error!(%path, %error, "tags of a listing cannot be opened");
        }
        page
    }
}

/// Whether every tag of a page was opened.
pub(crate) fn is_known(page: &Listing<ObjectEntry>) -> bool {
    page.entries.iter().all(|entry| match entry {
        ListingEntry::Item(item) => item.annotations.get(annotation::HASH) != Some(UNKNOWN),
        ListingEntry::Subdir(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemEntropy;
    use onggi_common_units::{Secret, Timestamp};
    use onggi_object_encryption::{RootSecrets, SECRET_BYTES, SecretId};
    use onggi_object_model::Etag;

    fn encryption(keymaster: Keymaster) -> Encryption {
        Encryption::new(Arc::new(keymaster), Arc::new(SystemEntropy))
    }

    fn on() -> Encryption {
        let line = RootSecrets::line(&SecretId::new("k1").unwrap(), &[1; SECRET_BYTES]);
        let secrets = RootSecrets::parse(&Secret::new(line.expose())).unwrap();
        encryption(Keymaster::new(secrets, None).unwrap())
    }

    fn path() -> ObjectPath {
        ObjectPath {
            account: "AUTH_a".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: "o".parse().unwrap(),
        }
    }

    #[test]
    fn nothing_is_sealed_twice_alike() {
        let seal = || {
            let (mut metadata, mut system) = (Metadata::default(), Metadata::default());
            metadata.insert("x-object-meta-a", "b");
            let sealing = on().seal_new(&path(), &mut metadata, &mut system);
            let bytes = encrypt(&mut sealing.unwrap().unwrap(), Bytes::from_static(&[0; 64]));
            (metadata, system, bytes)
        };
        let (a, b) = (seal(), seal());
        assert!(a.0 != b.0 && a.1 != b.1 && a.2 != b.2);
    }

    #[test]
    fn switched_off_it_touches_nothing() {
        let off = encryption(Keymaster::default());
        let mut metadata = Metadata::default();
        metadata.insert("x-object-meta-a", "b");
        let before = metadata.clone();
        let mut system = Metadata::default();
        let sealing = off.seal_new(&path(), &mut metadata, &mut system).unwrap();
        off.seal_metadata(&path(), &mut metadata).unwrap();
        assert!(sealing.is_none() && system.is_empty() && metadata == before);
    }

    #[test]
    fn a_line_that_does_not_open_keeps_its_name_and_says_so() {
        let (mut metadata, mut system) = (Metadata::default(), Metadata::default());
        let sealing = on().seal_new(&path(), &mut metadata, &mut system);
        let tail = sealing.unwrap().unwrap().finish(&Etag::EMPTY);
        let page = || Listing {
            entries: vec![ListingEntry::Item(ObjectEntry {
                name: "o".to_owned(),
                hash: Etag::new([1; 16]),
                bytes: 0,
                content_type: String::new(),
                last_modified: Timestamp::ZERO,
                annotations: onggi_object_wire::row::annotations(&tail),
            })],
        };
        let container = path().container_path();
        let opened = on().open_page(&container, page());
        assert!(is_known(&opened));
        assert!(matches!(&opened.entries[0], ListingEntry::Item(item) if item.hash == Etag::EMPTY));
        let closed = encryption(Keymaster::default()).open_page(&container, page());
        assert!(!is_known(&closed));
        assert!(matches!(&closed.entries[0], ListingEntry::Item(item) if item.name == "o"));
    }
}

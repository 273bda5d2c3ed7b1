//! What is stored of an encrypted object, and how it is read again.

use crate::body::{BodyCipher, IV_BYTES, KEY_BYTES};
use crate::keymaster::{Keymaster, text_of};
use crate::seal::{NONCE_BYTES, OpenError, Place, Purpose, SealKey, Sealed};
use crate::secrets::SecretId;
use onggi_object_model::listing::annotation::{HASH, SLO_ETAG, SYMLINK_ETAG, SYSTEM_PREFIX};
use onggi_object_model::{ContainerPath, Etag, Metadata, ObjectEntry, ObjectInfo, ObjectPath};
use zeroize::Zeroizing;

/// The item of the system that holds a body's key and everything the system keeps that its container does not list.
const BODY: &str = "x-object-sysmeta-crypto";
/// The item of an object's metadata that holds all the others.
const METADATA: &str = "x-object-transient-sysmeta-crypto";
/// The annotation that holds the entity tags of a line, after [`SYSTEM_PREFIX`] in an object's system metadata.
const LISTING: &str = "crypto";
/// Annotations that are entity tags.
const TAGS: [&str; 3] = [HASH, SLO_ETAG, SYMLINK_ETAG];
/// Metadata that storage nodes may have to know.
const PLAIN: [&str; 1] = ["x-delete-at"];

/// Random bytes for one PUT: they must never serve another.
pub struct Fresh {
    key: Zeroizing<[u8; KEY_BYTES]>,
    iv: [u8; IV_BYTES],
    body_nonce: [u8; NONCE_BYTES],
    metadata_nonce: [u8; NONCE_BYTES],
    listing_nonce: [u8; NONCE_BYTES],
}

impl Fresh {
    /// Takes random bytes from a source.
    pub fn draw(fill: impl Fn(&mut [u8])) -> Self {
        let mut fresh = Self {
            key: Zeroizing::new([0; KEY_BYTES]),
            iv: [0; IV_BYTES],
            body_nonce: [0; NONCE_BYTES],
            metadata_nonce: [0; NONCE_BYTES],
            listing_nonce: [0; NONCE_BYTES],
        };
        fill(&mut *fresh.key);
        for bytes in [
            &mut fresh.iv[..],
            &mut fresh.body_nonce,
            &mut fresh.metadata_nonce,
            &mut fresh.listing_nonce,
        ] {
            fill(bytes);
        }
        fresh
    }
}

impl core::fmt::Debug for Fresh {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Fresh")
    }
}

/// An object on its way in.
pub struct Sealing {
    id: SecretId,
    path: String,
    container: SealKey,
    cipher: BodyCipher,
    tags: Metadata,
    nonce: [u8; NONCE_BYTES],
}

impl core::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Sealing").finish_non_exhaustive()
    }
}

impl Sealing {
    /// Encrypts the next bytes of the body.
    pub fn encrypt(&mut self, bytes: &mut [u8]) {
        self.cipher.apply(bytes);
    }

    /// What the system keeps in addition once the body's end is known; `etag` is that of the plain bytes.
    #[must_use]
    pub fn finish(self, etag: &Etag) -> Metadata {
        let tags = Zeroizing::new(json(&self.tags));
        let plain = Zeroizing::new([etag.as_bytes(), tags.as_slice()].concat());
        let at = Place {
            purpose: Purpose::Listing,
            id: &self.id,
            path: &self.path,
        };
        let sealed = self.container.seal(at, &plain, &self.nonce);
        let mut items = Metadata::default();
        items.insert(format!("{SYSTEM_PREFIX}{LISTING}"), sealed);
        items
    }
}

fn json(metadata: &Metadata) -> Vec<u8> {
    serde_json::to_vec(metadata).expect("a map of texts is JSON")
}

fn of_json(bytes: &[u8]) -> Result<Metadata, OpenError> {
    serde_json::from_slice(bytes)
        .ok()
        .ok_or(OpenError::Malformed)
}

/// Takes the items whose names are wanted out of a map.
fn take(from: &mut Metadata, is_wanted: impl Fn(&str) -> bool) -> Metadata {
    let (mut taken, mut left) = (Metadata::default(), Metadata::default());
    for (name, value) in from.iter() {
        let to = if is_wanted(name) {
            &mut taken
        } else {
            &mut left
        };
        to.insert(name, value);
    }
    *from = left;
    taken
}

fn put_all(items: &Metadata, into: &mut Metadata) {
    for (name, value) in items.iter() {
        into.insert(name, value);
    }
}

impl Keymaster {
    /// Begins the encryption of a new object: its metadata and what the system keeps are sealed in their places. `None`
    /// when new objects are not encrypted.
    ///
    /// # Errors
    /// When the root secret that is to be used is not there.
    pub fn begin(
        &self,
        path: &ObjectPath,
        metadata: &mut Metadata,
        system: &mut Metadata,
        fresh: Fresh,
    ) -> Result<Option<Sealing>, OpenError> {
        let Some(id) = self.active().cloned() else {
            return Ok(None);
        };
        let key = self.object_key(&id, path)?;
        let container = self.container_key(&id, &path.container_path())?;
        let path = text_of(path);
        let tags = take(system, |name| {
            name.strip_prefix(SYSTEM_PREFIX)
                .is_some_and(|name| TAGS.contains(&name))
        });
        let own = take(system, |name| !name.starts_with(SYSTEM_PREFIX));
        let own = Zeroizing::new(json(&own));
        let plain = [fresh.key.as_slice(), &fresh.iv, &own].concat();
        let plain = Zeroizing::new(plain);
        let at = |purpose| Place {
            purpose,
            id: &id,
            path: &path,
        };
        system.insert(BODY, key.seal(at(Purpose::Body), &plain, &fresh.body_nonce));
        seal_metadata(&key, at(Purpose::Metadata), metadata, &fresh.metadata_nonce);
        Ok(Some(Sealing {
            cipher: BodyCipher::new(&fresh.key, &fresh.iv),
            nonce: fresh.listing_nonce,
            id,
            path,
            container,
            tags,
        }))
    }

    /// Seals new metadata of an object that is there. Nothing is done when what is written is not encrypted.
    ///
    /// # Errors
    /// When the root secret that is to be used is not there.
    pub fn seal_metadata(
        &self,
        path: &ObjectPath,
        metadata: &mut Metadata,
        nonce: &[u8; NONCE_BYTES],
    ) -> Result<(), OpenError> {
        let Some(id) = self.active() else {
            return Ok(());
        };
        let key = self.object_key(id, path)?;
        let at = Place {
            purpose: Purpose::Metadata,
            id,
            path: &text_of(path),
        };
        seal_metadata(&key, at, metadata, nonce);
        Ok(())
    }

    /// Makes what is stored of an object what it was before; what decrypts its bytes, when they are encrypted.
    ///
    /// # Errors
    /// When the root secret it is sealed under is not there or another one, or what is stored was changed.
    pub fn open(
        &self,
        path: &ObjectPath,
        info: &mut ObjectInfo,
        system: &mut Metadata,
    ) -> Result<Option<BodyCipher>, OpenError> {
        if let Some(text) = info.metadata.get(METADATA) {
            let sealed = Sealed::parse(text)?;
            let key = self.object_key(&sealed.id, path)?;
            let plain = sealed.open(&key, Purpose::Metadata, &text_of(path))?;
            info.metadata.remove(METADATA);
            put_all(&of_json(&plain)?, &mut info.metadata);
        }
        let listing = format!("{SYSTEM_PREFIX}{LISTING}");
        let (body, line) = match (system.get(BODY), system.get(&listing)) {
            (None, None) => return Ok(None),
            (Some(body), Some(line)) => (Sealed::parse(body)?, Sealed::parse(line)?),
            (Some(_), None) | (None, Some(_)) => return Err(OpenError::Malformed),
        };
        let text = text_of(path);
        let key = self.container_key(&line.id, &path.container_path())?;
        let (etag, tags) = open_tags(&line, &key, &text)?;
        let key = self.object_key(&body.id, path)?;
        let plain = body.open(&key, Purpose::Body, &text)?;
        let (key, rest) = split::<KEY_BYTES>(&plain)?;
        let (iv, own) = split::<IV_BYTES>(rest)?;
        let own = of_json(own)?;
        system.remove(BODY);
        system.remove(&listing);
        put_all(&own, system);
        put_all(&tags, system);
        info.etag = etag;
        Ok(Some(BodyCipher::new(&Zeroizing::new(key), &iv)))
    }

    /// What makes the lines of a container's listing what they were before.
    #[must_use]
    pub const fn listing<'a>(&'a self, path: &'a ContainerPath) -> ListingOpener<'a> {
        ListingOpener {
            keymaster: self,
            path,
            key: None,
        }
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), OpenError> {
    let (first, rest) = bytes.split_first_chunk().ok_or(OpenError::Malformed)?;
    Ok((*first, rest))
}

/// The entity tags of a sealed line, with the names that items of the system have.
fn open_tags(line: &Sealed, key: &SealKey, path: &str) -> Result<(Etag, Metadata), OpenError> {
    let plain = line.open(key, Purpose::Listing, path)?;
    let (etag, tags) = split::<16>(&plain)?;
    Ok((Etag::new(etag), of_json(tags)?))
}

fn seal_metadata(key: &SealKey, at: Place<'_>, metadata: &mut Metadata, nonce: &[u8; NONCE_BYTES]) {
    let users = take(metadata, |name| !PLAIN.contains(&name));
    if !users.is_empty() {
        let plain = Zeroizing::new(json(&users));
        metadata.insert(METADATA, key.seal(at, &plain, nonce));
    }
}

/// Opens the lines of one container's listing.
pub struct ListingOpener<'a> {
    keymaster: &'a Keymaster,
    path: &'a ContainerPath,
    /// The last key that was used: mostly it is the next line's, too.
    key: Option<(SecretId, SealKey)>,
}

impl core::fmt::Debug for ListingOpener<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("ListingOpener").finish_non_exhaustive()
    }
}

impl ListingOpener<'_> {
    /// Makes a line what it was before it was sealed. What does not open stays, but for the sealed annotation.
    ///
    /// # Errors
    /// When the root secret is not there or another one, or what is stored was changed.
    pub fn open(&mut self, entry: &mut ObjectEntry) -> Result<(), OpenError> {
        let Some(text) = entry.annotations.get(LISTING) else {
            return Ok(());
        };
        let sealed = Sealed::parse(text);
        entry.annotations.remove(LISTING);
        let sealed = sealed?;
        let path = self.path;
        let text = format!("/{}/{}/{}", path.account, path.container, entry.name);
        let (etag, tags) = open_tags(&sealed, self.key(&sealed.id)?, &text)?;
        entry.hash = etag;
        for (name, value) in tags.iter() {
            let name = name.strip_prefix(SYSTEM_PREFIX).unwrap_or(name);
            entry.annotations.insert(name, value);
        }
        Ok(())
    }

    fn key(&mut self, id: &SecretId) -> Result<&SealKey, OpenError> {
        let known = self.key.take().filter(|(known, _)| known == id);
        let pair = match known {
            Some(pair) => pair,
            None => (id.clone(), self.keymaster.container_key(id, self.path)?),
        };
        Ok(&self.key.insert(pair).1)
    }
}

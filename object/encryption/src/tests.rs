//! What is sealed opens to what it was, in its own place, under its own secret, and not otherwise.

use super::*;
use onggi_common_units::{Secret, Timestamp};
use onggi_object_model::{ContainerPath, Etag, Metadata, ObjectEntry, ObjectInfo, ObjectPath};
use proptest::prelude::*;
use std::cell::Cell;

const BODY: &str = "x-object-sysmeta-crypto";
const LINE: &str = "x-object-sysmeta-listing-crypto";
const USERS: &str = "x-object-transient-sysmeta-crypto";

fn secrets(pairs: &[(&str, u8)]) -> RootSecrets {
    let line = |(id, byte): &(&str, u8)| {
        let line = RootSecrets::line(&SecretId::new(id).unwrap(), &[*byte; SECRET_BYTES]);
        line.expose().to_owned()
    };
    let text: String = pairs.iter().map(line).collect();
    RootSecrets::parse(&Secret::new(text)).unwrap()
}

fn keymaster(pairs: &[(&str, u8)]) -> Keymaster {
    Keymaster::new(secrets(pairs), None).unwrap()
}

fn path(text: &str) -> ObjectPath {
    let mut parts = text.splitn(3, '/');
    let mut next = || parts.next().unwrap();
    ObjectPath {
        account: next().parse().unwrap(),
        container: next().parse().unwrap(),
        object: next().parse().unwrap(),
    }
}

fn fresh(seed: u8) -> Fresh {
    let next = Cell::new(seed);
    Fresh::draw(|bytes| {
        for byte in bytes {
            next.set(next.get().wrapping_mul(167).wrapping_add(13));
            *byte = next.get();
        }
    })
}

fn items(pairs: &[(&str, &str)]) -> Metadata {
    let mut items = Metadata::default();
    for (name, value) in pairs {
        items.insert(*name, *value);
    }
    items
}

fn tag() -> Etag {
    Etag::new([7; 16])
}

/// An object as a storage node has it.
struct Stored {
    path: ObjectPath,
    info: ObjectInfo,
    system: Metadata,
    bytes: Vec<u8>,
}

fn users() -> Metadata {
    items(&[
        ("x-object-meta-colour", "celadon"),
        ("content-disposition", "inline"),
        ("x-delete-at", "9999999999"),
    ])
}

fn systems() -> Metadata {
    items(&[
        ("x-object-sysmeta-slo-etag", "aa"),
        ("x-static-large-object", "true"),
        ("x-object-sysmeta-listing-hash", "bb"),
        ("x-object-sysmeta-listing-bytes", "17"),
    ])
}

fn store(keymaster: &Keymaster, at: &str, bytes: &[u8], seed: u8) -> Stored {
    let (mut metadata, mut system) = (users(), systems());
    let path = path(at);
    let sealing = keymaster.begin(&path, &mut metadata, &mut system, fresh(seed));
    let mut sealing = sealing.unwrap().unwrap();
    let mut sent = bytes.to_vec();
    for piece in sent.chunks_mut(7) {
        sealing.encrypt(piece);
    }
    for (name, value) in sealing.finish(&tag()).iter() {
        system.insert(name, value);
    }
    let info = ObjectInfo {
        data_timestamp: Timestamp::ZERO,
        content_type_timestamp: Timestamp::ZERO,
        metadata_timestamp: Timestamp::ZERO,
        length: bytes.len() as u64,
        etag: Etag::EMPTY,
        content_type: "text/plain".to_owned(),
        metadata,
    };
    Stored {
        path,
        info,
        system,
        bytes: sent,
    }
}

impl Stored {
    fn open(&self, keymaster: &Keymaster) -> Result<(ObjectInfo, Metadata, Vec<u8>), OpenError> {
        let (mut info, mut system) = (self.info.clone(), self.system.clone());
        let cipher = keymaster.open(&self.path, &mut info, &mut system)?;
        let mut bytes = self.bytes.clone();
        cipher.unwrap().apply(&mut bytes);
        Ok((info, system, bytes))
    }

    fn line(&self) -> ObjectEntry {
        let mut annotations = Metadata::default();
        for (name, value) in self.system.iter() {
            if let Some(name) = name.strip_prefix("x-object-sysmeta-listing-") {
                annotations.insert(name, value);
            }
        }
        ObjectEntry {
            name: self.path.object.to_string(),
            hash: self.info.etag,
            bytes: self.info.length,
            content_type: self.info.content_type.clone(),
            last_modified: Timestamp::ZERO,
            annotations,
        }
    }
}

#[test]
fn an_object_comes_back_as_it_was_and_nothing_of_it_is_stored_in_the_clear() {
    let keymaster = keymaster(&[("k1", 1)]);
    for bytes in [&b""[..], b"the jar is full of soybean paste"] {
        let stored = store(&keymaster, "AUTH_a/c/o", bytes, 1);
        let (info, system, opened) = stored.open(&keymaster).unwrap();
        assert_eq!((opened.as_slice(), info.etag), (bytes, tag()));
        assert_eq!((info.metadata, system), (users(), systems()));
        if !bytes.is_empty() {
            assert_ne!(stored.bytes, bytes);
        }
        let names: Vec<_> = stored.info.metadata.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["x-delete-at", USERS]);
        let names: Vec<_> = stored.system.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [BODY, "x-object-sysmeta-listing-bytes", LINE]);
    }
}

#[test]
fn a_listing_gets_its_tags_back() {
    let keymaster = keymaster(&[("k1", 1)]);
    let stored = store(&keymaster, "AUTH_a/c/o", b"x", 1);
    let container = stored.path.container_path();
    let mut line = stored.line();
    keymaster.listing(&container).open(&mut line).unwrap();
    assert_eq!(line.hash, tag());
    assert_eq!(line.annotations, items(&[("hash", "bb"), ("bytes", "17")]));
    // A line of another object, and one of an object that was never encrypted.
    let mut moved = stored.line();
    "p".clone_into(&mut moved.name);
    let error = keymaster.listing(&container).open(&mut moved).unwrap_err();
    assert!(matches!(error, OpenError::Refused { .. }));
    assert_eq!(moved.annotations, items(&[("bytes", "17")]));
    let mut plain = stored.line();
    plain.annotations.remove("crypto");
    keymaster.listing(&container).open(&mut plain).unwrap();
    assert_eq!(plain.hash, Etag::EMPTY);
}

#[test]
fn old_secrets_stay_readable_and_missing_or_wrong_ones_are_named() {
    let old = store(&keymaster(&[("k1", 1)]), "AUTH_a/c/o", b"old", 1);
    let both = keymaster(&[("k1", 1), ("k2", 2)]);
    assert_eq!(both.active().unwrap().as_str(), "k2");
    assert_eq!(old.open(&both).unwrap().2, b"old");
    let new = store(&both, "AUTH_a/c/o", b"new", 2);
    let id = |text| SecretId::new(text).unwrap();
    let gone = OpenError::UnknownSecret { id: id("k1") };
    assert_eq!(old.open(&keymaster(&[("k2", 2)])).unwrap_err(), gone);
    assert_eq!(old.open(&Keymaster::default()).unwrap_err(), gone);
    assert_eq!(new.open(&keymaster(&[("k2", 2)])).unwrap().2, b"new");
    let other = OpenError::Refused { id: id("k1") };
    assert_eq!(old.open(&keymaster(&[("k1", 9)])).unwrap_err(), other);
    // Switched off: nothing new is encrypted, what is there is read.
    let off = Keymaster::reading(secrets(&[("k1", 1)]));
    let (mut metadata, mut system) = (users(), systems());
    let begun = off.begin(&old.path, &mut metadata, &mut system, fresh(1));
    assert!(begun.unwrap().is_none());
    assert_eq!((metadata, system), (users(), systems()));
    assert_eq!(old.open(&off).unwrap().2, b"old");
    let wanted = Keymaster::new(secrets(&[("k1", 1)]), Some("k7"));
    assert!(wanted.unwrap_err().to_string().contains("k7"));
}

#[test]
fn what_stands_in_another_place_does_not_open() {
    let keymaster = keymaster(&[("k1", 1)]);
    let stored = store(&keymaster, "AUTH_a/c/o", b"x", 1);
    for other in ["AUTH_a/c/p", "AUTH_a/d/o", "AUTH_b/c/o"] {
        let moved = Stored {
            path: path(other),
            info: stored.info.clone(),
            system: stored.system.clone(),
            bytes: stored.bytes.clone(),
        };
        let error = moved.open(&keymaster).unwrap_err();
        assert!(matches!(error, OpenError::Refused { .. }), "{other}");
    }
    // One sealed item in the place of another, and one that is missing.
    let (mut info, mut system) = (stored.info.clone(), stored.system.clone());
    let body = system.get(BODY).unwrap().to_owned();
    info.metadata.insert(USERS, body);
    let error = keymaster.open(&stored.path, &mut info, &mut system);
    assert!(matches!(error, Err(OpenError::Refused { .. })));
    let (mut info, mut system) = (stored.info.clone(), stored.system.clone());
    system.remove(LINE);
    let error = keymaster.open(&stored.path, &mut info, &mut system);
    assert_eq!(error.unwrap_err(), OpenError::Malformed);
}

#[test]
fn a_post_seals_anew_and_needs_nothing_of_the_object() {
    let keymaster = keymaster(&[("k1", 1)]);
    let mut stored = store(&keymaster, "AUTH_a/c/o", b"x", 1);
    let mut posted = items(&[("x-object-meta-a", "b")]);
    keymaster
        .seal_metadata(&stored.path, &mut posted, &[5; NONCE_BYTES])
        .unwrap();
    assert!(posted.get("x-object-meta-a").is_none());
    stored.info.metadata = posted;
    let (info, _, _) = stored.open(&keymaster).unwrap();
    assert_eq!(info.metadata, items(&[("x-object-meta-a", "b")]));
    stored.info.metadata = Metadata::default();
    assert!(stored.open(&keymaster).unwrap().0.metadata.is_empty());
}

#[test]
fn what_was_never_encrypted_is_left_alone() {
    let keymaster = keymaster(&[("k1", 1)]);
    let stored = store(&keymaster, "AUTH_a/c/o", b"x", 1);
    let (mut info, mut system) = (stored.info, systems());
    info.metadata = users();
    let opened = keymaster.open(&stored.path, &mut info, &mut system);
    assert!(opened.unwrap().is_none());
    assert_eq!((info.metadata, info.etag), (users(), Etag::EMPTY));
}

#[test]
fn the_body_s_cipher_is_the_standard_s() {
    // NIST SP 800-38A, F.5.5.
    let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
    let iv = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff");
    let mut bytes = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
    let key = zeroize::Zeroizing::new(key.try_into().unwrap());
    let mut cipher = BodyCipher::new(&key, &iv.try_into().unwrap());
    cipher.apply(&mut bytes);
    let wanted = "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5";
    assert_eq!(bytes, hex(wanted));
}

fn hex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn a_key_file_is_read_or_its_line_is_named_without_the_secret() {
    let good = format!(
        "# ours\n\nk1 {}\n  k-2\t{}  \n",
        "A".repeat(43) + "=",
        "B".repeat(64)
    );
    let parse = |text: &str| RootSecrets::parse(&Secret::new(text));
    let ids: Vec<_> = parse(&good)
        .unwrap()
        .ids()
        .map(ToString::to_string)
        .collect();
    assert_eq!(ids, ["k1", "k-2"]);
    let long = "A".repeat(44);
    for (text, wanted) in [
        (String::new(), "new-key"),
        ("# k1 x\n".to_owned(), "no root secret"),
        ("k1\n".to_owned(), "line 1"),
        (format!("\nk/1 {long}\n"), "line 2: an id"),
        ("k1 hunter2hunter2\n".to_owned(), "at least 32 bytes"),
        (format!("k1 {long}\nk1 {long}\n"), "line 2: the id k1"),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(wanted), "{text:?} gave {error:?}");
        assert!(!error.contains("hunter2") && !error.contains("AAAA"));
    }
    assert!(!format!("{:?}", parse(&good).unwrap()).contains("AAAA"));
}

proptest! {
    #[test]
    fn any_range_decrypts_to_the_same_as_slicing(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        cuts in (0usize..300, 0usize..300),
        seed: u8,
        step in 1usize..40,
    ) {
        let keymaster = keymaster(&[("k1", 1)]);
        let stored = store(&keymaster, "AUTH_a/c/o", &bytes, seed);
        let (mut info, mut system) = (stored.info.clone(), stored.system.clone());
        let cipher = keymaster.open(&stored.path, &mut info, &mut system).unwrap();
        let mut cipher = cipher.unwrap();
        let (a, b) = (cuts.0.min(bytes.len()), cuts.1.min(bytes.len()));
        let range = a.min(b)..a.max(b);
        let mut part = stored.bytes[range.clone()].to_vec();
        cipher.seek(range.start as u64);
        for piece in part.chunks_mut(step) {
            cipher.apply(piece);
        }
        prop_assert_eq!(&part, &bytes[range]);
    }

    #[test]
    fn a_changed_item_is_an_error_and_never_garbage(at in 0usize..4_000, flip in 1u8..128, which in 0usize..3) {
        let keymaster = keymaster(&[("k1", 1)]);
        let mut stored = store(&keymaster, "AUTH_a/c/o", b"x", 1);
        let name = [BODY, LINE, USERS][which];
        let map = if which == 2 { &mut stored.info.metadata } else { &mut stored.system };
        let mut text = map.get(name).unwrap().as_bytes().to_vec();
        let at = at % text.len();
        text[at] ^= flip;
        map.insert(name, String::from_utf8(text).unwrap());
        prop_assert!(stored.open(&keymaster).is_err());
        if which == 1 {
            let container: ContainerPath = stored.path.container_path();
            prop_assert!(keymaster.listing(&container).open(&mut stored.line()).is_err());
        }
    }

    #[test]
    fn any_text_in_the_place_of_an_item_is_an_error(text in "\\PC{0,60}") {
        let keymaster = keymaster(&[("k1", 1)]);
        let mut stored = store(&keymaster, "AUTH_a/c/o", b"x", 1);
        stored.system.insert(BODY, text.clone());
        prop_assert!(stored.open(&keymaster).is_err());
        stored.info.metadata.insert(USERS, text);
        prop_assert!(stored.open(&keymaster).is_err());
    }
}

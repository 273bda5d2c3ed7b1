//! A body's checksums: one BLAKE3 hash per chunk, and the root over them.
//!
//! Sender, device and reader use the same chunks, so one pass over the bytes proves them from the proxy to the disk
//! and back, and a range is verified without reading the rest.

use core::fmt;
use core::str::FromStr;

/// Bytes under one hash. The last chunk of a body is shorter; an empty body has none.
pub const CHUNK_BYTES: usize = 64 << 10;

/// The hash over a body's length and its chunks' hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Root([u8; 32]);

/// A text that is no root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a root is 64 hexadecimal digits")]
pub struct RootError;

impl Root {
    /// Takes the bytes as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The root of a body of so many bytes whose chunks have these hashes.
    #[must_use]
    pub fn of_chunks(length: u64, hashes: &[[u8; 32]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("onggi object body root 1");
        hasher.update(&length.to_be_bytes());
        for hash in hashes {
            hasher.update(hash);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The root of a body in memory.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        let mut hasher = ChunkHasher::new();
        hasher.update(body);
        hasher.finish().root
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Root {
    type Err = RootError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        crate::head::from_hex(text).map(Self).ok_or(RootError)
    }
}

impl serde::Serialize for Root {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serde::Serialize::serialize(&self.0, serializer)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Root {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 32]>::deserialize(deserializer).map(Self);
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The hash of one chunk.
#[must_use]
pub fn chunk_hash(chunk: &[u8]) -> [u8; 32] {
    *blake3::hash(chunk).as_bytes()
}

/// Hashes a body as it passes, whatever pieces it comes in.
#[derive(Debug, Clone)]
pub struct ChunkHasher {
    current: blake3::Hasher,
    filled: usize,
    length: u64,
    hashes: Vec<[u8; 32]>,
}

/// What a whole body hashed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyHash {
    /// How many bytes it has.
    pub length: u64,
    /// Its root.
    pub root: Root,
    /// Its chunks' hashes, in order.
    pub hashes: Vec<[u8; 32]>,
}

impl Default for ChunkHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkHasher {
    /// Before the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            current: blake3::Hasher::new(),
            filled: 0,
            length: 0,
            hashes: Vec::new(),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.length = self.length.saturating_add(bytes.len() as u64);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.filled));
            self.current.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == CHUNK_BYTES {
                self.close_chunk();
            }
        }
    }

    /// Bytes taken so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    fn close_chunk(&mut self) {
        self.hashes.push(*self.current.finalize().as_bytes());
        self.current.reset();
        self.filled = 0;
    }

    /// The body is whole.
    #[must_use]
    pub fn finish(mut self) -> BodyHash {
        if self.filled > 0 {
            self.close_chunk();
        }
        let root = Root::of_chunks(self.length, &self.hashes);
        BodyHash {
            length: self.length,
            root,
            hashes: self.hashes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_around_a_chunk_have_the_right_number_of_hashes() {
        for (length, chunks) in [
            (0, 0),
            (1, 1),
            (CHUNK_BYTES, 1),
            (CHUNK_BYTES + 1, 2),
            (3 * CHUNK_BYTES, 3),
        ] {
            let mut hasher = ChunkHasher::new();
            hasher.update(&vec![7; length]);
            let hash = hasher.finish();
            assert_eq!(hash.hashes.len(), chunks, "{length}");
            assert_eq!(hash.length, length as u64);
        }
    }

    #[test]
    fn a_root_keeps_its_golden_value_and_text_form() {
        let root = Root::of(b"");
        assert_eq!(root.to_string().parse(), Ok(root));
        assert_eq!("xyz".parse::<Root>(), Err(RootError));
        assert_eq!(Root::of(b"onggi").to_string(), GOLDEN_ROOT);
    }

    const GOLDEN_ROOT: &str = "f37d8db14980b76fa9d7b685ff898e8078be8da3b244ae1c6bc7798998b65391";

    proptest! {
        #[test]
        fn pieces_do_not_change_the_root(body in prop::collection::vec(any::<u8>(), 0..200_000), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(body.len() + 1);
            let mut hasher = ChunkHasher::new();
            hasher.update(&body[..cut]);
            hasher.update(&body[cut..]);
            prop_assert_eq!(hasher.finish().root, Root::of(&body));
        }
    }
}

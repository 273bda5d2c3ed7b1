//! A body on its way onto the device: small ones gather in memory, large ones go to a file.

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::ObjectKey;
use crate::large::{self, Incoming};
use onggi_common_units::ByteCount;
use onggi_object_wire::body::{BodyHash, CHUNK_BYTES};
use onggi_object_wire::{ChunkHasher, Root};

/// The largest body kept in RocksDB.
pub const SMALL_BYTES_MAX: usize = 64 << 10;
/// After so many bytes of unknown length the free space is looked at again.
const SPACE_CHECK_BYTES: u64 = 8 << 20;

/// A body under way. Dropping it gives it up.
#[derive(Debug)]
pub struct Upload {
    key: ObjectKey,
    small: Vec<u8>,
    large: Option<Incoming>,
    /// `None` where the sender hashes.
    hasher: Option<ChunkHasher>,
    /// How many bytes came so far.
    taken: u64,
    length: Option<u64>,
    unique: String,
    checked_at: u64,
}

/// A body that came whole. It is on the device only once its row is merged.
#[derive(Debug)]
pub struct Finished {
    pub(crate) key: ObjectKey,
    pub(crate) hash: BodyHash,
    pub(crate) small: Vec<u8>,
    pub(crate) large: Option<Incoming>,
    pub(crate) file_name: String,
}

impl Finished {
    /// A body that is in memory whole. It touches no disk. Its root is worked out unless it is known. `None` when it is too
    /// long to be kept in RocksDB: that is an [`Upload`].
    #[must_use]
    pub fn small(
        device: &Device,
        key: ObjectKey,
        bytes: &[u8],
        known: Option<Root>,
    ) -> Option<Self> {
        (bytes.len() <= SMALL_BYTES_MAX).then(|| {
            let hash = BodyHash {
                length: bytes.len() as u64,
                root: known.unwrap_or_else(|| Root::of(bytes)),
                // Only files have them.
                hashes: Vec::new(),
            };
            Self {
                key,
                hash,
                small: bytes.to_vec(),
                large: None,
                file_name: large::file_name(&key, &device.unique()),
            }
        })
    }

    /// Its length and checksums.
    #[must_use]
    pub const fn hash(&self) -> &BodyHash {
        &self.hash
    }
}

impl Device {
    /// Begins to take a body.
    ///
    /// # Errors
    /// When there is no space for so many bytes beside the reserve.
    pub fn begin_upload(&self, key: ObjectKey, length: Option<u64>) -> Result<Upload, DeviceError> {
        self.space().check(ByteCount::new(length.unwrap_or(0)))?;
        Ok(Upload {
            key,
            small: Vec::new(),
            large: None,
            hasher: Some(ChunkHasher::new()),
            taken: 0,
            length,
            unique: self.unique(),
            checked_at: 0,
        })
    }
}

impl Upload {
    /// Leaves hashing to the sender, who is in this process and tells [`Upload::finish_as`].
    #[must_use]
    pub fn unhashed(self) -> Self {
        Self {
            hasher: None,
            ..self
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When there is no space for them, or the machine refuses.
    pub fn write(&mut self, device: &Device, bytes: &[u8]) -> Result<(), DeviceError> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.taken = self.taken.saturating_add(bytes.len() as u64);
        if self.large.is_none() && self.small.len() + bytes.len() <= SMALL_BYTES_MAX {
            self.small.extend_from_slice(bytes);
            return Ok(());
        }
        if self.length.is_none() && self.taken >= self.checked_at + SPACE_CHECK_BYTES {
            device.space().check(ByteCount::new(SPACE_CHECK_BYTES))?;
            self.checked_at = self.taken;
        }
        let directory = device.directory();
        if self.large.is_none() {
            let mut incoming = Incoming::begin(directory, &self.unique, self.length)?;
            incoming.write(directory, &core::mem::take(&mut self.small))?;
            self.large = Some(incoming);
        }
        match &mut self.large {
            Some(incoming) => incoming.write(directory, bytes),
            None => Ok(()),
        }
    }

    /// All bytes came.
    #[must_use]
    pub fn finish(mut self) -> Finished {
        // Without it this is the hash of no bytes, which fits none that came.
        let hasher = self.hasher.take().unwrap_or_default();
        self.into_finished(hasher.finish())
    }

    /// All bytes came, and this is what their sender found. `None` when it is of another body's length, or no hash at all.
    #[must_use]
    pub fn finish_as(self, hash: &BodyHash) -> Option<Finished> {
        let is_one = hash.length == self.taken
            && hash.hashes.len() as u64 == hash.length.div_ceil(CHUNK_BYTES as u64)
            && hash.root == Root::of_chunks(hash.length, &hash.hashes);
        is_one.then(|| self.into_finished(hash.clone()))
    }

    fn into_finished(self, hash: BodyHash) -> Finished {
        Finished {
            key: self.key,
            hash,
            small: self.small,
            large: self.large,
            file_name: large::file_name(&self.key, &self.unique),
        }
    }
}

//! A body on its way onto the device: small ones gather in memory, large ones go to a file.

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::ObjectKey;
use crate::large::{self, Incoming};
use onggi_common_units::ByteCount;
use onggi_object_wire::ChunkHasher;
use onggi_object_wire::body::BodyHash;

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
    hasher: ChunkHasher,
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
    /// A body that is in memory whole. It touches no disk. `None` when it is too long to be kept in RocksDB: that is an
    /// [`Upload`].
    #[must_use]
    pub fn small(device: &Device, key: ObjectKey, bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= SMALL_BYTES_MAX).then(|| {
            let mut hasher = ChunkHasher::new();
            hasher.update(bytes);
            Self {
                key,
                hash: hasher.finish(),
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
            hasher: ChunkHasher::new(),
            length,
            unique: self.unique(),
            checked_at: 0,
        })
    }
}

impl Upload {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// When there is no space for them, or the machine refuses.
    pub fn write(&mut self, device: &Device, bytes: &[u8]) -> Result<(), DeviceError> {
        self.hasher.update(bytes);
        if self.large.is_none() && self.small.len() + bytes.len() <= SMALL_BYTES_MAX {
            self.small.extend_from_slice(bytes);
            return Ok(());
        }
        if self.length.is_none() && self.hasher.length() >= self.checked_at + SPACE_CHECK_BYTES {
            device.space().check(ByteCount::new(SPACE_CHECK_BYTES))?;
            self.checked_at = self.hasher.length();
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

    /// How many bytes came so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// All bytes came.
    #[must_use]
    pub fn finish(self) -> Finished {
        Finished {
            key: self.key,
            hash: self.hasher.finish(),
            small: self.small,
            large: self.large,
            file_name: large::file_name(&self.key, &self.unique),
        }
    }
}

//! What every pool does.

use crate::error::PoolError;
use onggi_block_medium::MediumSpec;
use onggi_common_units::{ByteCount, Uuid};
use serde::{Deserialize, Serialize};

/// How a pool keeps its volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// Logical volumes served through their physical extents; the kernel's device-mapper is not used.
    LvmMapped,
    /// Linear logical volumes, activated.
    LvmThick,
    /// Thin logical volumes, activated.
    LvmThin,
    /// Sparse files.
    File,
}

impl PoolKind {
    /// Whether a volume takes up space only as it is written, so that more may be promised than is there.
    #[must_use]
    pub const fn is_thin(self) -> bool {
        match self {
            Self::LvmThin | Self::File => true,
            Self::LvmMapped | Self::LvmThick => false,
        }
    }
}

/// How much a pool holds and can still take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// What the pool could hold if it were empty.
    pub total: ByteCount,
    /// What is not taken up.
    pub free: ByteCount,
    /// The sizes of all volumes together; in a thin pool it may exceed `total`.
    pub provisioned: ByteCount,
    /// What removed volumes still take up until their bytes are gone; free later.
    pub reclaiming: ByteCount,
}

/// What a volume carries with it, so that the catalogue can be rebuilt from the pool.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// The name its user gave it; long ones may come back cut short.
    pub name: String,
    /// The project it belongs to.
    pub project: String,
}

/// A volume as the pool finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVolume {
    /// Its id.
    pub id: Uuid,
    /// Its size, never smaller than asked for: pools round up to their own unit.
    pub size: ByteCount,
    /// What it carries with it.
    pub labels: Labels,
    /// False when making or growing it was cut short: the same call again, or removing it, ends that.
    pub is_complete: bool,
}

/// A place where volumes live.
pub trait Pool: Send + Sync {
    /// Its name: the volume group's, or the one it was configured with.
    fn name(&self) -> &str;

    /// How it keeps its volumes.
    fn kind(&self) -> PoolKind;

    /// What it holds and can still take.
    ///
    /// # Errors
    /// When the pool cannot be read.
    fn capacity(&self) -> Result<Capacity, PoolError>;

    /// Makes a volume whose bytes are all zero. If it is there already, with this size, nothing happens.
    ///
    /// # Errors
    /// When the size is zero or too large, when the pool is full, when the volume is there with another size.
    fn create(&self, id: Uuid, size: ByteCount, labels: &Labels) -> Result<(), PoolError>;

    /// Grows a volume; the new bytes are zero. If it has this size already, nothing happens.
    ///
    /// # Errors
    /// When there is no such volume, when it is larger already, when the pool is full.
    fn extend(&self, id: Uuid, size: ByteCount) -> Result<(), PoolError>;

    /// Removes a volume. A missing one is fine. Its bytes are gone before its space is given to another.
    ///
    /// # Errors
    /// When the pool refuses, for example because the kernel still has the volume open.
    fn remove(&self, id: Uuid) -> Result<(), PoolError>;

    /// Changes what a volume carries with it.
    ///
    /// # Errors
    /// When there is no such volume or the pool cannot be written.
    fn label(&self, id: Uuid, labels: &Labels) -> Result<(), PoolError>;

    /// Says where a volume's bytes are, having made them reachable.
    ///
    /// # Errors
    /// When there is no such volume, when it is not complete, or when its bytes cannot be reached.
    fn open(&self, id: Uuid) -> Result<MediumSpec, PoolError>;

    /// Checks that what [`Pool::open`] said still holds, and returns the medium as it is now.
    ///
    /// # Errors
    /// [`PoolError::Fenced`] when the volume's bytes were moved or removed by someone else: stop serving it.
    fn verify(&self, id: Uuid, medium: &MediumSpec) -> Result<MediumSpec, PoolError>;

    /// All volumes, in no particular order.
    ///
    /// # Errors
    /// When the pool cannot be read.
    fn list(&self) -> Result<Vec<StoredVolume>, PoolError>;
}

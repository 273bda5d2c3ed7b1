//! How much may still be written: a reserve stays free, so that deletions and RocksDB's own work never run into the wall.

use crate::error::{DeviceError, io_at};
use onggi_common_units::ByteCount;
use std::path::{Path, PathBuf};

/// The largest reserve a device has unless told otherwise.
const RESERVE_MAX: ByteCount = ByteCount::from_gib(1);
/// The share of the file system that is reserved, if that is less.
const RESERVE_SHARE: u64 = 50;
/// What RocksDB may need for one more batch.
pub(crate) const BATCH_BYTES: ByteCount = ByteCount::from_mib(1);

#[derive(Debug)]
pub(crate) struct Space {
    path: PathBuf,
    reserve: ByteCount,
}

/// The size of the file system a path is on, and what is free of it.
pub(crate) fn usage(path: &Path) -> Result<(ByteCount, ByteCount), DeviceError> {
    let told = rustix::fs::statvfs(path);
    let told = told.map_err(|errno| io_at("asking for the free space of", path)(errno.into()))?;
    let total = told.f_blocks.saturating_mul(told.f_frsize);
    let free = told.f_bavail.saturating_mul(told.f_frsize);
    Ok((ByteCount::new(total), ByteCount::new(free)))
}

impl Space {
    /// The space of the file system a device is on; a fiftieth of it, at most 1 GiB, is reserved unless told otherwise.
    pub(crate) fn new(path: &Path, reserve: Option<ByteCount>) -> Result<Self, DeviceError> {
        let (total, _) = usage(path)?;
        let share = ByteCount::new(total.bytes() / RESERVE_SHARE).min(RESERVE_MAX);
        Ok(Self {
            path: path.to_owned(),
            reserve: reserve.unwrap_or(share),
        })
    }

    /// How much room there is now.
    pub(crate) fn room(&self) -> Result<Room<'_>, DeviceError> {
        let (_, free) = usage(&self.path)?;
        Ok(Room { space: self, free })
    }

    /// Refuses to write so many bytes when less than the reserve would stay free.
    pub(crate) fn check(&self, needed: ByteCount) -> Result<(), DeviceError> {
        self.room()?.check(needed)
    }

    /// The same for what gives space back in the end: it may use half the reserve.
    pub(crate) fn check_small(&self, needed: ByteCount) -> Result<(), DeviceError> {
        self.room()?.check_small(needed)
    }
}

/// What was free at one moment, for several changes that are written together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room<'a> {
    space: &'a Space,
    free: ByteCount,
}

impl Room<'_> {
    /// See [`Space::check`].
    pub(crate) fn check(&self, needed: ByteCount) -> Result<(), DeviceError> {
        self.check_above(needed, self.space.reserve)
    }

    /// See [`Space::check_small`].
    pub(crate) fn check_small(&self, needed: ByteCount) -> Result<(), DeviceError> {
        self.check_above(needed, ByteCount::new(self.space.reserve.bytes() / 2))
    }

    fn check_above(&self, needed: ByteCount, reserve: ByteCount) -> Result<(), DeviceError> {
        let wanted = needed.bytes().saturating_add(reserve.bytes());
        if self.free.bytes() < wanted {
            return Err(DeviceError::Full {
                path: self.space.path.clone(),
                free: self.free,
                needed,
                reserve,
            });
        }
        Ok(())
    }
}

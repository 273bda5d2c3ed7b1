//! The pool on files: one sparse file per volume in one directory, no root needed.
//!
//! | file | content |
//! |---|---|
//! | `volume-<uuid>` | the volume's bytes; its length is the volume's size, zero while it is being made |
//! | `volume-<uuid>.json` | its labels |
//!
//! Removing a file gives its blocks back to the file system, which never shows old bytes in a new file (**B5**).

use crate::error::PoolError;
use crate::pool::{Capacity, Labels, Pool, PoolKind, StoredVolume};
use onggi_block_medium::{ExtentMap, MediumKind, MediumSpec};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_units::{ByteCount, Uuid};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Sizes are rounded up to this: the largest block size a volume is served with.
pub const SIZE_UNIT: ByteCount = ByteCount::from_kib(4);

/// The largest volume: what ext4 can hold in one file.
pub const VOLUME_SIZE_MAX: ByteCount = ByteCount::from_gib(16 << 10);

/// Labels are short; what is longer was not written here.
const LABELS_BYTES_MAX: u64 = 64 << 10;

/// How a file pool is to be.
#[derive(Debug, Clone)]
pub struct FileOptions {
    /// Its name.
    pub name: String,
    /// The directory; made if it is missing. Nothing else should be in it.
    pub directory: PathBuf,
    /// What is left free for everything else on the file system.
    pub reserve: ByteCount,
}

/// A pool of sparse files.
#[derive(Debug)]
pub struct FilePool {
    name: String,
    directory: PathBuf,
    reserve: ByteCount,
    can_reflink: bool,
}

impl FilePool {
    /// Opens the pool.
    ///
    /// # Errors
    /// When the directory can neither be made nor used.
    pub fn open(options: FileOptions) -> Result<Self, PoolError> {
        durable::create_dir_all(&options.directory)?;
        let looking = PoolError::io("looking at", &options.directory);
        let directory = options.directory.canonicalize().map_err(looking)?;
        let can_reflink = can_reflink(&directory)?;
        Ok(Self {
            name: options.name,
            directory,
            reserve: options.reserve,
            can_reflink,
        })
    }

    /// Whether the file system copies files by sharing their blocks, which makes snapshots and clones instant.
    #[must_use]
    pub const fn can_reflink(&self) -> bool {
        self.can_reflink
    }

    fn path(&self, id: Uuid) -> PathBuf {
        self.directory.join(format!("volume-{id}"))
    }

    fn labels_path(&self, id: Uuid) -> PathBuf {
        self.directory.join(format!("volume-{id}.json"))
    }

    fn not_found(&self, volume: Uuid) -> PoolError {
        PoolError::NotFound {
            pool: self.name.clone(),
            volume,
        }
    }

    /// The volume's size; `None` when there is none. A link or device in its place is never followed.
    fn size(&self, id: Uuid) -> Result<Option<ByteCount>, PoolError> {
        let path = self.path(id);
        match path.symlink_metadata() {
            Ok(found) if found.is_file() => Ok(Some(ByteCount::new(found.len()))),
            Ok(found) => Err(PoolError::Unmappable {
                volume: id,
                reason: format!("it is {}", describe(&found)),
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PoolError::io("looking at", path)(error)),
        }
    }

    fn round(size: ByteCount) -> Result<ByteCount, PoolError> {
        if size == ByteCount::ZERO || size > VOLUME_SIZE_MAX {
            return Err(PoolError::InvalidSize {
                size,
                max: VOLUME_SIZE_MAX,
            });
        }
        Ok(ByteCount::new(
            size.bytes().next_multiple_of(SIZE_UNIT.bytes()),
        ))
    }

    /// Refuses what could not be written whole even if nothing else were.
    fn require_free(&self, needed: ByteCount) -> Result<(), PoolError> {
        let free = self.capacity()?.free;
        if needed <= free {
            return Ok(());
        }
        Err(PoolError::InsufficientSpace {
            pool: self.name.clone(),
            needed,
            free,
            reclaiming: ByteCount::ZERO,
        })
    }

    fn set_size(&self, id: Uuid, size: ByteCount) -> Result<(), PoolError> {
        let path = self.path(id);
        let open = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = open.map_err(PoolError::io("opening", &path))?;
        file.set_len(size.bytes())
            .map_err(PoolError::io("growing", &path))?;
        file.sync_all().map_err(PoolError::io("syncing", &path))?;
        Ok(durable::sync_dir(&self.directory)?)
    }

    fn read_labels(&self, id: Uuid) -> Labels {
        // They are only a help for rebuilding the catalogue: one that cannot be read does not hide the volume.
        let path = self.labels_path(id);
        let is_short = path
            .metadata()
            .is_ok_and(|found| found.len() <= LABELS_BYTES_MAX);
        let text = if is_short {
            std::fs::read(&path).unwrap_or_default()
        } else {
            Vec::new()
        };
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

fn describe(found: &Metadata) -> &'static str {
    let kind = found.file_type();
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_dir() {
        "a directory"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "no regular file"
    }
}

fn can_reflink(directory: &Path) -> Result<bool, PoolError> {
    let open = |name: &str| {
        let path = directory.join(name);
        let open = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        open.map(|file| (path.clone(), file))
            .map_err(PoolError::io("making", path))
    };
    let (from_path, from) = open(".reflink-from")?;
    let (to_path, to) = open(".reflink-to")?;
    from.set_len(SIZE_UNIT.bytes())
        .map_err(PoolError::io("growing", &from_path))?;
    let outcome = rustix::fs::ioctl_ficlone(&to, &from);
    durable::remove(&from_path)?;
    durable::remove(&to_path)?;
    Ok(outcome.is_ok())
}

impl Pool for FilePool {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> PoolKind {
        PoolKind::File
    }

    fn capacity(&self) -> Result<Capacity, PoolError> {
        let system = rustix::fs::statvfs(&self.directory)
            .map_err(PoolError::io("asking", &self.directory))?;
        let bytes = |blocks: u64| {
            blocks
                .saturating_mul(system.f_frsize)
                .saturating_sub(self.reserve.bytes())
        };
        let provisioned = self
            .list()?
            .iter()
            .map(|volume| volume.size.bytes())
            .fold(0, u64::saturating_add);
        Ok(Capacity {
            total: ByteCount::new(bytes(system.f_blocks)),
            free: ByteCount::new(bytes(system.f_bavail)),
            provisioned: ByteCount::new(provisioned),
            reclaiming: ByteCount::ZERO,
        })
    }

    fn create(&self, id: Uuid, size: ByteCount, labels: &Labels) -> Result<(), PoolError> {
        let size = Self::round(size)?;
        match self.size(id)? {
            Some(found) if found == size => return Ok(()),
            Some(found) if found != ByteCount::ZERO => {
                return Err(PoolError::Exists {
                    volume: id,
                    found,
                    asked: size,
                });
            }
            Some(_) | None => self.require_free(size)?,
        }
        // The size comes last: it is what makes the volume complete.
        self.write_labels(id, labels)?;
        self.set_size(id, size)
    }

    fn extend(&self, id: Uuid, size: ByteCount) -> Result<(), PoolError> {
        let size = Self::round(size)?;
        let found = self.size(id)?.ok_or_else(|| self.not_found(id))?;
        if found == ByteCount::ZERO {
            return Err(PoolError::Incomplete { volume: id });
        }
        if found > size {
            return Err(PoolError::Shrink {
                volume: id,
                found,
                asked: size,
            });
        }
        if found == size {
            return Ok(());
        }
        self.require_free(ByteCount::new(size.bytes() - found.bytes()))?;
        self.set_size(id, size)
    }

    fn remove(&self, id: Uuid) -> Result<(), PoolError> {
        // A link or device in its place is not ours to remove.
        self.size(id)?;
        durable::remove(&self.path(id))?;
        Ok(durable::remove(&self.labels_path(id))?)
    }

    fn label(&self, id: Uuid, labels: &Labels) -> Result<(), PoolError> {
        self.size(id)?.ok_or_else(|| self.not_found(id))?;
        self.write_labels(id, labels)
    }

    fn open(&self, id: Uuid) -> Result<MediumSpec, PoolError> {
        let size = self.size(id)?.ok_or_else(|| self.not_found(id))?;
        if size == ByteCount::ZERO {
            return Err(PoolError::Incomplete { volume: id });
        }
        let extents =
            ExtentMap::linear(size).map_err(|source| PoolError::Extents { volume: id, source })?;
        Ok(MediumSpec {
            path: self.path(id),
            kind: MediumKind::File,
            extents,
            fence: None,
        })
    }

    fn verify(&self, id: Uuid, medium: &MediumSpec) -> Result<MediumSpec, PoolError> {
        let fenced = |reason: &str| PoolError::Fenced {
            volume: id,
            reason: reason.to_owned(),
        };
        let now = match self.open(id) {
            Ok(now) => now,
            Err(PoolError::NotFound { .. }) => return Err(fenced("its file is gone")),
            Err(error) => return Err(error),
        };
        if now.path != medium.path || !now.extents.begins_with(&medium.extents) {
            return Err(fenced("its file has moved or become shorter"));
        }
        Ok(now)
    }

    fn list(&self) -> Result<Vec<StoredVolume>, PoolError> {
        let failed = || PoolError::io("listing", &self.directory);
        let mut volumes = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            let id = name
                .to_str()
                .and_then(|name| name.strip_prefix("volume-")?.parse::<Uuid>().ok());
            let Some(id) = id.filter(|id| self.path(*id).file_name() == Some(name.as_os_str()))
            else {
                continue;
            };
            // It may have been removed since the directory was read.
            let Some(size) = self.size(id)? else { continue };
            let is_complete = size != ByteCount::ZERO;
            volumes.push(StoredVolume {
                id,
                size,
                labels: self.read_labels(id),
                is_complete,
            });
        }
        Ok(volumes)
    }
}

impl FilePool {
    fn write_labels(&self, id: Uuid, labels: &Labels) -> Result<(), PoolError> {
        let path = self.labels_path(id);
        let text = serde_json::to_vec(labels)
            .map_err(io::Error::other)
            .map_err(PoolError::io("writing", &path))?;
        Ok(durable::replace(&path, &text, Visibility::Owner)?)
    }

    /// How much of a volume is written, in bytes on the file system.
    ///
    /// # Errors
    /// When there is no such volume.
    pub fn allocated(&self, id: Uuid) -> Result<ByteCount, PoolError> {
        let path = self.path(id);
        let found = path
            .symlink_metadata()
            .map_err(PoolError::io("looking at", path))?;
        Ok(ByteCount::new(found.blocks().saturating_mul(512)))
    }
}

#[cfg(test)]
mod tests;

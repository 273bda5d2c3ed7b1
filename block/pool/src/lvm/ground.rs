//! What the volume group lies on: a loop device over a file, or a disk.

use crate::error::PoolError;
use crate::lvm::error::LvmError;
use crate::lvm::group::{Backing, LvmOptions, Marker, SIZE_MIN};
use onggi_block_medium::MediumKind;
use onggi_common_host::durable;
use onggi_common_host::loopback::{self, Attach, LoopDevice};
use onggi_common_units::ByteCount;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const READ_BYTES: usize = 1 << 20;
/// How much of a disk's beginning and end must be zero for it to count as blank: partition tables, file systems and
/// volume managers all sign there, and LVM itself looks for signatures once more.
const DISK_LOOK_BYTES: u64 = 4 << 20;

/// A ready device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ground {
    /// What LVM uses.
    pub(crate) device: PathBuf,
    /// What holds the bytes and is served: the file itself, or the disk.
    pub(crate) medium: PathBuf,
    pub(crate) kind: MediumKind,
    pub(crate) size: ByteCount,
    /// Whether nothing has been written there, as far as was looked; false when nobody looked.
    pub(crate) is_blank: bool,
    pub(crate) loop_device: Option<LoopDevice>,
    /// Whether this run attached the loop device.
    is_attached_now: bool,
}

impl Ground {
    /// Undoes what this run did to a device that turned out not to be ours.
    pub(crate) fn give_up(&self) {
        if let Some(device) = self.loop_device.as_ref().filter(|_| self.is_attached_now)
            && let Err(error) = device.detach()
        {
            tracing::warn!(%error, "a loop device stays behind");
        }
    }
}

/// Makes the device ready. `begin` is called before anything is made that was not there.
pub(crate) fn lay(
    options: &LvmOptions,
    marker: Option<&Marker>,
    begin: impl FnOnce() -> Result<(), PoolError>,
) -> Result<Ground, PoolError> {
    match &options.backing {
        Backing::LoopFile { path, size } => lay_file(options, path, *size, marker, begin),
        Backing::Disk(path) => lay_disk(options, path, marker, begin),
    }
}

fn lay_file(
    options: &LvmOptions,
    path: &Path,
    size: ByteCount,
    marker: Option<&Marker>,
    begin: impl FnOnce() -> Result<(), PoolError>,
) -> Result<Ground, PoolError> {
    let unfit = |reason| LvmError::BackingUnfit {
        path: path.to_owned(),
        reason,
    };
    if size < SIZE_MIN {
        return Err(unfit("it must have at least 64 MiB").into());
    }
    // Told before anything is made: without loop devices nothing should stay behind.
    loopback::available().map_err(LvmError::Loop)?;
    let made = marker.filter(|marker| marker.group_uuid.is_some());
    match path.symlink_metadata() {
        Ok(found) if found.is_file() => check_length(options, path, found.len(), made)?,
        Ok(_) => return Err(unfit("it is no regular file").into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if made.is_some() {
                let (group, marker) = (options.group.clone(), options.state_dir.join("group.json"));
                return Err(LvmError::BackingMissing {
                    group,
                    path: path.to_owned(),
                    marker,
                }
                .into());
            }
            begin()?;
            make_file(path)?;
            // The marker stands from here on, so the file counts as ours.
            return attach(path, Some(size), true);
        }
        Err(error) => return Err(PoolError::io("looking at", path)(error)),
    }
    let is_blank =
        marker.is_none() && is_blank_file(path).map_err(PoolError::io("reading", path))?;
    if is_blank {
        begin()?;
    }
    // What may turn out to be somebody else's keeps its size.
    let wanted = (is_blank || marker.is_some()).then_some(size);
    attach(path, wanted, is_blank)
}

fn check_length(
    options: &LvmOptions,
    path: &Path,
    length: u64,
    made: Option<&Marker>,
) -> Result<(), LvmError> {
    let found = ByteCount::new(length);
    match made {
        Some(marker) if found < marker.size => Err(LvmError::BackingTruncated {
            group: options.group.clone(),
            path: path.to_owned(),
            found,
            expected: marker.size,
        }),
        _ => Ok(()),
    }
}

fn make_file(path: &Path) -> Result<(), PoolError> {
    if let Some(above) = path.parent() {
        durable::create_dir_all(above)?;
    }
    let open = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let file = open.map_err(PoolError::io("making", path))?;
    file.sync_all().map_err(PoolError::io("syncing", path))?;
    path.parent()
        .map_or(Ok(()), |above| Ok(durable::sync_dir(above)?))
}

/// Shows the file as a loop device, having brought it to the wanted size; it is never made smaller.
fn attach(path: &Path, wanted: Option<ByteCount>, is_blank: bool) -> Result<Ground, PoolError> {
    let medium = path
        .canonicalize()
        .map_err(PoolError::io("looking at", path))?;
    let file = File::options()
        .write(true)
        .open(&medium)
        .map_err(PoolError::io("opening", &medium))?;
    let found = ByteCount::new(
        file.metadata()
            .map_err(PoolError::io("looking at", &medium))?
            .len(),
    );
    let size = wanted.unwrap_or(found).max(found);
    if found < size {
        file.set_len(size.bytes())
            .map_err(PoolError::io("growing", &medium))?;
        file.sync_all().map_err(PoolError::io("syncing", &medium))?;
    }
    warn_of_promises(&file, &medium, size);
    let (device, is_attached_now) = loop_device(&medium, size)?;
    Ok(Ground {
        device: device.path().to_owned(),
        medium,
        kind: MediumKind::File,
        size,
        is_blank,
        loop_device: Some(device),
        is_attached_now,
    })
}

/// Says it when the sparse file could not be filled: writers would find out at the worst moment.
fn warn_of_promises(file: &File, path: &Path, size: ByteCount) {
    let (Ok(found), Ok(system)) = (file.metadata(), rustix::fs::fstatvfs(file)) else {
        return;
    };
    let missing = size
        .bytes()
        .saturating_sub(found.blocks().saturating_mul(512));
    let free = system.f_bavail.saturating_mul(system.f_frsize);
    if missing > free {
        let (path, missing, free) = (
            path.display(),
            ByteCount::new(missing),
            ByteCount::new(free),
        );
        tracing::warn!(%path, %missing, %free, "the file under the volume group is sparse and its file system too full for it");
    }
}

/// The loop device that shows the whole file: the one there is (from before a restart), or a new one (after a reboot).
fn loop_device(medium: &Path, size: ByteCount) -> Result<(LoopDevice, bool), LvmError> {
    for device in loopback::find(medium)? {
        let Some(status) = device.status()? else {
            continue;
        };
        let is_whole = status.offset == ByteCount::ZERO && status.size_limit == ByteCount::ZERO;
        if !is_whole || status.read_only || status.autoclear {
            // Somebody looks at a part of it, or it is about to go: the kernel marks what was detached while in use.
            continue;
        }
        // The kernel counts whole sectors only.
        if device.size()?.bytes() != size.bytes() & !511 {
            device.refresh_size()?;
        }
        return Ok((device, false));
    }
    Ok((Attach::new(medium).attach()?, true))
}

fn lay_disk(
    options: &LvmOptions,
    path: &Path,
    marker: Option<&Marker>,
    begin: impl FnOnce() -> Result<(), PoolError>,
) -> Result<Ground, PoolError> {
    let device = path
        .canonicalize()
        .map_err(PoolError::io("looking at", path))?;
    let metadata = device
        .metadata()
        .map_err(PoolError::io("looking at", &device))?;
    if !metadata.file_type().is_block_device() {
        return Err(LvmError::BackingUnfit {
            path: device,
            reason: "it is no block device",
        }
        .into());
    }
    let reading = || PoolError::io("reading", &device);
    let file = File::open(&device).map_err(reading())?;
    let size = rustix::fs::seek(&file, SeekFrom::End(0))
        .map_err(io::Error::from)
        .map_err(reading())?;
    check_length(
        options,
        path,
        size,
        marker.filter(|marker| marker.group_uuid.is_some()),
    )?;
    if size < SIZE_MIN.bytes() {
        return Err(LvmError::BackingUnfit {
            path: device,
            reason: "it must have at least 64 MiB",
        }
        .into());
    }
    let look = |range| is_zero(&file, range);
    let is_blank = marker.is_none()
        && look(0..DISK_LOOK_BYTES).map_err(reading())?
        && look(size - DISK_LOOK_BYTES..size).map_err(reading())?;
    if is_blank {
        begin()?;
    }
    Ok(Ground {
        medium: device.clone(),
        device,
        kind: MediumKind::Device,
        size: ByteCount::new(size),
        is_blank,
        loop_device: None,
        is_attached_now: false,
    })
}

/// Whether a file has no byte but zeros; holes are not read.
fn is_blank_file(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No bytes from here on.
            Err(Errno::NXIO) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(&file, SeekFrom::Hole(start))?;
        if !is_zero(&file, start..end)? {
            return Ok(false);
        }
        at = end;
    }
    Ok(true)
}

fn is_zero(file: &File, range: core::ops::Range<u64>) -> io::Result<bool> {
    let mut bytes = vec![0; READ_BYTES];
    let mut at = range.start;
    while at < range.end {
        let wanted =
            usize::try_from(range.end - at).map_or(READ_BYTES, |left| left.min(READ_BYTES));
        let count = file.read_at(&mut bytes[..wanted], at)?;
        if count == 0 {
            return Ok(true);
        }
        if bytes[..count].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += u64::try_from(count).map_err(io::Error::other)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_zeros_are_blank_whether_written_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        assert!(is_blank_file(&path).unwrap());
        file.set_len(64 << 20).unwrap();
        assert!(is_blank_file(&path).unwrap());
        file.write_all_at(&[0; 8_192], 4 << 20).unwrap();
        assert!(is_blank_file(&path).unwrap());
        file.write_all_at(&[1], (64 << 20) - 1).unwrap();
        assert!(!is_blank_file(&path).unwrap());
    }
}

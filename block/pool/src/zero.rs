//! Making bytes of a medium zero, on stable storage.

use crate::error::PoolError;
use core::ops::Range;
use onggi_block_medium::{MediumKind, MediumSpec};
use onggi_common_units::ByteCount;
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// How much is zeroed in one call, so that it can be paced and stopped.
pub(crate) const CHUNK_BYTES: u64 = 64 << 20;

/// How much is written at a time where the file system or disk cannot zero by itself.
const WRITE_BYTES: usize = 1 << 20;

/// Zeroes a range of a volume. `pace` is called after each chunk with how much of it held data; when it says false, the
/// rest is left. Returns whether all was zeroed; only then are the zeros on stable storage.
pub(crate) fn clear(
    medium: &MediumSpec,
    range: Range<u64>,
    mut pace: impl FnMut(ByteCount) -> bool,
) -> Result<bool, PoolError> {
    let failed = |action| PoolError::io(action, &medium.path);
    let file = File::options()
        .write(true)
        .open(&medium.path)
        .map_err(failed("opening"))?;
    let pieces = medium
        .extents
        .resolve(range)
        .map_err(std::io::Error::other)
        .map_err(failed("zeroing"))?;
    for piece in pieces {
        let end = piece.medium_offset + piece.length;
        let mut offset = piece.medium_offset;
        while offset < end {
            let length = (end - offset).min(CHUNK_BYTES);
            let cleared =
                clear_chunk(&file, medium.kind, offset, length).map_err(failed("zeroing"))?;
            offset += length;
            if !pace(ByteCount::new(cleared)) {
                return Ok(false);
            }
        }
    }
    file.sync_data().map_err(failed("syncing"))?;
    Ok(true)
}

/// Zeroes it, and says how many bytes that was work for: holes of a file are none.
fn clear_chunk(file: &File, kind: MediumKind, offset: u64, length: u64) -> std::io::Result<u64> {
    // Holes are punched all the same: that costs next to nothing, and no secret may hang on where a file system says
    // that data is.
    let work = match kind {
        MediumKind::File => data_bytes(file, offset..offset + length)?,
        MediumKind::Device => length,
    };
    // A hole reads as zeros and gives its space back. On a block device the same call is an offloaded zeroing that
    // may give space back; the second way may not, and where the device cannot do it the kernel writes the zeros.
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let ways: &[FallocateFlags] = match kind {
        MediumKind::File => &[hole],
        MediumKind::Device => &[hole, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE],
    };
    for way in ways {
        match retry_interrupted(|| rustix::fs::fallocate(file, *way, offset, length)) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            outcome => return outcome.map(|()| work).map_err(Into::into),
        }
    }
    write_zeros(file, offset, length)?;
    Ok(length)
}

/// How many bytes of a range of a file are not holes. Where the file system cannot tell, all of them.
fn data_bytes(file: &File, range: Range<u64>) -> std::io::Result<u64> {
    let (mut at, mut bytes) = (range.start, 0);
    while at < range.end {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) if start < range.end => start,
            // No data from here on.
            Ok(_) | Err(Errno::NXIO) => return Ok(bytes),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(bytes + (range.end - at)),
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(range.end);
        bytes += end - start;
        at = end;
    }
    Ok(bytes)
}

fn retry_interrupted(mut call: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

fn write_zeros(file: &File, mut offset: u64, mut length: u64) -> std::io::Result<()> {
    let zeros = vec![0; WRITE_BYTES];
    while length > 0 {
        let count = usize::try_from(length).map_or(WRITE_BYTES, |length| length.min(WRITE_BYTES));
        file.write_all_at(&zeros[..count], offset)?;
        let written = u64::try_from(count).map_err(std::io::Error::other)?;
        offset += written;
        length -= written;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_block_medium::{Extent, ExtentMap};

    fn medium(dir: &tempfile::TempDir) -> MediumSpec {
        let path = dir.path().join("medium");
        let file = File::create(&path).unwrap();
        file.write_all_at(&vec![7; 1 << 20], 0).unwrap();
        let extents = vec![
            Extent {
                volume_offset: 0,
                medium_offset: 512 << 10,
                length: 64 << 10,
            },
            Extent {
                volume_offset: 64 << 10,
                medium_offset: 128 << 10,
                length: 64 << 10,
            },
        ];
        MediumSpec {
            path,
            kind: MediumKind::File,
            extents: ExtentMap::new(extents).unwrap(),
            fence: None,
        }
    }

    #[test]
    fn exactly_the_range_is_zero_afterwards_through_the_map() {
        let dir = tempfile::tempdir().unwrap();
        let medium = medium(&dir);
        assert!(clear(&medium, (32 << 10)..(96 << 10), |_| true).unwrap());
        let bytes = std::fs::read(&medium.path).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let zeroed =
                (544 << 10..576 << 10).contains(&at) || (128 << 10..160 << 10).contains(&at);
            assert_eq!(*byte == 0, zeroed, "at {at}");
        }
    }

    #[test]
    fn only_data_is_paced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(256 << 20).unwrap();
        file.write_all_at(&vec![7; 1 << 20], 100 << 20).unwrap();
        let medium = MediumSpec {
            path,
            kind: MediumKind::File,
            extents: ExtentMap::linear(ByteCount::from_mib(256)).unwrap(),
            fence: None,
        };
        let clear_all = || {
            let mut paced = 0;
            let count = |size: ByteCount| {
                paced += size.bytes();
                true
            };
            assert!(clear(&medium, 0..(256 << 20), count).unwrap());
            paced
        };
        assert_eq!((clear_all(), clear_all()), (1 << 20, 0));
        assert!(
            std::fs::read(&medium.path)
                .unwrap()
                .iter()
                .all(|byte| *byte == 0)
        );
    }

    #[test]
    fn pacing_can_stop_it() {
        let dir = tempfile::tempdir().unwrap();
        let medium = medium(&dir);
        assert!(!clear(&medium, 0..(128 << 10), |_| false).unwrap());
        assert_eq!(std::fs::read(&medium.path).unwrap()[128 << 10], 7);
    }

    #[test]
    fn zeros_are_written_where_they_cannot_be_punched() {
        let dir = tempfile::tempdir().unwrap();
        let medium = medium(&dir);
        let file = File::options().write(true).open(&medium.path).unwrap();
        write_zeros(&file, 100, 5).unwrap();
        assert_eq!(
            std::fs::read(&medium.path).unwrap()[99..106],
            [7, 0, 0, 0, 0, 0, 7]
        );
    }
}

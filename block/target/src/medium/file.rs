//! A file or block device with an extent map, through the page cache.

use super::lending::{Lending, LentFile, Loan};
use super::{Mapped, Medium, MediumError};
use onggi_block_medium::{ExtentMap, MediumKind, MediumSpec};
use onggi_block_scsi::SpaceUsage;
use onggi_common_host::page_cache;
use onggi_common_units::ByteCount;
use rustix::fs::{Advice, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Zeros are written in pieces of this size where the file system cannot make them itself.
const ZEROS_BYTES: usize = 256 << 10;
/// A longer write goes to the page cache in steps: the kernel makes one folio of what one call brings, and ext4 then goes
/// through all blocks of a folio whenever any of them is written. See "Speed" in block/DESIGN.md.
const WRITE_STEP_BYTES: usize = 64 << 10;

/// How many runs of data and holes are counted in each extent when it is asked how much space a volume uses.
const USAGE_RUNS_MAX: u32 = 1 << 16;

/// A file or device, opened.
#[derive(Debug)]
pub(crate) struct FileMedium {
    shared: Arc<LentFile>,
    extents: ExtentMap,
    kind: MediumKind,
    frees_space: bool,
    reads_cached: AtomicBool,
    tells_cached: AtomicBool,
    is_poisoned: AtomicBool,
}

impl FileMedium {
    /// Opens what the spec names and checks that its extents are there.
    pub(crate) fn open(spec: &MediumSpec, read_only: bool) -> Result<Self, MediumError> {
        let path = || spec.path.display().to_string();
        let opening = |errno: Errno| MediumError::Open {
            path: path(),
            source: errno.into(),
        };
        let access = if read_only {
            OFlags::RDONLY
        } else {
            OFlags::RDWR
        };
        let file = rustix::fs::open(&spec.path, access | OFlags::CLOEXEC, Mode::empty())
            .map_err(opening)?;
        let end = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(opening)?;
        let needed = spec.extents.medium_end();
        if end < needed {
            return Err(MediumError::TooShort {
                path: path(),
                size: ByteCount::new(end),
                needed: ByteCount::new(needed),
            });
        }
        let frees_space = match spec.kind {
            MediumKind::File => true,
            MediumKind::Device => device_frees_space(&file),
        };
        Ok(Self {
            shared: Arc::new(LentFile {
                file,
                is_fenced: AtomicBool::new(false),
            }),
            extents: spec.extents.clone(),
            kind: spec.kind,
            frees_space,
            reads_cached: AtomicBool::new(true),
            tells_cached: AtomicBool::new(true),
            is_poisoned: AtomicBool::new(false),
        })
    }

    /// Whether it is a file or a device.
    pub(crate) const fn kind(&self) -> MediumKind {
        self.kind
    }

    // Holes of the file within the extents are what the volume does not use.
    fn used_bytes(&self) -> io::Result<u64> {
        let mut used = 0;
        for piece in self.pieces(0, self.extents.size().bytes())? {
            let (mut at, mut runs) = (piece.start, 0);
            while at < piece.end {
                // Past this many runs the rest counts as used: an estimate is better than a long wait.
                let (end, is_data) = if runs < USAGE_RUNS_MAX {
                    self.run_at(at, piece.end)?
                } else {
                    (piece.end, true)
                };
                used += if is_data { end - at } else { 0 };
                (at, runs) = (end, runs + 1);
            }
        }
        Ok(used)
    }

    fn space(&self) -> io::Result<SpaceUsage> {
        let size = self.extents.size().bytes();
        if self.kind == MediumKind::Device {
            return Ok(SpaceUsage {
                used_bytes: size,
                available_bytes: 0,
            });
        }
        let system = rustix::fs::fstatvfs(&self.shared.file)?;
        Ok(SpaceUsage {
            used_bytes: self.used_bytes()?,
            available_bytes: system.f_bavail.saturating_mul(system.f_frsize),
        })
    }

    fn check(&self) -> Result<(), MediumError> {
        if self.shared.is_fenced.load(Ordering::Acquire) {
            Err(MediumError::Fenced)
        } else {
            Ok(())
        }
    }

    // The pieces of the medium behind a range of the volume. The capacity was checked, so an error here is a bug of
    // the caller; it is answered as a failed read or write, not a panic.
    fn pieces(
        &self,
        offset: u64,
        length: u64,
    ) -> io::Result<impl Iterator<Item = Range<u64>> + '_> {
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let end = offset.checked_add(length).ok_or_else(outside)?;
        let pieces = self
            .extents
            .resolve(offset..end)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(pieces.map(|piece| piece.medium_offset..piece.medium_offset + piece.length))
    }

    fn read_pieces(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut rest = buffer;
        for piece in self.pieces(offset, length_of(rest))? {
            let (mut now, after) = std::mem::take(&mut rest).split_at_mut(length_in(&piece));
            rest = after;
            let mut at = piece.start;
            while !now.is_empty() {
                match rustix::io::pread(&self.shared.file, &mut *now, at) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => {
                        at += u64::try_from(count).unwrap_or(u64::MAX);
                        now = &mut now[count..];
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }

    // Reads at most one piece's worth from the cache; anything less than everything counts as nothing.
    fn read_cached(&self, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
        let mut rest = buffer;
        for piece in self.pieces(offset, length_of(rest))? {
            let (now, after) = std::mem::take(&mut rest).split_at_mut(length_in(&piece));
            rest = after;
            let wanted = now.len();
            let slices = &mut [io::IoSliceMut::new(now)];
            match rustix::io::preadv2(
                &self.shared.file,
                slices,
                piece.start,
                ReadWriteFlags::NOWAIT,
            ) {
                Ok(count) if count == wanted => {}
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(Errno::OPNOTSUPP) => {
                    // This file system cannot tell; it is not asked again.
                    self.reads_cached.store(false, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    // Whether the page cache holds all of a range; no, where nobody can tell.
    fn is_cached(&self, range: &Range<u64>) -> bool {
        if !self.tells_cached.load(Ordering::Relaxed) {
            return false;
        }
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(u64::MAX);
        let pages = range.end.div_ceil(page) - range.start / page;
        match page_cache::cached_pages(&self.shared.file, range.start, range.end - range.start) {
            Ok(count) => count >= pages,
            Err(error) => {
                tracing::debug!(%error, "what is cached cannot be asked: reads are copied");
                self.tells_cached.store(false, Ordering::Relaxed);
                false
            }
        }
    }

    fn write_pieces(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        for piece in self.pieces(offset, length_of(rest))? {
            let (now, after) = rest.split_at(length_in(&piece));
            rest = after;
            self.write_all_at(now, piece.start)?;
        }
        Ok(())
    }

    fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let (mut rest, mut at) = (bytes, at);
        while !rest.is_empty() {
            let step = &rest[..rest.len().min(WRITE_STEP_BYTES)];
            self.await_writeback(at, length_of(step))?;
            match rustix::io::pwrite(&self.shared.file, step, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    at += u64::try_from(count).unwrap_or(u64::MAX);
                    rest = &rest[count..];
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    fn zero_pieces(&self, offset: u64, length: u64, frees: bool) -> io::Result<()> {
        for piece in self.pieces(offset, length)? {
            let count = piece.end - piece.start;
            if frees && self.frees_space {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                if self.allocate(punch, piece.start, count)? {
                    continue;
                }
            }
            let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            if !self.allocate(zero, piece.start, count)? {
                self.write_zeros(piece)?;
            }
        }
        Ok(())
    }

    // False when the file system or device does not offer this.
    fn allocate(&self, flags: FallocateFlags, at: u64, length: u64) -> io::Result<bool> {
        loop {
            match rustix::fs::fallocate(&self.shared.file, flags, at, length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NODEV | Errno::NOSYS | Errno::INVAL) => {
                    return Ok(false);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    // A page must not be changed while the disk reads it: should power go just then, a sector that was acknowledged as
    // durable would be a mixture of that and what was on its way.
    fn await_writeback(&self, at: u64, length: u64) -> io::Result<()> {
        page_cache::await_writeback(&self.shared.file, at, length).inspect_err(|_| {
            // What was written before did not reach the disk, which the next flush would not be told again.
            self.is_poisoned.store(true, Ordering::Release);
        })
    }

    fn write_zeros(&self, piece: Range<u64>) -> io::Result<()> {
        let zeros = vec![0; ZEROS_BYTES];
        let step = length_of(&zeros);
        let mut at = piece.start;
        while at < piece.end {
            let count = step.min(piece.end - at);
            self.write_all_at(&zeros[..usize::try_from(count).unwrap_or(ZEROS_BYTES)], at)?;
            at += count;
        }
        Ok(())
    }

    // Where the run that begins at `at` ends, and whether it is data.
    fn run_at(&self, at: u64, end: u64) -> io::Result<(u64, bool)> {
        match rustix::fs::seek(&self.shared.file, SeekFrom::Data(at)) {
            Ok(data) if data > at => Ok((data.min(end), false)),
            Ok(_) => {
                let hole = rustix::fs::seek(&self.shared.file, SeekFrom::Hole(at))?;
                Ok((hole.clamp(at + 1, end), true))
            }
            // No data until the end of the file.
            Err(Errno::NXIO) => Ok((end, false)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn mapped_pieces(&self, offset: u64, length: u64, count_max: usize) -> io::Result<Vec<Mapped>> {
        let mut runs: Vec<Mapped> = Vec::new();
        if self.kind == MediumKind::Device {
            return Ok(vec![Mapped {
                length,
                is_data: true,
            }]);
        }
        for piece in self.pieces(offset, length)? {
            let mut at = piece.start;
            while at < piece.end {
                let (end, is_data) = self.run_at(at, piece.end)?;
                let is_full = runs.len() >= count_max;
                match runs.last_mut() {
                    Some(last) if last.is_data == is_data => last.length += end - at,
                    Some(_) | None if is_full => return Ok(runs),
                    Some(_) | None => runs.push(Mapped {
                        length: end - at,
                        is_data,
                    }),
                }
                at = end;
            }
        }
        Ok(runs)
    }
}

impl Medium for FileMedium {
    fn frees_space(&self) -> bool {
        self.frees_space
    }

    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, MediumError> {
        self.check()?;
        if !self.reads_cached.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let length = length_of(buffer);
        self.read_cached(offset, buffer)
            .map_err(|source| MediumError::Read {
                offset,
                length,
                source,
            })
    }

    fn lend(&self, offset: u64, length: u64, lending: Lending) -> Option<Loan> {
        self.check().ok()?;
        let piece = self.pieces(offset, length).ok()?.next()?;
        let is_whole = piece.end - piece.start == length;
        (is_whole && self.is_cached(&piece))
            .then(|| Loan::new(Arc::clone(&self.shared), piece.start, lending))
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, MediumError> {
        self.check()?;
        let mut buffer = vec![0; length];
        let length = length_of(&buffer);
        self.read_pieces(offset, &mut buffer)
            .map_err(|source| MediumError::Read {
                offset,
                length,
                source,
            })?;
        Ok(buffer)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MediumError> {
        self.check()?;
        let length = length_of(bytes);
        self.write_pieces(offset, bytes)
            .map_err(|source| MediumError::Write {
                offset,
                length,
                source,
            })
    }

    fn flush(&self) -> Result<(), MediumError> {
        self.check()?;
        if self.is_poisoned.load(Ordering::Acquire) {
            return Err(MediumError::Poisoned);
        }
        rustix::fs::fdatasync(&self.shared.file).map_err(|errno| {
            self.is_poisoned.store(true, Ordering::Release);
            MediumError::Write {
                offset: 0,
                length: 0,
                source: errno.into(),
            }
        })
    }

    fn zero(&self, offset: u64, length: u64, frees: bool) -> Result<(), MediumError> {
        self.check()?;
        self.zero_pieces(offset, length, frees)
            .map_err(|source| MediumError::Write {
                offset,
                length,
                source,
            })
    }

    fn mapped(
        &self,
        offset: u64,
        length: u64,
        count_max: usize,
    ) -> Result<Vec<Mapped>, MediumError> {
        self.check()?;
        self.mapped_pieces(offset, length, count_max)
            .map_err(|source| MediumError::Read {
                offset,
                length,
                source,
            })
    }

    fn usage(&self) -> Result<SpaceUsage, MediumError> {
        self.check()?;
        self.space().map_err(|source| MediumError::Read {
            offset: 0,
            length: 0,
            source,
        })
    }

    fn prefetch(&self, offset: u64, length: u64) {
        let Ok(pieces) = self.pieces(offset, length) else {
            return;
        };
        for piece in pieces {
            let count = NonZeroU64::new(piece.end - piece.start);
            let hinted =
                rustix::fs::fadvise(&self.shared.file, piece.start, count, Advice::WillNeed);
            if let Err(errno) = hinted {
                tracing::debug!(%errno, "reading ahead");
            }
        }
    }

    fn fence(&self) {
        self.shared.is_fenced.store(true, Ordering::Release);
    }
}

fn length_of(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

// Pieces of a buffer's range are not longer than the buffer.
fn length_in(piece: &Range<u64>) -> usize {
    usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX)
}

// A device gives space back if it can write zeros without being sent any (queue/write_zeroes_max_bytes). For a
// partition the queue is its disk's.
fn device_frees_space(file: &OwnedFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(file) else {
        return false;
    };
    let device = format!(
        "/sys/dev/block/{}:{}",
        rustix::fs::major(stat.st_rdev),
        rustix::fs::minor(stat.st_rdev)
    );
    ["queue", "../queue"].iter().any(|queue| {
        let limit = std::fs::read_to_string(format!("{device}/{queue}/write_zeroes_max_bytes"));
        limit.is_ok_and(|text| text.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_block_medium::Extent;

    fn spec(dir: &tempfile::TempDir, extents: Vec<Extent>, file_bytes: u64) -> MediumSpec {
        let path = dir.path().join("medium.img");
        std::fs::File::create(&path)
            .unwrap()
            .set_len(file_bytes)
            .unwrap();
        MediumSpec {
            path,
            kind: MediumKind::File,
            extents: ExtentMap::new(extents).unwrap(),
            fence: None,
        }
    }

    fn extent(volume_offset: u64, medium_offset: u64, length: u64) -> Extent {
        Extent {
            volume_offset,
            medium_offset,
            length,
        }
    }

    #[test]
    fn bytes_land_where_the_extents_say() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(
            &dir,
            vec![extent(0, 65_536, 65_536), extent(65_536, 0, 65_536)],
            131_072,
        );
        let medium = FileMedium::open(&spec, false).unwrap();
        medium.write(65_530, b"across the seam").unwrap();
        assert_eq!(medium.read(65_530, 15).unwrap(), b"across the seam");
        medium.flush().unwrap();
        let bytes = std::fs::read(&spec.path).unwrap();
        assert_eq!(&bytes[131_066..131_072], b"across");
        assert_eq!(&bytes[..9], b" the seam");
        let mut cached = vec![0; 15];
        // A file system that cannot tell what is cached answers false; one that can has it.
        if medium.try_read(65_530, &mut cached).unwrap() {
            assert_eq!(cached, b"across the seam");
        }
    }

    #[test]
    fn a_write_of_several_steps_lands_whole() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(&dir, vec![extent(0, 0, 1 << 20)], 1 << 20);
        let medium = FileMedium::open(&spec, false).unwrap();
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * WRITE_STEP_BYTES + 77).collect();
        medium.write(4_099, &bytes).unwrap();
        assert_eq!(medium.read(4_099, bytes.len()).unwrap(), bytes);
        let after = medium.read(4_099 + length_of(&bytes), 64).unwrap();
        assert_eq!(after, [0; 64]);
    }

    #[test]
    fn zeroing_frees_space_and_reads_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(&dir, vec![extent(0, 0, 1 << 20)], 1 << 20);
        let medium = FileMedium::open(&spec, false).unwrap();
        medium.write(0, &vec![7; 1 << 20]).unwrap();
        assert_eq!(
            medium.mapped(0, 1 << 20, 8).unwrap(),
            [Mapped {
                length: 1 << 20,
                is_data: true
            }]
        );
        medium.zero(65_536, 131_072, true).unwrap();
        assert_eq!(medium.read(65_536, 131_072).unwrap(), vec![0; 131_072]);
        let runs = medium.mapped(0, 1 << 20, 8).unwrap();
        assert_eq!(runs.iter().map(|run| run.length).sum::<u64>(), 1 << 20);
        assert_eq!(
            runs[1],
            Mapped {
                length: 131_072,
                is_data: false
            }
        );
        assert_eq!(medium.mapped(0, 1 << 20, 1).unwrap().len(), 1);
        medium.zero(0, 512, false).unwrap();
        assert_eq!(medium.read(0, 513).unwrap()[511..], [0, 7]);
    }

    #[test]
    fn a_medium_shorter_than_its_extents_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = spec(&dir, vec![extent(0, 0, 8_192)], 4_096);
        let error = FileMedium::open(&spec, false).unwrap_err().to_string();
        assert!(
            error.contains("medium.img") && error.contains("8KiB"),
            "{error}"
        );
        spec.path = dir.path().join("nowhere");
        assert!(
            FileMedium::open(&spec, false)
                .unwrap_err()
                .to_string()
                .contains("nowhere")
        );
    }

    #[test]
    fn a_fenced_medium_does_nothing_more() {
        let dir = tempfile::tempdir().unwrap();
        let medium =
            FileMedium::open(&spec(&dir, vec![extent(0, 0, 4_096)], 4_096), false).unwrap();
        medium.fence();
        assert!(matches!(medium.write(0, b"x"), Err(MediumError::Fenced)));
        assert!(matches!(medium.read(0, 1), Err(MediumError::Fenced)));
        assert!(matches!(medium.flush(), Err(MediumError::Fenced)));
    }
}

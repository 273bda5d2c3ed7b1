//! Marks: what a workload writes to its disk, past everything else, when something was acknowledged to it.
//!
//! A mark is one sector, written around the page cache, always in the same place: the log keeps each.
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 8 | `ONGGIACK` |
//! | 8 | 4 | CRC-32C of all after it |
//! | 12 | 4 | length of the content |
//! | 16 | 496 | the content, then zeros |

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::Path;

/// The length of a mark.
pub const MARK_BYTES: usize = 512;
/// The most a mark may hold.
pub const CONTENT_BYTES_MAX: usize = MARK_BYTES - HEADER_BYTES;

const HEADER_BYTES: usize = 16;
const MAGIC: &[u8; 8] = b"ONGGIACK";

/// A mark with this content.
///
/// # Errors
/// When it is longer than [`CONTENT_BYTES_MAX`].
pub fn encode(content: &[u8]) -> Result<[u8; MARK_BYTES]> {
    ensure!(
        content.len() <= CONTENT_BYTES_MAX,
        "a mark of {} bytes",
        content.len()
    );
    let mut mark = [0; MARK_BYTES];
    mark[..8].copy_from_slice(MAGIC);
    mark[12..16].copy_from_slice(&u32::try_from(content.len())?.to_le_bytes());
    mark[16..16 + content.len()].copy_from_slice(content);
    let checksum = crc32c::crc32c(&mark[12..]);
    mark[8..12].copy_from_slice(&checksum.to_le_bytes());
    Ok(mark)
}

/// The content of a mark, if these bytes are one.
#[must_use]
pub fn decode(mark: &[u8]) -> Option<&[u8]> {
    let rest = mark.strip_prefix(MAGIC)?;
    let (checksum, covered) = rest.split_first_chunk::<4>()?;
    let (length, content) = covered.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if mark.len() != MARK_BYTES || crc32c::crc32c(covered) != u32::from_le_bytes(*checksum) {
        return None;
    }
    content.get(..length)
}

/// Puts marks on a disk.
#[derive(Debug)]
pub struct MarkWriter {
    disk: OwnedFd,
    offset: u64,
}

impl MarkWriter {
    /// Marks of this disk at this offset, a multiple of 4 KiB.
    ///
    /// # Errors
    /// When the disk cannot be opened for direct writing.
    pub fn open(disk: &Path, offset: u64) -> Result<Self> {
        let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
        let disk = rustix::fs::open(disk, flags, Mode::empty())
            .with_context(|| format!("opening {} for marks", disk.display()))?;
        Ok(Self { disk, offset })
    }

    /// Puts a mark; when this returns the disk has it, though not for good.
    ///
    /// # Errors
    /// When it cannot be written or is too long.
    pub fn put(&self, content: &[u8]) -> Result<()> {
        let mark = encode(content)?;
        // Direct writing wants memory that is aligned as the disk's sectors are.
        let mut buffer = vec![0; 2 * MARK_BYTES];
        let start = buffer.as_ptr().align_offset(MARK_BYTES);
        let aligned = &mut buffer[start..start + MARK_BYTES];
        aligned.copy_from_slice(&mark);
        let written =
            rustix::io::pwrite(&self.disk, aligned, self.offset).context("writing a mark")?;
        ensure!(written == MARK_BYTES, "a mark was written in part");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_a_damaged_one_does_not() {
        let mut mark = encode(b"what was acknowledged").unwrap();
        assert_eq!(decode(&mark), Some(&b"what was acknowledged"[..]));
        assert_eq!(decode(&mark[..511]), None);
        mark[20] ^= 1;
        assert_eq!(decode(&mark), None);
        assert_eq!(decode(&[0; 512]), None);
        assert!(encode(&[0; CONTENT_BYTES_MAX + 1]).is_err());
    }
}

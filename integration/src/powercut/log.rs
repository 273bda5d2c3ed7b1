//! The log QEMU writes (`blklogwrites`, in the format of the kernel's dm-log-writes).
//!
//! | at | bytes | |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 8 | version, 1 |
//! | 16 | 8 | number of entries |
//! | 24 | 4 | length of a sector of the log; entries begin at the next sector |
//!
//! An entry is a sector with first sector, number of sectors, flags and a length, each 8 bytes; the data follows unless
//! the entry is a discard. Numbers are little-endian.

use anyhow::{Context as _, Result, ensure};
use std::ops::Range;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
/// The largest log that is taken: it is read into memory.
const LOG_BYTES_MAX: u64 = 4 << 30;

/// What one request did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where on the disk.
    pub offset: u64,
    /// Everything before it is on stable storage once it is done.
    pub is_flush: bool,
    /// Its own data is on stable storage once it is done.
    pub is_fua: bool,
    /// What the range holds afterwards.
    pub change: Change,
}

/// What a request writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Bytes: where they are in the log.
    Write(Range<usize>),
    /// Nothing any more: so many bytes read as zeros or as before. A disk may do either.
    Discard(u64),
}

/// A log, read.
#[derive(Debug)]
pub struct Log {
    bytes: Vec<u8>,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
}

impl Log {
    /// Reads a log.
    ///
    /// # Errors
    /// When it is none, or ends within an entry.
    pub fn read(path: &Path) -> Result<Self> {
        let size = path.metadata().context("the log")?.len();
        ensure!(size <= LOG_BYTES_MAX, "the log has {size} bytes");
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(bytes).with_context(|| format!("the log {}", path.display()))
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        ensure!(number(&bytes, 0)? == MAGIC, "it has another magic");
        ensure!(number(&bytes, 8)? == 1, "it has another version");
        let count = number(&bytes, 16)?;
        let sector_bytes = number(&bytes, 24)? & u64::from(u32::MAX);
        let sector = usize::try_from(sector_bytes)?;
        ensure!(
            sector >= 32 && sector.is_power_of_two(),
            "its sectors have {sector} bytes"
        );
        let mut entries = Vec::new();
        let mut at = sector;
        for _ in 0..count {
            let [first, sectors, flags] = [0, 8, 16].map(|field| number(&bytes, at + field));
            let (first, sectors, flags) = (first?, sectors?, flags?);
            at += sector;
            let length = sectors.checked_mul(sector_bytes).context("a length")?;
            let change = if flags & DISCARD != 0 {
                Change::Discard(length)
            } else {
                let end = at
                    .checked_add(usize::try_from(length)?)
                    .filter(|end| *end <= bytes.len())
                    .context("it ends within an entry")?;
                let range = at..end;
                at = end;
                Change::Write(range)
            };
            entries.push(Entry {
                offset: first.checked_mul(sector_bytes).context("an offset")?,
                is_flush: flags & FLUSH != 0,
                is_fua: flags & FUA != 0,
                change,
            });
        }
        Ok(Self { bytes, entries })
    }

    /// The bytes an entry writes.
    #[must_use]
    pub fn written(&self, entry: &Entry) -> &[u8] {
        match &entry.change {
            Change::Write(range) => self.bytes.get(range.clone()).unwrap_or_default(),
            Change::Discard(_) => &[],
        }
    }

    /// A log of these requests, for tests of replay and checkers.
    #[cfg(test)]
    pub(super) fn of(requests: &[(u64, u64, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        let count = u64::try_from(requests.len()).unwrap();
        for field in [MAGIC, 1, count, 512] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.resize(512, 0);
        for (offset, flags, data) in requests {
            let sectors = u64::try_from(data.len()).unwrap() / 512;
            for field in [offset / 512, sectors, *flags, 0] {
                bytes.extend(field.to_le_bytes());
            }
            bytes.resize(bytes.len().next_multiple_of(512), 0);
            bytes.extend(*data);
        }
        Self::parse(bytes).unwrap()
    }
}

fn number(bytes: &[u8], at: usize) -> Result<u64> {
    let field = bytes.get(at..at + 8).context("it ends too early")?;
    Ok(u64::from_le_bytes(field.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_in_order_with_their_bytes_and_flags() {
        let log = Log::of(&[
            (1_024, FUA, &[7; 1_024]),
            (0, FLUSH, &[]),
            (512, 0, &[8; 512]),
        ]);
        assert_eq!(log.entries.len(), 3);
        assert_eq!(log.entries[0].offset, 1_024);
        assert!(log.entries[0].is_fua && !log.entries[0].is_flush);
        assert_eq!(log.written(&log.entries[0]), [7; 1_024]);
        assert!(log.entries[1].is_flush);
        assert_eq!(log.written(&log.entries[2]), [8; 512]);
    }

    #[test]
    fn a_torn_log_is_refused() {
        let whole = Log::of(&[(0, 0, &[1; 512])]).bytes;
        assert!(Log::parse(whole[..1_500].to_vec()).is_err());
        assert!(Log::parse(vec![0; 4_096]).is_err());
        assert!(Log::parse(Vec::new()).is_err());
    }
}

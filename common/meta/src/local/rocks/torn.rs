//! What a power cut leaves of the writes that were under way, at the end of the newest write-ahead log.
//!
//! Of such a write some sectors may be on the disk and others not; the file system shows the missing ones as zeros.
//! RocksDB takes the record for damage and refuses the store, though nothing that was acknowledged is missing. Then the log
//! is cut where the record begins, what is cut off is kept beside it, and the store is opened again.
//!
//! What is cut has to look torn and must not have been acknowledged:
//! - The record ends a sector in zeros, or has no header. A flipped bit does neither.
//! - Each batch says up to which sequence number all was on stable storage before it ([`Watermark`]). A later record
//!   that says so of the torn one proves damage: then nothing is cut, and RocksDB refuses. A batch may hold what a client has
//!   sent, and that may look like a record: a proof has to have the number that the batches before the torn one have,
//!   which is drawn each time a store is opened and is told to nobody.
//!
//! What cannot be told from a torn write: zeros in the last two batches before a crash that the disk itself has lost after
//! it said that they were on stable storage. Nothing after them has proved them; what is cut off is kept for such a case.
//!
//! Source for the form of a log: RocksDB's wiki, "Write Ahead Log File Format".

use super::super::marker::DB_DIR;
use super::damage::files_with_extension;
use crate::error::OpenError;
use core::sync::atomic::{AtomicU64, Ordering};
use onggi_common_host::Entropy as _;
use onggi_common_host::durable::{self, Visibility};
use onggi_common_host::entropy::SystemEntropy;
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
/// Checksum (4), length (2), kind (1).
const HEADER_BYTES: usize = 7;
/// The last kind of record there may be in the logs of a store.
const KIND_MAX: u8 = 11;
const SECTOR_BYTES: usize = 512;
/// So many zeros at the end of a sector, and it counts as not written to its end.
const ZEROS_MIN: usize = 16;
/// What is cut off a log goes to this file of the store; that of the last cut is kept.
const REMNANT_FILE: &str = "TORN";
/// The most of it that is kept.
const REMNANT_BYTES_MAX: u64 = 64 << 20;

/// The head of a batch: its first sequence number (8), how many it takes (4).
const BATCH_HEAD_BYTES: usize = 12;
/// RocksDB's tag for data that is in the log only.
const TAG_LOG_DATA: u8 = 3;
const WATERMARK_TAG: u8 = b'T';
/// The tag (1), the sequence number (8), the store's number (8).
const WATERMARK_BYTES: usize = 17;
/// That of builds before, without a store's number.
const PLAIN_WATERMARK_TAG: u8 = b'S';
const PLAIN_WATERMARK_BYTES: usize = 9;
/// A batch's head, and a watermark with its tag and length.
const PREFIX_BYTES: usize = BATCH_HEAD_BYTES + 2 + WATERMARK_BYTES;

/// Up to which sequence number everything is on stable storage.
#[derive(Debug)]
pub(super) struct Watermark {
    on_disk: AtomicU64,
    /// Drawn when the store is opened.
    store: [u8; 8],
}

impl Watermark {
    pub(super) fn new(sequence: u64) -> Self {
        let mut store = [0; 8];
        SystemEntropy.fill(&mut store);
        Self {
            on_disk: AtomicU64::new(sequence),
            store,
        }
    }

    /// What a batch carries in the log.
    pub(super) fn mark(&self) -> [u8; WATERMARK_BYTES] {
        let mut mark = [WATERMARK_TAG; WATERMARK_BYTES];
        let sequence = self.on_disk.load(Ordering::Acquire);
        mark[1..9].copy_from_slice(&sequence.to_le_bytes());
        mark[9..].copy_from_slice(&self.store);
        mark
    }

    /// A sync that began when this was the newest sequence number has succeeded.
    pub(super) fn rise(&self, sequence: u64) {
        self.on_disk.fetch_max(sequence, Ordering::AcqRel);
    }
}

/// What a batch says in the log beside its rows.
#[derive(Debug, Clone, Copy)]
struct Mark {
    /// Up to which sequence number everything was on stable storage before it.
    on_disk: u64,
    /// The store's number; none in batches of builds before.
    store: Option<[u8; 8]>,
}

/// The first bytes of a record that may be spread over several fragments.
#[derive(Debug, Default)]
struct Prefix(Vec<u8>);

impl Prefix {
    fn add(&mut self, payload: &[u8]) {
        let room = PREFIX_BYTES.saturating_sub(self.0.len());
        self.0
            .extend_from_slice(payload.get(..room).unwrap_or(payload));
    }

    fn number<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..)?.first_chunk().copied()
    }

    /// The sequence number after the batch.
    fn next(&self) -> Option<u64> {
        let sequence = u64::from_le_bytes(self.number(0)?);
        let count = u32::from_le_bytes(self.number(8)?);
        sequence.checked_add(u64::from(count))
    }

    fn mark(&self) -> Option<Mark> {
        let [tag, length, kind] = self.number(BATCH_HEAD_BYTES)?;
        let on_disk = u64::from_le_bytes(self.number(BATCH_HEAD_BYTES + 3)?);
        let store = match (tag, usize::from(length), kind) {
            (TAG_LOG_DATA, WATERMARK_BYTES, WATERMARK_TAG) => {
                Some(self.number(BATCH_HEAD_BYTES + 11)?)
            }
            (TAG_LOG_DATA, PLAIN_WATERMARK_BYTES, PLAIN_WATERMARK_TAG) => None,
            _ => return None,
        };
        Some(Mark { on_disk, store })
    }
}

/// Where a fragment stands in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    First,
    Middle,
    Last,
    /// Not part of a batch.
    Other,
}

/// What is at an offset of a block.
#[derive(Debug)]
enum Fragment<'a> {
    Good {
        place: Place,
        payload: &'a [u8],
        end: usize,
    },
    /// A header of zeros: nothing was written here.
    Nothing,
    /// The file ends within it, or so close to the block's end that there is none.
    Short,
    Bad {
        end: usize,
    },
}

fn fragment(block: &[u8], at: usize) -> Fragment<'_> {
    let rest = block.get(at..).unwrap_or_default();
    let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
        return Fragment::Short;
    };
    if header.iter().all(|byte| *byte == 0) {
        return Fragment::Nothing;
    }
    let [a, b, c, d, low, high, kind] = *header;
    let length = usize::from(u16::from_le_bytes([low, high]));
    let end = at + HEADER_BYTES + length;
    if end > BLOCK_BYTES {
        return Fragment::Bad { end: block.len() };
    }
    let Some(payload) = rest.get(..length) else {
        return Fragment::Short;
    };
    if kind > KIND_MAX {
        // Behind a tear every byte is looked at: most are told from a record without summing up what would be its bytes.
        return Fragment::Bad { end };
    }
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), payload);
    if masked(checksum) != u32::from_le_bytes([a, b, c, d]) {
        return Fragment::Bad { end };
    }
    let place = match kind {
        1 => Place::Whole,
        2 => Place::First,
        3 => Place::Middle,
        4 => Place::Last,
        _ => Place::Other,
    };
    Fragment::Good {
        place,
        payload,
        end,
    }
}

/// RocksDB stores checksums so that those of data with checksums in it stay strong.
const fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Whether a sector that these bytes of the block touch was not written to its end. Blocks begin with a sector.
fn ends_in_zeros(block: &[u8], from: usize, to: usize) -> bool {
    let mut begin = from - from % SECTOR_BYTES;
    while begin < to {
        let end = (begin + SECTOR_BYTES).min(block.len());
        let bytes = block.get(begin.max(from)..end).unwrap_or_default();
        let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
        // Zeros that begin behind the record are what nobody has written yet.
        if zeros >= ZEROS_MIN && end - zeros < to {
            return true;
        }
        begin += SECTOR_BYTES;
    }
    false
}

/// The place where a log may have been torn.
#[derive(Debug, Clone, Copy)]
struct Tear {
    at: u64,
    /// The sequence number of what is torn, if the record before says it.
    sequence: Option<u64>,
}

/// Goes through a log, first up to a tear and then on to what proves it damage.
#[derive(Debug, Default)]
struct Scan {
    /// Where the record began whose fragments are being read.
    begun: Option<u64>,
    prefix: Prefix,
    next: Option<u64>,
    /// The store's number in the batches before the tear.
    store: Option<[u8; 8]>,
    tear: Option<Tear>,
    /// Nothing is to be cut.
    is_over: bool,
    /// The header was zeros from here on, so far to the end of the file.
    nothing_from: Option<u64>,
}

impl Scan {
    fn block(&mut self, block: &[u8], offset: u64) {
        let mut at = 0;
        while !self.is_over && at < block.len() {
            if let Some(from) = self.nothing_from {
                let rest = block.get(at..).unwrap_or_default();
                if rest.iter().all(|byte| *byte == 0) {
                    return;
                }
                self.nothing_from = None;
                self.tear(from);
            }
            let here = offset + length(at);
            match fragment(block, at) {
                Fragment::Good {
                    place,
                    payload,
                    end,
                } => {
                    self.good(place, payload, here);
                    at = end;
                }
                Fragment::Short => {
                    // Behind a tear a length may be wrong.
                    at += if self.tear.is_some() { 1 } else { block.len() };
                }
                Fragment::Nothing if self.tear.is_none() && self.begun.is_none() => {
                    self.nothing_from = Some(here);
                }
                Fragment::Nothing | Fragment::Bad { .. } if self.tear.is_some() => at += 1,
                Fragment::Nothing => self.tear(here),
                Fragment::Bad { end } if ends_in_zeros(block, at, end) => self.tear(here),
                Fragment::Bad { .. } => self.is_over = true,
            }
        }
    }

    fn tear(&mut self, here: u64) {
        self.tear = Some(Tear {
            at: self.begun.take().unwrap_or(here),
            sequence: self.next,
        });
    }

    fn good(&mut self, place: Place, payload: &[u8], here: u64) {
        match place {
            Place::Other => return,
            Place::Whole | Place::First => {
                self.begun = Some(here);
                self.prefix = Prefix::default();
            }
            // Behind a tear these may belong to what is torn.
            Place::Middle | Place::Last if self.begun.is_none() => return,
            Place::Middle | Place::Last => {}
        }
        self.prefix.add(payload);
        if matches!(place, Place::Whole | Place::Last) {
            self.begun = None;
            self.record();
        }
    }

    /// A whole record.
    fn record(&mut self) {
        match (self.tear, self.prefix.mark()) {
            (None, mark) => {
                self.next = self.prefix.next();
                self.store = mark.and_then(|mark| mark.store).or(self.store);
            }
            // Where nothing stands before the tear nobody's number is known.
            (Some(tear), Some(mark)) if self.store.is_none() || mark.store == self.store => {
                self.is_over = tear.sequence.is_none_or(|torn| mark.on_disk >= torn);
            }
            (Some(_), _) => {}
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Where a log has to be cut, if it is torn.
fn torn_at(log: &mut impl Read) -> io::Result<Option<u64>> {
    let (mut scan, mut offset) = (Scan::default(), 0);
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    loop {
        block.clear();
        log.take(length(BLOCK_BYTES)).read_to_end(&mut block)?;
        if block.is_empty() || scan.is_over {
            break;
        }
        scan.block(&block, offset);
        offset += length(block.len());
    }
    let tear = scan.tear.filter(|_| !scan.is_over);
    Ok(tear.map(|tear| tear.at))
}

/// Cuts the newest log of a store where a power cut has torn it; whether it did. What is cut off is in the store's `TORN`
/// afterwards. Nobody may have the store open.
pub(super) fn cut(directory: &Path) -> Result<bool, OpenError> {
    let failed = |source: io::Error| OpenError::Machine {
        operation: "reading the log of",
        store: directory.to_owned(),
        source: source.into(),
    };
    // A log that was just begun is empty.
    let logs = files_with_extension(&directory.join(DB_DIR), "log");
    let is_filled = |path: &&std::path::PathBuf| path.metadata().is_ok_and(|file| file.len() > 0);
    let Some(path) = logs.iter().rev().find(is_filled) else {
        return Ok(false);
    };
    let mut log = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(failed)?;
    let Some(at) = torn_at(&mut log).map_err(failed)? else {
        return Ok(false);
    };
    let mut remnant = Vec::new();
    log.seek(SeekFrom::Start(at)).map_err(failed)?;
    (&log)
        .take(REMNANT_BYTES_MAX)
        .read_to_end(&mut remnant)
        .map_err(failed)?;
    let kept = directory.join(REMNANT_FILE);
    durable::replace(&kept, &remnant, Visibility::Owner).map_err(|source| OpenError::Machine {
        operation: "keeping what was torn of",
        store: directory.to_owned(),
        source: source.into(),
    })?;
    log.set_len(at)
        .and_then(|()| log.sync_all())
        .map_err(failed)?;
    tracing::warn!(
        log = %path.display(), at, bytes = remnant.len(), kept = %kept.display(),
        "a power cut has torn a write that was not acknowledged; it was cut off the log"
    );
    Ok(true)
}

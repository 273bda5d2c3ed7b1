//! Swift's `.ring.gz` format, version 1, in memory.
//!
//! Gzip over:
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `R1NG` |
//! | 4 | 2 | version 1, big-endian |
//! | 6 | 4 | length of the header, big-endian |
//! | 10 | … | header: JSON object `byteorder`, `devs`, perhaps `next_part_power`, `part_shift`, `replica_count`, `version` |
//! | … | 2 × partitions | one row of device numbers per replica, in the header's byte order; the last may be shorter |
//!
//! The header comes first so that a reader learns the devices without the table.

use crate::device::Device;
use crate::hash::PartPower;
use crate::ring::{Ring, RingError};
use flate2::read::GzDecoder;
use flate2::{Compression, GzBuilder};
use std::io::{Read as _, Write as _};

/// Bytes of a ring after decompression: part power 24 with sixteen replicas.
const RING_BYTES_MAX: u64 = 512 << 20;
/// Bytes of a header: 65,536 devices with long notes.
const HEADER_BYTES_MAX: u32 = 64 << 20;
/// Copies a ring may ask for.
pub(crate) const REPLICAS_MAX: usize = 64;
const MAGIC: &[u8; 4] = b"R1NG";
const VERSION: u16 = 1;
/// The gzip header's time, as Swift sets it: equal rings make equal files.
const MTIME: u32 = 1_300_507_380;

/// Why bytes are no ring file.
#[derive(Debug, thiserror::Error)]
pub enum RingFileError {
    /// Not gzip, or cut short.
    #[error("the ring file cannot be decompressed: {source}")]
    Gzip {
        /// What the decompressor said.
        source: std::io::Error,
    },
    /// It does not begin with `R1NG`.
    #[error("this is no ring file")]
    Magic,
    /// A version this program does not read.
    #[error("ring file version {version} is not known; version 1 is")]
    Version {
        /// The file's version.
        version: u16,
    },
    /// The header is too long or no JSON of a ring.
    #[error("the ring file's header is malformed: {reason}")]
    Header {
        /// What is wrong.
        reason: String,
    },
    /// The table is cut short or too long.
    #[error("the ring file's table has {found} bytes, {expected} are expected")]
    Table {
        /// Bytes there.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// Table and devices do not fit together.
    #[error("the ring file is inconsistent: {0}")]
    Ring(#[from] RingError),
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    #[serde(default = "little")]
    byteorder: String,
    devs: Vec<Option<Device>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next_part_power: Option<u8>,
    part_shift: u8,
    replica_count: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

// Rings written before Swift noted the order came from the machines of their time.
fn little() -> String {
    "little".to_owned()
}

fn header_error(error: impl ToString) -> RingFileError {
    RingFileError::Header {
        reason: error.to_string(),
    }
}

impl Ring {
    /// Reads a ring file.
    ///
    /// # Errors
    /// When the bytes are no ring file of version 1, or an inconsistent one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RingFileError> {
        let plain = decompress(bytes)?;
        let (magic, rest) = plain.split_first_chunk::<4>().ok_or(RingFileError::Magic)?;
        if magic != MAGIC {
            return Err(RingFileError::Magic);
        }
        let (version, rest) = rest.split_first_chunk::<2>().ok_or(RingFileError::Magic)?;
        let version = u16::from_be_bytes(*version);
        if version != VERSION {
            return Err(RingFileError::Version { version });
        }
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(RingFileError::Magic)?;
        let length = u32::from_be_bytes(*length);
        let length = usize::try_from(length.min(HEADER_BYTES_MAX)).map_err(header_error)?;
        let (header, table) = rest
            .split_at_checked(length)
            .ok_or_else(|| header_error("it is cut short"))?;
        let header: Header = serde_json::from_slice(header).map_err(header_error)?;
        let part_power = 32u8.checked_sub(header.part_shift).and_then(PartPower::new);
        let part_power = part_power.ok_or_else(|| header_error("part_shift is out of range"))?;
        let table = read_table(table, part_power, &header)?;
        let ring = Self::new(part_power, header.devs, table, header.version)?;
        Ok(ring.with_next_part_power(header.next_part_power))
    }

    /// Writes the ring as a file; equal rings give equal bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            byteorder: little(),
            devs: self.devices.clone(),
            next_part_power: self.next_part_power,
            part_shift: 32 - self.part_power.bits(),
            replica_count: self.table.len(),
            version: self.version,
        };
        let header =
            serde_json::to_vec(&header).expect("a header has only texts and finite numbers");
        let mut plain = Vec::with_capacity(header.len() + 10);
        plain.extend_from_slice(MAGIC);
        plain.extend_from_slice(&VERSION.to_be_bytes());
        let length =
            u32::try_from(header.len()).expect("65,536 devices make less than 4 GiB of header");
        plain.extend_from_slice(&length.to_be_bytes());
        plain.extend_from_slice(&header);
        for id in self.table.iter().flatten() {
            plain.extend_from_slice(&id.to_le_bytes());
        }
        compress(&plain)
    }
}

fn read_table(
    bytes: &[u8],
    part_power: PartPower,
    header: &Header,
) -> Result<Vec<Vec<u16>>, RingFileError> {
    if header.replica_count == 0 || header.replica_count > REPLICAS_MAX {
        return Err(header_error("replica_count is out of range"));
    }
    let read: fn([u8; 2]) -> u16 = match header.byteorder.as_str() {
        "little" => u16::from_le_bytes,
        "big" => u16::from_be_bytes,
        other => return Err(header_error(format!("byteorder {other:?} is not known"))),
    };
    let row_bytes = usize::try_from(part_power.partitions()).map_err(header_error)? * 2;
    let expected = row_bytes * header.replica_count;
    let shortest = expected - row_bytes + 2;
    if bytes.len() > expected || bytes.len() < shortest || !bytes.len().is_multiple_of(2) {
        return Err(RingFileError::Table {
            found: bytes.len(),
            expected,
        });
    }
    let row = |row: &[u8]| {
        row.chunks_exact(2)
            .map(|pair| read([pair[0], pair[1]]))
            .collect()
    };
    Ok(bytes.chunks(row_bytes).map(row).collect())
}

pub(crate) fn decompress(bytes: &[u8]) -> Result<Vec<u8>, RingFileError> {
    let mut plain = Vec::new();
    let mut limited = GzDecoder::new(bytes).take(RING_BYTES_MAX + 1);
    limited
        .read_to_end(&mut plain)
        .map_err(|source| RingFileError::Gzip { source })?;
    if u64::try_from(plain.len()).is_ok_and(|length| length > RING_BYTES_MAX) {
        return Err(header_error("the file is larger than any ring"));
    }
    Ok(plain)
}

pub(crate) fn compress(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new()
        .mtime(MTIME)
        .write(Vec::new(), Compression::default());
    encoder.write_all(plain).expect("a Vec takes every write");
    encoder.finish().expect("a Vec takes every write")
}

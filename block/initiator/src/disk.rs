//! A logical unit as a disk: sizes, reads, writes, flushes and discards in bytes.

use crate::session::{Answer, Reply, Request, Session, SessionError, sense_key};
use bytes::Bytes;
use onggi_block_iscsi::pdu::CdbBytes;
use onggi_common_units::ByteCount;

/// The longest transfer of one command; the target may want less.
pub const TRANSFER_BYTES_MAX: u32 = 1 << 20;

const TEST_UNIT_READY: u8 = 0x00;
const INQUIRY: u8 = 0x12;
const UNMAP: u8 = 0x42;
const READ_16: u8 = 0x88;
const WRITE_16: u8 = 0x8a;
const SYNCHRONIZE_CACHE_16: u8 = 0x91;
const WRITE_SAME_16: u8 = 0x93;
const SERVICE_ACTION_IN_16: u8 = 0x9e;
const READ_CAPACITY_16: u8 = 0x10;
const BLOCK_LIMITS: u8 = 0xb0;
const LOGICAL_BLOCK_PROVISIONING: u8 = 0xb2;
const WRITE_SAME_UNMAP_BIT: u8 = 0x08;
/// WRITE SAME (16) names at most so many blocks when the target says no limit of its own.
const WRITE_SAME_BLOCKS_MAX: u64 = 1 << 20;

/// Why a disk operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    /// The target could not be reached.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The target says no.
    #[error("{what}: SCSI status {status:02x}h, sense {key:x}h/{code:02x}h/{qualifier:02x}h")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The status.
        status: u8,
        /// The sense key.
        key: u8,
        /// The additional sense code.
        code: u8,
        /// Its qualifier.
        qualifier: u8,
    },
    /// The target's answer makes no sense.
    #[error("{what}: the target's answer is malformed")]
    Malformed {
        /// What was asked.
        what: &'static str,
    },
    /// The range is not made of whole blocks, or not of the disk.
    #[error("{length} bytes at {offset} are not whole blocks of the disk")]
    Range {
        /// From where.
        offset: u64,
        /// How much.
        length: u64,
    },
}

/// How the target makes blocks zero without being sent zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ZeroBy {
    /// It does not.
    Nothing,
    /// WRITE SAME with the UNMAP bit: zeros are promised.
    WriteSame { blocks_max: u64 },
    /// UNMAP of whole granules, where unmapped blocks read as zeros.
    Unmap { granule: u64, blocks_max: u64 },
}

/// A logical unit that is a disk.
#[derive(Debug)]
pub struct Disk {
    session: Session,
    block_bytes: u32,
    block_count: u64,
    transfer_bytes_max: u32,
    zero_by: ZeroBy,
}

fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u64::from_be_bytes(*chunk))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|chunk| u32::from_be_bytes(*chunk))
}

/// A 16-byte CDB with an LBA in bytes 2–9 and a count in bytes 10–13.
fn cdb_16(opcode: u8, flags: u8, lba: u64, count: u32) -> CdbBytes {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[1] = flags;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&count.to_be_bytes());
    CdbBytes::Fixed(cdb)
}

fn inquiry(page: u8) -> CdbBytes {
    let mut cdb = [0; 16];
    cdb[..6].copy_from_slice(&[INQUIRY, 1, page, 0, 255, 0]);
    CdbBytes::Fixed(cdb)
}

/// Turns a reply into what was read, or into an error.
fn checked(what: &'static str, reply: Reply) -> Result<Bytes, DiskError> {
    if reply.status == 0 {
        return Ok(reply.data);
    }
    let sense = &reply.sense;
    let is_descriptor = matches!(sense.first().map(|code| code & 0x7f), Some(0x72 | 0x73));
    let at = if is_descriptor { 2 } else { 12 };
    let byte = |at: usize| sense.get(at).copied().unwrap_or(0);
    Err(DiskError::Refused {
        what,
        status: reply.status,
        key: sense_key(sense),
        code: byte(at),
        qualifier: byte(at + 1),
    })
}

impl Disk {
    /// Asks a logical unit what disk it is.
    ///
    /// # Errors
    /// When it is none, or the target cannot be reached.
    pub fn open(session: Session) -> Result<Self, DiskError> {
        let ask = |what, cdb, read_bytes| {
            checked(
                what,
                session.execute(Request {
                    cdb,
                    read_bytes,
                    data: Bytes::new(),
                })?,
            )
        };
        ask("TEST UNIT READY", CdbBytes::Fixed([TEST_UNIT_READY; 16]), 0)?;
        let mut cdb = cdb_16(SERVICE_ACTION_IN_16, READ_CAPACITY_16, 0, 32);
        if let CdbBytes::Fixed(bytes) = &mut cdb {
            bytes[1] = READ_CAPACITY_16;
        }
        let capacity = ask("READ CAPACITY(16)", cdb, 32)?;
        let malformed = DiskError::Malformed {
            what: "READ CAPACITY(16)",
        };
        let (last, block_bytes) = match (be64(&capacity, 0), be32(&capacity, 8)) {
            (Some(last), Some(block_bytes @ (512 | 1024 | 2048 | 4096))) if last < u64::MAX => {
                (last, block_bytes)
            }
            _ => return Err(malformed),
        };
        // A target without these pages limits nothing and provisions nothing.
        let page = |page| match ask("INQUIRY", inquiry(page), 255) {
            Err(DiskError::Refused { .. }) => Ok(Bytes::new()),
            outcome => outcome,
        };
        let limits = page(BLOCK_LIMITS)?;
        let provisioning = page(LOGICAL_BLOCK_PROVISIONING)?;
        let block_count = last + 1;
        if block_count.checked_mul(u64::from(block_bytes)).is_none() {
            return Err(malformed);
        }
        let blocks_max = be32(&limits, 8).filter(|blocks| *blocks > 0);
        let transfer_bytes_max = blocks_max
            .and_then(|blocks| blocks.checked_mul(block_bytes))
            .map_or(TRANSFER_BYTES_MAX, |bytes| bytes.min(TRANSFER_BYTES_MAX));
        let zero_by = zero_by(&limits, &provisioning);
        Ok(Self {
            session,
            block_bytes,
            block_count,
            transfer_bytes_max,
            zero_by,
        })
    }

    /// Whether the target was given up: every command fails at once.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.session.is_given_up()
    }

    /// The disk's size.
    #[must_use]
    pub const fn size(&self) -> ByteCount {
        ByteCount::new(self.block_count.saturating_mul(self.block_bytes as u64))
    }

    /// The size of its blocks.
    #[must_use]
    pub const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// The longest transfer of one command.
    #[must_use]
    pub const fn transfer_bytes_max(&self) -> u32 {
        self.transfer_bytes_max
    }

    /// Whether blocks can be made zero without sending zeros.
    #[must_use]
    pub fn can_zero(&self) -> bool {
        self.zero_by != ZeroBy::Nothing
    }

    /// The blocks of a range: the first and how many.
    fn blocks(&self, offset: u64, length: u64) -> Result<(u64, u64), DiskError> {
        let bytes = u64::from(self.block_bytes);
        let is_inside = offset
            .checked_add(length)
            .is_some_and(|end| end <= self.size().bytes());
        if !offset.is_multiple_of(bytes) || !length.is_multiple_of(bytes) || !is_inside {
            return Err(DiskError::Range { offset, length });
        }
        Ok((offset / bytes, length / bytes))
    }

    /// The blocks of a range that one command can move.
    fn transfer(&self, offset: u64, length: u32) -> Result<(u64, u32), DiskError> {
        let refused = DiskError::Range {
            offset,
            length: u64::from(length),
        };
        if length > self.transfer_bytes_max {
            return Err(refused);
        }
        let (first, count) = self.blocks(offset, u64::from(length))?;
        u32::try_from(count)
            .map(|count| (first, count))
            .ok()
            .ok_or(refused)
    }

    /// Reads whole blocks, at most [`Disk::transfer_bytes_max`]; the answer comes on the session's thread.
    pub fn begin_read(
        &self,
        offset: u64,
        length: u32,
        answer: impl FnOnce(Result<Bytes, DiskError>) + Send + 'static,
    ) {
        let (first, count) = match self.transfer(offset, length) {
            Ok(blocks) => blocks,
            Err(error) => return answer(Err(error)),
        };
        let cdb = cdb_16(READ_16, 0, first, count);
        let request = Request {
            cdb,
            read_bytes: length,
            data: Bytes::new(),
        };
        let expected = usize::try_from(length).unwrap_or(usize::MAX);
        let answer: Answer = Box::new(move |reply| {
            let data = reply
                .map_err(DiskError::from)
                .and_then(|reply| checked("READ(16)", reply));
            answer(match data {
                Ok(data) if data.len() == expected => Ok(data),
                Ok(_) => Err(DiskError::Malformed { what: "READ(16)" }),
                Err(error) => Err(error),
            });
        });
        self.session.submit(request, answer);
    }

    /// Writes whole blocks, at most [`Disk::transfer_bytes_max`]; the answer comes on the session's thread.
    pub fn begin_write(
        &self,
        offset: u64,
        data: Bytes,
        answer: impl FnOnce(Result<(), DiskError>) + Send + 'static,
    ) {
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        match self.transfer(offset, length) {
            Ok((first, count)) => {
                let request = Request {
                    cdb: cdb_16(WRITE_16, 0, first, count),
                    read_bytes: 0,
                    data,
                };
                self.session.submit(request, done("WRITE(16)", answer));
            }
            Err(error) => answer(Err(error)),
        }
    }

    /// Makes all finished writes durable; the answer comes on the session's thread.
    pub fn begin_flush(&self, answer: impl FnOnce(Result<(), DiskError>) + Send + 'static) {
        let cdb = cdb_16(SYNCHRONIZE_CACHE_16, 0, 0, 0);
        let request = Request {
            cdb,
            read_bytes: 0,
            data: Bytes::new(),
        };
        self.session
            .submit(request, done("SYNCHRONIZE CACHE(16)", answer));
    }

    /// Makes whole blocks zero, giving their space back where the target can.
    ///
    /// # Errors
    /// When the target cannot do that without being sent zeros, or not for this range.
    pub fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let (mut first, mut left) = self.blocks(offset, length)?;
        let blocks_max = match self.zero_by {
            ZeroBy::Nothing => return Err(DiskError::Range { offset, length }),
            ZeroBy::WriteSame { blocks_max } => blocks_max,
            ZeroBy::Unmap {
                granule,
                blocks_max,
            } => {
                if !first.is_multiple_of(granule) || !left.is_multiple_of(granule) {
                    return Err(DiskError::Range { offset, length });
                }
                blocks_max
            }
        };
        while left > 0 {
            let count = u32::try_from(left.min(blocks_max)).unwrap_or(u32::MAX);
            let (what, request) = self.zero_request(first, count);
            checked(what, self.session.execute(request)?)?;
            first += u64::from(count);
            left -= u64::from(count);
        }
        Ok(())
    }

    fn zero_request(&self, first: u64, count: u32) -> (&'static str, Request) {
        if matches!(self.zero_by, ZeroBy::WriteSame { .. }) {
            let cdb = cdb_16(WRITE_SAME_16, WRITE_SAME_UNMAP_BIT, first, count);
            let zeros = usize::try_from(self.block_bytes).unwrap_or_default();
            let data = Bytes::from(vec![0; zeros]);
            return (
                "WRITE SAME(16)",
                Request {
                    cdb,
                    read_bytes: 0,
                    data,
                },
            );
        }
        // SBC-4 §5.32: lengths of what follows, then one descriptor.
        let mut list = [0; 24];
        list[1] = 22;
        list[3] = 16;
        list[8..16].copy_from_slice(&first.to_be_bytes());
        list[16..20].copy_from_slice(&count.to_be_bytes());
        let mut cdb = [0; 16];
        cdb[0] = UNMAP;
        cdb[8] = 24;
        let data = Bytes::copy_from_slice(&list);
        (
            "UNMAP",
            Request {
                cdb: CdbBytes::Fixed(cdb),
                read_bytes: 0,
                data,
            },
        )
    }

    /// Reads whole blocks and waits.
    ///
    /// # Errors
    /// When the target refuses or cannot be reached.
    pub fn read(&self, offset: u64, length: u32) -> Result<Bytes, DiskError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.begin_read(offset, length, move |data| drop(sender.send(data)));
        receiver
            .recv()
            .unwrap_or(Err(DiskError::Session(SessionError::Ended)))
    }

    /// Writes whole blocks and waits.
    ///
    /// # Errors
    /// When the target refuses or cannot be reached.
    pub fn write(&self, offset: u64, data: Bytes) -> Result<(), DiskError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.begin_write(offset, data, move |outcome| drop(sender.send(outcome)));
        receiver
            .recv()
            .unwrap_or(Err(DiskError::Session(SessionError::Ended)))
    }

    /// Makes all finished writes durable and waits.
    ///
    /// # Errors
    /// When the target refuses or cannot be reached.
    pub fn flush(&self) -> Result<(), DiskError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.begin_flush(move |outcome| drop(sender.send(outcome)));
        receiver
            .recv()
            .unwrap_or(Err(DiskError::Session(SessionError::Ended)))
    }
}

fn done(what: &'static str, answer: impl FnOnce(Result<(), DiskError>) + Send + 'static) -> Answer {
    Box::new(move |reply| {
        let outcome = reply
            .map_err(DiskError::from)
            .and_then(|reply| checked(what, reply));
        answer(outcome.map(drop));
    })
}

/// Reads from the pages how zeros can be made. Only ways that promise zeros count: a file system relies on them.
fn zero_by(limits: &[u8], provisioning: &[u8]) -> ZeroBy {
    let flags = provisioning.get(5).copied().unwrap_or(0);
    let (can_unmap, can_write_same) = (flags & 0x80 != 0, flags & 0x40 != 0);
    let reads_zeros = (flags >> 2) & 7 == 1;
    if can_write_same {
        let blocks_max = be64(limits, 36).filter(|blocks| *blocks > 0);
        let blocks_max = blocks_max
            .unwrap_or(WRITE_SAME_BLOCKS_MAX)
            .min(WRITE_SAME_BLOCKS_MAX);
        return ZeroBy::WriteSame { blocks_max };
    }
    let blocks_max = be32(limits, 20).filter(|blocks| *blocks > 0);
    match blocks_max {
        Some(blocks) if can_unmap && reads_zeros => {
            let granule = be32(limits, 28).filter(|granule| *granule > 0).unwrap_or(1);
            let granule = u64::from(granule);
            let whole = u64::from(blocks) / granule * granule;
            if whole == 0 {
                ZeroBy::Nothing
            } else {
                ZeroBy::Unmap {
                    granule,
                    blocks_max: whole,
                }
            }
        }
        _ => ZeroBy::Nothing,
    }
}

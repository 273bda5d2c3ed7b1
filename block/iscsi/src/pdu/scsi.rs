//! SCSI Command and SCSI Response.

use super::bhs::Bhs;
use super::request::RequestSn;
use super::response::ResponseSn;
use super::{PduError, opcode};
use crate::name::{InitiatorTaskTag, LunField};
use crate::serial::DataSn;
use bytes::{Buf, BufMut, Bytes, BytesMut};

const FINAL: u8 = 0x80;

/// How a task is ordered among the others of a task set (SAM-5 §8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskAttribute {
    /// The initiator did not say.
    Untagged,
    /// Any order.
    Simple,
    /// In order.
    Ordered,
    /// Before all others.
    HeadOfQueue,
    /// Auto contingent allegiance.
    Aca,
    /// A value RFC 7143 reserves.
    Reserved(u8),
}

impl TaskAttribute {
    const fn code(self) -> u8 {
        match self {
            Self::Untagged => 0,
            Self::Simple => 1,
            Self::Ordered => 2,
            Self::HeadOfQueue => 3,
            Self::Aca => 4,
            Self::Reserved(code) => code & 7,
        }
    }

    const fn from_code(code: u8) -> Self {
        match code & 7 {
            0 => Self::Untagged,
            1 => Self::Simple,
            2 => Self::Ordered,
            3 => Self::HeadOfQueue,
            4 => Self::Aca,
            other => Self::Reserved(other),
        }
    }
}

/// The bytes of a command descriptor block: sixteen in the header, or more with an additional header segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CdbBytes {
    /// Up to sixteen bytes, zeros behind.
    Fixed([u8; 16]),
    /// More than sixteen.
    Extended(Bytes),
}

impl CdbBytes {
    /// The longest: what an additional header segment may carry (SPC-4 variable length).
    pub const BYTES_MAX: usize = 260;

    /// A CDB of these bytes; `None` when there are more than 260.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > Self::BYTES_MAX {
            return None;
        }
        if bytes.len() > 16 {
            return Some(Self::Extended(Bytes::copy_from_slice(bytes)));
        }
        let mut rest = bytes.iter().copied();
        Some(Self::Fixed(core::array::from_fn(|_| {
            rest.next().unwrap_or_default()
        })))
    }

    /// All bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Extended(bytes) => bytes,
        }
    }
}

/// SCSI Command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Sequence numbers.
    pub sn: RequestSn,
    /// F: no unsolicited Data-Out follows.
    pub is_final: bool,
    /// R: data is expected from the target.
    pub is_read: bool,
    /// W: data is offered to the target.
    pub is_write: bool,
    /// How it is ordered.
    pub attribute: TaskAttribute,
    /// For which logical unit.
    pub lun: LunField,
    /// Its tag.
    pub tag: InitiatorTaskTag,
    /// EDTL: how much is written, or read if nothing is written.
    pub expected_bytes: u32,
    /// How much is read by a command that also writes.
    pub bidirectional_read_bytes: Option<u32>,
    /// The command descriptor block.
    pub cdb: CdbBytes,
    /// Immediate data.
    pub data: Bytes,
}

const AHS_EXTENDED_CDB: u8 = 1;
const AHS_BIDIRECTIONAL: u8 = 2;

impl ScsiCommand {
    pub(super) fn from_parts(bhs: &Bhs, ahs: &[u8], data: Bytes) -> Result<Self, PduError> {
        let [expected_bytes, _, _, c0, c1, c2, c3] = bhs.words;
        let mut fixed = [0; 16];
        let mut rest = fixed.as_mut_slice();
        for word in [c0, c1, c2, c3] {
            rest.put_u32(word);
        }
        let mut command = Self {
            sn: RequestSn::from_words(bhs),
            is_final: bhs.flags & FINAL != 0,
            is_read: bhs.flags & 0x40 != 0,
            is_write: bhs.flags & 0x20 != 0,
            attribute: TaskAttribute::from_code(bhs.flags),
            lun: LunField(bhs.lun),
            tag: InitiatorTaskTag(bhs.tag),
            expected_bytes,
            bidirectional_read_bytes: None,
            cdb: CdbBytes::Fixed(fixed),
            data,
        };
        command.take_ahs(fixed, ahs)?;
        Ok(command)
    }

    /// RFC 7143 §11.2.2: each segment is length (of what follows the type), type, and padding to a word.
    fn take_ahs(&mut self, fixed: [u8; 16], mut ahs: &[u8]) -> Result<(), PduError> {
        while let [high, low, kind, rest @ ..] = ahs {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (mut body, _) = rest.split_at_checked(length).ok_or(PduError::BadAhs)?;
            // Every kind begins with one byte that says nothing.
            body = body.get(1..).ok_or(PduError::BadAhs)?;
            match *kind & 0x3f {
                AHS_EXTENDED_CDB if matches!(self.cdb, CdbBytes::Fixed(_)) && !body.is_empty() => {
                    let whole = CdbBytes::new(&[fixed.as_slice(), body].concat());
                    self.cdb = whole.ok_or(PduError::BadAhs)?;
                }
                AHS_BIDIRECTIONAL if body.len() == 4 && self.bidirectional_read_bytes.is_none() => {
                    self.bidirectional_read_bytes = Some(body.get_u32());
                }
                _ => return Err(PduError::BadAhs),
            }
            let padded = length.saturating_add(3).saturating_add(3) & !3;
            ahs = ahs.get(padded..).ok_or(PduError::BadAhs)?;
        }
        if ahs.is_empty() {
            Ok(())
        } else {
            Err(PduError::BadAhs)
        }
    }

    pub(super) fn into_parts(self) -> (Bhs, Vec<u8>, Bytes) {
        let mut ahs = Vec::new();
        let (fixed, extended) = match self.cdb.as_slice().split_first_chunk::<16>() {
            Some((fixed, extended)) => (*fixed, extended),
            None => ([0; 16], &[][..]),
        };
        if !extended.is_empty() {
            put_ahs(&mut ahs, AHS_EXTENDED_CDB, extended);
        }
        if let Some(bytes) = self.bidirectional_read_bytes {
            put_ahs(&mut ahs, AHS_BIDIRECTIONAL, &bytes.to_be_bytes());
        }
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        let flags = bit(self.is_final, FINAL) | bit(self.is_read, 0x40) | bit(self.is_write, 0x20);
        let mut cdb = fixed.as_slice();
        let [c0, c1, c2, c3] = core::array::from_fn(|_| cdb.get_u32());
        let bhs = Bhs {
            opcode: opcode::SCSI_COMMAND,
            is_immediate: self.sn.is_immediate,
            flags: flags | self.attribute.code(),
            lun: self.lun.0,
            tag: self.tag.0,
            words: [
                self.expected_bytes,
                self.sn.cmd_sn.value(),
                self.sn.exp_stat_sn.value(),
                c0,
                c1,
                c2,
                c3,
            ],
            ..Bhs::default()
        };
        (bhs, ahs, self.data)
    }
}

fn put_ahs(ahs: &mut Vec<u8>, kind: u8, body: &[u8]) {
    ahs.put_u16(u16::try_from(body.len().saturating_add(1)).unwrap_or(u16::MAX));
    ahs.put_slice(&[kind, 0]);
    ahs.put_slice(body);
    while !ahs.len().is_multiple_of(4) {
        ahs.put_u8(0);
    }
}

/// How the data that moved differs from what the initiator expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residual {
    /// It does not.
    #[default]
    None,
    /// O: so many bytes more would have been moved.
    Overflow(u32),
    /// U: so many bytes fewer were moved.
    Underflow(u32),
}

const OVERFLOW: u8 = 0x04;
const UNDERFLOW: u8 = 0x02;

impl Residual {
    /// What the command itself moves against what the initiator expects.
    #[must_use]
    pub fn of(wanted_bytes: u64, expected_bytes: u32) -> Self {
        let expected = u64::from(expected_bytes);
        let clamp = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        match wanted_bytes.cmp(&expected) {
            core::cmp::Ordering::Equal => Self::None,
            core::cmp::Ordering::Greater => {
                Self::Overflow(clamp(wanted_bytes.saturating_sub(expected)))
            }
            core::cmp::Ordering::Less => {
                Self::Underflow(clamp(expected.saturating_sub(wanted_bytes)))
            }
        }
    }

    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Overflow(_) => OVERFLOW,
            Self::Underflow(_) => UNDERFLOW,
        }
    }

    pub(super) const fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Overflow(count) | Self::Underflow(count) => count,
        }
    }

    /// Both bits set is an error by the RFC; it reads as overflow here.
    pub(super) const fn from_flags(flags: u8, count: u32) -> Self {
        match (flags & OVERFLOW, flags & UNDERFLOW) {
            (0, 0) => Self::None,
            (0, _) => Self::Underflow(count),
            _ => Self::Overflow(count),
        }
    }
}

/// SCSI Response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiResponse {
    /// Sequence numbers.
    pub sn: ResponseSn,
    /// The task.
    pub tag: InitiatorTaskTag,
    /// The iSCSI response: 0 completed at the target, 1 target failure.
    pub response: u8,
    /// The SCSI status.
    pub status: u8,
    /// The residual.
    pub residual: Residual,
    /// How many Data-In and R2T PDUs there were.
    pub exp_data_sn: DataSn,
    /// Sense data.
    pub sense: Bytes,
}

impl ScsiResponse {
    pub(super) fn from_parts(bhs: &Bhs, data: Bytes) -> Result<Self, PduError> {
        let [_, _, _, _, exp_data_sn, _, residual] = bhs.words;
        let mut sense = data;
        if sense.len() >= 2 {
            let length = usize::from(sense.get_u16());
            if length > sense.len() {
                return Err(bhs.bad_field("SenseLength"));
            }
            sense.truncate(length);
        } else {
            sense.clear();
        }
        Ok(Self {
            sn: ResponseSn::from_words(bhs),
            tag: InitiatorTaskTag(bhs.tag),
            response: bhs.byte2,
            status: bhs.byte3,
            residual: Residual::from_flags(bhs.flags, residual),
            exp_data_sn: DataSn::new(exp_data_sn),
            sense,
        })
    }

    pub(super) fn into_parts(self) -> (Bhs, Bytes) {
        let bhs = Bhs {
            opcode: opcode::SCSI_RESPONSE,
            flags: FINAL | self.residual.flags(),
            byte2: self.response,
            byte3: self.status,
            tag: self.tag.0,
            words: self
                .sn
                .words(0, [self.exp_data_sn.value(), 0, self.residual.count()]),
            ..Bhs::default()
        };
        if self.sense.is_empty() {
            return (bhs, Bytes::new());
        }
        let mut data = BytesMut::with_capacity(self.sense.len().saturating_add(2));
        let length = u16::try_from(self.sense.len()).unwrap_or(u16::MAX);
        data.put_u16(length);
        data.put_slice(self.sense.get(..usize::from(length)).unwrap_or_default());
        (bhs, data.freeze())
    }
}

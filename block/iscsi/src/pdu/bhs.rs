//! The 48 bytes every PDU begins with, split into the fields all opcodes share.

use super::{PduError, opcode};
use bytes::{Buf, BufMut};

/// The length of the basic header segment.
pub const BHS_BYTES: usize = 48;

/// A basic header segment, its last 28 bytes as words whose meaning depends on the opcode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bhs {
    pub(crate) opcode: u8,
    pub(crate) is_immediate: bool,
    pub(crate) flags: u8,
    pub(crate) byte2: u8,
    pub(crate) byte3: u8,
    pub(crate) ahs_words: u8,
    pub(crate) data_bytes: u32,
    pub(crate) lun: [u8; 8],
    pub(crate) tag: u32,
    /// Bytes 20–47.
    pub(crate) words: [u32; 7],
}

const IMMEDIATE: u8 = 0x40;
const OPCODE_MASK: u8 = 0x3f;

impl Bhs {
    pub(crate) fn parse(bytes: &[u8; BHS_BYTES]) -> Self {
        let mut rest = bytes.as_slice();
        let first = rest.get_u8();
        let [flags, byte2, byte3, ahs_words] = core::array::from_fn(|_| rest.get_u8());
        let [high, middle, low] = core::array::from_fn(|_| rest.get_u8());
        Self {
            opcode: first & OPCODE_MASK,
            is_immediate: first & IMMEDIATE != 0,
            flags,
            byte2,
            byte3,
            ahs_words,
            data_bytes: u32::from_be_bytes([0, high, middle, low]),
            lun: core::array::from_fn(|_| rest.get_u8()),
            tag: rest.get_u32(),
            words: core::array::from_fn(|_| rest.get_u32()),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; BHS_BYTES] {
        let mut bytes = [0; BHS_BYTES];
        let mut rest = bytes.as_mut_slice();
        let immediate = if self.is_immediate { IMMEDIATE } else { 0 };
        let [_, lengths @ ..] = self.data_bytes.to_be_bytes();
        rest.put_slice(&[self.opcode | immediate, self.flags, self.byte2, self.byte3]);
        rest.put_u8(self.ahs_words);
        rest.put_slice(&lengths);
        rest.put_slice(&self.lun);
        rest.put_u32(self.tag);
        for word in self.words {
            rest.put_u32(word);
        }
        bytes
    }

    pub(crate) fn ahs_bytes(&self) -> usize {
        usize::from(self.ahs_words).saturating_mul(4)
    }

    /// Refuses what can be refused by the header alone.
    pub(crate) fn judge(&self, data_segment_bytes_max: u32) -> Result<(), PduError> {
        let is_known = matches!(
            self.opcode,
            opcode::NOP_OUT..=opcode::LOGOUT_REQUEST
                | opcode::SNACK_REQUEST
                | opcode::NOP_IN..=opcode::LOGOUT_RESPONSE
                | opcode::R2T
                | opcode::ASYNC_MESSAGE
                | opcode::REJECT
        );
        if !is_known {
            return Err(PduError::UnknownOpcode {
                opcode: self.opcode,
            });
        }
        if self.ahs_words > 0 && self.opcode != opcode::SCSI_COMMAND {
            return Err(PduError::BadAhs);
        }
        if self.data_bytes > data_segment_bytes_max {
            let (bytes, bytes_max) = (self.data_bytes, data_segment_bytes_max);
            return Err(PduError::DataSegmentTooLong { bytes, bytes_max });
        }
        Ok(())
    }

    pub(crate) fn bad_field(&self, field: &'static str) -> PduError {
        PduError::BadField {
            opcode: self.opcode,
            field,
        }
    }
}

/// Two 16-bit halves of a word.
pub(crate) fn halves(word: u32) -> (u16, u16) {
    let [a, b, c, d] = word.to_be_bytes();
    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
}

/// A word of two 16-bit halves.
pub(crate) fn word(high: u16, low: u16) -> u32 {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    u32::from_be_bytes([a, b, c, d])
}

//! Status and sense: how a command ended, in SAM-5 and SPC-5 terms.

use crate::wire::Builder;

/// A SAM-5 status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Good,
    /// Not done, or done with something to say: see the sense.
    CheckCondition,
    /// PRE-FETCH found room for everything.
    ConditionMet,
    /// Not now.
    Busy,
    /// Another nexus holds a reservation.
    ReservationConflict,
    /// The task set is full.
    TaskSetFull,
    /// Aborted by another nexus (TAS).
    TaskAborted,
}

impl Status {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Good => 0x00,
            Self::CheckCondition => 0x02,
            Self::ConditionMet => 0x04,
            Self::Busy => 0x08,
            Self::ReservationConflict => 0x18,
            Self::TaskSetFull => 0x28,
            Self::TaskAborted => 0x40,
        }
    }
}

/// An SPC-5 sense key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense,
    /// The unit cannot be reached.
    NotReady,
    /// The medium failed.
    MediumError,
    /// The unit failed.
    HardwareError,
    /// The command is wrong.
    IllegalRequest,
    /// Something happened that the initiator must know.
    UnitAttention,
    /// Writing is not allowed.
    DataProtect,
    /// The target gave up the command.
    AbortedCommand,
    /// A copy between units was given up.
    CopyAborted,
    /// The data on the medium is not what was expected.
    Miscompare,
}

impl SenseKey {
    /// The code on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::NoSense => 0x0,
            Self::NotReady => 0x2,
            Self::MediumError => 0x3,
            Self::HardwareError => 0x4,
            Self::IllegalRequest => 0x5,
            Self::UnitAttention => 0x6,
            Self::DataProtect => 0x7,
            Self::CopyAborted => 0xa,
            Self::AbortedCommand => 0xb,
            Self::Miscompare => 0xe,
        }
    }
}

/// Why a command ended with CHECK CONDITION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// The kind of trouble.
    pub key: SenseKey,
    /// ADDITIONAL SENSE CODE.
    pub asc: u8,
    /// ADDITIONAL SENSE CODE QUALIFIER.
    pub ascq: u8,
    /// INFORMATION: for a miscompare the offset of the first byte that differs, for a media error the block.
    pub information: Option<u64>,
}

impl Sense {
    /// Nothing to report.
    pub const NONE: Self = Self::new(SenseKey::NoSense, 0x00, 0x00);
    /// INVALID COMMAND OPERATION CODE.
    pub const INVALID_OPCODE: Self = Self::new(SenseKey::IllegalRequest, 0x20, 0x00);
    /// LOGICAL BLOCK ADDRESS OUT OF RANGE.
    pub const LBA_OUT_OF_RANGE: Self = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
    /// INVALID FIELD IN CDB.
    pub const INVALID_FIELD_IN_CDB: Self = Self::new(SenseKey::IllegalRequest, 0x24, 0x00);
    /// LOGICAL UNIT NOT SUPPORTED.
    pub const LUN_NOT_SUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x25, 0x00);
    /// INVALID FIELD IN PARAMETER LIST.
    pub const INVALID_FIELD_IN_PARAMETERS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x00);
    /// PARAMETER LIST LENGTH ERROR.
    pub const PARAMETER_LIST_LENGTH: Self = Self::new(SenseKey::IllegalRequest, 0x1a, 0x00);
    /// INVALID RELEASE OF PERSISTENT RESERVATION.
    pub const INVALID_RELEASE: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x04);
    /// SAVING PARAMETERS NOT SUPPORTED.
    pub const SAVING_NOT_SUPPORTED: Self = Self::new(SenseKey::IllegalRequest, 0x39, 0x00);
    /// INSUFFICIENT REGISTRATION RESOURCES.
    pub const INSUFFICIENT_REGISTRATIONS: Self = Self::new(SenseKey::IllegalRequest, 0x55, 0x04);
    /// WRITE PROTECTED.
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, 0x27, 0x00);
    /// SPACE ALLOCATION FAILED WRITE PROTECT: the pool behind a thin unit is full.
    pub const OUT_OF_SPACE: Self = Self::new(SenseKey::DataProtect, 0x27, 0x07);
    /// UNRECOVERED READ ERROR.
    pub const READ_ERROR: Self = Self::new(SenseKey::MediumError, 0x11, 0x00);
    /// WRITE ERROR.
    pub const WRITE_ERROR: Self = Self::new(SenseKey::MediumError, 0x0c, 0x00);
    /// MISCOMPARE DURING VERIFY OPERATION.
    pub const MISCOMPARE: Self = Self::new(SenseKey::Miscompare, 0x1d, 0x00);
    /// LOGICAL UNIT NOT READY, INITIALIZING COMMAND REQUIRED: it was stopped.
    pub const STOPPED: Self = Self::new(SenseKey::NotReady, 0x04, 0x02);
    /// LOGICAL UNIT COMMUNICATION FAILURE: the medium is fenced.
    pub const FENCED: Self = Self::new(SenseKey::HardwareError, 0x08, 0x00);
    /// COMMANDS CLEARED BY ANOTHER INITIATOR.
    pub const COMMANDS_CLEARED: Self = Self::new(SenseKey::AbortedCommand, 0x2f, 0x00);
    /// TOO MANY TARGET DESCRIPTORS.
    pub const TOO_MANY_COPY_TARGETS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x06);
    /// UNSUPPORTED TARGET DESCRIPTOR TYPE CODE.
    pub const UNSUPPORTED_COPY_TARGET: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x07);
    /// TOO MANY SEGMENT DESCRIPTORS.
    pub const TOO_MANY_COPY_SEGMENTS: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x08);
    /// UNSUPPORTED SEGMENT DESCRIPTOR TYPE CODE.
    pub const UNSUPPORTED_COPY_SEGMENT: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x09);
    /// INLINE DATA LENGTH EXCEEDED.
    pub const INLINE_DATA: Self = Self::new(SenseKey::IllegalRequest, 0x26, 0x0b);
    /// OPERATION IN PROGRESS: a copy with this list identifier is under way.
    pub const OPERATION_IN_PROGRESS: Self = Self::new(SenseKey::IllegalRequest, 0x00, 0x16);
    /// A copy was given up, with no more to say.
    pub const COPY_ABORTED: Self = Self::new(SenseKey::CopyAborted, 0x00, 0x00);
    /// UNREACHABLE COPY TARGET: no unit of this name may be reached.
    pub const UNREACHABLE_COPY_TARGET: Self = Self::new(SenseKey::CopyAborted, 0x08, 0x04);
    /// LOGICAL UNIT NOT READY, SANITIZE IN PROGRESS.
    pub const SANITIZE_IN_PROGRESS: Self = Self::new(SenseKey::NotReady, 0x04, 0x1b);
    /// SANITIZE COMMAND FAILED.
    pub const SANITIZE_FAILED: Self = Self::new(SenseKey::MediumError, 0x31, 0x03);
    /// INTERNAL TARGET FAILURE.
    pub const INTERNAL_FAILURE: Self = Self::new(SenseKey::HardwareError, 0x44, 0x00);

    /// Sense of this key and these codes.
    #[must_use]
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self {
            key,
            asc,
            ascq,
            information: None,
        }
    }

    /// The same with an INFORMATION field.
    #[must_use]
    pub const fn with_information(self, information: u64) -> Self {
        Self {
            information: Some(information),
            ..self
        }
    }

    /// The sense data: fixed format (18 bytes), or descriptor format when the control mode page asks for it or the
    /// information needs 64 bits (SPC-5 §4.4).
    #[must_use]
    pub fn encode(&self, descriptor: bool) -> Vec<u8> {
        let narrow = self
            .information
            .is_none_or(|value| u32::try_from(value).is_ok());
        if descriptor || !narrow {
            return self.encode_descriptor();
        }
        let information = self.information.and_then(|value| u32::try_from(value).ok());
        let valid = if information.is_some() { 0x80 } else { 0 };
        let mut data = Builder::new();
        data.u8(0x70 | valid)
            .u8(0)
            .u8(self.key.code())
            .u32(information.unwrap_or(0));
        data.u8(10).u32(0).u8(self.asc).u8(self.ascq).zeros(4);
        data.finish()
    }

    fn encode_descriptor(&self) -> Vec<u8> {
        let mut data = Builder::new();
        data.u8(0x72)
            .u8(self.key.code())
            .u8(self.asc)
            .u8(self.ascq)
            .zeros(3);
        match self.information {
            Some(information) => data
                .u8(12)
                .u8(0x00)
                .u8(0x0a)
                .u8(0x80)
                .u8(0)
                .u64(information),
            None => data.u8(0),
        };
        data.finish()
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: Status,
    /// Sense data in the format the unit is set to; empty unless the status is CHECK CONDITION.
    pub sense: Vec<u8>,
    /// What goes to the initiator. The data of a READ is not here: the shell has it.
    pub data_in: Vec<u8>,
}

impl Response {
    /// GOOD, with nothing to send.
    #[must_use]
    pub const fn good() -> Self {
        Self::status(Status::Good)
    }

    /// GOOD, with parameter data.
    #[must_use]
    pub const fn data(data_in: Vec<u8>) -> Self {
        Self {
            status: Status::Good,
            sense: Vec::new(),
            data_in,
        }
    }

    /// A status that carries no sense.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self {
            status,
            sense: Vec::new(),
            data_in: Vec::new(),
        }
    }

    /// CHECK CONDITION with fixed-format sense.
    #[must_use]
    pub fn check(sense: Sense) -> Self {
        Self::check_in_format(sense, false)
    }

    /// CHECK CONDITION with sense in the format asked for.
    #[must_use]
    pub fn check_in_format(sense: Sense, descriptor: bool) -> Self {
        Self {
            status: Status::CheckCondition,
            sense: sense.encode(descriptor),
            data_in: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_sense_has_its_codes_where_spc_puts_them() {
        let sense = Sense::LBA_OUT_OF_RANGE.encode(false);
        assert_eq!(sense.len(), 18);
        assert_eq!(
            (sense[0], sense[2], sense[7], sense[12], sense[13]),
            (0x70, 5, 10, 0x21, 0)
        );
        let sense = Sense::MISCOMPARE.with_information(513).encode(false);
        assert_eq!((sense[0], &sense[3..7]), (0xf0, &[0, 0, 2, 1][..]));
    }

    #[test]
    fn wide_information_and_d_sense_use_descriptors() {
        let sense = Sense::READ_ERROR.with_information(1 << 40).encode(false);
        assert_eq!(
            (sense[0], sense[1], sense[7], sense.len()),
            (0x72, 3, 12, 20)
        );
        assert_eq!(&sense[12..20], &(1u64 << 40).to_be_bytes());
        assert_eq!(
            Sense::INVALID_OPCODE.encode(true),
            [0x72, 5, 0x20, 0, 0, 0, 0, 0]
        );
    }
}

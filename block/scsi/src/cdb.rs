//! Command descriptor blocks: bytes to [`Cdb`], by the opcode table.

use crate::opcodes;
use crate::range::BlockSize;
use crate::reservation::{InAction, OutRequest};
use crate::sense::Sense;
use crate::wire::{u16_at, u32_at, u64_at};

/// The bytes of a CDB as iSCSI carries them: 16, the unused ones zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CdbBytes([u8; 16]);

impl CdbBytes {
    /// Takes the bytes of a CDB of at most 16 bytes; longer ones no command here has.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut whole = [0; 16];
        for (to, from) in whole.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self(whole)
    }

    /// The operation code.
    #[must_use]
    pub const fn opcode(self) -> u8 {
        self.0[0]
    }

    pub(crate) const fn byte<const AT: usize>(self) -> u8 {
        const { assert!(AT < 16, "a CDB has 16 bytes") };
        self.0[AT]
    }

    pub(crate) const fn bit<const AT: usize, const BIT: u8>(self) -> bool {
        self.byte::<AT>() >> BIT & 1 == 1
    }

    pub(crate) fn u16<const AT: usize>(self) -> u16 {
        const { assert!(AT + 2 <= 16, "a CDB has 16 bytes") };
        u16_at(&self.0, AT).unwrap_or(0)
    }

    pub(crate) fn u24<const AT: usize>(self) -> u32 {
        const { assert!(AT + 3 <= 16, "a CDB has 16 bytes") };
        u32::from(self.0[AT]) << 16 | u32::from(u16_at(&self.0, AT + 1).unwrap_or(0))
    }

    pub(crate) fn u32<const AT: usize>(self) -> u32 {
        const { assert!(AT + 4 <= 16, "a CDB has 16 bytes") };
        u32_at(&self.0, AT).unwrap_or(0)
    }

    pub(crate) fn u64<const AT: usize>(self) -> u64 {
        const { assert!(AT + 8 <= 16, "a CDB has 16 bytes") };
        u64_at(&self.0, AT).unwrap_or(0)
    }

    pub(crate) const fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The first block and the number of blocks a command names: not yet known to be on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first block.
    pub first: u64,
    /// How many blocks.
    pub count: u32,
}

/// What VERIFY and WRITE AND VERIFY compare (the BYTCHK field).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteCheck {
    /// Nothing: the medium is checked alone.
    None,
    /// Every byte with the data.
    Data,
    /// Every block with the one block of data.
    OneBlock,
}

/// The two lengths of MODE SENSE and MODE SELECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeForm {
    /// Six-byte CDB, four-byte header.
    Six,
    /// Ten-byte CDB, eight-byte header.
    Ten,
}

/// A command, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cdb {
    /// TEST UNIT READY.
    TestUnitReady,
    /// REQUEST SENSE.
    RequestSense {
        /// Whether descriptor format is asked for.
        descriptor: bool,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// INQUIRY.
    Inquiry {
        /// The vital product data page; `None` asks for standard data.
        page: Option<u8>,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// REPORT LUNS.
    ReportLuns {
        /// SELECT REPORT.
        select: u8,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// READ CAPACITY (10).
    ReadCapacity10,
    /// READ CAPACITY (16).
    ReadCapacity16 {
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// READ (6), (10), (12), (16).
    Read(Span),
    /// WRITE (6), (10), (12), (16).
    Write {
        /// Where.
        span: Span,
        /// FUA.
        fua: bool,
    },
    /// WRITE AND VERIFY (10), (12), (16).
    WriteAndVerify {
        /// Where.
        span: Span,
        /// BYTCHK.
        check: ByteCheck,
    },
    /// VERIFY (10), (12), (16).
    Verify {
        /// Where.
        span: Span,
        /// BYTCHK.
        check: ByteCheck,
    },
    /// SYNCHRONIZE CACHE (10), (16).
    SynchronizeCache {
        /// What of; everything from the first block on if the count is 0.
        span: Span,
    },
    /// PRE-FETCH (10), (16).
    Prefetch {
        /// Where; everything from the first block on if the count is 0.
        span: Span,
    },
    /// UNMAP.
    Unmap {
        /// PARAMETER LIST LENGTH.
        length: u16,
    },
    /// WRITE SAME (10), (16).
    WriteSame {
        /// Where.
        span: Span,
        /// UNMAP.
        unmap: bool,
        /// NDOB: no data comes, zeros are meant.
        no_data: bool,
    },
    /// COMPARE AND WRITE.
    CompareAndWrite {
        /// Where.
        span: Span,
        /// FUA.
        fua: bool,
    },
    /// ORWRITE (16).
    OrWrite {
        /// Where.
        span: Span,
        /// FUA.
        fua: bool,
    },
    /// WRITE ATOMIC (16).
    WriteAtomic {
        /// Where.
        span: Span,
        /// FUA.
        fua: bool,
    },
    /// SANITIZE.
    Sanitize {
        /// What is done.
        action: SanitizeAction,
        /// IMMED: the answer comes when it has begun.
        immediate: bool,
        /// AUSE: a failure may be left without sanitizing again.
        unrestricted_exit: bool,
        /// PARAMETER LIST LENGTH.
        length: u16,
    },
    /// EXTENDED COPY (LID1).
    ExtendedCopy {
        /// PARAMETER LIST LENGTH.
        length: u32,
    },
    /// RECEIVE COPY RESULTS: COPY STATUS.
    CopyStatus {
        /// LIST IDENTIFIER.
        list_id: u8,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// RECEIVE COPY RESULTS: OPERATING PARAMETERS.
    CopyParameters {
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// LOG SENSE.
    LogSense(LogSense),
    /// READ DEFECT DATA (10), (12).
    ReadDefectData {
        /// Which length.
        form: DefectForm,
        /// The lists asked for and their format, as the answer repeats them.
        lists: u8,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// REPORT TARGET PORT GROUPS.
    ReportTargetPortGroups {
        /// Whether the extended header is asked for.
        extended: bool,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// SET TARGET PORT GROUPS.
    SetTargetPortGroups {
        /// PARAMETER LIST LENGTH.
        length: u32,
    },
    /// GET LBA STATUS (16).
    GetLbaStatus {
        /// The first block.
        first: u64,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// MODE SENSE (6), (10).
    ModeSense(ModeSense),
    /// MODE SELECT (6), (10).
    ModeSelect {
        /// Which.
        form: ModeForm,
        /// PARAMETER LIST LENGTH.
        length: u16,
    },
    /// START STOP UNIT.
    StartStopUnit {
        /// START.
        start: bool,
        /// NO_FLUSH.
        no_flush: bool,
    },
    /// RESERVE (6), (10).
    Reserve6,
    /// RELEASE (6), (10).
    Release6,
    /// PERSISTENT RESERVE IN.
    PersistentReserveIn {
        /// SERVICE ACTION.
        action: InAction,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
    /// PERSISTENT RESERVE OUT.
    PersistentReserveOut(OutRequest),
    /// REPORT SUPPORTED OPERATION CODES.
    ReportSupportedOpcodes(ReportOpcodes),
    /// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS.
    ReportSupportedTaskManagement {
        /// REPD: the extended form.
        extended: bool,
        /// ALLOCATION LENGTH.
        allocation: u32,
    },
}

/// The fields of MODE SENSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeSense {
    /// Which length.
    pub form: ModeForm,
    /// DBD: no block descriptor.
    pub no_block_descriptor: bool,
    /// LLBAA: a long block descriptor is welcome.
    pub long_block_descriptor: bool,
    /// PAGE CONTROL.
    pub control: u8,
    /// PAGE CODE.
    pub page: u8,
    /// SUBPAGE CODE.
    pub subpage: u8,
    /// ALLOCATION LENGTH.
    pub allocation: u32,
}

/// The service actions of SANITIZE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanitizeAction {
    /// OVERWRITE.
    Overwrite,
    /// BLOCK ERASE.
    BlockErase,
    /// EXIT FAILURE MODE.
    ExitFailureMode,
}

/// The two lengths of READ DEFECT DATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefectForm {
    /// Ten-byte CDB, four-byte header.
    Ten,
    /// Twelve-byte CDB, eight-byte header.
    Twelve,
}

/// The fields of LOG SENSE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSense {
    /// PAGE CONTROL.
    pub control: u8,
    /// PAGE CODE.
    pub page: u8,
    /// SUBPAGE CODE.
    pub subpage: u8,
    /// PARAMETER POINTER.
    pub pointer: u16,
    /// ALLOCATION LENGTH.
    pub allocation: u32,
}

/// The fields of REPORT SUPPORTED OPERATION CODES.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportOpcodes {
    /// RCTD: with timeouts descriptors.
    pub with_timeouts: bool,
    /// REPORTING OPTIONS.
    pub options: u8,
    /// REQUESTED OPERATION CODE.
    pub opcode: u8,
    /// REQUESTED SERVICE ACTION.
    pub service_action: u16,
    /// ALLOCATION LENGTH.
    pub allocation: u32,
}

/// How many bytes a command moves by its CDB; iSCSI compares it with what the initiator expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataLength {
    /// None.
    None,
    /// To the initiator: a fixed number. (Commands with an allocation length send what they have.)
    In(u64),
    /// From the initiator.
    Out(u64),
}

impl Cdb {
    /// Parses a CDB.
    ///
    /// # Errors
    /// INVALID COMMAND OPERATION CODE for what is not in the opcode table, INVALID FIELD IN CDB for bad fields.
    pub fn parse(bytes: CdbBytes) -> Result<Self, Sense> {
        let entry = opcodes::find(bytes)?;
        entry.check_control(bytes)?;
        (entry.parse)(bytes)
    }

    /// How many bytes of data the command moves.
    #[must_use]
    pub fn data_length(&self, block_size: BlockSize) -> DataLength {
        let blocks = |count: u32| u64::from(count) << block_size.shift();
        match self {
            Self::Read(span) => DataLength::In(blocks(span.count)),
            Self::ReadCapacity10 => DataLength::In(8),
            Self::Write { span, .. }
            | Self::WriteAndVerify { span, .. }
            | Self::WriteAtomic { span, .. }
            | Self::OrWrite { span, .. } => DataLength::Out(blocks(span.count)),
            Self::Verify { span, check } => match check {
                ByteCheck::None => DataLength::None,
                ByteCheck::Data => DataLength::Out(blocks(span.count)),
                ByteCheck::OneBlock => DataLength::Out(blocks(1)),
            },
            Self::CompareAndWrite { span, .. } => {
                DataLength::Out(blocks(span.count).saturating_mul(2))
            }
            Self::WriteSame { no_data: false, .. } => DataLength::Out(blocks(1)),
            Self::Unmap { length }
            | Self::ModeSelect { length, .. }
            | Self::Sanitize { length, .. } => DataLength::Out(u64::from(*length)),
            Self::ExtendedCopy { length } | Self::SetTargetPortGroups { length } => {
                DataLength::Out(u64::from(*length))
            }
            Self::PersistentReserveOut(request) => DataLength::Out(u64::from(request.length)),
            Self::TestUnitReady
            | Self::RequestSense { .. }
            | Self::Inquiry { .. }
            | Self::ReportLuns { .. }
            | Self::ReadCapacity16 { .. }
            | Self::SynchronizeCache { .. }
            | Self::Prefetch { .. }
            | Self::WriteSame { no_data: true, .. }
            | Self::GetLbaStatus { .. }
            | Self::CopyStatus { .. }
            | Self::CopyParameters { .. }
            | Self::LogSense(_)
            | Self::ReadDefectData { .. }
            | Self::ReportTargetPortGroups { .. }
            | Self::ModeSense(_)
            | Self::StartStopUnit { .. }
            | Self::Reserve6
            | Self::Release6
            | Self::PersistentReserveIn { .. }
            | Self::ReportSupportedOpcodes(_)
            | Self::ReportSupportedTaskManagement { .. } => DataLength::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Cdb, Sense> {
        Cdb::parse(CdbBytes::new(bytes))
    }

    #[test]
    fn the_four_lengths_of_read_name_the_same_blocks() {
        let span = Span {
            first: 0x01_0203,
            count: 7,
        };
        for bytes in [
            &[0x08, 0x01, 0x02, 0x03, 7, 0][..],
            &[0x28, 0, 0, 0x01, 0x02, 0x03, 0, 0, 7, 0],
            &[0xa8, 0, 0, 0x01, 0x02, 0x03, 0, 0, 0, 7, 0, 0],
            &[0x88, 0, 0, 0, 0, 0, 0, 0x01, 0x02, 0x03, 0, 0, 0, 7, 0, 0],
        ] {
            assert_eq!(parse(bytes), Ok(Cdb::Read(span)), "{bytes:x?}");
        }
    }

    #[test]
    fn read6_of_no_blocks_means_256() {
        assert_eq!(
            parse(&[0x08, 0, 0, 0, 0, 0]),
            Ok(Cdb::Read(Span {
                first: 0,
                count: 256
            }))
        );
        assert_eq!(
            parse(&[0x0a, 0, 0, 9, 0, 0]),
            Ok(Cdb::Write {
                span: Span {
                    first: 9,
                    count: 256
                },
                fua: false
            })
        );
    }

    #[test]
    fn protection_information_is_refused() {
        for opcode in [
            0x28, 0x2a, 0x2e, 0x2f, 0x41, 0xa8, 0xaa, 0xae, 0xaf, 0x88, 0x8a, 0x8b, 0x8e, 0x8f,
            0x93, 0x89, 0x9c,
        ] {
            for protect in 1..=7 {
                assert_eq!(
                    parse(&[opcode, protect << 5]),
                    Err(Sense::INVALID_FIELD_IN_CDB),
                    "{opcode:x} {protect}"
                );
            }
        }
    }

    #[test]
    fn fua_is_seen_in_every_write_that_has_it() {
        for opcode in [0x2a, 0xaa, 0x8a] {
            let Ok(Cdb::Write { fua, .. }) = parse(&[opcode, 0x08]) else {
                panic!("{opcode:x}")
            };
            assert!(fua);
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_an_invalid_opcode() {
        for bytes in [&[0xff][..], &[0x04], &[0x9e, 0x1f], &[0x9f, 0x00], &[0x7f]] {
            let wanted = if bytes[0] == 0x9e {
                Sense::INVALID_FIELD_IN_CDB
            } else {
                Sense::INVALID_OPCODE
            };
            assert_eq!(parse(bytes), Err(wanted), "{bytes:x?}");
        }
    }

    #[test]
    fn aca_is_refused_in_every_control_byte() {
        assert_eq!(
            parse(&[0, 0, 0, 0, 0, 0x04]),
            Err(Sense::INVALID_FIELD_IN_CDB)
        );
        assert_eq!(
            parse(&[0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0x04]),
            Err(Sense::INVALID_FIELD_IN_CDB)
        );
    }

    #[test]
    fn data_lengths_do_not_overflow() {
        let cdb = parse(&[
            0x8a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0,
        ])
        .unwrap();
        assert_eq!(
            cdb.data_length(BlockSize::B4096),
            DataLength::Out(0xffff_ffff << 12)
        );
        let cdb = parse(&[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0]).unwrap();
        assert_eq!(cdb.data_length(BlockSize::B512), DataLength::Out(3 * 1_024));
    }

    proptest! {
        #[test]
        fn no_cdb_panics(bytes in any::<[u8; 16]>()) {
            if let Ok(cdb) = parse(&bytes) {
                prop_assert_ne!(cdb.data_length(BlockSize::B512), DataLength::Out(u64::MAX));
            }
        }
    }
}

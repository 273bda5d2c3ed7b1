//! What a command asks of the medium, and what the medium's answer means.
//!
//! | operation | the medium does | success means |
//! |---|---|---|
//! | `Read` | reads the range into a buffer of the shell | data in |
//! | `Write` | writes the command's data; durable first if `fua` (B1) | |
//! | `Flush` | makes all finished writes durable (B1) | |
//! | `CompareAndWrite`, `OrWrite` | as one step that no other write of this unit can come between | |

use crate::copy::CopyPlan;
use crate::log::{self, SpaceUsage};
use crate::logical_unit::Nexus;
use crate::range::{Capacity, LbaRange};
use crate::sanitize::Erasure;
use crate::sense::{Response, Sense, Status};
use crate::wire::{Builder, cut};

/// Whether space can be given back, and what unmapped blocks read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Unmapping frees space that others share, and unmapped blocks read as zeros. There may be less space than blocks.
    Thin,
    /// Every block always has its place; unmapped blocks read as zeros, and what is below may make use of that.
    Resource,
    /// Every block always has its place; UNMAP is not offered.
    Full,
}

impl Provisioning {
    /// Whether UNMAP is offered (LBPME).
    #[must_use]
    pub const fn frees_space(self) -> bool {
        matches!(self, Self::Thin | Self::Resource)
    }
}

/// What a WRITE SAME fills its range with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// The one block of data that came with the command.
    Block,
    /// Zeros; no data came.
    Zeros,
}

/// Something to be done with the medium. The data of writing commands is the command's data, which the shell holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaOp {
    /// Read the range.
    Read {
        /// Where.
        range: LbaRange,
    },
    /// Write the data.
    Write {
        /// Where; its length is the data's.
        range: LbaRange,
        /// Whether it must be durable before it is answered.
        fua: bool,
    },
    /// Write the data durably, then read it back and compare if asked.
    WriteAndVerify {
        /// Where.
        range: LbaRange,
        /// Whether what is on the medium is compared with the data.
        compare: bool,
    },
    /// Make everything written so far durable.
    Flush,
    /// Give the space of these ranges back; they read as zeros afterwards.
    Unmap {
        /// Where.
        ranges: Vec<LbaRange>,
    },
    /// Fill the range with one block.
    WriteSame {
        /// Where.
        range: LbaRange,
        /// With what.
        fill: Fill,
        /// Whether space may be given back where the block is zeros.
        unmap: bool,
        /// Whether it must be durable before it is answered.
        fua: bool,
    },
    /// Compare the first half of the data with the range, and write the second half there if they are equal.
    CompareAndWrite {
        /// Where; half as long as the data.
        range: LbaRange,
        /// Whether it must be durable before it is answered.
        fua: bool,
    },
    /// Replace each byte by itself OR the data's byte.
    OrWrite {
        /// Where.
        range: LbaRange,
        /// Whether it must be durable before it is answered.
        fua: bool,
    },
    /// Write the data durably, all of it or nothing whatever happens; no reader sees a part.
    WriteAtomic {
        /// Where; its length is the data's.
        range: LbaRange,
    },
    /// Erase or overwrite every block, durably. Nothing else touches the medium meanwhile.
    Sanitize {
        /// All of the unit.
        range: LbaRange,
        /// How.
        erasure: Box<Erasure>,
        /// Whether the initiator gets its answer when it has begun.
        immediate: bool,
        /// Whether a failure may be left without sanitizing again.
        unrestricted_exit: bool,
    },
    /// A failed sanitize is given up, durably.
    ExitSanitize,
    /// Copy between units.
    Copy {
        /// What.
        plan: Box<CopyPlan>,
    },
    /// Tell how much space there is.
    Usage {
        /// The unit's capacity.
        capacity: Capacity,
        /// The first log parameter the initiator wants.
        pointer: u16,
        /// How many bytes of parameter data it takes.
        allocation: u32,
    },
    /// Check that the range can be read.
    Verify {
        /// Where.
        range: LbaRange,
    },
    /// Compare the range with the data.
    Compare {
        /// Where; as long as the data, or the data is one block that every block must equal.
        range: LbaRange,
        /// Whether the data is one block.
        repeated: bool,
    },
    /// Bring the range into the cache if that is cheap.
    Prefetch {
        /// Where.
        range: LbaRange,
    },
    /// Tell which blocks of the range hold data.
    Status {
        /// Where.
        range: LbaRange,
        /// How many bytes of parameter data the initiator takes.
        allocation: u32,
    },
    /// See that none of these nexuses' earlier commands changes the medium any more, and that what has to outlive a
    /// loss of power of the unit's reservations is kept.
    Settle {
        /// Whose commands are void.
        aborted: Vec<Nexus>,
        /// Whether the unit's saved reservations have changed.
        saves: bool,
    },
}

/// Blocks in a row that all hold data, or all do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LbaStatus {
    /// Where.
    pub range: LbaRange,
    /// Whether they have space on the medium.
    pub is_mapped: bool,
}

/// Why the medium could not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaFailure {
    /// It could not be read.
    Read,
    /// It could not be written.
    Write,
    /// There is no space behind it.
    OutOfSpace,
    /// It is no longer ours to touch: its place may belong to something else now.
    Fenced,
    /// Another nexus ended the command (PREEMPT AND ABORT) before it changed anything.
    Aborted,
    /// A unit of a copy is not there for this initiator.
    CopyUnreachable,
    /// A copy cannot be made as asked, or failed on the way.
    Copy,
    /// The unit's reservations could not be put on stable storage. They are in force, but a restart may forget them.
    Save,
}

/// How a media operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaResult {
    /// Done.
    Done,
    /// Not just now: the initiator sends it again.
    Busy,
    /// The data differs, first at this byte of it.
    Miscompare {
        /// Counted from the start of the data.
        offset: u64,
    },
    /// Which blocks hold data.
    Status(Vec<LbaStatus>),
    /// How much space there is.
    Usage(SpaceUsage),
    /// Not done.
    Failed(MediaFailure),
}

/// How many descriptors a GET LBA STATUS answer holds at most.
pub const LBA_STATUS_DESCRIPTORS_MAX: usize = 64;

impl MediaOp {
    /// What the initiator is told. `descriptor_sense` is the unit's D_SENSE setting.
    #[must_use]
    pub fn finish(&self, result: &MediaResult, descriptor_sense: bool) -> Response {
        let check = |sense| Response::check_in_format(sense, descriptor_sense);
        match result {
            MediaResult::Done => match self {
                Self::Prefetch { .. } => Response::status(Status::ConditionMet),
                Self::Read { .. }
                | Self::Write { .. }
                | Self::WriteAndVerify { .. }
                | Self::Flush
                | Self::Unmap { .. }
                | Self::WriteSame { .. }
                | Self::CompareAndWrite { .. }
                | Self::OrWrite { .. }
                | Self::Verify { .. }
                | Self::Compare { .. }
                | Self::Settle { .. }
                | Self::WriteAtomic { .. }
                | Self::Sanitize { .. }
                | Self::ExitSanitize
                | Self::Copy { .. }
                | Self::Usage { .. }
                | Self::Status { .. } => Response::good(),
            },
            MediaResult::Miscompare { offset } => {
                check(Sense::MISCOMPARE.with_information(*offset))
            }
            MediaResult::Status(extents) => match self {
                Self::Status { allocation, .. } => {
                    Response::data(cut(status_data(extents), *allocation))
                }
                _ => check(Sense::INTERNAL_FAILURE),
            },
            MediaResult::Usage(usage) => match self {
                Self::Usage {
                    capacity,
                    pointer,
                    allocation,
                } => Response::data(log::provisioning(*usage, *capacity, *pointer, *allocation)),
                _ => check(Sense::INTERNAL_FAILURE),
            },
            MediaResult::Busy => Response::status(Status::Busy),
            MediaResult::Failed(failure) => check(match failure {
                MediaFailure::Read => Sense::READ_ERROR,
                MediaFailure::Write => Sense::WRITE_ERROR,
                MediaFailure::OutOfSpace => Sense::OUT_OF_SPACE,
                MediaFailure::Fenced => Sense::FENCED,
                MediaFailure::Aborted => Sense::COMMANDS_CLEARED,
                MediaFailure::CopyUnreachable => Sense::UNREACHABLE_COPY_TARGET,
                MediaFailure::Copy => Sense::COPY_ABORTED,
                MediaFailure::Save => Sense::INTERNAL_FAILURE,
            }),
        }
    }
}

// SBC-4 §5.9.2: the parameter data length does not count its own four bytes.
fn status_data(extents: &[LbaStatus]) -> Vec<u8> {
    let mut descriptors = Builder::new();
    for extent in extents.iter().take(LBA_STATUS_DESCRIPTORS_MAX) {
        let count = u32::try_from(extent.range.count()).unwrap_or(u32::MAX);
        let status = if extent.is_mapped { 0 } else { 1 };
        descriptors
            .u64(extent.range.first().number())
            .u32(count)
            .u8(status)
            .zeros(3);
    }
    let descriptors = descriptors.finish();
    let mut data = Builder::new();
    let length = u32::try_from(descriptors.len().saturating_add(4)).unwrap_or(u32::MAX);
    data.u32(length).u32(0).bytes(&descriptors);
    data.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::BlockSize;
    use onggi_common_units::ByteCount;

    fn range(first: u64, count: u64) -> LbaRange {
        Capacity::new(ByteCount::from_mib(1), BlockSize::B512)
            .unwrap()
            .range(first, count)
            .unwrap()
    }

    #[test]
    fn failures_become_the_sense_initiators_act_on() {
        let op = MediaOp::Write {
            range: range(0, 1),
            fua: false,
        };
        for (failure, key, asc, ascq) in [
            (MediaFailure::OutOfSpace, 7, 0x27, 7),
            (MediaFailure::Write, 3, 0x0c, 0),
            (MediaFailure::Read, 3, 0x11, 0),
            (MediaFailure::Fenced, 4, 0x08, 0),
        ] {
            let response = op.finish(&MediaResult::Failed(failure), false);
            assert_eq!(response.status, Status::CheckCondition);
            assert_eq!(
                (response.sense[2], response.sense[12], response.sense[13]),
                (key, asc, ascq)
            );
        }
    }

    #[test]
    fn lba_status_lists_its_descriptors_and_obeys_the_allocation_length() {
        let op = MediaOp::Status {
            range: range(4, 12),
            allocation: 40,
        };
        let extents = vec![
            LbaStatus {
                range: range(4, 4),
                is_mapped: true,
            },
            LbaStatus {
                range: range(8, 8),
                is_mapped: false,
            },
        ];
        let data = op
            .finish(&MediaResult::Status(extents.clone()), false)
            .data_in;
        assert_eq!(data.len(), 40);
        assert_eq!(data[..4], 36u32.to_be_bytes());
        assert_eq!((data[15], data[19], data[20]), (4, 4, 0));
        assert_eq!((data[31], data[35], data[36]), (8, 8, 1));
        let op = MediaOp::Status {
            range: range(4, 12),
            allocation: 10,
        };
        assert_eq!(
            op.finish(&MediaResult::Status(extents), false)
                .data_in
                .len(),
            10
        );
    }
}

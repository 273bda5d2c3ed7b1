//! Commands on the medium: fields to media operations, checked against the unit's geometry.

use super::Outcome;
use crate::cdb::{ByteCheck, Cdb, DataLength, Span};
use crate::inquiry;
use crate::media::{Fill, MediaOp, Provisioning};
use crate::range::{Capacity, LbaRange};
use crate::sense::Sense;
use crate::wire::{u16_at, u32_at, u64_at};

/// What the answer to a command on the medium depends on, besides the command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Geometry {
    pub(super) capacity: Capacity,
    pub(super) provisioning: Provisioning,
    pub(super) write_protected: bool,
    pub(super) write_cache: bool,
    pub(super) descriptor_sense: bool,
}

impl Geometry {
    /// What comes of a command on the medium; `None` for every other command.
    pub(super) fn plan(&self, cdb: &Cdb, data_length: u64) -> Option<Outcome> {
        let planned = self.media_op(cdb, data_length)?;
        Some(match planned {
            Ok(op) => {
                let wanted_bytes = match cdb.data_length(self.capacity.block_size()) {
                    DataLength::In(bytes) | DataLength::Out(bytes) => bytes,
                    DataLength::None => 0,
                };
                Outcome::Media { op, wanted_bytes }
            }
            Err(sense) => Outcome::check(sense, self.descriptor_sense),
        })
    }

    fn media_op(&self, cdb: &Cdb, data_length: u64) -> Option<Result<MediaOp, Sense>> {
        Some(match cdb {
            Cdb::Read(span) => self.transfer(*span).map(|range| MediaOp::Read { range }),
            Cdb::Write { span, fua } => {
                self.written(*span, data_length)
                    .map(|range| MediaOp::Write {
                        range,
                        fua: self.durable(*fua),
                    })
            }
            Cdb::WriteAndVerify { span, check } => {
                self.written(*span, data_length)
                    .map(|range| MediaOp::WriteAndVerify {
                        range,
                        compare: *check == ByteCheck::Data,
                    })
            }
            Cdb::WriteAtomic { span, fua } => self.write_atomic(*span, *fua, data_length),
            Cdb::OrWrite { span, fua } => {
                self.written(*span, data_length)
                    .map(|range| MediaOp::OrWrite {
                        range,
                        fua: self.durable(*fua),
                    })
            }
            Cdb::Verify { span, check } => self.verify(*span, *check, data_length),
            // A range of no blocks stands for everything from its first block on; what is flushed is everything.
            Cdb::SynchronizeCache { span } => self.range(*span).map(|_| MediaOp::Flush),
            Cdb::Prefetch { span } => self.range(*span).map(|range| MediaOp::Prefetch { range }),
            Cdb::WriteSame {
                span,
                unmap,
                no_data,
            } => self.write_same(*span, (*unmap, *no_data), data_length),
            Cdb::CompareAndWrite { span, fua } => self.compare_and_write(*span, *fua, data_length),
            Cdb::GetLbaStatus { first, allocation } => self.status(*first, *allocation),
            _ => return None,
        })
    }

    const fn durable(&self, fua: bool) -> bool {
        fua || !self.write_cache
    }

    fn range(&self, span: Span) -> Result<LbaRange, Sense> {
        self.capacity.range(span.first, u64::from(span.count))
    }

    fn transfer(&self, span: Span) -> Result<LbaRange, Sense> {
        let range = self.range(span)?;
        if range.byte_length() > u64::from(inquiry::TRANSFER_BYTES_MAX) {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        Ok(range)
    }

    fn check_writable(&self) -> Result<(), Sense> {
        if self.write_protected {
            Err(Sense::WRITE_PROTECTED)
        } else {
            Ok(())
        }
    }

    // When less data came than the CDB says, the whole blocks that came are written and the residual tells the rest.
    fn written(&self, span: Span, data_length: u64) -> Result<LbaRange, Sense> {
        let range = self.transfer(span)?;
        self.check_writable()?;
        Ok(range.truncated(self.capacity.block_size().blocks_in(data_length)))
    }

    fn verify(&self, span: Span, check: ByteCheck, data_length: u64) -> Result<MediaOp, Sense> {
        let range = self.transfer(span)?;
        let blocks_came = self.capacity.block_size().blocks_in(data_length);
        match check {
            ByteCheck::None => Ok(MediaOp::Verify { range }),
            ByteCheck::Data => Ok(MediaOp::Compare {
                range: range.truncated(blocks_came),
                repeated: false,
            }),
            ByteCheck::OneBlock if blocks_came == 0 => Err(Sense::INVALID_FIELD_IN_CDB),
            ByteCheck::OneBlock => Ok(MediaOp::Compare {
                range,
                repeated: true,
            }),
        }
    }

    fn write_same(
        &self,
        span: Span,
        flags: (bool, bool),
        data_length: u64,
    ) -> Result<MediaOp, Sense> {
        let (unmap, no_data) = flags;
        let range = self.range(span)?;
        self.check_writable()?;
        let is_refused = unmap && !self.provisioning.frees_space();
        // VPD B0h: WSNZ, and MAXIMUM WRITE SAME LENGTH.
        if is_refused || range.is_empty() || range.byte_length() > inquiry::WRITE_SAME_BYTES_MAX {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        if !no_data && data_length != u64::from(self.capacity.block_size().bytes()) {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        let fill = if no_data { Fill::Zeros } else { Fill::Block };
        Ok(MediaOp::WriteSame {
            range,
            fill,
            unmap,
            fua: self.durable(false),
        })
    }

    // Half of it would be no atomic write, so that all of the data must be there.
    fn write_atomic(&self, span: Span, fua: bool, data_length: u64) -> Result<MediaOp, Sense> {
        let range = self.range(span)?;
        self.check_writable()?;
        let bytes = range.byte_length();
        if bytes > inquiry::ATOMIC_BYTES_MAX || data_length < bytes {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        Ok(if range.is_empty() {
            MediaOp::Write {
                range,
                fua: self.durable(fua),
            }
        } else {
            MediaOp::WriteAtomic { range }
        })
    }

    fn compare_and_write(&self, span: Span, fua: bool, data_length: u64) -> Result<MediaOp, Sense> {
        let range = self.range(span)?;
        self.check_writable()?;
        if data_length != range.byte_length().saturating_mul(2) {
            return Err(Sense::INVALID_FIELD_IN_CDB);
        }
        Ok(MediaOp::CompareAndWrite {
            range,
            fua: self.durable(fua),
        })
    }

    fn status(&self, first: u64, allocation: u32) -> Result<MediaOp, Sense> {
        let count = self
            .capacity
            .blocks()
            .checked_sub(first)
            .filter(|count| *count > 0);
        let range = self
            .capacity
            .range(first, count.ok_or(Sense::LBA_OUT_OF_RANGE)?)?;
        Ok(MediaOp::Status { range, allocation })
    }
}

// SBC-4 §5.35: eight bytes of header, sixteen per descriptor; an incomplete last descriptor is not looked at.
pub(super) fn unmap_ranges(list: &[u8], capacity: Capacity) -> Result<Vec<LbaRange>, Sense> {
    const HEADER_BYTES: usize = 8;
    const DESCRIPTOR_BYTES: usize = 16;
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let (Some(said), Some(body)) = (u16_at(list, 2), list.get(HEADER_BYTES..)) else {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    };
    let body = body.get(..usize::from(said)).unwrap_or(body);
    let descriptors = body.chunks_exact(DESCRIPTOR_BYTES);
    if descriptors.len() > usize::from(inquiry::UNMAP_DESCRIPTORS_MAX) {
        return Err(Sense::INVALID_FIELD_IN_PARAMETERS);
    }
    let mut left = capacity.block_size().blocks_in(inquiry::UNMAP_BYTES_MAX);
    let mut ranges = Vec::with_capacity(descriptors.len());
    for descriptor in descriptors {
        let first = u64_at(descriptor, 0).unwrap_or(u64::MAX);
        let count = u64::from(u32_at(descriptor, 8).unwrap_or(u32::MAX));
        let range = capacity.range(first, count)?;
        left = left
            .checked_sub(count)
            .ok_or(Sense::INVALID_FIELD_IN_PARAMETERS)?;
        if !range.is_empty() {
            ranges.push(range);
        }
    }
    Ok(ranges)
}

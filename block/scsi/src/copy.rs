//! EXTENDED COPY (LID1) and what RECEIVE COPY RESULTS tells of it (SPC-4 §6.4, §6.18).
//!
//! A parameter list names units by designators and segments to copy between them. Here it becomes a [`CopyPlan`]; who
//! carries it out finds the units, and must let an initiator copy only between units it may reach itself.
//!
//! | bytes of the list | |
//! |---|---|
//! | 0 | list identifier |
//! | 1 | list id usage in bits 4–3 |
//! | 2–3 | length of the CSCD descriptors, 32 bytes each |
//! | 8–11 | length of the segment descriptors, 28 bytes each |
//! | 12–15 | length of inline data: none is taken |

use crate::inquiry;
use crate::sense::Sense;
use crate::wire::{Builder, cut, length32, u16_at, u32_at, u64_at};
use onggi_common_units::Uuid;

/// How many units one list may name.
pub const COPY_TARGETS_MAX: u16 = 16;
/// How many segments one list may have.
pub const COPY_SEGMENTS_MAX: u16 = 16;
/// The most bytes one segment copies.
pub const COPY_SEGMENT_BYTES_MAX: u32 = 32 << 20;
const HEADER_BYTES: usize = 16;
const TARGET_BYTES: usize = 32;
const SEGMENT_BYTES: usize = 28;
/// The most bytes of descriptors: as many as there may be of both kinds.
const DESCRIPTORS_BYTES_MAX: usize =
    TARGET_BYTES * COPY_TARGETS_MAX as usize + SEGMENT_BYTES * COPY_SEGMENTS_MAX as usize;
/// CSCD descriptor: identification by designator.
const BY_DESIGNATOR: u8 = 0xe4;
/// Segment descriptor: block device to block device.
const BLOCK_TO_BLOCK: u8 = 0x02;

/// A unit as a copy names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyTarget {
    /// The unit with this NAA name.
    Naa([u8; 8]),
    /// The unit of this volume.
    Volume([u8; 16]),
    /// A name that no unit here can have.
    Unknown,
}

impl CopyTarget {
    /// Whether this names the unit of the volume.
    #[must_use]
    pub fn names(&self, volume: &Uuid) -> bool {
        match self {
            Self::Naa(name) => *name == inquiry::local_naa(volume),
            Self::Volume(id) => id == volume.as_bytes(),
            Self::Unknown => false,
        }
    }
}

/// Blocks to be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopySegment {
    /// The place of the source among the targets.
    pub source: usize,
    /// The place of the destination among the targets.
    pub destination: usize,
    /// The first block of the source.
    pub source_first: u64,
    /// The first block of the destination.
    pub destination_first: u64,
    /// How many blocks.
    pub blocks: u16,
    /// Whether they are counted in blocks of the destination (DC), not of the source.
    pub counts_destination: bool,
}

/// What an EXTENDED COPY asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyPlan {
    /// By which RECEIVE COPY RESULTS asks for it; `None` when nobody will.
    pub list_id: Option<u8>,
    /// The units.
    pub targets: Vec<CopyTarget>,
    /// The segments; their places are within `targets`.
    pub segments: Vec<CopySegment>,
}

/// How far a copy came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyProgress {
    /// Segments that were copied in whole.
    pub segments: u16,
    /// Bytes that were copied.
    pub bytes: u64,
}

/// What is remembered of a copy until it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyStatus {
    Running,
    Ended {
        progress: CopyProgress,
        is_whole: bool,
    },
}

impl CopyPlan {
    /// Parses a parameter list; `None` when it asks for nothing.
    pub(crate) fn parse(list: &[u8]) -> Result<Option<Self>, Sense> {
        const LENGTH: Sense = Sense::PARAMETER_LIST_LENGTH;
        if list.is_empty() {
            return Ok(None);
        }
        let (Some(targets), Some(segments), Some(inline)) =
            (u16_at(list, 2), u32_at(list, 8), u32_at(list, 12))
        else {
            return Err(LENGTH);
        };
        let targets_bytes = usize::from(targets);
        let segments_bytes = usize::try_from(segments).unwrap_or(usize::MAX);
        if targets_bytes.saturating_add(segments_bytes) > DESCRIPTORS_BYTES_MAX {
            return Err(LENGTH);
        }
        let descriptors = list.get(HEADER_BYTES..).unwrap_or_default();
        let (targets, rest) = descriptors.split_at_checked(targets_bytes).ok_or(LENGTH)?;
        let segments = rest.get(..segments_bytes).ok_or(LENGTH)?;
        if inline != 0 {
            return Err(Sense::INLINE_DATA);
        }
        let targets = parse_targets(targets)?;
        let segments = parse_segments(segments, targets.len())?;
        let usage = list.get(1).copied().unwrap_or(0) >> 3 & 0b11;
        // Usage 11b: no list identifier, nothing is held. 01b is reserved.
        let list_id = match usage {
            0b00 | 0b10 => list.first().copied(),
            0b11 => None,
            _ => return Err(Sense::INVALID_FIELD_IN_PARAMETERS),
        };
        let is_empty = segments.is_empty();
        Ok((!is_empty).then_some(Self {
            list_id,
            targets,
            segments,
        }))
    }
}

fn parse_targets(list: &[u8]) -> Result<Vec<CopyTarget>, Sense> {
    let descriptors = list.chunks_exact(TARGET_BYTES);
    if !descriptors.remainder().is_empty() {
        return Err(Sense::PARAMETER_LIST_LENGTH);
    }
    if descriptors.len() > usize::from(COPY_TARGETS_MAX) {
        return Err(Sense::TOO_MANY_COPY_TARGETS);
    }
    descriptors.map(parse_target).collect()
}

fn parse_target(descriptor: &[u8]) -> Result<CopyTarget, Sense> {
    const DIRECT_ACCESS: u8 = 0x00;
    let byte = |at: usize| descriptor.get(at).copied().unwrap_or(0);
    if byte(0) != BY_DESIGNATOR {
        return Err(Sense::UNSUPPORTED_COPY_TARGET);
    }
    // With a designator LU ID TYPE says nothing, and the NUL bit is obsolete (SPC-4 §6.4.6.5).
    if byte(1) & 0x1f != DIRECT_ACCESS {
        return Ok(CopyTarget::Unknown);
    }
    let is_of_unit = byte(5) >> 4 & 0b11 == 0;
    let designator = descriptor
        .get(8..28)
        .and_then(|bytes| bytes.get(..usize::from(byte(7))));
    Ok(match (byte(5) & 0x0f, designator) {
        (0x3, Some(name)) if is_of_unit => {
            <[u8; 8]>::try_from(name).map_or(CopyTarget::Unknown, CopyTarget::Naa)
        }
        (0xa, Some([_, _, id @ ..])) if is_of_unit => {
            <[u8; 16]>::try_from(id).map_or(CopyTarget::Unknown, CopyTarget::Volume)
        }
        _ => CopyTarget::Unknown,
    })
}

fn parse_segments(list: &[u8], targets: usize) -> Result<Vec<CopySegment>, Sense> {
    let mut segments = Vec::new();
    let mut rest = list;
    while let Some(kind) = rest.first() {
        if *kind != BLOCK_TO_BLOCK {
            return Err(Sense::UNSUPPORTED_COPY_SEGMENT);
        }
        if segments.len() >= usize::from(COPY_SEGMENTS_MAX) {
            return Err(Sense::TOO_MANY_COPY_SEGMENTS);
        }
        let (descriptor, after) = rest
            .split_at_checked(SEGMENT_BYTES)
            .ok_or(Sense::PARAMETER_LIST_LENGTH)?;
        segments.push(parse_segment(descriptor, targets)?);
        rest = after;
    }
    Ok(segments)
}

fn parse_segment(descriptor: &[u8], targets: usize) -> Result<CopySegment, Sense> {
    const INVALID: Sense = Sense::INVALID_FIELD_IN_PARAMETERS;
    let place = |at| u16_at(descriptor, at).map(usize::from).ok_or(INVALID);
    let lba = |at| u64_at(descriptor, at).ok_or(INVALID);
    if place(2)? != SEGMENT_BYTES.saturating_sub(4) {
        return Err(INVALID);
    }
    let segment = CopySegment {
        source: place(4)?,
        destination: place(6)?,
        blocks: u16_at(descriptor, 10).ok_or(INVALID)?,
        source_first: lba(12)?,
        destination_first: lba(20)?,
        counts_destination: descriptor.get(1).is_some_and(|flags| flags & 0x02 != 0),
    };
    if segment.source >= targets || segment.destination >= targets {
        return Err(Sense::UNREACHABLE_COPY_TARGET);
    }
    Ok(segment)
}

impl CopyStatus {
    /// The answer to RECEIVE COPY RESULTS, COPY STATUS.
    pub(crate) fn answer(self, allocation: u32) -> Vec<u8> {
        let (status, progress) = match self {
            Self::Running => (0x00, CopyProgress::default()),
            Self::Ended { progress, is_whole } => (if is_whole { 0x01 } else { 0x02 }, progress),
        };
        let mut data = Builder::new();
        data.u32(8).u8(status).u16(progress.segments);
        // TRANSFER COUNT in bytes, or in KiB when that is too many for its field.
        match u32::try_from(progress.bytes) {
            Ok(bytes) => data.u8(0).u32(bytes),
            Err(_too_many) => data
                .u8(1)
                .u32(u32::try_from(progress.bytes >> 10).unwrap_or(u32::MAX)),
        };
        cut(data.finish(), allocation)
    }
}

/// The answer to RECEIVE COPY RESULTS, OPERATING PARAMETERS.
pub(crate) fn operating_parameters(allocation: u32) -> Vec<u8> {
    let mut body = Builder::new();
    // SNLID: a list may have no identifier.
    body.u8(0x01).zeros(3);
    body.u16(COPY_TARGETS_MAX).u16(COPY_SEGMENTS_MAX);
    body.u32(u32::try_from(DESCRIPTORS_BYTES_MAX).unwrap_or(u32::MAX));
    body.u32(COPY_SEGMENT_BYTES_MAX);
    // No inline data, no held data, no stream devices.
    body.u32(0).u32(0).u32(0).u16(0);
    // Concurrent copies in all and of one nexus; granularity: 2^9 bytes.
    body.u16(u16::from(u8::MAX)).u8(u8::MAX).u8(9).u8(0).u8(0);
    body.zeros(3).u8(2).u8(BLOCK_TO_BLOCK).u8(BY_DESIGNATOR);
    let body = body.finish();
    let mut data = Builder::new();
    data.u32(length32(&body)).bytes(&body);
    cut(data.finish(), allocation)
}

/// The Third-party Copy VPD page (SPC-4 §7.8.17).
pub(crate) fn vital_page() -> Vec<u8> {
    fn descriptor(data: &mut Builder, kind: u16, mut body: Vec<u8>) {
        body.resize(body.len().next_multiple_of(4), 0);
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        data.u16(kind).u16(length).bytes(&body);
    }
    let mut data = Builder::new();
    // Supported commands: EXTENDED COPY (LID1); RECEIVE COPY RESULTS: status and operating parameters.
    descriptor(
        &mut data,
        0x0001,
        vec![7, 0x83, 1, 0x00, 0x84, 2, 0x00, 0x03],
    );
    let mut parameters = Builder::new();
    parameters
        .zeros(4)
        .u16(COPY_TARGETS_MAX)
        .u16(COPY_SEGMENTS_MAX)
        .u32(u32::try_from(DESCRIPTORS_BYTES_MAX).unwrap_or(u32::MAX))
        .u32(0)
        .zeros(12);
    descriptor(&mut data, 0x0004, parameters.finish());
    // Supported descriptors.
    descriptor(&mut data, 0x0008, vec![2, BLOCK_TO_BLOCK, BY_DESIGNATOR]);
    // No supported CSCD IDs beyond the descriptors.
    descriptor(&mut data, 0x000c, vec![0, 0]);
    let mut general = Builder::new();
    general
        .u32(u32::from(u8::MAX))
        .u32(u32::from(u8::MAX))
        .u32(COPY_SEGMENT_BYTES_MAX)
        .u8(9)
        .zeros(19);
    descriptor(&mut data, 0x8001, general.finish());
    data.finish()
}

#[cfg(test)]
mod tests;

//! Carries a [`MediaOp`] out on a [`Medium`]: at once if it need not wait, else as a [`Job`].
//!
//! COMPARE AND WRITE and ORWRITE must not have another write of the unit between their reading and writing. So every
//! write holds one share of the unit's [`Exclusion`] while it touches the medium, and those two hold all shares. Each
//! thread has a share of its own: writers of different threads never meet in a lock.

use super::{Buffers, Lender, Loan, Medium, MediumError};
use bytes::Bytes;
use onggi_block_scsi::media::LBA_STATUS_DESCRIPTORS_MAX;
use onggi_block_scsi::{Capacity, Fill, LbaRange, LbaStatus, MediaFailure, MediaOp, MediaResult};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What is read at once, from the page cache and on the connection's thread; more goes to a media thread.
const INLINE_READ_BYTES_MAX: u64 = 1 << 20;
/// A shorter read is copied: that costs less than the system calls of its own that lent bytes need.
const LENT_READ_BYTES_MIN: u64 = 64 << 10;
/// The same for writes, which the kernel may make wait.
const INLINE_WRITE_BYTES_MAX: u64 = 256 << 10;
/// Comparing and verifying go through a buffer of this size.
const COMPARE_BYTES: u64 = 1 << 20;

/// Keeps two-step writes apart from all other writes of a unit.
#[derive(Debug)]
pub(crate) struct Exclusion {
    shares: Box<[Share]>,
    /// Odd while a write is under way that readers must not see a part of.
    atomic_writes: AtomicU64,
    lender: Arc<Lender>,
}

/// Keeps all other writes and all reads of a unit away while it lives.
#[derive(Debug)]
pub(crate) struct Alone<'a> {
    exclusion: &'a Exclusion,
    _guards: Vec<RwLockWriteGuard<'a, ()>>,
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.exclusion.atomic_writes.fetch_add(1, Ordering::SeqCst);
    }
}

// A share has a cache line of its own, so that taking it disturbs no other thread.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Share(RwLock<()>);

/// Which share a thread takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareIndex(pub(crate) usize);

impl Exclusion {
    /// Shares for so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            shares: (0..threads.max(1)).map(|_| Share::default()).collect(),
            atomic_writes: AtomicU64::new(0),
            lender: Arc::default(),
        }
    }

    fn share(&self, index: ShareIndex) -> &RwLock<()> {
        &self.shares[index.0 % self.shares.len()].0
    }

    pub(crate) fn shared(&self, index: ShareIndex) -> RwLockReadGuard<'_, ()> {
        // There is no data behind the lock that a panic could have left half-made.
        self.share(index)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn try_shared(&self, index: ShareIndex) -> Option<RwLockReadGuard<'_, ()>> {
        self.share(index).try_read().ok()
    }

    /// Keeps reads away too: those on media threads by their share, cached ones by [`Exclusion::atomic_writes`], which
    /// they look at before and after.
    pub(crate) fn alone_with_readers(&self) -> Alone<'_> {
        let guards = self.alone();
        self.atomic_writes.fetch_add(1, Ordering::SeqCst);
        Alone {
            exclusion: self,
            _guards: guards,
        }
    }

    /// Lends nothing any more. True if nobody can still be taking bytes that were lent.
    pub(crate) fn stop_lending(&self) -> bool {
        self.lender.stop()
    }

    // None while one is under way.
    fn atomic_writes(&self) -> Option<u64> {
        let count = self.atomic_writes.load(Ordering::SeqCst);
        count.is_multiple_of(2).then_some(count)
    }

    /// Returns when every write that had begun has ended.
    pub(crate) fn wait_for_writers(&self) {
        drop(self.alone());
    }

    fn alone(&self) -> Vec<RwLockWriteGuard<'_, ()>> {
        self.shares
            .iter()
            .map(|share| share.0.write().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }
}

/// What the commands of a nexus carry to the medium: once it is void, none of them changes anything more.
///
/// It is looked at while the command holds its share of the [`Exclusion`]. Whoever voids tickets and then waits for the
/// writers knows that no write of those commands comes later.
#[derive(Debug, Default)]
pub(crate) struct Ticket(AtomicBool);

impl Ticket {
    /// Ends the commands that carry it.
    pub(crate) fn void(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_void(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// A media operation with everything it needs.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) op: MediaOp,
    /// The command's data.
    pub(crate) data: Bytes,
    pub(crate) medium: Arc<dyn Medium>,
    pub(crate) exclusion: Arc<Exclusion>,
    pub(crate) capacity: Capacity,
    pub(crate) ticket: Arc<Ticket>,
}

/// What came of a media operation, and the data it read.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) result: MediaResult,
    pub(crate) data_in: Bytes,
    /// Whether the answer has to wait for a flush.
    pub(crate) needs_flush: bool,
}

impl Finished {
    pub(crate) const fn with(result: MediaResult) -> Self {
        Self {
            result,
            data_in: Bytes::new(),
            needs_flush: false,
        }
    }
}

fn usize_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// What the initiator is told of an error of the medium.
pub(crate) fn failed(error: &MediumError) -> MediaResult {
    MediaResult::Failed(match error {
        MediumError::Read { .. } | MediumError::Open { .. } | MediumError::TooShort { .. } => {
            MediaFailure::Read
        }
        MediumError::Write { source, .. } => match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => MediaFailure::OutOfSpace,
            _ => MediaFailure::Write,
        },
        MediumError::Poisoned => MediaFailure::Write,
        MediumError::Fenced => MediaFailure::Fenced,
    })
}

/// What a read gives, to be sent from the page cache, where that is worth it.
pub(crate) fn lend(job: &Job) -> Option<(Loan, u32)> {
    let MediaOp::Read { range } = &job.op else {
        return None;
    };
    let length = range.byte_length();
    if !(LENT_READ_BYTES_MIN..=INLINE_READ_BYTES_MAX).contains(&length) {
        return None;
    }
    let lending = job.exclusion.lender.lend()?;
    let loan = job.medium.lend(range.byte_offset(), length, lending)?;
    Some((loan, u32::try_from(length).ok()?))
}

/// Carries the operation out if it cannot make the thread wait; gives it back if it can.
///
/// Small writes go to the page cache here. The kernel may make a writer wait when too much is dirty; that is its way
/// of slowing down who writes faster than the disk, and bounded.
pub(crate) fn try_inline(
    job: Job,
    share: ShareIndex,
    buffers: &Arc<Buffers>,
) -> Result<Finished, Job> {
    match &job.op {
        MediaOp::Read { range } if range.byte_length() <= INLINE_READ_BYTES_MAX => {
            let atomic_writes = job.exclusion.atomic_writes();
            if atomic_writes.is_none() {
                return Err(job);
            }
            let length = usize_of(range.byte_length());
            let mut buffer = buffers.take(length);
            match job.medium.try_read(range.byte_offset(), buffer.as_mut()) {
                // A part of an atomic write may have been read.
                Ok(true) if job.exclusion.atomic_writes() != atomic_writes => Err(job),
                Ok(true) => Ok(Finished {
                    data_in: buffer.freeze(),
                    ..Finished::with(MediaResult::Done)
                }),
                Ok(false) => Err(job),
                Err(error) => Ok(report(&job.op, &error)),
            }
        }
        MediaOp::Write { range, fua } if range.byte_length() <= INLINE_WRITE_BYTES_MAX => {
            let fua = *fua;
            let Some(guard) = job.exclusion.try_shared(share) else {
                return Err(job);
            };
            if job.ticket.is_void() {
                return Ok(aborted());
            }
            let written = write(&job, *range);
            drop(guard);
            Ok(match written {
                Ok(()) => Finished {
                    needs_flush: fua,
                    ..Finished::with(MediaResult::Done)
                },
                Err(error) => report(&job.op, &error),
            })
        }
        MediaOp::Flush => Ok(Finished {
            needs_flush: true,
            ..Finished::with(MediaResult::Done)
        }),
        _ => Err(job),
    }
}

/// Carries the operation out, however long it takes.
pub(crate) fn carry_out(job: &Job, share: ShareIndex) -> Finished {
    match perform(job, share) {
        Ok(finished) => finished,
        Err(error) => report(&job.op, &error),
    }
}

fn report(op: &MediaOp, error: &MediumError) -> Finished {
    if !matches!(error, MediumError::Fenced | MediumError::Poisoned) {
        tracing::warn!(%error, ?op, "the medium failed");
    }
    Finished::with(failed(error))
}

/// What comes of a command whose ticket is void.
pub(crate) const fn aborted() -> Finished {
    Finished::with(MediaResult::Failed(MediaFailure::Aborted))
}

fn done(needs_flush: bool) -> Finished {
    Finished {
        needs_flush,
        ..Finished::with(MediaResult::Done)
    }
}

fn perform(job: &Job, share: ShareIndex) -> Result<Finished, MediumError> {
    match &job.op {
        MediaOp::Read { .. } => {
            let _guard = job.exclusion.shared(share);
            look(job)
        }
        MediaOp::Verify { .. }
        | MediaOp::Compare { .. }
        | MediaOp::Prefetch { .. }
        | MediaOp::Usage { .. }
        | MediaOp::Status { .. } => look(job),
        MediaOp::Flush => Ok(done(true)),
        // The unit itself does these: see Unit::perform.
        MediaOp::Settle { .. }
        | MediaOp::WriteAtomic { .. }
        | MediaOp::Sanitize { .. }
        | MediaOp::ExitSanitize
        | MediaOp::Copy { .. } => Ok(Finished::with(MediaResult::Failed(MediaFailure::Write))),
        MediaOp::Write { .. }
        | MediaOp::WriteAndVerify { .. }
        | MediaOp::Unmap { .. }
        | MediaOp::WriteSame { .. } => {
            let _guard = job.exclusion.shared(share);
            if job.ticket.is_void() {
                return Ok(aborted());
            }
            change(job)
        }
        MediaOp::CompareAndWrite { .. } | MediaOp::OrWrite { .. } => {
            let _guards = job.exclusion.alone();
            if job.ticket.is_void() {
                return Ok(aborted());
            }
            change(job)
        }
    }
}

// Operations that leave the medium as it is.
fn look(job: &Job) -> Result<Finished, MediumError> {
    let medium = &job.medium;
    Ok(match &job.op {
        MediaOp::Read { range } => {
            let bytes = medium.read(range.byte_offset(), usize_of(range.byte_length()))?;
            Finished {
                data_in: Bytes::from(bytes),
                ..done(false)
            }
        }
        MediaOp::Verify { range } => {
            for (offset, length) in steps(*range) {
                medium.read(offset, length)?;
            }
            done(false)
        }
        MediaOp::Compare { range, repeated } => Finished::with(compare(job, *range, *repeated)?),
        MediaOp::Prefetch { range } => {
            medium.prefetch(range.byte_offset(), range.byte_length());
            done(false)
        }
        MediaOp::Status { range, .. } => Finished::with(MediaResult::Status(status(job, *range)?)),
        MediaOp::Usage { .. } => Finished::with(MediaResult::Usage(medium.usage()?)),
        _ => done(false),
    })
}

// Operations that change the medium; the caller holds the exclusion as each needs it.
fn change(job: &Job) -> Result<Finished, MediumError> {
    let medium = &job.medium;
    Ok(match &job.op {
        MediaOp::Write { range, fua } => {
            write(job, *range)?;
            done(*fua)
        }
        MediaOp::WriteAndVerify {
            range,
            compare: compares,
        } => {
            write(job, *range)?;
            let result = if *compares {
                compare(job, *range, false)?
            } else {
                MediaResult::Done
            };
            Finished {
                needs_flush: true,
                ..Finished::with(result)
            }
        }
        MediaOp::Unmap { ranges } => {
            for range in ranges {
                medium.zero(range.byte_offset(), range.byte_length(), true)?;
            }
            done(false)
        }
        MediaOp::WriteSame {
            range,
            fill,
            unmap,
            fua,
        } => {
            write_same(job, *range, *fill, *unmap)?;
            done(*fua)
        }
        MediaOp::CompareAndWrite { range, fua } => {
            let result = compare_and_write(job, *range)?;
            let is_done = result == MediaResult::Done;
            Finished {
                needs_flush: *fua && is_done,
                ..Finished::with(result)
            }
        }
        MediaOp::OrWrite { range, fua } => {
            let mut bytes = medium.read(range.byte_offset(), usize_of(range.byte_length()))?;
            for (byte, mask) in bytes.iter_mut().zip(&job.data) {
                *byte |= mask;
            }
            medium.write(range.byte_offset(), &bytes)?;
            done(*fua)
        }
        _ => done(false),
    })
}

// The range is never longer than the data that came.
fn write(job: &Job, range: LbaRange) -> Result<(), MediumError> {
    let bytes = job
        .data
        .get(..usize_of(range.byte_length()))
        .unwrap_or(&job.data);
    job.medium.write(range.byte_offset(), bytes)
}

fn write_same(job: &Job, range: LbaRange, fill: Fill, unmap: bool) -> Result<(), MediumError> {
    let block = job
        .data
        .get(..usize_of(u64::from(range.block_size().bytes())))
        .unwrap_or_default();
    if fill == Fill::Zeros || block.iter().all(|byte| *byte == 0) {
        return job
            .medium
            .zero(range.byte_offset(), range.byte_length(), unmap);
    }
    let step = COMPARE_BYTES.min(range.byte_length());
    let pattern = block.repeat(usize_of(range.block_size().blocks_in(step)));
    for (offset, length) in steps(range) {
        job.medium.write(offset, &pattern[..length])?;
    }
    Ok(())
}

// The range in pieces: (offset, length) of at most COMPARE_BYTES.
pub(crate) fn steps(range: LbaRange) -> impl Iterator<Item = (u64, usize)> {
    let (start, length) = (range.byte_offset(), range.byte_length());
    (0..length.div_ceil(COMPARE_BYTES)).map(move |step| {
        let done = step * COMPARE_BYTES;
        (start + done, usize_of(COMPARE_BYTES.min(length - done)))
    })
}

/// Turns every bit over.
pub(crate) fn invert(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = !*byte;
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> Option<u64> {
    if one == other {
        return None;
    }
    let at = one.iter().zip(other).position(|(one, other)| one != other);
    at.and_then(|at| u64::try_from(at).ok())
}

fn compare(job: &Job, range: LbaRange, repeated: bool) -> Result<MediaResult, MediumError> {
    let block = usize_of(u64::from(range.block_size().bytes()));
    let mut done = 0usize;
    for (offset, length) in steps(range) {
        let found = job.medium.read(offset, length)?;
        let difference = if repeated {
            let wanted = job.data.get(..block).unwrap_or_default();
            found
                .chunks(block)
                .find_map(|chunk| first_difference(chunk, wanted))
        } else {
            let wanted = job
                .data
                .get(done..done.saturating_add(length))
                .unwrap_or_default();
            let before = u64::try_from(done).unwrap_or(u64::MAX);
            first_difference(&found, wanted).map(|at| before.saturating_add(at))
        };
        if let Some(offset) = difference {
            return Ok(MediaResult::Miscompare { offset });
        }
        done = done.saturating_add(length);
    }
    Ok(MediaResult::Done)
}

fn compare_and_write(job: &Job, range: LbaRange) -> Result<MediaResult, MediumError> {
    let length = usize_of(range.byte_length());
    let Some((wanted, rest)) = job.data.split_at_checked(length) else {
        return Ok(MediaResult::Failed(MediaFailure::Write));
    };
    let found = job.medium.read(range.byte_offset(), length)?;
    if let Some(offset) = first_difference(&found, wanted) {
        return Ok(MediaResult::Miscompare { offset });
    }
    job.medium
        .write(range.byte_offset(), rest.get(..length).unwrap_or(rest))?;
    Ok(MediaResult::Done)
}

// Runs of bytes as runs of blocks. A block that is data in part is mapped, so holes shrink to whole blocks.
fn status(job: &Job, range: LbaRange) -> Result<Vec<LbaStatus>, MediumError> {
    let block = u64::from(range.block_size().bytes());
    let runs = job.medium.mapped(
        range.byte_offset(),
        range.byte_length(),
        LBA_STATUS_DESCRIPTORS_MAX,
    )?;
    let mut extents = Vec::with_capacity(runs.len());
    let (mut first, mut end_bytes) = (range.first().number(), 0);
    for run in runs {
        end_bytes += run.length;
        let end = range.first().number()
            + if run.is_data {
                end_bytes.div_ceil(block)
            } else {
                end_bytes / block
            };
        if end > first
            && let Ok(blocks) = job.capacity.range(first, end - first)
        {
            extents.push(LbaStatus {
                range: blocks,
                is_mapped: run.is_data,
            });
            first = end;
        }
    }
    Ok(extents)
}

#[cfg(test)]
mod tests;

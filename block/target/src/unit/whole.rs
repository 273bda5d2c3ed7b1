//! Operations that concern a unit as a whole: what it keeps across restarts goes with them.

use super::{Unit, lock};
use crate::copying::Side;
use crate::kept::Keeper;
use crate::medium::{Finished, Job, MediumError, ShareIndex, aborted, failed, invert, steps};
use crate::store::StoreError;
use onggi_block_scsi::{
    CopyProgress, Erasure, LbaRange, MediaFailure, MediaOp, MediaResult, Nexus,
};
use std::sync::Arc;
use std::time::Duration;

/// Why a sanitize or an atomic write was not done.
#[derive(Debug, thiserror::Error)]
enum WholeError {
    #[error(transparent)]
    Medium(#[from] MediumError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no place to keep it in")]
    NoKeeper,
}

impl WholeError {
    fn result(&self) -> MediaResult {
        match self {
            Self::Medium(error) => failed(error),
            Self::Store(_) | Self::NoKeeper => MediaResult::Failed(MediaFailure::Save),
        }
    }
}

fn finished(what: &str, done: Result<(), WholeError>) -> Finished {
    Finished::with(match done {
        Ok(()) => MediaResult::Done,
        Err(error) => {
            tracing::error!(%error, "{what} failed");
            error.result()
        }
    })
}

impl Unit {
    /// Carries a job out if it concerns the unit as a whole.
    pub(crate) fn perform(&self, job: &Job) -> Option<Finished> {
        Some(match &job.op {
            MediaOp::Settle { saves, .. } => self.settle(*saves),
            MediaOp::WriteAtomic { range } => self.write_atomic(job, *range),
            MediaOp::ExitSanitize => self.exit_sanitize(),
            _ => return None,
        })
    }

    // When it returns, no command with a void ticket touches the medium, and the reservations are on stable storage if
    // they have to be.
    fn settle(&self, saves: bool) -> Finished {
        self.exclusion.wait_for_writers();
        if !saves {
            return Finished::with(MediaResult::Done);
        }
        let saved = self.with_keeper(|keeper| {
            // Asked for under the keeper's lock: the latest reservations are what stays.
            let saved = lock(&self.state).logical.saved_reservations();
            Ok(keeper.save_reservations(saved.as_ref())?)
        });
        finished("keeping reservations", saved)
    }

    fn with_keeper(
        &self,
        act: impl FnOnce(&Keeper) -> Result<(), WholeError>,
    ) -> Result<(), WholeError> {
        let keeper = lock(&self.keeper);
        act(keeper.as_ref().ok_or(WholeError::NoKeeper)?)
    }

    /// Keeps that sanitizing has begun; nothing has been done to the medium before.
    pub(crate) fn begin_sanitize(&self, job: &Job) -> Finished {
        let MediaOp::Sanitize {
            unrestricted_exit, ..
        } = &job.op
        else {
            return Finished::with(MediaResult::Done);
        };
        let begun = self.with_keeper(|keeper| Ok(keeper.begin_sanitize(*unrestricted_exit)?));
        if begun.is_err() {
            self.change(|state| state.logical.sanitized(true));
        }
        finished("beginning to sanitize", begun)
    }

    /// Sanitizes; the unit answers again when this returns.
    pub(crate) fn sanitize(&self, job: &Job, share: ShareIndex) -> Finished {
        let MediaOp::Sanitize { range, erasure, .. } = &job.op else {
            return Finished::with(MediaResult::Done);
        };
        self.exclusion.wait_for_writers();
        let pace = self.sanitize_bytes_per_second;
        let done = erase(job, (*range, erasure), share, pace)
            .map_err(WholeError::from)
            .and_then(|()| self.with_keeper(|keeper| Ok(keeper.end_sanitize()?)));
        self.change(|state| state.logical.sanitized(done.is_ok()));
        finished("sanitizing", done)
    }

    /// There are no means to sanitize: the unit says that it failed.
    pub(crate) fn give_sanitize_up(&self) -> Finished {
        self.change(|state| state.logical.sanitized(false));
        Finished::with(MediaResult::Failed(MediaFailure::Write))
    }

    fn exit_sanitize(&self) -> Finished {
        let done = self.with_keeper(|keeper| Ok(keeper.end_sanitize()?));
        if done.is_ok() {
            self.change(|state| state.logical.sanitized(true));
        }
        finished("leaving the sanitize failure mode", done)
    }

    // The bytes are kept first, so that a write that is cut off is finished when the unit is opened again.
    fn write_atomic(&self, job: &Job, range: LbaRange) -> Finished {
        if !self.exclusion.stop_lending() {
            return Finished::with(MediaResult::Busy);
        }
        let _alone = self.exclusion.alone_with_readers();
        if job.ticket.is_void() {
            return aborted();
        }
        let (offset, length) = (range.byte_offset(), range.byte_length());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(bytes) = job.data.get(..length) else {
            return Finished::with(MediaResult::Failed(MediaFailure::Write));
        };
        let done = self.with_keeper(|keeper| {
            let before = job.medium.read(offset, length)?;
            keeper.begin_atomic(offset, bytes)?;
            if let Err(error) = job.medium.write(offset, bytes) {
                // A part of it may be written (the file system is full): nothing of it shall be.
                job.medium.write(offset, &before)?;
                keeper.end_atomic()?;
                return Err(error.into());
            }
            job.medium.flush()?;
            Ok(keeper.end_atomic()?)
        });
        finished("an atomic write", done)
    }

    /// The unit as one side of a copy, for this nexus.
    pub(crate) fn side(&self, nexus: &Nexus) -> Side {
        let state = lock(&self.state);
        Side {
            access: state.logical.copy_access(nexus),
            medium: Arc::clone(&state.medium),
            exclusion: Arc::clone(&self.exclusion),
            ticket: state.ticket(nexus),
        }
    }

    /// A copy of this nexus has ended.
    pub(crate) fn copied(
        &self,
        nexus: &Nexus,
        list_id: u8,
        progress: CopyProgress,
        is_whole: bool,
    ) {
        lock(&self.state)
            .logical
            .copied(nexus, list_id, progress, is_whole);
    }
}

fn erase(
    job: &Job,
    (range, erasure): (LbaRange, &Erasure),
    share: ShareIndex,
    bytes_per_second: u64,
) -> Result<(), MediumError> {
    match erasure {
        Erasure::Erase => {
            let _guard = job.exclusion.shared(share);
            job.medium
                .zero(range.byte_offset(), range.byte_length(), true)?;
        }
        Erasure::Overwrite {
            block,
            passes,
            inverts,
        } => {
            for pass in (0..*passes).rev() {
                // The last pass leaves the block as it was given.
                let mut block = block.clone();
                if *inverts && pass % 2 == 1 {
                    invert(&mut block);
                }
                overwrite(job, (range, &block), share, bytes_per_second)?;
                job.medium.flush()?;
            }
        }
    }
    job.medium.flush()
}

fn overwrite(
    job: &Job,
    (range, block): (LbaRange, &[u8]),
    share: ShareIndex,
    bytes_per_second: u64,
) -> Result<(), MediumError> {
    let mut pattern = Vec::new();
    for (offset, length) in steps(range) {
        if pattern.len() < length {
            pattern = block.repeat(length.div_ceil(block.len().max(1)));
        }
        if let Some(bytes) = pattern.get(..length) {
            let _guard = job.exclusion.shared(share);
            job.medium.write(offset, bytes)?;
        }
        // The step's share of a second; writing it took some time too, so that the pace is kept from below.
        let nanoseconds = u64::try_from(length)
            .unwrap_or(u64::MAX)
            .saturating_mul(1_000_000_000);
        std::thread::sleep(Duration::from_nanos(nanoseconds / bytes_per_second.max(1)));
    }
    Ok(())
}

//! What removed volumes leave behind: zeroed in the background, at a bounded rate, then given back.
//!
//! The list of what is to be done is the volume group itself (`onggi-zeroing-*`), so a restart goes on where the last
//! run ended.

use crate::error::PoolError;
use crate::lvm::names::is_zeroing;
use crate::lvm::volumes::Shared;
use crate::zero;
use core::time::Duration;
use onggi_common_units::ByteCount;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How long to wait before trying again what failed.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// What the callers and the background thread tell each other.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    is_stopping: bool,
    is_pending: bool,
    is_busy: bool,
    /// How many volumes have been given back.
    reclaimed: u64,
}

impl Reclaim {
    /// There is something to do.
    pub(crate) fn wake(&self) {
        self.lock().is_pending = true;
        self.changed.notify_all();
    }

    /// Ends the background thread at the next chunk.
    pub(crate) fn stop(&self) {
        self.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Waits until nothing is left to do, or the limit is reached. Whether nothing is left.
    pub(crate) fn wait_idle(&self, limit: Duration) -> bool {
        let is_working =
            |state: &mut State| (state.is_pending || state.is_busy) && !state.is_stopping;
        let outcome = self
            .changed
            .wait_timeout_while(self.lock(), limit, is_working);
        !outcome
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .timed_out()
    }

    /// How many volumes have been given back so far.
    pub(crate) fn reclaimed(&self) -> u64 {
        self.lock().reclaimed
    }

    /// Waits until more than `seen` volumes have been given back. False when the limit is reached or nobody works on it.
    pub(crate) fn wait_reclaimed(&self, seen: u64, limit: Duration) -> bool {
        let is_waiting = |state: &mut State| {
            state.reclaimed == seen && (state.is_pending || state.is_busy) && !state.is_stopping
        };
        let outcome = self
            .changed
            .wait_timeout_while(self.lock(), limit, is_waiting);
        outcome.unwrap_or_else(PoisonError::into_inner).0.reclaimed != seen
    }

    fn note_reclaimed(&self) {
        self.lock().reclaimed += 1;
        self.changed.notify_all();
    }

    /// Waits as long as `size` bytes take at this rate. False when the thread is to end.
    fn pace(&self, size: ByteCount, per_second: ByteCount) -> bool {
        let micros = size.bytes().saturating_mul(1_000_000) / per_second.bytes().max(1);
        let limit = Duration::from_micros(micros);
        let outcome = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| !state.is_stopping);
        !outcome
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .is_stopping
    }

    /// Waits for something to do, or for `retry` to pass. False when the thread is to end.
    fn wait_for_work(&self, retry: Option<Duration>) -> bool {
        let is_idle = |state: &mut State| !state.is_pending && !state.is_stopping;
        let guard = self.lock();
        let mut state = match retry {
            None => self
                .changed
                .wait_while(guard, is_idle)
                .unwrap_or_else(PoisonError::into_inner),
            Some(delay) => {
                let outcome = self.changed.wait_timeout_while(guard, delay, is_idle);
                outcome.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.is_pending = false;
        state.is_busy = true;
        !state.is_stopping
    }

    fn finish(&self) {
        self.lock().is_busy = false;
        self.changed.notify_all();
    }

    // The state is three flags: it is whole even if a thread panicked while it had the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The background thread.
pub(crate) fn serve(shared: &Shared) {
    let mut retry = None;
    while shared.reclaim.wait_for_work(retry) {
        let outcome = reclaim_all(shared);
        shared.reclaim.finish();
        retry = match outcome {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(group = %shared.group, %error, "a removed volume's space cannot be reclaimed yet");
                Some(RETRY_DELAY)
            }
        };
    }
    shared.reclaim.finish();
}

fn reclaim_all(shared: &Shared) -> Result<(), PoolError> {
    let mut first_error = None;
    for volume in shared
        .inventory()?
        .logical
        .iter()
        .filter(|volume| is_zeroing(&volume.name))
    {
        match reclaim_one(shared, &volume.name) {
            Ok(true) => {}
            // The thread is to end; the rest stays for the next start.
            Ok(false) => return Ok(()),
            // One that cannot be reclaimed does not keep the others.
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(()), Err)
}

fn reclaim_one(shared: &Shared, name: &str) -> Result<bool, PoolError> {
    // Looked up again: the extents of others move nothing here, but the group may have changed since.
    let group = shared.inventory()?;
    let Some(volume) = group.volume(name) else {
        return Ok(true);
    };
    let medium = shared.raw_medium(&group, volume)?;
    let pace = |size| shared.reclaim.pace(size, shared.reclaim_per_second);
    if !zero::clear(&medium, 0..medium.size().bytes(), pace)? {
        return Ok(false);
    }
    shared.deactivate(name)?;
    let full_name = shared.group.volume(name);
    shared
        .worker
        .run(["lvremove", "--yes", full_name.as_str()])?;
    shared.reclaim.note_reclaimed();
    tracing::info!(group = %shared.group, volume = name, size = %volume.size, "a removed volume's space is free again");
    Ok(true)
}

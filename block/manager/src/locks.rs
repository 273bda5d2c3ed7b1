//! One thing at a time for each volume.

use onggi_block_volume::VolumeId;
use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};

/// Which volumes are being worked on.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    held: Mutex<BTreeSet<VolumeId>>,
    freed: Condvar,
}

/// The right to work on a volume.
pub(crate) struct Held<'a> {
    locks: &'a Locks,
    volume: VolumeId,
}

impl Locks {
    /// Waits until nobody else works on the volume.
    pub(crate) fn hold(&self, volume: VolumeId) -> Held<'_> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while !held.insert(volume) {
            held = self
                .freed
                .wait(held)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Held {
            locks: self,
            volume,
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.locks
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.volume);
        self.locks.freed.notify_all();
    }
}

//! Locks over the hash space: whoever changes a row or its slot's digest holds the slot's stripe.

use onggi_object_wire::Slot;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many there are. More than the threads that write at a time, so that these seldom meet.
const COUNT: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Stripes(Vec<Mutex<()>>);

impl Stripes {
    pub(crate) fn new() -> Self {
        Self((0..COUNT).map(|_| Mutex::new(())).collect())
    }

    /// Which stripe a slot is in.
    pub(crate) fn index(slot: Slot) -> usize {
        usize::try_from(slot.number()).unwrap_or(0) % COUNT
    }

    /// Nobody else changes rows or digests of the slot, of whatever scope, while the guard lives.
    pub(crate) fn lock(&self, slot: Slot) -> MutexGuard<'_, ()> {
        self.lock_index(Self::index(slot))
    }

    fn lock_index(&self, index: usize) -> MutexGuard<'_, ()> {
        // The guarded state is in the store and the digests, each changed in one step: a panic leaves both whole.
        self.0[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for several stripes. They are ordered, so that two who lock several do not wait for each other.
    pub(crate) fn lock_all(&self, indices: &BTreeSet<usize>) -> Vec<MutexGuard<'_, ()>> {
        let known = indices.iter().filter(|index| **index < COUNT);
        known.map(|index| self.lock_index(*index)).collect()
    }
}

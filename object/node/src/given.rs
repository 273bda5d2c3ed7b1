//! What a stand-in has given to those primaries it can reach, while another one is away.
//!
//! It keeps all of it until every primary has it, which may take as long as a new disk takes to come. In each pass until then
//! it would ask the others again whether they have every row.

use crate::disks::Disk;
use onggi_object_ring::DeviceId;
use onggi_object_wire::Digest;
use onggi_object_wire::replication::Scope;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

/// After so many passes the others are asked again all the same: they may have lost it.
const PASSES_MAX: u8 = 60;

/// Partitions that were given, at most as many as the device stands in for.
pub(crate) type GivenBefore = BTreeMap<(Scope, u32), Before>;

/// What a partition held when it was given, who took it, and how many passes ago that was.
#[derive(Debug)]
pub(crate) struct Before {
    digest: Digest,
    takers: BTreeSet<DeviceId>,
    passes: u8,
}

/// Partitions of a stand-in with what they hold.
pub(crate) struct Given {
    pub(crate) scope: Scope,
    pub(crate) units: Vec<(u32, Digest)>,
}

fn lock(disk: &Disk) -> MutexGuard<'_, GivenBefore> {
    // An entry is changed in one step.
    disk.given().lock().unwrap_or_else(PoisonError::into_inner)
}

fn reached(primaries: &[DeviceId], failed: &BTreeSet<DeviceId>) -> BTreeSet<DeviceId> {
    let reached = primaries.iter().filter(|id| !failed.contains(id));
    reached.copied().collect()
}

impl Given {
    /// Whether some primary cannot be reached and all others have taken just this before.
    pub(crate) fn is_all_that_can_be(
        &self,
        disk: &Disk,
        primaries: &[DeviceId],
        failed: &BTreeSet<DeviceId>,
    ) -> bool {
        let reached = reached(primaries, failed);
        if reached.len() == primaries.len() {
            return false;
        }
        let mut given = lock(disk);
        self.units.iter().all(|(unit, digest)| {
            let Some(before) = given.get_mut(&(self.scope, *unit)) else {
                return false;
            };
            before.passes = before.passes.saturating_add(1);
            before.digest == *digest
                && before.takers.is_superset(&reached)
                && before.passes < PASSES_MAX
        })
    }

    /// Those primaries that did not fail have taken it.
    pub(crate) fn note(&self, disk: &Disk, primaries: &[DeviceId], failed: &BTreeSet<DeviceId>) {
        let reached = reached(primaries, failed);
        let mut given = lock(disk);
        for (unit, digest) in &self.units {
            let before = Before {
                digest: *digest,
                takers: reached.clone(),
                passes: 0,
            };
            given.insert((self.scope, *unit), before);
        }
    }

    /// It went home.
    pub(crate) fn forget(&self, disk: &Disk) {
        let mut given = lock(disk);
        for (unit, _) in &self.units {
            given.remove(&(self.scope, *unit));
        }
    }
}

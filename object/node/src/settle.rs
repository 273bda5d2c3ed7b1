//! Raising horizons: letting tombstones go that every primary has (O6).

use crate::compare::{Round, Tally};
use crate::disks::Disk;
use crate::receive::kind_of;
use crate::server::Node;
use onggi_object_device::reclaim::{Cover, slots_of, units_of};
use onggi_object_device::split::UnitDigests;
use onggi_object_ring::{DeviceId, Partition, Ring};
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Digest, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

/// Partitions that hold nothing of which peers are asked together: so many bound the memory that takes.
const EMPTY_UNITS_AT_ONCE: usize = 1 << 16;

/// What a pass has learnt of partitions smaller than a slot.
pub(crate) struct Seen<'a> {
    pub(crate) held: &'a UnitDigests,
    pub(crate) tally: &'a Tally,
    /// Peers that did not answer.
    pub(crate) away: BTreeSet<DeviceId>,
}

/// Slots that could not be settled because of peers that are away. They are left alone until something has changed: to go
/// through all their partitions again in each pass costs the more, the larger a ring is.
#[derive(Debug)]
pub(crate) struct Blocked {
    ring: Arc<Ring>,
    horizon: u16,
    away: BTreeSet<DeviceId>,
    slots: BTreeSet<Slot>,
}

impl Blocked {
    /// What is known of such slots, if it is of this ring, day and absence.
    fn take(disk: &Disk, ring: &Arc<Ring>, round: Round, away: &BTreeSet<DeviceId>) -> Self {
        let mut all = disk
            .blocked()
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = all.remove(&round.scope).filter(|known| {
            let is_of_now = Arc::ptr_eq(&known.ring, ring) && known.horizon == round.horizon;
            is_of_now && known.away == *away
        });
        known.unwrap_or_else(|| Self {
            ring: Arc::clone(ring),
            horizon: round.horizon,
            away: away.clone(),
            slots: BTreeSet::new(),
        })
    }
}

/// A slot whose partitions with rows are agreed, on its way to a horizon.
struct Candidate {
    slot: Slot,
    cover: Cover,
    /// Who has to agree about its empty partitions.
    peers: BTreeSet<DeviceId>,
}

impl Node {
    /// Raises the horizon of partitions whose primaries all hold the same, and lets settled tombstones go.
    pub(crate) async fn settle(&self, disk: &Disk, round: Round, tally: &Tally) {
        let slots = tally.agreed().flat_map(|unit| slots_of(unit, round.bits));
        let slots = slots.map(|slot| (slot, Cover::Whole)).collect();
        self.reclaim(disk, round, slots).await;
    }

    /// The same where a slot has several partitions: its horizon speaks for those of which this device is a primary, and is
    /// raised when each of them, empty ones among them, is seen to be the same on all its primaries. Empty ones are asked
    /// about only here, once a day, some slots at a time: they may be far more than those that hold anything.
    pub(crate) async fn settle_parts(
        &self,
        disk: &Disk,
        (ring, own): (&Arc<Ring>, DeviceId),
        round: Round,
        mut seen: Seen<'_>,
    ) {
        let open = seen.tally.open();
        let open: BTreeSet<Slot> = open.flat_map(|unit| slots_of(unit, round.bits)).collect();
        let mut blocked = Blocked::take(disk, ring, round, &seen.away);
        let mut behind = disk.device().slots_behind(round.scope, round.horizon);
        behind.retain(|slot| {
            let is_known = blocked.slots.contains(slot) || seen.held.unread.contains(slot);
            !is_known && !open.contains(slot)
        });
        let at_once = EMPTY_UNITS_AT_ONCE >> round.bits.saturating_sub(SLOT_BITS).min(SLOT_BITS);
        for slots in behind.chunks(at_once.max(1)) {
            let mut asked: BTreeMap<DeviceId, Vec<(u32, Digest)>> = BTreeMap::new();
            let mut candidates = Vec::new();
            for slot in slots {
                let found = candidate(ring, own, *slot, round.bits, seen.held);
                let (candidate, empty) = found;
                if !candidate.peers.is_disjoint(&blocked.away) {
                    blocked.slots.insert(candidate.slot);
                }
                if !candidate.peers.is_disjoint(&seen.away) {
                    continue;
                }
                for (peer, units) in empty {
                    let units = units.into_iter().map(|unit| (unit, Digest::EMPTY));
                    asked.entry(peer).or_default().extend(units);
                }
                candidates.push(candidate);
            }
            let peers: BTreeSet<DeviceId> = asked.keys().copied().collect();
            let (said, _) = self.compare(disk, ring, round, asked).await;
            seen.away
                .extend(peers.into_iter().filter(|peer| !said.contains_key(peer)));
            candidates.retain(|candidate| {
                let differs = |peer: &DeviceId| {
                    let said = said.get(peer);
                    let mut units = units_of(candidate.slot, round.bits);
                    said.is_none_or(|(_, differing)| units.any(|unit| differing.contains(&unit)))
                };
                !candidate.peers.iter().any(differs)
            });
            let agreed = candidates.into_iter();
            let agreed = agreed.map(|candidate| (candidate.slot, candidate.cover));
            self.reclaim(disk, round, agreed.collect()).await;
        }
        if !blocked.slots.is_empty() {
            let mut all = disk
                .blocked()
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.insert(round.scope, blocked);
        }
    }

    async fn reclaim(&self, disk: &Disk, round: Round, slots: Vec<(Slot, Cover)>) {
        if slots.is_empty() {
            return;
        }
        let Round { scope, horizon, .. } = round;
        let reclaimed = disk.call(move |device| {
            let mut count = 0;
            for part in device.raise_horizons(scope, slots, horizon)? {
                count += match (scope, kind_of(scope)) {
                    (Scope::Objects(policy), _) => device.reclaim(policy, &part, horizon)?,
                    (_, Some(kind)) => device.reclaim_rosters(kind, &part, horizon)?,
                    (_, None) => 0,
                };
            }
            Ok(count)
        });
        match reclaimed.await {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(device = %disk.name, ?scope, count, "reclaimed tombstones");
            }
            Err(error) => tracing::error!(device = %disk.name, %error, "tombstones stay for now"),
        }
    }
}

/// A slot as this device could settle it, and which of its own partitions that hold nothing each peer has to agree about.
fn candidate(
    ring: &Ring,
    own: DeviceId,
    slot: Slot,
    bits: u32,
    held: &UnitDigests,
) -> (Candidate, BTreeMap<DeviceId, Vec<u32>>) {
    let mut empty: BTreeMap<DeviceId, Vec<u32>> = BTreeMap::new();
    let mut covered = Vec::new();
    for unit in units_of(slot, bits) {
        let copies = || ring.copies(Partition::new(unit));
        if !copies().any(|device| device == own) {
            continue;
        }
        covered.push(unit);
        if held.digests.contains_key(&unit) {
            continue;
        }
        for peer in copies().filter(|device| *device != own) {
            empty.entry(peer).or_default().push(unit);
        }
    }
    let candidate = Candidate {
        slot,
        cover: Cover::of(bits, covered),
        peers: empty.keys().copied().collect(),
    };
    (candidate, empty)
}

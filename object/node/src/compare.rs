//! What a device holds, and what its peers say of it: the first half of a pass.

use crate::disks::Disk;
use crate::moves::Said;
use crate::push::Peer;
use crate::replicator::{join_all, report};
use crate::rings::place;
use crate::server::Node;
use onggi_object_device::split::UnitDigests;
use onggi_object_replica::sync_plan::Duty;
use onggi_object_ring::{DeviceId, Partition, Ring};
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Digest, Slot};
use std::collections::{BTreeMap, BTreeSet};

/// What a device owes its peers under one ring.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The partitions shared with each other primary, with our digests.
    pub(crate) shared: BTreeMap<DeviceId, Vec<(u32, Digest)>>,
    /// The partitions to bring home, with their primaries.
    pub(crate) handoffs: Vec<(u32, Vec<DeviceId>)>,
    /// What each peer is asked about: the partitions shared with it, and those it may lack that are here in its place.
    pub(crate) asked: BTreeMap<DeviceId, Vec<(u32, Digest)>>,
}

/// What a device holds of each partition.
pub(crate) async fn held(disk: &Disk, round: Round) -> UnitDigests {
    let Round {
        scope,
        bits,
        horizon,
    } = round;
    if bits <= SLOT_BITS {
        // In memory.
        return disk.device().unit_digests(scope, bits, horizon, None);
    }
    let read = disk.call(move |device| Ok(device.unit_digests(scope, bits, horizon, None)));
    read.await.unwrap_or_else(|error| {
        tracing::error!(device = %disk.name, %error, "partitions are not compared");
        UnitDigests {
            digests: BTreeMap::new(),
            unread: (0..1 << SLOT_BITS).filter_map(Slot::new).collect(),
        }
    })
}

pub(crate) fn plan(
    ring: &Ring,
    disk: &Disk,
    own: Option<DeviceId>,
    round: Round,
    held: &BTreeMap<u32, Digest>,
) -> Plan {
    let mut plan = Plan::default();
    let mut units: BTreeSet<u32> = held.keys().copied().collect();
    // A partition that holds nothing has a horizon as well: what comes to it may have been deleted. (Those smaller than a
    // slot are many; they have a turn of their own, see `settle`.)
    let has_turn = round.horizon > 0 && round.bits <= SLOT_BITS;
    if let Some(own) = own.filter(|_| has_turn) {
        let device = disk.device();
        let behind = device.units_behind(round.scope, round.bits, round.horizon);
        let is_own = |unit: &u32| ring.is_primary(Partition::new(*unit), own);
        units.extend(behind.into_iter().filter(is_own));
    }
    for unit in units {
        let digest = held.get(&unit).copied().unwrap_or_default();
        let partition = Partition::new(unit);
        let duty = match own {
            Some(own) => Duty::of(ring, partition, own),
            // A device that is in no ring any more is a stand-in for everything it holds.
            None => {
                let primaries = ring.primaries(partition);
                Duty::Handoff {
                    primaries: primaries.iter().map(|device| device.id).collect(),
                }
            }
        };
        match duty {
            Duty::Primary { peers } => {
                for peer in peers {
                    let shared = plan.shared.entry(peer).or_default();
                    shared.push((unit, digest));
                    plan.asked.entry(peer).or_default().push((unit, digest));
                }
            }
            Duty::Handoff { primaries } => {
                for primary in &primaries {
                    let asked = plan.asked.entry(*primary).or_default();
                    asked.push((unit, digest));
                }
                plan.handoffs.push((unit, primaries));
            }
        }
    }
    plan
}

/// What is compared in a pass.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) scope: Scope,
    /// The hash bits that number the partitions.
    pub(crate) bits: u32,
    /// The last day whose tombstones may go; 0 where they stay.
    pub(crate) horizon: u16,
}

impl Node {
    /// Asks each peer which of the partitions it holds otherwise. Those that did not answer are returned beside.
    pub(crate) async fn compare(
        &self,
        disk: &Disk,
        ring: &Ring,
        round: Round,
        asked: BTreeMap<DeviceId, Vec<(u32, Digest)>>,
    ) -> (Said, BTreeSet<DeviceId>) {
        let asking = asked.into_iter().map(|(id, sums)| {
            let place = ring.device(id).and_then(place);
            async move {
                let place = place?;
                let peer = Peer {
                    node: self,
                    disk,
                    place,
                };
                let differing = peer.differing(round.scope, round.bits, round.horizon, &sums);
                let units: BTreeSet<u32> = sums.iter().map(|(unit, _)| *unit).collect();
                Some((id, units, differing.await))
            }
        });
        let (mut said, mut failed) = (Said::new(), BTreeSet::new());
        for (id, units, answer) in join_all(asking).await.into_iter().flatten() {
            match answer {
                Ok(differing) => {
                    said.insert(id, (units, differing.into_iter().collect()));
                }
                Err(error) => {
                    report(disk, Err(error));
                    failed.insert(id);
                }
            }
        }
        (said, failed)
    }
}

/// Which partitions were compared with whom.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By partition: peers that were to be asked, peers that hold the same, and whether any was heard.
    units: BTreeMap<u32, (usize, usize, bool)>,
}

impl Tally {
    /// What peers said, those apart that failed afterwards.
    pub(crate) fn of(
        shared: &BTreeMap<DeviceId, Vec<(u32, Digest)>>,
        said: &Said,
        failed: &BTreeSet<DeviceId>,
    ) -> Self {
        let mut tally = Self::default();
        for (peer, sums) in shared {
            let said = said.get(peer).filter(|_| !failed.contains(peer));
            for (unit, _) in sums {
                let (asked, same, is_heard) = tally.units.entry(*unit).or_default();
                *asked += 1;
                *same += usize::from(said.is_some_and(|(_, differing)| !differing.contains(unit)));
                *is_heard |= said.is_some();
            }
        }
        tally
    }

    /// The partitions that every peer holds as we do.
    pub(crate) fn agreed(&self) -> impl Iterator<Item = u32> {
        self.with_agreement(true)
    }

    /// Those of which that is not known, or not so.
    pub(crate) fn open(&self) -> impl Iterator<Item = u32> {
        self.with_agreement(false)
    }

    fn with_agreement(&self, is_agreed: bool) -> impl Iterator<Item = u32> {
        let units = self.units.iter();
        let meant = units.filter(move |(_, (asked, same, _))| (asked == same) == is_agreed);
        meant.map(|(unit, _)| *unit)
    }

    pub(crate) fn is_compared(&self) -> bool {
        self.units.values().all(|(_, _, is_heard)| *is_heard)
    }
}

//! What a device owes its peers for one partition.

use onggi_object_ring::{DeviceId, Partition, Ring};
use std::collections::{BTreeMap, BTreeSet};

/// What a device is to a partition it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Duty {
    /// One of its homes: compare with the other primaries, both ways.
    Primary {
        /// The others.
        peers: Vec<DeviceId>,
    },
    /// A stand-in: push to every primary, then let go.
    Handoff {
        /// Its homes.
        primaries: Vec<DeviceId>,
    },
}

impl Duty {
    /// What a device is to a partition.
    #[must_use]
    pub fn of(ring: &Ring, partition: Partition, own: DeviceId) -> Self {
        let mut devices: Vec<DeviceId> = ring
            .primaries(partition)
            .iter()
            .map(|device| device.id)
            .collect();
        if ring.is_primary(partition, own) {
            devices.retain(|id| *id != own);
            Self::Primary { peers: devices }
        } else {
            Self::Handoff { primaries: devices }
        }
    }

    /// The devices to talk to.
    #[must_use]
    pub fn peers(&self) -> &[DeviceId] {
        match self {
            Self::Primary { peers } => peers,
            Self::Handoff { primaries } => primaries,
        }
    }
}

/// A stand-in's copies on their way home. They may go only once every primary has them (O5), as they are now: what
/// changed since a primary confirmed is not confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover<D> {
    missing: BTreeSet<DeviceId>,
    pushed: D,
}

impl<D: PartialEq> Handover<D> {
    /// Begins with what is to be handed over, known by its digest.
    #[must_use]
    pub fn new(primaries: &[DeviceId], digest: D) -> Self {
        Self {
            missing: primaries.iter().copied().collect(),
            pushed: digest,
        }
    }

    /// A primary has everything that was pushed.
    pub fn on_confirmed(&mut self, device: DeviceId) {
        self.missing.remove(&device);
    }

    /// Whether the copies may go: all primaries confirmed, and nothing came in since.
    #[must_use]
    pub fn may_drop(&self, digest_now: &D) -> bool {
        self.missing.is_empty() && *digest_now == self.pushed
    }
}

/// The keys whose digests differ between two sides; a key that one side lacks differs.
#[must_use]
pub fn differing<K: Ord + Clone, D: PartialEq>(
    ours: &BTreeMap<K, D>,
    theirs: &BTreeMap<K, D>,
) -> Vec<K> {
    let keys: BTreeSet<&K> = ours.keys().chain(theirs.keys()).collect();
    keys.into_iter()
        .filter(|key| ours.get(key) != theirs.get(key))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::UtcTime;
    use onggi_object_ring::{NewDevice, PartPower, RingBuilder};

    #[test]
    fn a_duty_follows_the_ring() {
        let mut builder = RingBuilder::new(PartPower::new(4).unwrap(), 3.0, 1).unwrap();
        for node in 1..=4 {
            let ip = format!("127.0.0.{node}");
            builder
                .add(NewDevice::new(1, node, &ip, 6200, "d1", 1.0))
                .unwrap();
        }
        builder.rebalance(1, UtcTime::EPOCH).unwrap();
        let ring = builder.ring().unwrap();
        let mut handoffs = 0;
        for number in 0..16 {
            for own in (0..4).map(DeviceId::new) {
                match Duty::of(&ring, Partition::new(number), own) {
                    Duty::Primary { peers } => assert!(peers.len() == 2 && !peers.contains(&own)),
                    Duty::Handoff { primaries } => {
                        assert!(primaries.len() == 3 && !primaries.contains(&own));
                        handoffs += 1;
                    }
                }
            }
        }
        assert_eq!(handoffs, 16);
    }

    #[test]
    fn a_handoff_copy_stays_until_every_primary_has_it_as_it_is() {
        let primaries: Vec<DeviceId> = (0..3).map(DeviceId::new).collect();
        let mut handover = Handover::new(&primaries, 7u32);
        handover.on_confirmed(primaries[0]);
        handover.on_confirmed(primaries[1]);
        assert!(!handover.may_drop(&7));
        handover.on_confirmed(primaries[2]);
        assert!(handover.may_drop(&7));
        assert!(!handover.may_drop(&8), "a row came in after the push");
    }

    #[test]
    fn differences_include_what_one_side_lacks() {
        let ours = BTreeMap::from([(1, 'a'), (2, 'b'), (3, 'c')]);
        let theirs = BTreeMap::from([(2, 'b'), (3, 'x'), (4, 'd')]);
        assert_eq!(differing(&ours, &theirs), [1, 3, 4]);
    }
}

//! The cluster as the proxy sees it: rings, hash secrets, nodes, and which nodes are well.

use crate::clock::HybridClock;
use crate::heat::Heat;
use crate::options::{Options, Parts};
use crate::rings::{RingStore, Rings, RingsError};
use core::time::Duration;
use onggi_object_client::{Limiter, Nodes};
use onggi_object_model::{AccountName, ContainerPath, ObjectPath, Policy, PolicyIndex};
use onggi_object_replica::{Consistency, Quorum};
use onggi_object_ring::{Device, DeviceId, HashSecrets, Partition, PathHash, Ring};
use onggi_object_wire::{DeviceName, Place};
use std::sync::Arc;

/// Handoffs tried at most, per copy.
const HANDOFFS_PER_REPLICA: usize = 2;

/// A device and where to reach it.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) id: DeviceId,
    pub(crate) place: Arc<Place>,
}

/// A ring, and where to reach its devices.
#[derive(Debug)]
pub(crate) struct Layout {
    ring: Ring,
    /// By the devices' numbers.
    members: Vec<Option<Member>>,
}

impl Layout {
    pub(crate) fn new(ring: Ring) -> Self {
        let mut members = Vec::new();
        for device in ring.devices() {
            let place = device.id.index();
            if members.len() <= place {
                members.resize(place + 1, None);
            }
            if let Some(slot) = members.get_mut(place) {
                *slot = member(device);
            }
        }
        Self { ring, members }
    }

    fn member(&self, id: DeviceId) -> Option<Member> {
        self.members.get(id.index())?.clone()
    }
}

/// Where the copies of one thing are.
#[derive(Debug, Clone)]
pub(crate) struct Replicas {
    layout: Arc<Layout>,
    partition: Partition,
    pub(crate) hash: PathHash,
    pub(crate) primaries: Vec<Member>,
}

impl Replicas {
    fn new(layout: &Arc<Layout>, hash: PathHash) -> Self {
        let partition = layout.ring.partition(&hash);
        let primaries = layout
            .ring
            .primaries(partition)
            .into_iter()
            .filter_map(|device| layout.member(device.id))
            .collect();
        Self {
            layout: Arc::clone(layout),
            partition,
            hash,
            primaries,
        }
    }

    pub(crate) fn quorum(&self) -> Quorum {
        Quorum::of(self.primaries.len())
    }

    /// The primaries, apart from those that are left alone, unless too few would be left for a write: then they may be
    /// better than nothing.
    pub(crate) fn well(&self, limiter: &Limiter, now: Duration) -> Vec<Member> {
        let is_well = |member: &&Member| !limiter.is_limited(&member.place.address, now);
        let well: Vec<Member> = self.primaries.iter().filter(is_well).cloned().collect();
        if well.len() < self.quorum().writes() {
            return self.primaries.clone();
        }
        well
    }

    pub(crate) const fn partition(&self) -> Partition {
        self.partition
    }

    pub(crate) fn ids(&self) -> Vec<DeviceId> {
        self.primaries.iter().map(|member| member.id).collect()
    }

    pub(crate) fn places(&self) -> Vec<Place> {
        self.primaries
            .iter()
            .map(|member| Place::clone(&member.place))
            .collect()
    }

    pub(crate) fn handoffs_max(&self) -> usize {
        self.primaries.len() * HANDOFFS_PER_REPLICA
    }

    /// The stand-ins, best first. Finding them costs more than the primaries: only when they are needed.
    pub(crate) fn handoffs(&self) -> Vec<Member> {
        let ring = &self.layout.ring;
        ring.handoffs(self.partition)
            .take(self.handoffs_max())
            .filter_map(|device| self.layout.member(device.id))
            .collect()
    }

    pub(crate) fn find(&self, id: DeviceId) -> Option<Member> {
        self.layout.member(id)
    }
}

fn member(device: &Device) -> Option<Member> {
    // Ring files with other names are refused when they are loaded.
    let name: DeviceName = device.device.parse().ok()?;
    Some(Member {
        id: device.id,
        place: Arc::new(Place {
            address: device.address(),
            device: name,
        }),
    })
}

/// Everything a handler needs to reach storage.
pub(crate) struct Cluster {
    pub(crate) nodes: Nodes,
    pub(crate) rings: Arc<RingStore>,
    pub(crate) clock: HybridClock,
    pub(crate) limiter: Arc<Limiter>,
    pub(crate) heat: Heat,
    pub(crate) consistency: Consistency,
    policies: Vec<Policy>,
    secrets: HashSecrets,
}

impl Cluster {
    pub(crate) fn new(options: &Options, parts: &Parts) -> Result<Self, RingsError> {
        if !options.policies.iter().any(|policy| policy.is_default) {
            return Err(RingsError::NoDefaultPolicy);
        }
        let rings = RingStore::open(options.rings_dir.clone(), &options.policies)?;
        Ok(Self {
            nodes: parts.nodes.clone(),
            rings: Arc::new(rings),
            clock: HybridClock::new(Arc::clone(&parts.clock), &*parts.entropy),
            limiter: Arc::new(Limiter::default()),
            heat: Heat::new(),
            consistency: options.write_consistency,
            policies: options.policies.clone(),
            secrets: parts.secrets.clone(),
        })
    }

    fn rings(&self) -> Arc<Rings> {
        self.rings.current()
    }

    pub(crate) fn policies(&self) -> &[Policy] {
        &self.policies
    }

    pub(crate) fn policy(&self, index: PolicyIndex) -> Option<&Policy> {
        self.policies.iter().find(|policy| policy.index == index)
    }

    pub(crate) fn default_policy(&self) -> PolicyIndex {
        let default = self.policies.iter().find(|policy| policy.is_default);
        default.map_or_else(PolicyIndex::default, |policy| policy.index)
    }

    pub(crate) fn account(&self, account: &AccountName) -> Replicas {
        let layout = &self.rings().account;
        Replicas::new(layout, self.secrets.account(account))
    }

    pub(crate) fn container(&self, path: &ContainerPath) -> Replicas {
        let layout = &self.rings().container;
        Replicas::new(layout, self.secrets.container(path))
    }

    /// `None` when the policy has no ring here.
    pub(crate) fn object(&self, policy: PolicyIndex, path: &ObjectPath) -> Option<Replicas> {
        let rings = self.rings();
        let layout = rings.objects.get(&policy)?;
        Some(Replicas::new(layout, self.secrets.object(path)))
    }
}

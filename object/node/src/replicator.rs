//! The replicator: in each pass every device compares what it shares with each peer and pushes what that one lacks.
//!
//! Digests are in memory and one message holds those of all partitions shared with a peer, so an idle pass costs a
//! message to each peer and no disk. A device that holds a partition it is no primary of pushes it to every primary and
//! drops a row only when each of them has it, as it is now (O5).

use crate::disks::Disk;
use crate::push::{Peer, PushError};
use crate::receive::kind_of;
use crate::rings::{Rings, place};
use crate::server::Node;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_device::{RosterKey, RosterKind};
use onggi_object_model::ObjectRecord;
use onggi_object_replica::sync_plan::Duty;
use onggi_object_ring::{DeviceId, Partition, PathHash, Ring};
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::replication::{KeySum, Scope};
use onggi_object_wire::{Digest, Place, Slot};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// What a device owes its peers under one ring.
#[derive(Debug, Default)]
struct Plan {
    /// The partitions shared with each other primary, with our digests.
    shared: BTreeMap<DeviceId, Vec<(u32, Digest)>>,
    /// The partitions to bring home, with their primaries.
    handoffs: Vec<(u32, Vec<DeviceId>)>,
}

fn plan(ring: &Ring, disk: &Disk, scope: Scope, own: Option<DeviceId>, bits: u32) -> Plan {
    let mut plan = Plan::default();
    for (unit, sum) in disk.device().digests(scope, bits) {
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
                    plan.shared
                        .entry(peer)
                        .or_default()
                        .push((unit, sum.digest));
                }
            }
            Duty::Handoff { primaries } => plan.handoffs.push((unit, primaries)),
        }
    }
    plan
}

impl Node {
    /// Makes passes until the drain begins: one after each interval, and one whenever it is woken.
    pub async fn replicate(self: Arc<Self>, interval: Duration, wake: Arc<Notify>, drain: Drain) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                () = wake.notified() => {}
                () = drain.requested() => return,
            }
            tokio::select! {
                () = self.replicate_once() => {}
                () = drain.requested() => return,
            }
        }
    }

    /// One pass over all devices.
    pub async fn replicate_once(&self) {
        for disk in self.disks.iter() {
            for scope in disk.device().scopes() {
                self.replicate_scope(disk, scope).await;
            }
        }
    }

    async fn replicate_scope(&self, disk: &Disk, scope: Scope) {
        let Some(ring) = self.rings.ring(scope) else {
            return;
        };
        let bits = u32::from(ring.part_power().bits());
        if !onggi_object_wire::replication::are_comparable(bits) {
            tracing::error!(
                bits,
                "digests are kept for at most 2^{SLOT_BITS} partitions"
            );
            return;
        }
        let own = Rings::device_id(&ring, &self.address, &disk.name);
        let Plan { shared, handoffs } = plan(&ring, disk, scope, own, bits);
        let peers = shared.into_iter().filter_map(|(id, sums)| {
            let place = place(ring.device(id)?)?;
            Some(self.sync_peer(disk, place, scope, bits, sums))
        });
        for outcome in join_all(peers).await {
            report(disk, outcome);
        }
        for (unit, primaries) in handoffs {
            let places: Option<Vec<Place>> = primaries
                .iter()
                .map(|id| place(ring.device(*id)?))
                .collect();
            let Some(places) = places.filter(|places| !places.is_empty()) else {
                continue;
            };
            report(disk, self.bring_home(disk, places, scope, unit, bits).await);
        }
    }

    async fn sync_peer(
        &self,
        disk: &Disk,
        place: Place,
        scope: Scope,
        bits: u32,
        sums: Vec<(u32, Digest)>,
    ) -> Result<(), PushError> {
        let peer = Peer {
            node: self,
            disk,
            place,
        };
        let units = peer.differing(scope, bits, &sums).await?;
        if units.is_empty() {
            return Ok(());
        }
        let slots = disk.device().digests(scope, SLOT_BITS);
        let in_units =
            |slot: &u32| Slot::new(*slot).is_some_and(|slot| units.contains(&slot.unit(bits)));
        let sums: Vec<(u32, Digest)> = slots
            .iter()
            .filter(|(slot, _)| in_units(slot))
            .map(|(slot, sum)| (*slot, sum.digest))
            .collect();
        let slots = peer.differing(scope, SLOT_BITS, &sums).await?;
        let keys = self.keys(disk, scope, slots).await?;
        self.push(&peer, scope, &keys, false).await.map(|_| ())
    }

    async fn keys(
        &self,
        disk: &Disk,
        scope: Scope,
        slots: Vec<u32>,
    ) -> Result<Vec<KeySum>, PushError> {
        let read = disk.call(move |device| {
            let mut keys = Vec::new();
            for slot in slots.into_iter().filter_map(Slot::new) {
                keys.extend(match (scope, kind_of(scope)) {
                    (Scope::Objects(policy), _) => device.object_keys(policy, slot)?,
                    (_, Some(kind)) => device.roster_keys(kind, slot)?,
                    (_, None) => Vec::new(),
                });
            }
            Ok(keys)
        });
        Ok(read.await?)
    }

    /// Pushes what a peer lacks of these. Those it could not be given are returned.
    async fn push(
        &self,
        peer: &Peer<'_>,
        scope: Scope,
        keys: &[KeySum],
        from_start: bool,
    ) -> Result<Vec<KeySum>, PushError> {
        let kind = match (scope, kind_of(scope)) {
            (Scope::Objects(policy), _) => return peer.push_objects(policy, keys).await,
            (_, Some(kind)) => kind,
            (_, None) => return Ok(Vec::new()),
        };
        let peer_id = onggi_object_device::key::peer_id(&peer.place.address, &peer.place.device);
        for sum in peer.wanted_rosters(scope, keys).await? {
            let key = RosterKey {
                kind,
                hash: PathHash::new(sum.hash),
            };
            match kind {
                RosterKind::Container => {
                    peer.push_roster::<ObjectRecord>(key, from_start, peer_id)
                        .await?;
                }
                RosterKind::Account => {
                    peer.push_roster::<CountedContainer>(key, from_start, peer_id)
                        .await?;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Pushes a stand-in's partition to every primary, then drops what all of them have.
    async fn bring_home(
        &self,
        disk: &Disk,
        places: Vec<Place>,
        scope: Scope,
        unit: u32,
        bits: u32,
    ) -> Result<(), PushError> {
        let slots = disk.device().digests(scope, SLOT_BITS).into_keys();
        let own = |slot: &u32| Slot::new(*slot).is_some_and(|slot| slot.unit(bits) == unit);
        let mut keys = self.keys(disk, scope, slots.filter(own).collect()).await?;
        for place in places {
            let peer = Peer {
                node: self,
                disk,
                place,
            };
            let left = self.push(&peer, scope, &keys, true).await?;
            keys.retain(|key| !left.contains(key));
        }
        let dropped = disk.call(move |device| {
            let mut dropped = 0u64;
            for sum in &keys {
                let is_dropped = match (scope, kind_of(scope)) {
                    (Scope::Objects(policy), _) => device.drop_object(sum, policy)?,
                    (_, Some(kind)) => {
                        let key = RosterKey {
                            kind,
                            hash: PathHash::new(sum.hash),
                        };
                        device.drop_roster(&key, sum.digest)?
                    }
                    (_, None) => false,
                };
                dropped += u64::from(is_dropped);
            }
            Ok(dropped)
        });
        let dropped = dropped.await?;
        if dropped > 0 {
            tracing::info!(device = %disk.name, ?scope, unit, dropped, "brought a handoff home");
        }
        Ok(())
    }
}

fn report(disk: &Disk, outcome: Result<(), PushError>) {
    match outcome {
        Ok(()) => {}
        // An absent peer is ordinary; the pass after its return catches up.
        Err(PushError::Call(error)) => {
            tracing::debug!(device = %disk.name, %error, "a peer is away")
        }
        Err(error) => {
            tracing::warn!(device = %disk.name, %error, "a peer was not brought up to date")
        }
    }
}

/// Waits for all of some futures, which make progress side by side.
async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut waiting: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    core::future::poll_fn(move |context| {
        let mut is_ready = true;
        for (future, output) in &mut waiting {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    core::task::Poll::Ready(done) => *output = Some(done),
                    core::task::Poll::Pending => is_ready = false,
                }
            }
        }
        if is_ready {
            core::task::Poll::Ready(
                waiting
                    .iter_mut()
                    .filter_map(|(_, output)| output.take())
                    .collect(),
            )
        } else {
            core::task::Poll::Pending
        }
    })
    .await
}

//! The replicator: in each pass every device compares what it shares with each peer and pushes what that one lacks.
//!
//! Digests are in memory and one message holds those of all partitions shared with a peer, so an idle pass costs a
//! message to each peer and no disk. A device that holds a partition it is no primary of pushes it to every primary and
//! drops a row only when each of them has it, as it is now (O5).
//!
//! Tombstones older than `reclaim_age` are left out of the digests that are compared, and so are the traces of what was
//! deleted in containers and accounts. A partition that every primary holds alike in one pass lets them go
//! ([`onggi_object_device::reclaim`]).

use crate::disks::Disk;
use crate::moves::{self, Move, Said, Way};
use crate::progress::Progress;
use crate::push::{Peer, PushError, Pushing};
use crate::receive::kind_of;
use crate::rings::{Rings, place};
use crate::server::Node;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_device::reclaim::{horizon_at, slots_of};
use onggi_object_device::{RosterKey, RosterKind};
use onggi_object_model::ObjectRecord;
use onggi_object_replica::sync_plan::Duty;
use onggi_object_ring::{DeviceId, Partition, PathHash, Ring};
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::replication::{KeySum, Scope};
use onggi_object_wire::{Digest, Place, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// Slots whose rows are looked at together: so many bound the memory that takes.
const SLOTS_AT_ONCE: usize = 64;

/// What a device owes its peers under one ring.
#[derive(Debug, Default)]
struct Plan {
    /// The partitions shared with each other primary, with our digests.
    shared: BTreeMap<DeviceId, Vec<(u32, Digest)>>,
    /// The partitions to bring home, with their primaries.
    handoffs: Vec<(u32, Vec<DeviceId>)>,
}

fn plan(ring: &Ring, disk: &Disk, own: Option<DeviceId>, round: Round) -> Plan {
    let mut plan = Plan::default();
    let Round {
        scope,
        bits,
        horizon,
    } = round;
    let mut sums = disk.device().digests_above(scope, bits, horizon);
    // A partition that holds nothing has a horizon as well: what comes to it may have been deleted.
    if let Some(own) = own.filter(|_| horizon > 0) {
        let behind = disk.device().units_behind(scope, bits, horizon);
        let is_own = |unit: &u32| ring.is_primary(Partition::new(*unit), own);
        for unit in behind.into_iter().filter(is_own) {
            sums.entry(unit).or_default();
        }
    }
    for (unit, sum) in sums {
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

/// What is compared in a pass.
#[derive(Debug, Clone, Copy)]
struct Round {
    scope: Scope,
    /// The hash bits that number the partitions.
    bits: u32,
    /// The last day whose tombstones may go; 0 where they stay.
    horizon: u16,
}

/// What each peer is asked about: the partitions shared with it, and those it may lack that are here in its place.
fn to_ask(
    disk: &Disk,
    round: Round,
    shared: &BTreeMap<DeviceId, Vec<(u32, Digest)>>,
    handoffs: &[(u32, Vec<DeviceId>)],
) -> BTreeMap<DeviceId, Vec<(u32, Digest)>> {
    let mut asked = shared.clone();
    if handoffs.is_empty() {
        return asked;
    }
    let sums = disk
        .device()
        .digests_above(round.scope, round.bits, round.horizon);
    for (unit, primaries) in handoffs {
        let digest = sums.get(unit).map(|sum| sum.digest).unwrap_or_default();
        for primary in primaries {
            asked.entry(*primary).or_default().push((*unit, digest));
        }
    }
    asked
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
        let now = self.clock.now();
        self.replicate_to(horizon_at(now, self.reclaim_age_days))
            .await;
        for disk in self.disks.iter() {
            disk.mark_alive(now).await;
        }
    }

    /// The same with the last day whose tombstones may go.
    pub(crate) async fn replicate_to(&self, horizon: u16) {
        for disk in self.disks.serving() {
            let pass = &disk.progress().replication;
            pass.begin(self.clock.monotonic());
            let mut is_compared = true;
            for scope in disk.device().scopes() {
                is_compared &= self.replicate_scope(disk, scope, horizon).await;
            }
            pass.end(self.clock.monotonic());
            if is_compared {
                disk.on_compared();
            }
        }
    }

    /// One pass over what a device holds of a scope. True when each partition of it was compared with some peer.
    async fn replicate_scope(&self, disk: &Disk, scope: Scope, horizon: u16) -> bool {
        let Some(ring) = self.rings.ring(scope) else {
            return false;
        };
        let bits = u32::from(ring.part_power().bits());
        if !onggi_object_wire::replication::are_comparable(bits) {
            tracing::error!(
                bits,
                "digests are kept for at most 2^{SLOT_BITS} partitions"
            );
            return false;
        }
        let round = Round {
            scope,
            bits,
            horizon,
        };
        let own = Rings::device_id(&ring, &self.address, &disk.name);
        let Plan { shared, handoffs } = plan(&ring, disk, own, round);
        let pass = &disk.progress().replication;
        pass.expect(shared.values().map(Vec::len).sum::<usize>() + handoffs.len());
        let asked = to_ask(disk, round, &shared, &handoffs);
        let (said, mut failed) = self.compare(disk, &ring, round, asked).await;
        let agreed: usize = shared
            .iter()
            .filter_map(|(peer, sums)| Some(sums.len().saturating_sub(said.get(peer)?.1.len())))
            .sum();
        pass.step(agreed);
        if horizon > 0 {
            // Before anything is moved, which may take hours: by then they may hold something else.
            let agreed = Tally::of(&shared, &said, &BTreeSet::new()).agreed();
            self.reclaim(disk, round, agreed).await;
        }
        let moves = moves::in_order(&said, handoffs);
        let mut is_home = true;
        for class in moves.chunk_by(|one, next| one.copies == next.copies) {
            self.move_shared(disk, &ring, round, class, &mut failed)
                .await;
            is_home &= self.move_home(disk, &ring, round, class).await;
        }
        is_home && Tally::of(&shared, &said, &failed).is_compared()
    }

    /// Raises the horizon of partitions whose primaries all hold the same, and lets settled tombstones go.
    async fn reclaim(&self, disk: &Disk, round: Round, units: Vec<u32>) {
        let reclaimed = disk.call(move |device| {
            let mut count = 0;
            let slots = units
                .into_iter()
                .flat_map(|unit| slots_of(unit, round.bits));
            for slot in device.raise_horizons(round.scope, slots, round.horizon)? {
                count += match (round.scope, kind_of(round.scope)) {
                    (Scope::Objects(policy), _) => device.reclaim(policy, slot, round.horizon)?,
                    (_, Some(kind)) => device.reclaim_rosters(kind, slot, round.horizon)?,
                    (_, None) => 0,
                };
            }
            Ok(count)
        });
        match reclaimed.await {
            Ok(0) => {}
            Ok(count) => {
                tracing::info!(device = %disk.name, scope = ?round.scope, count, "reclaimed tombstones");
            }
            Err(error) => tracing::error!(device = %disk.name, %error, "tombstones stay for now"),
        }
    }

    /// Asks each peer which of the partitions it holds otherwise. Those that did not answer are returned beside.
    async fn compare(
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

    /// Brings the other primaries of partitions that equally many devices hold up to date. Peers that fail are left alone
    /// from then on.
    async fn move_shared(
        &self,
        disk: &Disk,
        ring: &Ring,
        round: Round,
        class: &[Move],
        failed: &mut BTreeSet<DeviceId>,
    ) {
        let mut shared: BTreeMap<DeviceId, BTreeSet<u32>> = BTreeMap::new();
        for one in class {
            if let Way::Shared(peers) = &one.way {
                for peer in peers.iter().filter(|peer| !failed.contains(peer)) {
                    shared.entry(*peer).or_default().insert(one.unit);
                }
            }
        }
        let pass = &disk.progress().replication;
        let syncing = shared.into_iter().map(|(id, units)| {
            let place = ring.device(id).and_then(place);
            async move {
                let synced = match place {
                    Some(place) => self.sync_peer(disk, place, round, &units).await,
                    None => Ok(()),
                };
                pass.step(units.len());
                let failed = synced.is_err().then_some(id);
                report(disk, synced);
                failed
            }
        });
        failed.extend(join_all(syncing).await.into_iter().flatten());
    }

    /// Brings partitions home that equally many devices hold. True when all are.
    async fn move_home(&self, disk: &Disk, ring: &Ring, round: Round, class: &[Move]) -> bool {
        let mut is_home = true;
        for one in class {
            let Way::Home(primaries) = &one.way else {
                continue;
            };
            let places: Option<Vec<Place>> = primaries
                .iter()
                .map(|id| place(ring.device(*id)?))
                .collect();
            let Some(places) = places.filter(|places| !places.is_empty()) else {
                continue;
            };
            let home = self.bring_home(disk, places, round.scope, one.unit, round.bits);
            let home = home.await;
            disk.progress().replication.step(1);
            is_home &= home.is_ok();
            report(disk, home);
        }
        is_home
    }

    /// Brings a peer up to date in some partitions.
    async fn sync_peer(
        &self,
        disk: &Disk,
        place: Place,
        round: Round,
        units: &BTreeSet<u32>,
    ) -> Result<(), PushError> {
        let Round {
            scope,
            bits,
            horizon,
        } = round;
        let peer = Peer {
            node: self,
            disk,
            place,
        };
        let slots = disk.device().digests_above(scope, SLOT_BITS, horizon);
        let in_units =
            |slot: &u32| Slot::new(*slot).is_some_and(|slot| units.contains(&slot.unit(bits)));
        let sums: Vec<(u32, Digest)> = slots
            .iter()
            .filter(|(slot, _)| in_units(slot))
            .map(|(slot, sum)| (*slot, sum.digest))
            .collect();
        let slots = peer.differing(scope, SLOT_BITS, horizon, &sums).await?;
        let how = Pushing {
            horizon,
            from_start: false,
        };
        for slots in slots.chunks(SLOTS_AT_ONCE) {
            let slots = slots.iter().copied().filter_map(Slot::new).collect();
            let keys = self.keys(disk, scope, slots, horizon).await?;
            self.push(&peer, scope, &keys, how).await?;
        }
        Ok(())
    }

    async fn keys(
        &self,
        disk: &Disk,
        scope: Scope,
        slots: Vec<Slot>,
        horizon: u16,
    ) -> Result<Vec<KeySum>, PushError> {
        let read = disk.call(move |device| {
            let mut keys = Vec::new();
            for slot in slots {
                keys.extend(match (scope, kind_of(scope)) {
                    (Scope::Objects(policy), _) => device.object_keys(policy, slot)?,
                    (_, Some(kind)) => device.roster_keys(kind, slot, horizon)?,
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
        how: Pushing,
    ) -> Result<Vec<KeySum>, PushError> {
        let kind = match (scope, kind_of(scope)) {
            (Scope::Objects(policy), _) => return peer.push_objects(policy, keys).await,
            (_, Some(kind)) => kind,
            (_, None) => return Ok(Vec::new()),
        };
        let peer_id = onggi_object_device::key::peer_id(&peer.place.address, &peer.place.device);
        for (sum, is_stale) in peer.wanted_rosters(scope, keys, how.horizon).await? {
            let key = RosterKey {
                kind,
                hash: PathHash::new(sum.hash),
            };
            if is_stale {
                let aside = peer
                    .disk
                    .call(move |device| device.set_roster_aside(&key, sum.digest, how.horizon));
                aside.await?;
                continue;
            }
            match kind {
                RosterKind::Container => {
                    peer.push_roster::<ObjectRecord>(key, how, peer_id).await?;
                }
                RosterKind::Account => {
                    peer.push_roster::<CountedContainer>(key, how, peer_id)
                        .await?;
                }
            }
            Progress::add(&peer.disk.progress().pushed, 1);
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
        let mut dropped = 0;
        for slots in disk
            .device()
            .slots_in(scope, unit, bits)
            .chunks(SLOTS_AT_ONCE)
        {
            let keys = self.keys(disk, scope, slots.to_vec(), 0).await?;
            dropped += self.bring_rows_home(disk, &places, scope, keys).await?;
        }
        if dropped > 0 {
            tracing::info!(device = %disk.name, ?scope, unit, dropped, "brought a handoff home");
        }
        Ok(())
    }

    /// The same for some of its rows; how many were dropped.
    async fn bring_rows_home(
        &self,
        disk: &Disk,
        places: &[Place],
        scope: Scope,
        mut keys: Vec<KeySum>,
    ) -> Result<u64, PushError> {
        let how = Pushing {
            horizon: 0,
            from_start: true,
        };
        for place in places {
            let peer = Peer {
                node: self,
                disk,
                place: place.clone(),
            };
            let left = self.push(&peer, scope, &keys, how).await?;
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
        Ok(dropped.await?)
    }
}

/// Which partitions were compared with whom.
#[derive(Debug, Default)]
struct Tally {
    /// By partition: peers that were to be asked, peers that hold the same, and whether any was heard.
    units: BTreeMap<u32, (usize, usize, bool)>,
}

impl Tally {
    /// What peers said, those apart that failed afterwards.
    fn of(
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
    fn agreed(&self) -> Vec<u32> {
        let agreed = self
            .units
            .iter()
            .filter(|(_, (asked, same, _))| asked == same);
        agreed.map(|(unit, _)| *unit).collect()
    }

    fn is_compared(&self) -> bool {
        self.units.values().all(|(_, _, is_heard)| *is_heard)
    }
}

fn report(disk: &Disk, outcome: Result<(), PushError>) {
    Progress::add(
        &disk.progress().push_failures,
        usize::from(outcome.is_err()),
    );
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
pub(crate) async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
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

//! The replicator: in each pass every device compares what it shares with each peer and pushes what that one lacks.
//!
//! Digests are in memory and one message holds those of all partitions shared with a peer, so an idle pass costs a
//! message to each peer and no disk. A device that holds a partition it is no primary of pushes it to every primary and
//! drops a row only when each of them has it, as it is now (O5).
//!
//! Tombstones older than `reclaim_age` are left out of the digests that are compared, and so are the traces of what was
//! deleted in containers and accounts. A partition that every primary holds alike in one pass lets them go
//! ([`onggi_object_device::reclaim`]).
//!
//! Digests are kept by slot. Where partitions are smaller than that, they are compared by what their slots were split into
//! ([`onggi_object_device::split`]), and then at once row by row.

use crate::compare::{Plan, Round, Tally, held, plan};
use crate::disks::Disk;
use crate::given::Given;
use crate::moves::{self, Move, Way};
use crate::progress::Progress;
use crate::push::{Peer, PushError, Pushing};
use crate::receive::kind_of;
use crate::rings::{Rings, place};
use crate::server::Node;
use crate::settle::Seen;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_device::reclaim::{horizon_at, slots_of};
use onggi_object_device::{RosterKey, RosterKind};
use onggi_object_model::ObjectRecord;
use onggi_object_ring::{DeviceId, PathHash, Ring};
use onggi_object_wire::digest::{SLOT_BITS, unit_of};
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::replication::{KeySum, Scope};
use onggi_object_wire::{Digest, Place, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Notify;

/// Slots whose rows are looked at together: so many bound the memory that takes.
const SLOTS_AT_ONCE: usize = 64;

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
        let round = Round {
            scope,
            bits,
            horizon,
        };
        let own = Rings::device_id(&ring, &self.address, &disk.name);
        let held = held(disk, round).await;
        let Plan {
            shared,
            handoffs,
            asked,
        } = plan(&ring, disk, own, round, &held.digests);
        let pass = &disk.progress().replication;
        pass.expect(shared.values().map(Vec::len).sum::<usize>() + handoffs.len());
        let (said, mut failed) = self.compare(disk, &ring, round, asked).await;
        let agreed: usize = shared
            .iter()
            .filter_map(|(peer, sums)| Some(sums.len().saturating_sub(said.get(peer)?.1.len())))
            .sum();
        pass.step(agreed);
        if horizon > 0 {
            // Before anything is moved, which may take hours: by then they may hold something else.
            let tally = Tally::of(&shared, &said, &BTreeSet::new());
            match own {
                Some(own) if bits > SLOT_BITS => {
                    let seen = Seen {
                        held: &held,
                        tally: &tally,
                        away: failed.clone(),
                    };
                    self.settle_parts(disk, (&ring, own), round, seen).await;
                }
                Some(_) | None => self.settle(disk, round, &tally).await,
            }
        }
        let moves = moves::in_order(&said, handoffs);
        let mut is_home = true;
        for class in moves.chunk_by(|one, next| one.copies == next.copies) {
            self.move_shared(disk, &ring, round, class, &mut failed)
                .await;
            let home = (class, &held.digests);
            is_home &= self.move_home(disk, &ring, round, home, &mut failed).await;
        }
        is_home && held.unread.is_empty() && Tally::of(&shared, &said, &failed).is_compared()
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

    /// Brings partitions home that equally many devices hold. True when all are. Peers that fail are left alone from then
    /// on; the others get what they lack all the same.
    async fn move_home(
        &self,
        disk: &Disk,
        ring: &Ring,
        round: Round,
        (class, held): (&[Move], &BTreeMap<u32, Digest>),
        failed: &mut BTreeSet<DeviceId>,
    ) -> bool {
        let mut is_home = true;
        for (primaries, units) in home_groups(class, round.bits) {
            let places: Option<Vec<(DeviceId, Place)>> = primaries
                .iter()
                .map(|id| Some((*id, place(ring.device(*id)?)?)))
                .collect();
            let Some(places) = places.filter(|places| !places.is_empty()) else {
                continue;
            };
            let count = units.len();
            let given = Given {
                scope: round.scope,
                units: units
                    .iter()
                    .map(|unit| (*unit, held.get(unit).copied().unwrap_or_default()))
                    .collect(),
            };
            if given.is_all_that_can_be(disk, primaries, failed) {
                disk.progress().replication.step(count);
                is_home = false;
                continue;
            }
            let home = self.bring_home(disk, &places, round, units.clone(), failed);
            let mut home = home.await;
            if matches!(home, Err(PushError::Disk(_))) && count > 1 {
                // What cannot be read keeps nothing else away from home.
                home = Ok(true);
                for unit in units {
                    let one = BTreeSet::from([unit]);
                    let one = self.bring_home(disk, &places, round, one, failed).await;
                    home = match (home, one) {
                        (Ok(all), Ok(one)) => Ok(all && one),
                        (Err(error), _) | (_, Err(error)) => Err(error),
                    };
                }
            }
            disk.progress().replication.step(count);
            match &home {
                Ok(true) => given.forget(disk),
                Ok(false) => given.note(disk, primaries, failed),
                Err(_) => {}
            }
            is_home &= matches!(home, Ok(true));
            report(disk, home.map(|_| ()));
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
        let slots = if bits > SLOT_BITS {
            // Its slots differ also by what is none of its business.
            let slots = units.iter().flat_map(|unit| slots_of(*unit, bits));
            slots.collect::<BTreeSet<Slot>>().into_iter().collect()
        } else {
            let sums = disk.device().digests_above(scope, SLOT_BITS, horizon);
            let in_units =
                |slot: &u32| Slot::new(*slot).is_some_and(|slot| units.contains(&slot.unit(bits)));
            let sums: Vec<(u32, Digest)> = sums
                .iter()
                .filter(|(slot, _)| in_units(slot))
                .map(|(slot, sum)| (*slot, sum.digest))
                .collect();
            let slots = peer.differing(scope, SLOT_BITS, horizon, &sums).await?;
            slots.into_iter().filter_map(Slot::new).collect::<Vec<_>>()
        };
        let how = Pushing {
            horizon,
            from_start: false,
        };
        for slots in slots.chunks(SLOTS_AT_ONCE) {
            let keys = self.keys(disk, round, slots, units).await?;
            self.push(&peer, scope, &keys, how).await?;
        }
        Ok(())
    }

    /// What there is in some slots of these partitions.
    async fn keys(
        &self,
        disk: &Disk,
        round: Round,
        slots: &[Slot],
        units: &BTreeSet<u32>,
    ) -> Result<Vec<KeySum>, PushError> {
        let Round {
            scope,
            bits,
            horizon,
        } = round;
        let slots = slots.to_vec();
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
        let mut keys = read.await?;
        keys.retain(|key| units.contains(&unit_of(&key.hash, bits)));
        Ok(keys)
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

    /// Pushes a stand-in's partitions to every primary, then drops what all of them have. False when one of them failed, now
    /// or before: then nothing is dropped.
    async fn bring_home(
        &self,
        disk: &Disk,
        places: &[(DeviceId, Place)],
        round: Round,
        units: BTreeSet<u32>,
        failed: &mut BTreeSet<DeviceId>,
    ) -> Result<bool, PushError> {
        let Round { scope, bits, .. } = round;
        // All of it goes, settled or not.
        let round = Round {
            horizon: 0,
            ..round
        };
        let slots = units.iter().flat_map(|unit| {
            let slots = disk.device().slots_in(scope, *unit, bits);
            slots.into_iter()
        });
        let slots: Vec<Slot> = slots.collect::<BTreeSet<Slot>>().into_iter().collect();
        let (mut dropped, mut is_home) = (0, true);
        for slots in slots.chunks(SLOTS_AT_ONCE) {
            let keys = self.keys(disk, round, slots, &units).await?;
            match self
                .bring_rows_home(disk, places, scope, keys, failed)
                .await?
            {
                Some(count) => dropped += count,
                None => is_home = false,
            }
        }
        if dropped > 0 {
            let partitions = units.len();
            tracing::info!(device = %disk.name, ?scope, partitions, dropped, "brought handoffs home");
        }
        Ok(is_home)
    }

    /// The same for some of its rows; how many were dropped.
    async fn bring_rows_home(
        &self,
        disk: &Disk,
        places: &[(DeviceId, Place)],
        scope: Scope,
        keys: Vec<KeySum>,
        failed: &mut BTreeSet<DeviceId>,
    ) -> Result<Option<u64>, PushError> {
        let how = Pushing {
            horizon: 0,
            from_start: true,
        };
        let (mut everywhere, mut is_home) = (keys.clone(), true);
        for (id, place) in places {
            if failed.contains(id) {
                is_home = false;
                continue;
            }
            let peer = Peer {
                node: self,
                disk,
                place: place.clone(),
            };
            match self.push(&peer, scope, &keys, how).await {
                Ok(left) => everywhere.retain(|key| !left.contains(key)),
                Err(error @ PushError::Disk(_)) => return Err(error),
                Err(error) => {
                    report(disk, Err(error));
                    failed.insert(*id);
                    is_home = false;
                }
            }
        }
        if !is_home {
            return Ok(None);
        }
        let dropped = disk.call(move |device| {
            let mut dropped = 0u64;
            for sum in &everywhere {
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
        Ok(Some(dropped.await?))
    }
}

/// Handoffs that go home together: each by itself, or, where partitions are smaller than slots, those with the same
/// primaries, so that a few rows each do not cost a message each.
fn home_groups(class: &[Move], bits: u32) -> Vec<(&[DeviceId], BTreeSet<u32>)> {
    let mut groups: Vec<(&[DeviceId], BTreeSet<u32>)> = Vec::new();
    let mut last: BTreeMap<&[DeviceId], usize> = BTreeMap::new();
    for one in class {
        let Way::Home(primaries) = &one.way else {
            continue;
        };
        let known = last.get(primaries.as_slice()).copied();
        let known = known.filter(|_| bits > SLOT_BITS);
        let group = known.and_then(|index| groups.get_mut(index));
        match group.filter(|(_, units)| units.len() < SLOTS_AT_ONCE) {
            Some((_, units)) => {
                units.insert(one.unit);
            }
            None => {
                last.insert(primaries, groups.len());
                groups.push((primaries, BTreeSet::from([one.unit])));
            }
        }
    }
    groups
}

pub(crate) fn report(disk: &Disk, outcome: Result<(), PushError>) {
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

//! Tombstones that go, and devices that slept meanwhile.

use super::{Cluster, OBJECTS, at, object_path, pattern};
use crate::receive::{take_row, wanted_objects};
use onggi_common_host::SystemEntropy;
use onggi_common_meta::local::{MemoryStore, Store};
use onggi_common_units::{ByteCount, Timestamp, UtcTime};
use onggi_object_device::reclaim::{Cover, horizon_at};
use onggi_object_device::{Device, DeviceOptions, ObjectKey, tables};
use onggi_object_model::{Etag, Metadata, ObjectPath, PolicyIndex};
use onggi_object_ring::PathHash;
use onggi_object_wire::object::WHOLE;
use onggi_object_wire::replication::{PushRow, STALE};
use onggi_object_wire::{Body, Digest, ObjectRow, Root, Slot};
use proptest::prelude::*;
use std::sync::Arc;

/// The day of all stamps that [`at`] makes.
const DAY: u16 = 19_675;

async fn replicate(cluster: &Cluster, horizon: u16) {
    for member in &cluster.members {
        if let Some(node) = &member.node {
            node.replicate_to(horizon).await;
        }
    }
}

fn rows(cluster: &Cluster, index: usize) -> u64 {
    let disk = cluster.node(index).disks.iter().next().unwrap();
    let units = disk.device().digests(OBJECTS, 0);
    units.values().map(|sum| sum.count).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_tombstones_go_when_every_primary_agrees_and_not_before() {
    let mut cluster = Cluster::new().await;
    let path = object_path("gone");
    let (homes, handoff) = cluster.homes(&path);
    for home in &homes {
        cluster.put(home, &path, 5, &pattern(100), Vec::new()).await;
    }
    let away = cluster.index_of(&homes[0]);
    cluster.stop(away).await;
    for home in &homes[1..] {
        cluster.delete(home, &path, 6).await;
    }
    let others = [cluster.index_of(&homes[1]), cluster.index_of(&homes[2])];
    for _ in 0..2 {
        replicate(&cluster, DAY).await;
    }
    for index in others {
        assert_eq!(
            rows(&cluster, index),
            1,
            "a primary is away that has the object"
        );
    }
    cluster.start(away).await;
    for _ in 0..3 {
        replicate(&cluster, DAY).await;
    }
    for index in 0..4 {
        assert_eq!(rows(&cluster, index), 0);
    }
    for home in homes.iter().chain([&handoff]) {
        assert_eq!(cluster.bytes(home, &path).await, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_a_handoff_that_slept_through_a_deletion_and_its_reclaim_does_not_bring_it_back() {
    let mut cluster = Cluster::new().await;
    let (small, large) = (object_path("small"), object_path("large"));
    for (path, bytes) in [(&small, 100), (&large, 300_000)] {
        let (homes, handoff) = cluster.homes(path);
        for place in homes.iter().chain([&handoff]) {
            cluster
                .put(place, path, 5, &pattern(bytes), Vec::new())
                .await;
        }
        let away = cluster.index_of(&handoff);
        cluster.stop(away).await;
        for home in &homes {
            cluster.delete(home, path, 6).await;
        }
        for _ in 0..2 {
            replicate(&cluster, DAY).await;
        }
        cluster.start(away).await;
        for _ in 0..2 {
            replicate(&cluster, DAY).await;
        }
        for place in homes.iter().chain([&handoff]) {
            assert_eq!(cluster.bytes(place, path).await, None);
        }
        let aside = std::fs::read_dir(cluster.device_dir(away).join("quarantine"));
        assert_eq!(
            aside.unwrap().count(),
            1,
            "the copy is kept for people to look at"
        );
        std::fs::remove_dir_all(cluster.device_dir(away).join("quarantine")).unwrap();
        std::fs::create_dir(cluster.device_dir(away).join("quarantine")).unwrap();
    }
    assert_eq!(at(0).to_utc().seconds() / 86_400, u64::from(DAY));
}

/// Four devices of which three are primaries, one object, and days that pass.
struct World {
    _dir: tempfile::TempDir,
    devices: Vec<Device>,
    is_up: [bool; 4],
    /// Which is no primary.
    out: usize,
    /// The moment, in seconds.
    now: u64,
}

const AGE_DAYS: u16 = 2;
const POLICY: PolicyIndex = PolicyIndex::new(0);

fn the_key() -> ObjectKey {
    ObjectKey {
        policy: POLICY,
        hash: PathHash::new([9; 16]),
        fragment: WHOLE,
    }
}

fn stamp(second: u64) -> Timestamp {
    Timestamp::from_utc(UtcTime::from_seconds(second))
}

fn live_row(path: &ObjectPath, second: u64) -> ObjectRow {
    ObjectRow {
        body: Some(Body {
            length: 3,
            etag: Etag::EMPTY,
            root: Root::of(b"jar"),
            system: Metadata::default(),
        }),
        ..ObjectRow::tombstone(path.clone(), stamp(second))
    }
}

fn push(device: &Device, row: ObjectRow) {
    let bytes = row.body.is_some().then(|| b"jar".to_vec());
    let push = PushRow {
        fragment: WHOLE,
        row,
        bytes,
    };
    take_row(device, the_key(), push).unwrap();
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let devices = (0..4).map(|number| {
            let options = DeviceOptions {
                directory: dir.path().join(format!("d{number}")),
                reserve: Some(ByteCount::ZERO),
            };
            Device::open_with(&options, &SystemEntropy, |path| {
                onggi_common_host::durable::create_dir_all(path)?;
                Ok(Arc::new(MemoryStore::new(&tables::ALL)) as Arc<dyn Store>)
            })
            .unwrap()
        });
        Self {
            devices: devices.collect(),
            _dir: dir,
            is_up: [true; 4],
            out: 3,
            now: 100 * 86_400,
        }
    }

    fn horizon(&self) -> u16 {
        horizon_at(UtcTime::from_seconds(self.now), AGE_DAYS)
    }

    fn primaries(&self) -> Vec<usize> {
        (0..4).filter(|index| *index != self.out).collect()
    }

    /// Writes to every primary that is up, apart from one; whether W primaries took it.
    fn write(&self, without: usize, row: &ObjectRow) -> bool {
        let taken = self.primaries().into_iter().filter(|index| {
            let is_asked = self.is_up[*index] && *index != without;
            if is_asked {
                push(&self.devices[*index], row.clone());
            }
            is_asked
        });
        taken.count() >= 2
    }

    fn digest(&self, index: usize) -> Digest {
        let units = self.devices[index].digests_above(OBJECTS, 0, self.horizon());
        units
            .values()
            .fold(Digest::EMPTY, |sum, part| sum + part.digest)
    }

    /// What the replicator does for one device.
    fn pass(&self, own: usize) {
        if !self.is_up[own] {
            return;
        }
        let device = &self.devices[own];
        let is_primary = own != self.out;
        let peers: Vec<usize> = self
            .primaries()
            .into_iter()
            .filter(|peer| *peer != own)
            .collect();
        let mut agreed = 0;
        let mut confirmed = 0;
        for peer in peers.iter().copied().filter(|peer| self.is_up[*peer]) {
            if is_primary && self.digest(own) == self.digest(peer) {
                agreed += 1;
                continue;
            }
            let keys = device.object_keys(POLICY, the_key().slot()).unwrap();
            let wanted = wanted_objects(&self.devices[peer], POLICY, &keys).unwrap();
            confirmed += 1;
            for position in wanted {
                if position & STALE != 0 {
                    device.set_aside(POLICY, &keys[0]).unwrap();
                } else if let Some(stored) = device.get_object(&the_key()).unwrap() {
                    push(&self.devices[peer], stored.row);
                }
            }
        }
        if is_primary && agreed == peers.len() {
            let slot = Slot::of(the_key().hash.as_bytes());
            let whole = (slot, Cover::Whole);
            device.reclaim(POLICY, &whole, self.horizon()).unwrap();
        }
        if !is_primary && confirmed == peers.len() {
            for sum in device.object_keys(POLICY, the_key().slot()).unwrap() {
                device.drop_object(&sum, POLICY).unwrap();
            }
        }
    }

    fn stamp_of(&self, index: usize) -> Option<(Timestamp, bool)> {
        let stored = self.devices[index].get_object(&the_key()).unwrap()?;
        Some((stored.row.data_timestamp, stored.row.body.is_some()))
    }
}

#[test]
fn a_primary_that_was_a_stand_in_meanwhile_takes_back_what_it_dropped() {
    let mut world = World::new();
    assert!(world.write(3, &live_row(&object_path("o"), world.now)));
    world.now += 3 * 86_400;
    // The other primaries have not come to raising their horizons.
    world.pass(0);
    assert_eq!(
        world.devices[0].horizon(OBJECTS, the_key().hash.as_bytes()),
        world.horizon()
    );
    world.out = 0;
    world.pass(1);
    world.pass(0);
    assert_eq!(world.stamp_of(0), None);
    world.out = 3;
    for index in [3, 1, 2, 0] {
        world.pass(index);
    }
    for index in 0..3 {
        assert!(world.stamp_of(index).is_some(), "{index} has lost it");
    }
}

#[test]
fn what_two_primaries_have_and_a_third_calls_stale_is_not_passed_on_for_ever() {
    let mut world = World::new();
    let path = object_path("o");
    world.is_up[0] = false;
    assert!(world.write(0, &live_row(&path, world.now)));
    let row = ObjectRow::tombstone(path.clone(), stamp(world.now + 10));
    assert!(!world.write(2, &row));
    // Of a write that was not acknowledged only the stand-in has anything.
    push(&world.devices[world.out], live_row(&path, world.now + 20));
    world.now += 3 * 86_400;
    world.is_up = [true; 4];
    for _ in 0..4 {
        for index in 0..4 {
            world.pass(index);
        }
    }
    let stamps = [0, 1, 2].map(|index| world.stamp_of(index));
    assert!(stamps.iter().all(|stamp| *stamp == stamps[0]), "{stamps:?}");
}

proptest! {
    // Each case makes four devices with 256 folders each.
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("ONGGI_LONG").is_some() { 2_000 } else { 48 }))]
    #[test]
    fn o6_no_reclaimed_deletion_comes_back_and_no_visible_object_goes(
        ops in prop::collection::vec((0u8..9, 0usize..4, 0u64..5), 1..60),
    ) {
        let path = object_path("o");
        let mut world = World::new();
        let mut told = None;
        for (op, index, days) in ops {
            world.now += 10;
            match op {
                0 => {
                    if world.write(index, &live_row(&path, world.now)) {
                        told = Some((world.now, true));
                    }
                }
                1 => {
                    // What became of an unacknowledged deletion nobody was told.
                    let row = ObjectRow::tombstone(path.clone(), stamp(world.now));
                    let is_told = world.write(index, &row);
                    told = is_told.then_some((world.now, false));
                }
                2 => world.is_up[index] = !world.is_up[index],
                3 => world.out = index,
                4 => world.now += days * 86_400,
                // A write that only a stand-in got.
                5 if days == 0 && world.is_up[world.out] => {
                    push(&world.devices[world.out], live_row(&path, world.now));
                }
                _ => world.pass(index),
            }
        }
        world.is_up = [true; 4];
        for _ in 0..8 {
            for index in 0..4 {
                world.pass(index);
            }
        }
        let first = world.digest(world.primaries()[0]);
        for index in world.primaries() {
            prop_assert_eq!(world.digest(index), first);
        }
        for index in 0..4 {
            let found = world.stamp_of(index);
            match told {
                Some((second, false)) => {
                    let is_back = found.is_some_and(|(at, live)| live && at < stamp(second));
                    prop_assert!(!is_back, "{index}: {found:?}, deleted at {second}");
                }
                Some((second, true)) if index != world.out => {
                    prop_assert!(found >= Some((stamp(second), true)), "{index}: {found:?}, put at {second}");
                }
                Some((_, true)) | None => {}
            }
        }
    }
}

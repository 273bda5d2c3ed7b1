//! Rings with more partitions than digests are kept for: several partitions share a slot.

use super::{Cluster, OBJECTS, object_path, pattern};
use crate::receive::{take_row, wanted_objects};
use crate::server::Node;
use core::sync::atomic::Ordering;
use onggi_common_host::SystemEntropy;
use onggi_common_host::durable::{self, Visibility};
use onggi_common_meta::local::{MemoryStore, Store};
use onggi_common_units::{ByteCount, Timestamp, UtcTime};
use onggi_object_device::reclaim::{Cover, horizon_at};
use onggi_object_device::{Device, DeviceOptions, ObjectKey, tables};
use onggi_object_model::{Etag, Metadata, ObjectPath, PolicyIndex};
use onggi_object_ring::{PathHash, RingBuilder};
use onggi_object_wire::digest::unit_of;
use onggi_object_wire::object::WHOLE;
use onggi_object_wire::replication::{KeySum, PushRow, STALE, Scope};
use onggi_object_wire::{Body, Digest, ObjectRow, Place, Root};
use proptest::prelude::*;
use std::sync::Arc;

/// The day of all stamps that [`super::at`] makes.
const DAY: u16 = 19_675;
const BITS: u32 = 18;
const POLICY: PolicyIndex = PolicyIndex::new(0);

async fn new() -> Cluster {
    Cluster::with_part_power(18).await
}

fn device(node: &Node) -> &Device {
    node.disks.iter().next().unwrap().device()
}

fn scans(cluster: &Cluster) -> [u64; 4] {
    [0, 1, 2, 3].map(|index| device(cluster.node(index)).split_scans())
}

fn hash(cluster: &Cluster, path: &ObjectPath) -> [u8; 16] {
    *cluster.hash.object(path).as_bytes()
}

fn rows(cluster: &Cluster, index: usize) -> u64 {
    let units = device(cluster.node(index)).digests(OBJECTS, 0);
    units.values().map(|sum| sum.count).sum()
}

async fn replicate(cluster: &Cluster, horizon: u16) {
    for member in &cluster.members {
        if let Some(node) = &member.node {
            node.replicate_to(horizon).await;
        }
    }
}

/// The first object of which this is true.
fn find(is_meant: impl Fn(&ObjectPath) -> bool) -> ObjectPath {
    let mut paths = (0..10_000_000).map(|number| object_path(&format!("o{number}")));
    paths.find(|path| is_meant(path)).unwrap()
}

/// Two objects in one slot. What is no primary of the first is one of the second.
fn two_in_a_slot(cluster: &Cluster) -> [ObjectPath; 2] {
    let one = object_path("one");
    let slot = |path: &ObjectPath| hash(cluster, path)[..2].to_vec();
    let out = cluster.homes(&one).1;
    let two = find(|path| slot(path) == slot(&one) && cluster.homes(path).1 != out);
    [one, two]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_gets_everything_back() {
    let mut cluster = new().await;
    cluster.make_account_and_container().await;
    let containers = cluster.container_homes();
    for number in 0..12 {
        let path = object_path(&format!("o{number}"));
        let (homes, _) = cluster.homes(&path);
        for (home, listing) in homes.iter().zip(&containers) {
            let told = vec![listing.clone()];
            let body = pattern(1_000 + number);
            let put = cluster.put(home, &path, 5, &body, told);
            assert!(put.await.is_stored());
        }
    }
    cluster.replicate().await;
    let held = |cluster: &Cluster, index: usize| {
        let scopes = [OBJECTS, Scope::Containers, Scope::Accounts];
        scopes.map(|scope| device(cluster.node(index)).digests(scope, 16))
    };
    let before = held(&cluster, 0);
    cluster.stop(0).await;
    cluster.wipe(0);
    cluster.start(0).await;
    assert_ne!(held(&cluster, 0), before);
    cluster.replicate().await;
    assert_eq!(held(&cluster, 0), before);
    let names = cluster.names(&containers[0]).await.unwrap();
    assert_eq!(names.len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stand_in_lets_go_of_its_partition_and_of_no_other_in_the_slot() {
    let mut cluster = new().await;
    let [one, two] = two_in_a_slot(&cluster);
    let (homes, handoff) = cluster.homes(&one);
    let stand_in = cluster.index_of(&handoff);
    for home in cluster.homes(&two).0 {
        cluster.put(&home, &two, 5, b"two", Vec::new()).await;
    }
    let away = cluster.index_of(&homes[0]);
    cluster.stop(away).await;
    for place in [&homes[1], &handoff] {
        cluster.put(place, &one, 5, b"one", Vec::new()).await;
    }
    cluster.replicate().await;
    assert_eq!(cluster.bytes(&homes[2], &one).await.unwrap(), b"one");
    assert_eq!(rows(&cluster, stand_in), 2, "a primary is away");
    cluster.start(away).await;
    cluster.replicate().await;
    assert_eq!(rows(&cluster, stand_in), 1);
    for home in &homes {
        assert_eq!(cluster.bytes(home, &one).await.unwrap(), b"one");
    }
    for home in cluster.homes(&two).0 {
        assert_eq!(cluster.bytes(&home, &two).await.unwrap(), b"two");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handoffs_that_go_home_together_all_do() {
    let cluster = new().await;
    let paths: Vec<ObjectPath> = (0..100)
        .map(|number| object_path(&format!("o{number}")))
        .collect();
    for path in &paths {
        let handoff = cluster.homes(path).1;
        cluster.put(&handoff, path, 5, b"jar", Vec::new()).await;
    }
    cluster.replicate().await;
    for path in &paths {
        let (homes, handoff) = cluster.homes(path);
        assert_eq!(cluster.bytes(&handoff, path).await, None);
        for home in homes {
            assert_eq!(cluster.bytes(&home, path).await.unwrap(), b"jar");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pass_reads_nothing_and_a_changed_slot_is_read_alone() {
    let cluster = new().await;
    for number in 0..30 {
        let path = object_path(&format!("o{number}"));
        for home in cluster.homes(&path).0 {
            cluster.put(&home, &path, 5, b"jar", Vec::new()).await;
        }
    }
    cluster.replicate().await;
    let before = scans(&cluster);
    assert!(before.iter().sum::<u64>() >= 80, "{before:?}");
    cluster.replicate().await;
    cluster.replicate().await;
    assert_eq!(scans(&cluster), before);
    let path = object_path("o7");
    let homes = cluster.homes(&path).0;
    cluster.put(&homes[0], &path, 6, b"jug", Vec::new()).await;
    cluster.replicate().await;
    cluster.replicate().await;
    let after = scans(&cluster);
    assert!(after.iter().sum::<u64>() - before.iter().sum::<u64>() <= 3 + 2);
    for home in &homes {
        assert_eq!(cluster.bytes(home, &path).await.unwrap(), b"jug");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_tombstones_go_when_every_primary_of_every_partition_of_the_slot_agrees() {
    let mut cluster = new().await;
    let [one, two] = two_in_a_slot(&cluster);
    let (homes, handoff) = cluster.homes(&one);
    for home in &homes {
        cluster.put(home, &one, 5, &pattern(100), Vec::new()).await;
    }
    // No primary of the first object, but of another partition in its slot.
    let away = cluster.index_of(&handoff);
    assert!(cluster.homes(&two).0.contains(&handoff));
    cluster.stop(away).await;
    for home in &homes {
        cluster.delete(home, &one, 6).await;
    }
    replicate(&cluster, DAY).await;
    let shares = |place: &&Place| cluster.homes(&two).0.contains(place);
    for home in homes.iter().filter(shares) {
        assert_eq!(rows(&cluster, cluster.index_of(home)), 1, "who is away?");
    }
    cluster.start(away).await;
    for _ in 0..2 {
        replicate(&cluster, DAY).await;
    }
    for index in 0..4 {
        assert_eq!(rows(&cluster, index), 0);
    }
    let horizon = |place: &Place| {
        let device = device(cluster.node(cluster.index_of(place)));
        device.horizon(OBJECTS, &hash(&cluster, &one))
    };
    assert!(homes.iter().all(|home| horizon(home) == DAY));
    assert_eq!(horizon(&handoff), 0, "it is no primary");
}

/// An object of whose stand-in every other partition in the slot is without one certain primary of the object; and that.
fn apart(cluster: &Cluster) -> (ObjectPath, Place, Place) {
    let outs = |slot: u32| {
        let units = (0..4).map(|index| (slot << 2) + index);
        let out = |unit| {
            let partition = onggi_object_ring::Partition::new(unit);
            let mut handoffs = cluster.ring.handoffs(partition);
            handoffs.find_map(crate::rings::place).unwrap()
        };
        units.map(out).collect::<Vec<Place>>()
    };
    let others = |path: &ObjectPath| {
        let unit = unit_of(&hash(cluster, path), BITS);
        let mut outs = outs(unit >> 2);
        let own = outs.remove(usize::try_from(unit & 3).unwrap());
        let is_apart = outs.iter().all(|out| *out == outs[0] && *out != own);
        is_apart.then(|| (own, outs.remove(0)))
    };
    let path = find(|path| others(path).is_some());
    let (stand_in, away) = others(&path).unwrap();
    (path, stand_in, away)
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_a_stand_ins_deletion_outlives_the_horizon_of_other_partitions_in_its_slot() {
    let mut cluster = new().await;
    let (path, stand_in, away) = apart(&cluster);
    cluster.put(&away, &path, 5, b"jar", Vec::new()).await;
    let (own, other) = (cluster.index_of(&stand_in), cluster.index_of(&away));
    cluster.stop(other).await;
    cluster.delete(&stand_in, &path, 6).await;
    cluster.node(own).replicate_to(DAY).await;
    let device = |index: usize| device(cluster.node(index));
    let mut beside = hash(&cluster, &path);
    beside[2] ^= 0x40;
    assert_eq!(device(own).horizon(OBJECTS, &beside), DAY);
    assert_eq!(device(own).horizon(OBJECTS, &hash(&cluster, &path)), 0);
    assert_eq!(rows(&cluster, own), 1, "the deletion is not home yet");
    cluster.start(other).await;
    for _ in 0..3 {
        replicate(&cluster, DAY).await;
    }
    assert_eq!(cluster.bytes(&away, &path).await, None);
    for index in 0..4 {
        assert_eq!(rows(&cluster, index), 0);
    }
}

/// Writes a ring with twice as many partitions, for whoever looks.
fn double_partitions(cluster: &mut Cluster) {
    let mut builder = RingBuilder::from_ring(&cluster.ring, 1).unwrap();
    builder.prepare_increase().unwrap();
    builder.increase(UtcTime::from_seconds(1)).unwrap();
    cluster.ring = builder.ring().unwrap();
    let file = cluster.ring.to_bytes();
    for name in ["account", "container", "object"] {
        let path = cluster.dir.path().join(format!("rings/{name}.ring.gz"));
        durable::replace(&path, &file, Visibility::World).unwrap();
    }
}

/// From partitions as large as what digests are kept for to smaller ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_ring_whose_partitions_are_doubled_is_taken_up_and_nothing_moves() {
    let mut cluster = Cluster::with_part_power(16).await;
    cluster.make_account_and_container().await;
    let paths: Vec<ObjectPath> = (0..20)
        .map(|number| object_path(&format!("o{number}")))
        .collect();
    let gone = object_path("gone");
    for path in paths.iter().chain([&gone]) {
        for home in cluster.homes(path).0 {
            cluster.put(&home, path, 5, b"jar", Vec::new()).await;
        }
    }
    let (homes, handoff) = cluster.homes(&gone);
    let out = cluster.index_of(&handoff);
    cluster.put(&handoff, &gone, 5, b"jar", Vec::new()).await;
    cluster.stop(out).await;
    for home in &homes {
        cluster.delete(home, &gone, 6).await;
    }
    replicate(&cluster, DAY).await;
    let horizon = |cluster: &Cluster, place: &Place| {
        let device = device(cluster.node(cluster.index_of(place)));
        device.horizon(OBJECTS, &hash(cluster, &gone))
    };
    assert!(homes.iter().all(|home| horizon(&cluster, home) == DAY));
    let before: Vec<_> = paths.iter().map(|path| cluster.homes(path).0).collect();
    double_partitions(&mut cluster);
    // One node is behind with the new ring.
    let behind = cluster.index_of(&homes[0]);
    for index in (0..4).filter(|index| *index != out && *index != behind) {
        let rings = &cluster.node(index).rings;
        rings.look_again();
        assert_eq!(rings.ring(OBJECTS).unwrap().part_power().bits(), 17);
    }
    let after: Vec<_> = paths.iter().map(|path| cluster.homes(path).0).collect();
    assert_eq!(before, after);
    let pushed = |cluster: &Cluster| {
        let nodes = (0..4).filter(|index| *index != out);
        let disks = nodes.map(|index| cluster.node(index).disks.iter().next().unwrap());
        disks
            .map(|disk| disk.progress().pushed.load(Ordering::Relaxed))
            .sum::<u64>()
    };
    let moved = pushed(&cluster);
    replicate(&cluster, DAY).await;
    cluster.node(behind).rings.look_again();
    replicate(&cluster, DAY).await;
    assert_eq!(pushed(&cluster), moved);
    assert!(homes.iter().all(|home| horizon(&cluster, home) == DAY));
    // What slept through deletion, reclaim and increase brings nothing back; and replication goes on.
    cluster.start(out).await;
    for _ in 0..2 {
        replicate(&cluster, DAY).await;
    }
    assert_eq!(cluster.bytes(&handoff, &gone).await, None);
    let homes = cluster.homes(&paths[3]).0;
    cluster
        .put(&homes[0], &paths[3], 7, b"jug", Vec::new())
        .await;
    replicate(&cluster, DAY + 1).await;
    for (path, homes) in paths.iter().zip(&before) {
        let expected: &[u8] = if *path == paths[3] { b"jug" } else { b"jar" };
        for home in homes {
            assert_eq!(cluster.bytes(home, path).await.unwrap(), expected);
        }
    }
}

const AGE_DAYS: u16 = 2;

/// Four devices and one slot, of which two partitions hold an object each. Each has its own three primaries.
struct World {
    _dir: tempfile::TempDir,
    devices: Vec<Device>,
    is_up: [bool; 4],
    /// Which is no primary of each partition.
    out: [usize; 2],
    /// The moment, in seconds.
    now: u64,
}

fn key(which: usize) -> ObjectKey {
    let mut hash = [9; 16];
    hash[2] = [0x09, 0xc9][which];
    ObjectKey {
        policy: POLICY,
        hash: PathHash::new(hash),
        fragment: WHOLE,
    }
}

fn unit(which: usize) -> u32 {
    unit_of(key(which).hash.as_bytes(), BITS)
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

fn push(device: &Device, which: usize, row: ObjectRow) {
    let bytes = row.body.is_some().then(|| b"jar".to_vec());
    let fragment = WHOLE;
    let push = PushRow {
        fragment,
        row,
        bytes,
    };
    take_row(device, key(which), push).unwrap();
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
                durable::create_dir_all(path)?;
                Ok(Arc::new(MemoryStore::new(&tables::ALL)) as Arc<dyn Store>)
            })
            .unwrap()
        });
        Self {
            devices: devices.collect(),
            _dir: dir,
            is_up: [true; 4],
            out: [3, 2],
            now: 100 * 86_400,
        }
    }

    fn horizon(&self) -> u16 {
        horizon_at(UtcTime::from_seconds(self.now), AGE_DAYS)
    }

    fn primaries(&self, which: usize) -> Vec<usize> {
        (0..4).filter(|index| *index != self.out[which]).collect()
    }

    /// Writes to every primary that is up, apart from one; whether W primaries took it.
    fn write(&self, which: usize, without: usize, row: &ObjectRow) -> bool {
        let taken = self.primaries(which).into_iter().filter(|index| {
            let is_asked = self.is_up[*index] && *index != without;
            if is_asked {
                push(&self.devices[*index], which, row.clone());
            }
            is_asked
        });
        taken.count() >= 2
    }

    fn digest(&self, index: usize, which: usize) -> Digest {
        let found = self.devices[index].unit_digests(OBJECTS, BITS, self.horizon(), None);
        found.digests.get(&unit(which)).copied().unwrap_or_default()
    }

    fn sum(&self, index: usize, which: usize) -> Option<KeySum> {
        let keys = self.devices[index].object_keys(POLICY, key(which).slot());
        let mut keys = keys.unwrap().into_iter();
        keys.find(|sum| sum.hash == *key(which).hash.as_bytes())
    }

    /// Gives a peer what it lacks of a partition.
    fn give(&self, own: usize, peer: usize, which: usize) {
        let device = &self.devices[own];
        let Some(sum) = self.sum(own, which) else {
            return;
        };
        for position in wanted_objects(&self.devices[peer], POLICY, &[sum]).unwrap() {
            if position & STALE != 0 {
                device.set_aside(POLICY, &sum).unwrap();
            } else if let Some(stored) = device.get_object(&key(which)).unwrap() {
                push(&self.devices[peer], which, stored.row);
            }
        }
    }

    /// What the replicator does for one device.
    fn pass(&self, own: usize) {
        if !self.is_up[own] {
            return;
        }
        let device = &self.devices[own];
        let owns = |which: &usize| own != self.out[*which];
        let peers = |which: usize| {
            let primaries = self.primaries(which).into_iter();
            primaries.filter(move |peer| *peer != own)
        };
        let agrees = |peer: usize, which: usize| {
            self.is_up[peer] && self.digest(own, which) == self.digest(peer, which)
        };
        let mut lacking = Vec::new();
        for which in [0, 1].into_iter().filter(owns) {
            lacking.extend(
                peers(which)
                    .filter(|peer| !agrees(*peer, which))
                    .map(|peer| (peer, which)),
            );
        }
        if lacking.is_empty() {
            let units = [0, 1].into_iter().filter(owns).map(unit);
            let part = (key(0).slot(), Cover::of(BITS, units));
            device.reclaim(POLICY, &part, self.horizon()).unwrap();
        }
        for (peer, which) in lacking.into_iter().filter(|(peer, _)| self.is_up[*peer]) {
            self.give(own, peer, which);
        }
        for which in [0, 1].into_iter().filter(|which| !owns(which)) {
            let sum = self.sum(own, which);
            for peer in peers(which).filter(|peer| self.is_up[*peer]) {
                self.give(own, peer, which);
            }
            if let Some(sum) = sum.filter(|_| peers(which).all(|peer| self.is_up[peer])) {
                device.drop_object(&sum, POLICY).unwrap();
            }
        }
    }

    fn stamp_of(&self, index: usize, which: usize) -> Option<(Timestamp, bool)> {
        let stored = self.devices[index].get_object(&key(which)).unwrap()?;
        Some((stored.row.data_timestamp, stored.row.body.is_some()))
    }
}

#[test]
fn o6_a_partition_that_comes_to_a_device_is_not_refused_by_the_horizon_of_its_neighbour() {
    let mut world = World::new();
    // Device 3 is at home in the second partition only.
    world.out = [3, 0];
    let (path, then) = (object_path("o"), world.now);
    assert!(world.write(0, 3, &live_row(&path, then)));
    world.now += 4 * 86_400;
    world.pass(3);
    assert_eq!(
        world.devices[3].horizon(OBJECTS, key(1).hash.as_bytes()),
        world.horizon()
    );
    // Now it is in the first one, too, and those that bring it have no horizon.
    world.out = [0, 0];
    world.pass(1);
    assert_eq!(world.stamp_of(3, 0), Some((stamp(then), true)));
    assert_eq!(world.stamp_of(1, 0), Some((stamp(then), true)));
}

proptest! {
    // Each case makes four devices with 256 folders each.
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("ONGGI_LONG").is_some() { 4_000 } else { 48 }))]
    #[test]
    fn o6_no_reclaimed_deletion_comes_back_and_no_visible_object_goes(
        ops in prop::collection::vec((0u8..9, 0usize..2, 0usize..4, 0u64..5), 1..80),
    ) {
        let path = object_path("o");
        let mut world = World::new();
        let mut told = [None; 2];
        for (op, which, index, days) in ops {
            world.now += 10;
            match op {
                0 => {
                    if world.write(which, index, &live_row(&path, world.now)) {
                        told[which] = Some((world.now, true));
                    }
                }
                1 => {
                    // What became of an unacknowledged deletion nobody was told.
                    let row = ObjectRow::tombstone(path.clone(), stamp(world.now));
                    let is_told = world.write(which, index, &row);
                    told[which] = is_told.then_some((world.now, false));
                }
                2 => world.is_up[index] = !world.is_up[index],
                3 => world.out[which] = index,
                4 => world.now += days * 86_400,
                // A write that only a stand-in got.
                5 if days == 0 && world.is_up[world.out[which]] => {
                    push(&world.devices[world.out[which]], which, live_row(&path, world.now));
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
        for which in [0, 1] {
            let first = world.digest(world.primaries(which)[0], which);
            for index in world.primaries(which) {
                prop_assert_eq!(world.digest(index, which), first);
            }
            for index in 0..4 {
                let found = world.stamp_of(index, which);
                match told[which] {
                    Some((second, false)) => {
                        let is_back = found.is_some_and(|(at, live)| live && at < stamp(second));
                        prop_assert!(!is_back, "{index}: {found:?}, deleted at {second}");
                    }
                    Some((second, true)) if index != world.out[which] => {
                        prop_assert!(found >= Some((stamp(second), true)), "{index}: {found:?}, put at {second}");
                    }
                    Some((_, true)) | None => {}
                }
            }
        }
    }
}

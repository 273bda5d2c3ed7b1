//! Traces in containers, and deleted containers, that go, and devices that slept meanwhile.

use super::{Cluster, at, container_path};
use crate::receive::wanted_rosters;
use onggi_common_host::SystemEntropy;
use onggi_common_meta::local::{MemoryStore, Store};
use onggi_common_units::{ByteCount, Timestamp, UtcTime};
use onggi_object_device::reclaim::{Cover, horizon_at};
use onggi_object_device::roster::Decision;
use onggi_object_device::{Device, DeviceOptions, RosterKey, RosterKind, RosterRow, tables};
use onggi_object_model::{Etag, Metadata, ObjectRecord};
use onggi_object_ring::PathHash;
use onggi_object_wire::Digest;
use onggi_object_wire::replication::{STALE, Scope};
use proptest::prelude::*;
use std::sync::Arc;

const AGE_DAYS: u16 = 2;
const KIND: RosterKind = RosterKind::Container;
/// The day of all stamps that [`at`] makes.
const DAY: u16 = 19_675;

fn the_key() -> RosterKey {
    RosterKey {
        kind: KIND,
        hash: PathHash::new([9; 16]),
    }
}

fn blank() -> RosterRow {
    RosterRow::new("AUTH_a".parse().unwrap(), Some("c".parse().unwrap()))
}

fn stamp(second: u64) -> Timestamp {
    Timestamp::from_utc(UtcTime::from_seconds(second))
}

fn record_at(name: &str, stamp: Timestamp, deleted: bool) -> ObjectRecord {
    ObjectRecord {
        name: name.parse().unwrap(),
        data_timestamp: stamp,
        content_type_timestamp: stamp,
        metadata_timestamp: stamp,
        deleted,
        length: 1,
        etag: Etag::EMPTY,
        content_type: String::new(),
        annotations: Metadata::default(),
    }
}

/// Four devices of which three are primaries, one container, and days that pass.
struct World {
    _dir: tempfile::TempDir,
    devices: Vec<Device>,
    is_up: [bool; 4],
    /// Which is no primary.
    out: usize,
    /// The moment, in seconds.
    now: u64,
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

    fn today(&self) -> u16 {
        u16::try_from(self.now / 86_400).unwrap()
    }

    fn primaries(&self) -> Vec<usize> {
        (0..4).filter(|index| *index != self.out).collect()
    }

    /// Does the same on every primary that is up, apart from one; whether W of them did it.
    fn on_primaries(&self, without: usize, act: impl Fn(&Device) -> bool) -> bool {
        let asked = self.primaries().into_iter();
        let asked = asked.filter(|index| self.is_up[*index] && *index != without);
        asked.filter(|index| act(&self.devices[*index])).count() >= 2
    }

    /// A client's news; what was made before today has waited on its device.
    fn tell(&self, device: &Device, record: &ObjectRecord) -> bool {
        let known = self.today() - 1;
        let records = core::slice::from_ref(record);
        let told = device.merge_news(&the_key(), None, records, known);
        told.unwrap().is_some()
    }

    fn put_container(&self, device: &Device) -> bool {
        let changed = device.change_roster(&the_key(), blank(), |row| {
            if row.delete_timestamp >= stamp(self.now) {
                return Decision::Leave;
            }
            row.put_timestamp = row.put_timestamp.max(stamp(self.now));
            Decision::Write
        });
        settled_with_its_account(device);
        changed.unwrap().after.exists()
    }

    fn delete_container(&self, device: &Device) -> bool {
        let changed = device.change_roster(&the_key(), blank(), |row| {
            if row.live_count > 0 || row.put_timestamp >= stamp(self.now) {
                return Decision::Leave;
            }
            row.delete(stamp(self.now));
            Decision::Write
        });
        settled_with_its_account(device);
        !changed.unwrap().after.exists()
    }

    fn digest(&self, index: usize) -> Digest {
        let units = self.devices[index].digests_above(Scope::Containers, 0, self.horizon());
        units
            .values()
            .fold(Digest::EMPTY, |sum, part| sum + part.digest)
    }

    /// What a push of the container from one device to another does.
    fn push(&self, own: usize, peer: usize, horizon: u16) {
        let (device, other) = (&self.devices[own], &self.devices[peer]);
        let slot = the_key().slot();
        let keys = device.roster_keys(KIND, slot, horizon).unwrap();
        for position in wanted_rosters(other, KIND, &keys, horizon).unwrap() {
            if position & STALE != 0 {
                device
                    .set_roster_aside(&the_key(), keys[0].digest, horizon)
                    .unwrap();
                continue;
            }
            let row = device.roster(&the_key()).unwrap().unwrap();
            let (records, _) = device.changes::<ObjectRecord>(&the_key(), 0, 100).unwrap();
            let known = device.horizon(Scope::Containers, the_key().hash.as_bytes());
            let told = other
                .merge_news(&the_key(), Some(&row), &records, known)
                .unwrap();
            let stale = told.map(|told| told.stale).unwrap_or_default();
            let stale: Vec<_> = stale.into_iter().map(|at| records[at].clone()).collect();
            device.drop_stale_records(&the_key(), &stale).unwrap();
            settled_with_its_account(other);
        }
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
        let slot = the_key().slot();
        let at_first = device.roster_keys(KIND, slot, 0).unwrap();
        let (mut agreed, mut confirmed) = (0, 0);
        for peer in peers.iter().copied().filter(|peer| self.is_up[*peer]) {
            if is_primary && self.digest(own) == self.digest(peer) {
                agreed += 1;
                continue;
            }
            confirmed += 1;
            self.push(own, peer, if is_primary { self.horizon() } else { 0 });
        }
        if is_primary && agreed == peers.len() {
            let whole = (slot, Cover::Whole);
            device
                .reclaim_rosters(KIND, &whole, self.horizon())
                .unwrap();
        }
        if !is_primary && confirmed == peers.len() {
            for sum in at_first {
                device.drop_roster(&the_key(), sum.digest).unwrap();
            }
        }
    }

    fn settle(&mut self) {
        self.is_up = [true; 4];
        for _ in 0..10 {
            for index in 0..4 {
                self.pass(index);
            }
        }
    }

    fn record(&self, index: usize, name: &str) -> Option<ObjectRecord> {
        self.devices[index].record(&the_key(), name).unwrap()
    }
}

/// The account has heard of the container, so that its trace may go.
fn settled_with_its_account(device: &Device) {
    if let Some(row) = device.roster(&the_key()).unwrap() {
        device.forget_pending_container(&the_key(), &row).unwrap();
    }
}

#[test]
fn a_primary_that_was_a_stand_in_meanwhile_takes_back_what_it_dropped() {
    let mut world = World::new();
    world.on_primaries(3, |device| world.put_container(device));
    world.now += 3 * 86_400;
    // The other primaries have not come to raising their horizons.
    world.pass(0);
    world.out = 0;
    world.pass(1);
    world.pass(0);
    assert_eq!(world.devices[0].roster(&the_key()).unwrap(), None);
    world.out = 3;
    for index in [3, 1, 2, 0] {
        world.pass(index);
    }
    for index in 0..3 {
        let row = world.devices[index].roster(&the_key()).unwrap();
        assert!(row.is_some(), "{index} has lost it");
    }
}

fn cases() -> ProptestConfig {
    // Each case makes four devices with 256 folders each.
    let is_long = std::env::var_os("ONGGI_LONG").is_some();
    ProptestConfig::with_cases(if is_long { 2_000 } else { 48 })
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn o6_no_reclaimed_record_comes_back_and_no_listed_one_goes(
        ops in prop::collection::vec((0u8..9, 0usize..4, 0u64..5, 0usize..2), 1..60),
    ) {
        let mut world = World::new();
        for index in 0..3 {
            world.put_container(&world.devices[index]);
        }
        let names = ["a", "b"];
        let mut told = [None; 2];
        for (op, index, days, name) in ops {
            world.now += 10;
            match op {
                0 | 1 => {
                    let deleted = op == 1;
                    let record = record_at(names[name], stamp(world.now), deleted);
                    if world.on_primaries(index, |device| world.tell(device, &record)) {
                        told[name] = Some((world.now, !deleted));
                    } else if deleted {
                        // What became of an unacknowledged deletion nobody was told.
                        told[name] = None;
                    }
                }
                2 => world.is_up[index] = !world.is_up[index],
                3 => world.out = index,
                4 => world.now += days * 86_400,
                // News that only a stand-in got.
                5 if days == 0 && world.is_up[world.out] => {
                    let record = record_at(names[name], stamp(world.now), false);
                    world.tell(&world.devices[world.out], &record);
                }
                _ => world.pass(index),
            }
        }
        world.settle();
        let first = world.digest(world.primaries()[0]);
        for index in world.primaries() {
            prop_assert_eq!(world.digest(index), first);
        }
        for (name, told) in names.into_iter().zip(told) {
            for index in 0..4 {
                let found = world.record(index, name);
                let seen = found.map(|record| (record.data_timestamp, !record.deleted));
                match told {
                    Some((second, false)) => {
                        let is_back = seen.is_some_and(|(at, live)| live && at < stamp(second));
                        prop_assert!(!is_back, "{name} on {index}: {seen:?}, deleted at {second}");
                    }
                    Some((second, true)) if index != world.out => {
                        prop_assert!(seen >= Some((stamp(second), true)), "{name} on {index}: {seen:?}, put at {second}");
                    }
                    Some((_, true)) | None => {}
                }
            }
        }
    }

    #[test]
    fn o6_no_reclaimed_container_comes_back_and_none_that_is_there_goes(
        ops in prop::collection::vec((0u8..9, 0usize..4, 0u64..5), 1..60),
    ) {
        let mut world = World::new();
        let mut told = None;
        for (op, index, days) in ops {
            world.now += 10;
            match op {
                0 => {
                    if world.on_primaries(index, |device| world.put_container(device)) {
                        told = Some((world.now, true));
                    }
                }
                1 => {
                    let is_told = world.on_primaries(index, |device| world.delete_container(device));
                    told = is_told.then_some((world.now, false));
                }
                2 => world.is_up[index] = !world.is_up[index],
                3 => world.out = index,
                4 => world.now += days * 86_400,
                5 if days == 0 && world.is_up[world.out] => {
                    world.put_container(&world.devices[world.out]);
                }
                _ => world.pass(index),
            }
        }
        world.settle();
        let first = world.digest(world.primaries()[0]);
        for index in world.primaries() {
            prop_assert_eq!(world.digest(index), first);
        }
        for index in 0..4 {
            let row = world.devices[index].roster(&the_key()).unwrap();
            let seen = row.map(|row| (row.put_timestamp, row.exists()));
            match told {
                Some((second, false)) => {
                    let is_back = seen.is_some_and(|(at, exists)| exists && at < stamp(second));
                    prop_assert!(!is_back, "{index}: {seen:?}, deleted at {second}");
                }
                Some((second, true)) if index != world.out => {
                    prop_assert!(seen >= Some((stamp(second), true)), "{index}: {seen:?}, put at {second}");
                }
                Some((_, true)) | None => {}
            }
        }
    }
}

async fn replicate(cluster: &Cluster, horizon: u16) {
    for member in &cluster.members {
        if let Some(node) = &member.node {
            node.replicate_to(horizon).await;
        }
    }
}

fn device(cluster: &Cluster, index: usize) -> &Device {
    cluster.node(index).disks.iter().next().unwrap().device()
}

#[tokio::test(flavor = "multi_thread")]
async fn o6_over_the_wire_a_trace_goes_when_every_primary_agrees_and_a_sleeper_gives_up_its_record()
{
    let mut cluster = Cluster::new().await;
    cluster.make_account_and_container().await;
    let key = cluster.node(0).container_key(&container_path());
    let homes: Vec<usize> = cluster
        .container_homes()
        .iter()
        .map(|home| cluster.index_of(home))
        .collect();
    let out = (0..4).find(|index| !homes.contains(index)).unwrap();
    let live = record_at("gone", at(5), false);
    let row = device(&cluster, homes[0]).roster(&key).unwrap();
    let records = core::slice::from_ref(&live);
    for index in 0..4 {
        device(&cluster, index)
            .merge_records(&key, row.as_ref(), records)
            .unwrap();
    }
    cluster.stop(out).await;
    let trace = record_at("gone", at(6), true);
    for index in &homes {
        let told =
            device(&cluster, *index).merge_records(&key, None, core::slice::from_ref(&trace));
        told.unwrap().unwrap();
    }
    for _ in 0..2 {
        replicate(&cluster, DAY).await;
    }
    for index in &homes {
        let found = device(&cluster, *index)
            .record::<ObjectRecord>(&key, "gone")
            .unwrap();
        assert_eq!(found, None);
        assert_eq!(
            device(&cluster, *index).horizon(Scope::Containers, key.hash.as_bytes()),
            DAY
        );
    }
    cluster.start(out).await;
    for _ in 0..2 {
        replicate(&cluster, DAY).await;
    }
    for index in 0..4 {
        let found = device(&cluster, index)
            .record::<ObjectRecord>(&key, "gone")
            .unwrap();
        assert_eq!(found, None, "{index}");
    }
    let left = device(&cluster, out).roster(&key).unwrap();
    assert_eq!(
        left, None,
        "what the primaries have was brought home or set aside"
    );
}

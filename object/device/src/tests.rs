//! What a device promises, asked of both engines: RocksDB and the memory twin.

mod check;
mod commit;
mod container_sync;
mod crash;
mod damage;
mod expiry;
mod listings;
mod misplaced;
mod reclaim;
mod reclaim_rosters;
mod reservations;
mod rosters;
mod split;

use crate::object::post_row;
use crate::{
    Device, DeviceOptions, Location, Merge, Merged, NewRow, ObjectKey, OpenError, Tell, tables,
};
use onggi_common_host::SystemEntropy;
use onggi_common_meta::local::{MemoryStore, Store};
use onggi_common_units::{ByteCount, Timestamp};
use onggi_object_model::{ByteRange, Etag, Metadata, ObjectPath, PolicyIndex};
use onggi_object_ring::PathHash;
use onggi_object_wire::object::WHOLE;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Body, Digest, ObjectRow, Root};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

pub(crate) const SCOPE: Scope = Scope::Objects(PolicyIndex::new(0));

pub(crate) fn options(directory: &Path) -> DeviceOptions {
    DeviceOptions {
        directory: directory.to_owned(),
        reserve: Some(ByteCount::ZERO),
    }
}

pub(crate) fn open_rocks(directory: &Path) -> Device {
    Device::open(&options(directory), &SystemEntropy).unwrap()
}

pub(crate) fn open_memory(directory: &Path) -> Device {
    let store = |path: &Path| -> Result<Arc<dyn Store>, OpenError> {
        onggi_common_host::durable::create_dir_all(path)?;
        Ok(Arc::new(MemoryStore::new(&tables::ALL)))
    };
    Device::open_with(&options(directory), &SystemEntropy, store).unwrap()
}

/// Asks the same of both engines.
pub(crate) fn on_both(ask: impl Fn(&Device)) {
    let dir = tempfile::tempdir().unwrap();
    ask(&open_memory(&dir.path().join("memory")));
    ask(&open_rocks(&dir.path().join("rocks")));
}

pub(crate) fn at(ticks: u64) -> Timestamp {
    Timestamp::from_ticks(ticks).unwrap()
}

pub(crate) fn key(number: u8) -> ObjectKey {
    ObjectKey {
        policy: PolicyIndex::new(0),
        hash: PathHash::new([number; 16]),
        fragment: WHOLE,
    }
}

pub(crate) fn path(number: u8) -> ObjectPath {
    ObjectPath {
        account: "a".parse().unwrap(),
        container: "c".parse().unwrap(),
        object: format!("o{number}").parse().unwrap(),
    }
}

pub(crate) fn put_row(number: u8, ticks: u64, bytes: &[u8]) -> ObjectRow {
    ObjectRow {
        path: path(number),
        data_timestamp: at(ticks),
        body: Some(Body {
            length: bytes.len() as u64,
            etag: Etag::EMPTY,
            root: Root::of(bytes),
            system: Metadata::default(),
        }),
        content_type_timestamp: at(ticks),
        content_type: "text/plain".to_owned(),
        metadata_timestamp: at(ticks),
        metadata: Metadata::default(),
    }
}

pub(crate) fn put(device: &Device, number: u8, ticks: u64, bytes: &[u8]) -> Merged {
    put_as(device, number, ticks, bytes, Merge::default())
}

pub(crate) fn put_as(device: &Device, number: u8, ticks: u64, bytes: &[u8], how: Merge) -> Merged {
    let mut upload = device
        .begin_upload(key(number), Some(bytes.len() as u64))
        .unwrap();
    for piece in bytes.chunks(100_000) {
        upload.write(device, piece).unwrap();
    }
    let body = Some(upload.finish());
    let new = NewRow {
        row: put_row(number, ticks, bytes),
        body,
    };
    device.merge_object(&key(number), new, how).unwrap()
}

pub(crate) fn delete(device: &Device, number: u8, ticks: u64) -> Merged {
    let new = NewRow {
        row: ObjectRow::tombstone(path(number), at(ticks)),
        body: None,
    };
    device
        .merge_object(&key(number), new, Merge::default())
        .unwrap()
}

pub(crate) fn post(device: &Device, number: u8, ticks: u64, value: &str) -> Merged {
    let mut metadata = Metadata::default();
    metadata.insert("x-object-meta-jar", value);
    let row = post_row(path(number), at(ticks), None, metadata);
    let how = Merge {
        if_present: true,
        ..Merge::default()
    };
    device
        .merge_object(&key(number), NewRow { row, body: None }, how)
        .unwrap()
}

pub(crate) fn read(device: &Device, number: u8, ranges: &[ByteRange]) -> Option<Vec<u8>> {
    let stored = device.get_object(&key(number)).unwrap()?;
    stored.row.body.as_ref()?;
    let mut reader = device.open_body(&key(number), &stored, ranges).unwrap();
    let mut bytes = Vec::new();
    while let Some(block) = reader.next(device).unwrap() {
        bytes.extend_from_slice(&block);
    }
    Some(bytes)
}

pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| u8::try_from(index / 7 % 251).unwrap())
        .collect()
}

pub(crate) fn digest(device: &Device) -> Digest {
    device
        .digests(SCOPE, 0)
        .values()
        .fold(Digest::EMPTY, |sum, part| sum + part.digest)
}

pub(crate) fn body_files(device: &Device) -> usize {
    let shelves = std::fs::read_dir(device.directory().join("bodies")).unwrap();
    shelves
        .map(|shelf| std::fs::read_dir(shelf.unwrap().path()).unwrap().count())
        .sum()
}

#[test]
fn small_and_large_bodies_come_back_whole_and_in_ranges() {
    on_both(|device| {
        for (number, length) in [
            (1, 0),
            (2, 1),
            (3, 65_536),
            (4, 65_537),
            (5, 1_000_000),
            (6, 5_000_001),
        ] {
            let bytes = pattern(length);
            assert!(matches!(
                put(device, number, 1, &bytes),
                Merged::Changed {
                    was_there: false,
                    ..
                }
            ));
            assert_eq!(read(device, number, &[]).unwrap(), bytes, "{length}");
            if length > 10 {
                let (end, middle) = (length as u64, length as u64 / 2);
                let ranges = [
                    ByteRange::new(0, 1),
                    ByteRange::new(middle, middle + 5),
                    ByteRange::new(end - 3, end),
                ];
                let ranges = ranges.map(Option::unwrap);
                let expected = [
                    &bytes[..1],
                    &bytes[length / 2..length / 2 + 5],
                    &bytes[length - 3..],
                ]
                .concat();
                assert_eq!(read(device, number, &ranges).unwrap(), expected, "{length}");
            }
        }
        assert_eq!(device.live_count(SCOPE), 6);
        assert_eq!(body_files(device), 3);
    });
}

#[test]
fn the_newest_wins_and_the_old_file_goes() {
    on_both(|device| {
        put(device, 1, 5, &pattern(100_000));
        assert!(
            matches!(put(device, 1, 4, b"older"), Merged::Unchanged { newest, .. } if newest == at(5))
        );
        assert_eq!(read(device, 1, &[]).unwrap().len(), 100_000);
        assert!(matches!(
            put(device, 1, 6, b"newer"),
            Merged::Changed {
                was_there: true,
                ..
            }
        ));
        assert_eq!(read(device, 1, &[]).unwrap(), b"newer");
        assert_eq!(body_files(device), 0);
        assert!(matches!(
            delete(device, 1, 7),
            Merged::Changed {
                was_there: true,
                ..
            }
        ));
        assert_eq!(read(device, 1, &[]), None);
        // An older large body that comes late leaves no file behind.
        put(device, 1, 3, &pattern(100_000));
        assert_eq!((read(device, 1, &[]), body_files(device)), (None, 0));
    });
}

#[test]
fn a_post_changes_metadata_and_nothing_else() {
    on_both(|device| {
        assert_eq!(post(device, 1, 9, "x"), Merged::Absent);
        put(device, 1, 5, b"jar");
        assert!(matches!(
            post(device, 1, 6, "brown"),
            Merged::Changed { .. }
        ));
        assert!(matches!(
            post(device, 1, 6, "aaa"),
            Merged::Unchanged { .. }
        ));
        let stored = device.get_object(&key(1)).unwrap().unwrap();
        assert_eq!(stored.row.metadata.get("x-object-meta-jar"), Some("brown"));
        assert_eq!(
            (stored.row.data_timestamp, stored.row.metadata_timestamp),
            (at(5), at(6))
        );
        assert_eq!(read(device, 1, &[]).unwrap(), b"jar");
    });
}

#[test]
fn what_a_container_has_to_be_told_is_remembered_until_it_was() {
    on_both(|device| {
        let how = Merge {
            tell: Some(Tell::elsewhere(onggi_common_units::UtcTime::from_seconds(
                9,
            ))),
            ..Merge::default()
        };
        put_as(device, 1, 5, b"one", how);
        put_as(device, 2, 5, b"two", how);
        let pending = device.pending_objects(None, 10).unwrap();
        assert_eq!(pending.len(), 2);
        assert_eq!(
            device.pending_objects(Some(&pending[0].key), 10).unwrap(),
            pending[1..]
        );
        // What was told meanwhile is not forgotten when it changed again.
        put_as(device, 1, 6, b"newer", how);
        device.forget_pending_objects(&pending).unwrap();
        let left = device.pending_objects(None, 10).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].record.data_timestamp, at(6));
    });
}

#[test]
fn digests_and_bodies_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    let before = {
        let device = open_rocks(&directory);
        put(&device, 1, 5, &pattern(200_000));
        put(&device, 2, 6, b"small");
        delete(&device, 3, 7);
        digest(&device)
    };
    let device = open_rocks(&directory);
    assert_eq!(digest(&device), before);
    assert_eq!(read(&device, 1, &[]).unwrap(), pattern(200_000));
    assert_eq!(read(&device, 2, &[]).unwrap(), b"small");
    assert_eq!(device.live_count(SCOPE), 2);
}

#[test]
fn a_dropped_row_leaves_nothing_and_only_goes_as_it_was_seen() {
    on_both(|device| {
        put(device, 1, 5, &pattern(100_000));
        let seen = device
            .object_keys(PolicyIndex::new(0), key(1).slot())
            .unwrap();
        put(device, 1, 6, &pattern(100_001));
        assert!(!device.drop_object(&seen[0], PolicyIndex::new(0)).unwrap());
        let seen = device
            .object_keys(PolicyIndex::new(0), key(1).slot())
            .unwrap();
        assert!(device.drop_object(&seen[0], PolicyIndex::new(0)).unwrap());
        assert_eq!((digest(device), body_files(device)), (Digest::EMPTY, 0));
    });
}

#[test]
fn an_upload_given_up_leaves_nothing() {
    on_both(|device| {
        let mut upload = device.begin_upload(key(1), None).unwrap();
        upload.write(device, &pattern(300_000)).unwrap();
        drop(upload);
        assert_eq!(body_files(device), 0);
        assert_eq!(read(device, 1, &[]), None);
    });
}

#[test]
fn bodies_without_a_row_are_swept_and_uploads_in_flight_are_not() {
    on_both(|device| {
        put(device, 1, 5, &pattern(100_000));
        let own = device.get_object(&key(1)).unwrap().unwrap();
        let Location::File(name) = own.location else {
            panic!("a large body is in a file")
        };
        let file = crate::large::body_path(device.directory(), &name);
        let orphan = crate::large::file_name(&key(1), "orphan");
        let in_flight = crate::large::file_name(&key(1), "in-flight");
        for name in [&orphan, &in_flight] {
            std::fs::copy(&file, crate::large::body_path(device.directory(), name)).unwrap();
        }
        device.with_in_flight(|names| names.insert(in_flight.clone()));
        assert_eq!(device.sweep().unwrap(), 1);
        assert_eq!(body_files(device), 2);
        assert_eq!(read(device, 1, &[]).unwrap(), pattern(100_000));
    });
}

#[test]
fn a_full_device_refuses_before_harm_and_still_reads_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let mount = Mount::tmpfs(dir.path(), "size=24m");
    let Some(mount) = mount else {
        println!("skipped, because mounting a tmpfs needs root");
        return;
    };
    let directory = mount.path.join("d1");
    let reserve = Some(ByteCount::from_mib(6));
    let full_options = DeviceOptions { directory, reserve };
    let device = Device::open(&full_options, &SystemEntropy).unwrap();
    put(&device, 1, 1, b"before");
    let mut stored = 0u8;
    let refused = loop {
        let bytes = pattern(1 << 20);
        let begun = device.begin_upload(key(100 + stored), Some(bytes.len() as u64));
        match begun {
            Err(error) => break error,
            Ok(mut upload) => {
                upload.write(&device, &bytes).unwrap();
                let new = NewRow {
                    row: put_row(100 + stored, 1, &bytes),
                    body: Some(upload.finish()),
                };
                if let Err(error) = device.merge_object(&key(100 + stored), new, Merge::default()) {
                    break error;
                }
            }
        }
        stored += 1;
        assert!(stored < 30, "24 MiB cannot hold so much");
    };
    assert!(refused.is_full(), "{refused}");
    assert!(stored > 3, "{stored}");
    assert_eq!(read(&device, 1, &[]).unwrap(), b"before");
    assert_eq!(read(&device, 100, &[]).unwrap(), pattern(1 << 20));
    for number in 0..stored {
        delete(&device, 100 + number, 2);
    }
    assert!(
        matches!(
            put(&device, 50, 3, &pattern(1 << 20)),
            Merged::Changed { .. }
        ),
        "writes resume"
    );
}

/// A mounted file system that goes with the guard.
pub(crate) struct Mount {
    pub(crate) path: std::path::PathBuf,
}

impl Mount {
    pub(crate) fn tmpfs(path: &Path, size: &str) -> Option<Self> {
        let flags = rustix::mount::MountFlags::empty();
        let size = std::ffi::CString::new(size).unwrap();
        rustix::mount::mount("tmpfs", path, "tmpfs", flags, Some(size.as_c_str())).ok()?;
        Some(Self {
            path: path.to_owned(),
        })
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(&self.path, flags).unwrap();
    }
}

#[derive(Debug, Clone)]
enum Act {
    Put(u64, usize),
    Post(u64, bool),
    Delete(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (1u64..6, prop_oneof![Just(3usize), Just(70_000)])
            .prop_map(|(ticks, length)| Act::Put(ticks, length)),
        (1u64..6, any::<bool>()).prop_map(|(ticks, value)| Act::Post(ticks, value)),
        (1u64..6).prop_map(Act::Delete),
    ]
}

fn carry_out(device: &Device, number: u8, act: &Act) {
    match act {
        Act::Put(ticks, length) => drop(put(device, number, *ticks, &pattern(*length))),
        // A POST travels between replicas as a row: it is merged whether the object is there or not.
        Act::Post(ticks, value) => {
            let value = if *value { "x" } else { "y" };
            if device.get_object(&key(number)).unwrap().is_some() {
                drop(post(device, number, *ticks, value));
            }
        }
        Act::Delete(ticks) => drop(delete(device, number, *ticks)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_exchange_rows_end_equal_in_any_order(
        ours in prop::collection::vec(act(), 1..6), theirs in prop::collection::vec(act(), 1..6)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (open_memory(&dir.path().join("one")), open_memory(&dir.path().join("two")));
        ours.iter().for_each(|act| carry_out(&one, 1, act));
        theirs.iter().for_each(|act| carry_out(&two, 1, act));
        for _ in 0..2 {
            exchange(&one, &two);
            exchange(&two, &one);
        }
        prop_assert_eq!(digest(&one), digest(&two));
        prop_assert_eq!(read(&one, 1, &[]), read(&two, 1, &[]));
    }

    #[test]
    fn a_digest_is_the_sum_over_the_rows(acts in prop::collection::vec((0u8..4, act()), 1..20)) {
        let dir = tempfile::tempdir().unwrap();
        let device = open_memory(&dir.path().join("one"));
        acts.iter().for_each(|(number, act)| carry_out(&device, *number, act));
        let mut sum = Digest::EMPTY;
        for number in 0..4 {
            for row in device.object_keys(PolicyIndex::new(0), key(number).slot()).unwrap() {
                sum += row.digest;
            }
        }
        prop_assert_eq!(digest(&device), sum);
    }
}

fn exchange(from: &Device, to: &Device) {
    let Some(stored) = from.get_object(&key(1)).unwrap() else {
        return;
    };
    let body = read(from, 1, &[]).map(|bytes| {
        let mut upload = to.begin_upload(key(1), None).unwrap();
        upload.write(to, &bytes).unwrap();
        upload.finish()
    });
    to.merge_object(
        &key(1),
        NewRow {
            row: stored.row,
            body,
        },
        Merge::default(),
    )
    .unwrap();
}

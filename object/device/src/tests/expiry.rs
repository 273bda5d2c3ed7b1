//! Objects with a date of deletion.

use super::{SCOPE, key, on_both, open_memory, open_rocks, path, put_row};
use crate::format::{Marker, id_file};
use crate::object::post_row;
use crate::tables::{EXPIRY, OBJECT};
use crate::{Device, Due, Guard, Location, Merge, Merged, NewRow, ObjectKey, StoredObject};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Order};
use onggi_common_meta::table::{self, PayloadError, Record};
use onggi_common_units::{HexId, Timestamp, UtcTime, Uuid};
use onggi_object_model::Metadata;
use onggi_object_wire::ObjectRow;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Stamps and dates both count seconds from here in these tests.
const START: u64 = 1_700_000_000;

fn second(number: u64) -> Timestamp {
    Timestamp::from_utc(UtcTime::from_seconds(START + number))
}

fn metadata(date: Option<u64>) -> Metadata {
    let mut metadata = Metadata::default();
    if let Some(date) = date {
        metadata.insert("x-delete-at", (START + date).to_string());
    }
    metadata
}

fn dated(number: u8, stamp: u64, date: Option<u64>) -> ObjectRow {
    let stamp = second(stamp);
    ObjectRow {
        data_timestamp: stamp,
        content_type_timestamp: stamp,
        metadata_timestamp: stamp,
        metadata: metadata(date),
        ..put_row(number, 1, b"jar")
    }
}

fn merge(device: &Device, number: u8, row: ObjectRow, how: Merge) -> Merged {
    let body = row.body.as_ref().map(|_| {
        let mut upload = device.begin_upload(key(number), Some(3)).unwrap();
        upload.write(device, b"jar").unwrap();
        upload.finish()
    });
    let new = NewRow { row, body };
    device.merge_object(&key(number), new, how).unwrap()
}

fn put(device: &Device, number: u8, stamp: u64, date: Option<u64>) -> bool {
    let merged = merge(device, number, dated(number, stamp, date), Merge::default());
    matches!(merged, Merged::Changed { taken, .. } if taken.data)
}

fn post(device: &Device, number: u8, stamp: u64, date: Option<u64>) -> bool {
    let row = post_row(path(number), second(stamp), None, metadata(date));
    let how = Merge {
        if_present: true,
        ..Merge::default()
    };
    matches!(merge(device, number, row, how), Merged::Changed { .. })
}

fn delete(device: &Device, number: u8, stamp: u64) -> bool {
    let row = ObjectRow::tombstone(path(number), second(stamp));
    let merged = merge(device, number, row, Merge::default());
    matches!(merged, Merged::Changed { .. })
}

fn is_there(device: &Device, number: u8) -> bool {
    let stored = device.get_object(&key(number)).unwrap();
    stored.is_some_and(|stored| stored.row.body.is_some())
}

fn due(device: &Device, now: u64) -> Vec<Due> {
    let page = device.due(START + now, None, 2).unwrap();
    let Some(last) = page.last().map(|due| (due.delete_at, due.key)) else {
        return page;
    };
    let rest = device.due(START + now, Some(last), 1_000).unwrap();
    page.into_iter().chain(rest).collect()
}

/// The index holds what the rows say, and nothing else.
fn assert_index(device: &Device) {
    let mut expected = BTreeSet::new();
    crate::rebuild::visit::<StoredObject>(device.store(), OBJECT, &mut |key, stored| {
        let key = ObjectKey::from_bytes(key).unwrap();
        expected.extend(stored.row.delete_at().map(|date| (date, key)));
        Ok(())
    })
    .unwrap();
    let found: BTreeSet<(u64, ObjectKey)> = due(device, 1 << 30)
        .iter()
        .map(|due| (due.delete_at, due.key))
        .collect();
    assert_eq!(found, expected);
    let mut rows = 0;
    device
        .store()
        .visit(EXPIRY, &KeyRange::all(), Order::Ascending, &mut |_, _| {
            rows += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(rows, expected.len());
}

#[test]
fn what_is_due_comes_in_the_order_of_dates_and_is_deleted_once() {
    on_both(|device| {
        for (number, date) in [(1, Some(30)), (2, Some(10)), (3, None), (4, Some(20))] {
            assert!(put(device, number, 1, date));
        }
        assert_index(device);
        let found = due(device, 20);
        let keys: Vec<ObjectKey> = found.iter().map(|due| due.key).collect();
        assert_eq!(keys, [key(2), key(4)]);
        assert!(device.expire(&found[0]).unwrap());
        assert!(!is_there(device, 2) && is_there(device, 4));
        assert!(!device.expire(&found[0]).unwrap(), "there is nothing left");
        // The container is told about a deletion as old as the date.
        let pending = device.pending_objects(None, 10).unwrap();
        assert_eq!(pending.len(), 1);
        assert!(pending[0].record.deleted);
        assert_eq!(pending[0].record.metadata_timestamp, second(10));
        let trace = device.get_object(&key(2)).unwrap().unwrap();
        assert_eq!(trace.location, Location::Nowhere);
        assert_eq!(u64::from(trace.day()), (START + 10) / 86_400);
        assert_index(device);
    });
}

#[test]
fn a_date_that_was_moved_or_an_object_that_was_replaced_stays() {
    on_both(|device| {
        for number in 1..=3 {
            assert!(put(device, number, 1, Some(10)));
        }
        let found = due(device, 10);
        assert!(post(device, 1, 5, Some(50)));
        assert!(put(device, 2, 6, Some(10)));
        assert!(delete(device, 3, 7));
        for due in &found {
            assert!(!device.expire(due).unwrap());
        }
        assert!(is_there(device, 1) && is_there(device, 2));
        assert_index(device);
        // What is stamped between the bytes and the date wins over the trace, in either order.
        let now = due(device, 10);
        assert_eq!(now.len(), 1);
        assert!(device.expire(&now[0]).unwrap());
        assert!(put(device, 2, 7, None));
        assert!(is_there(device, 2));
        assert_index(device);
    });
}

#[test]
fn an_expired_object_is_as_good_as_none_for_a_conditional_put() {
    on_both(|device| {
        assert!(put(device, 1, 1, Some(10)));
        let commit = crate::Commit {
            token: HexId::from_random([7; 16]),
            expected: None,
        };
        let now = |number: u64| UtcTime::from_seconds(START + number);
        let stamp = second(11);
        let early = device.reserve(&key(1), &commit, stamp, now(9)).unwrap();
        assert!(matches!(early, crate::Reserved::Present { .. }));
        let late = device.reserve(&key(1), &commit, stamp, now(10)).unwrap();
        assert_eq!(late, crate::Reserved::Granted);
        assert!(device.expire(&due(device, 10)[0]).unwrap());
        let guard = Guard::Commit {
            commit,
            now: now(12),
        };
        let how = Merge {
            guard,
            ..Merge::default()
        };
        let merged = merge(device, 1, dated(1, 11, None), how);
        assert!(matches!(merged, Merged::Changed { taken, .. } if taken.data));
        assert!(is_there(device, 1));
    });
}

/// A marker as format 1 had it.
struct MarkerBefore(Uuid);

impl Record for MarkerBefore {
    const NAME: &'static str = "device marker";
    const VERSION: u16 = 1;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        payload.extend_from_slice(format!("{{\"id\":\"{}\"}}", self.0).as_bytes());
    }

    fn decode_payload(_: u16, _: &[u8]) -> Result<Option<Self>, PayloadError> {
        Ok(None)
    }
}

#[test]
fn a_device_of_the_format_before_gets_its_index_once() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    let (id, digests) = {
        let device = open_rocks(&directory);
        for number in 1..=5 {
            assert!(put(&device, number, 1, Some(u64::from(number))));
        }
        assert!(delete(&device, 5, 2));
        let mut batch = Batch::new();
        batch.delete_range(EXPIRY, KeyRange::all());
        device.store().write(&batch, Durability::Synced).unwrap();
        (device.id(), device.digests(SCOPE, 16))
    };
    let marker = table::encode(&MarkerBefore(id));
    assert_eq!(table::decode::<Marker>(&marker).unwrap().format, 1);
    for path in [directory.join("DEVICE"), id_file(&directory)] {
        durable::replace(&path, &marker, Visibility::World).unwrap();
    }
    for _ in 0..2 {
        let device = open_rocks(&directory);
        assert_eq!(due(&device, 100).len(), 4);
        assert_index(&device);
        assert_eq!(device.digests(SCOPE, 16), digests);
        let marker = std::fs::read(directory.join("DEVICE")).unwrap();
        assert_eq!(
            table::decode::<Marker>(&marker).unwrap().format,
            Marker::CURRENT
        );
    }
}

/// Three replicas, of which each write reaches some.
struct Replicas {
    _dir: tempfile::TempDir,
    devices: Vec<Device>,
}

/// What clients were told: when the bytes were put (`None`: deleted), and the date with the moment it was set.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    data: (u64, bool),
    date: (u64, Option<u64>),
}

impl Replicas {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let devices = (0..3).map(|number| open_memory(&dir.path().join(format!("d{number}"))));
        Self {
            devices: devices.collect(),
            _dir: dir,
        }
    }

    /// A write to all but one replica (or all); whether a write quorum took it.
    fn write(&self, without: usize, write: impl Fn(&Device) -> bool) -> bool {
        let asked = self.devices.iter().enumerate();
        let taken = asked.filter(|(index, device)| *index != without && write(device));
        taken.count() >= 2
    }

    /// One replica deletes what is due, as the expirer does: it asks one other.
    fn expire(&self, own: usize, asked: usize, now: u64) {
        let (own, asked) = (&self.devices[own], &self.devices[asked]);
        for due in due(own, now) {
            let is_newer = asked.knows_newer(&due.key, due.data_timestamp, due.metadata_timestamp);
            if !is_newer.unwrap() {
                own.expire(&due).unwrap();
            }
        }
    }

    fn push(&self, from: usize, to: usize) {
        if let Some(stored) = self.devices[from].get_object(&key(1)).unwrap() {
            merge(&self.devices[to], 1, stored.row, Merge::default());
        }
    }
}

proptest! {
    // Each case makes three devices with 256 folders each.
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("ONGGI_LONG").is_some() { 2_000 } else { 48 }))]
    #[test]
    fn o2_replicas_that_expire_by_themselves_end_equal_and_lose_no_acknowledged_write(
        ops in prop::collection::vec((0u8..6, 0usize..4, 0usize..3, 1usize..3, 1u64..12), 1..40),
    ) {
        let replicas = Replicas::new();
        let mut told = Told::default();
        let mut now = 10;
        let mut stamps = BTreeSet::new();
        for (op, without, own, step, ahead) in ops {
            now += 2;
            let is_over = told.date.1.is_some_and(|date| date <= now);
            let date = (ahead % 2 == 0).then_some(now + ahead);
            match op {
                // A PUT now, or one that began before and comes only now.
                0 | 1 => {
                    let stamp = if op == 0 { now } else { now - 1 - ahead % 9 };
                    // No two writes have one stamp.
                    if !stamps.insert(stamp) {
                        continue;
                    }
                    if replicas.write(without, |device| put(device, 1, stamp, date)) {
                        told.data = told.data.max((stamp, true));
                        told.date = told.date.max((stamp, date));
                    }
                }
                2 if told.data.1 && !is_over => {
                    stamps.insert(now);
                    if replicas.write(without, |device| post(device, 1, now, date)) {
                        told.date = (now, date);
                    }
                }
                3 if ahead > 8 => {
                    stamps.insert(now);
                    if replicas.write(without, |device| delete(device, 1, now)) {
                        told.data = (now, false);
                        told.date = (now, None);
                    }
                }
                4 => replicas.expire(own, (own + step) % 3, now),
                _ => replicas.push(own, (own + step) % 3),
            }
        }
        // Everybody hears of everything, then everybody looks at the dates, then all hear again.
        let all_hear = || {
            for _ in 0..2 {
                for from in 0..3 {
                    for to in 0..3 {
                        replicas.push(from, to);
                    }
                }
            }
        };
        all_hear();
        for own in 0..3 {
            replicas.expire(own, (own + 1) % 3, now);
        }
        all_hear();
        let is_over = told.date.1.is_some_and(|date| date <= now);
        let first = replicas.devices[0].digests(SCOPE, 16);
        for device in &replicas.devices {
            prop_assert_eq!(&device.digests(SCOPE, 16), &first);
            assert_index(device);
            let stored = device.get_object(&key(1)).unwrap();
            let data = stored.as_ref().map(|stored| stored.row.data_timestamp);
            let date = stored.as_ref().map(|stored| stored.row.metadata_timestamp);
            // An unacknowledged write may have come in as well, above what was told: then it decides.
            if !told.data.1 || date != Some(second(told.date.0)) {
                continue;
            }
            if data == Some(second(told.data.0)) {
                prop_assert_eq!(is_there(device, 1), !is_over, "{:?}", told);
            } else if !is_over {
                prop_assert!(data > Some(second(told.data.0)), "{:?}", told);
                prop_assert!(
                    data != Some(onggi_object_wire::row::expired_at(second(told.data.0))),
                    "the date of an acknowledged object has not come: {:?}", told
                );
            }
        }
    }
}

#[test]
fn rows_and_index_are_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_memory(&dir.path().join("d1"));
    assert!(put(&device, 1, 1, Some(5)));
    assert!(
        device
            .store()
            .get(OBJECT, &key(1).bytes())
            .unwrap()
            .is_some()
    );
    assert_index(&device);
    let stored = device.get_object(&key(1)).unwrap().unwrap();
    let sum = onggi_object_wire::replication::KeySum {
        hash: *key(1).hash.as_bytes(),
        fragment: key(1).fragment,
        digest: stored.digest(&key(1)),
        timestamps: stored.timestamps(),
        horizon: 0,
    };
    assert!(device.drop_object(&sum, key(1).policy).unwrap());
    assert_index(&device);
}

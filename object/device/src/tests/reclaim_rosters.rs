//! Traces in containers leave by whole days, deleted containers as a whole, and what was deleted does not come back.

use super::{on_both, open_memory, open_rocks};
use crate::check::check;
use crate::format::{Marker, id_file};
use crate::reclaim::Cover;
use crate::roster::Decision;
use crate::roster_row::RosterRow;
use crate::tables::ROSTER;
use crate::{Device, RosterKey, RosterKind};
use onggi_common_host::durable::{self, Visibility};
use onggi_common_meta::local::{Batch, Durability};
use onggi_common_meta::table::{self, PayloadError};
use onggi_common_units::Timestamp;
use onggi_object_model::{Etag, Metadata, ObjectRecord};
use onggi_object_ring::PathHash;
use onggi_object_wire::replication::Scope;
use std::path::Path;

const DAY: u64 = 86_400 * 100_000;

fn at(ticks: u64) -> Timestamp {
    Timestamp::from_ticks(ticks).unwrap()
}

fn key() -> RosterKey {
    RosterKey {
        kind: RosterKind::Container,
        hash: PathHash::new([7; 16]),
    }
}

fn blank() -> RosterRow {
    RosterRow::new("a".parse().unwrap(), Some("c".parse().unwrap()))
}

fn change(device: &Device, act: impl FnOnce(&mut RosterRow)) {
    let changed = device.change_roster(&key(), blank(), |row| {
        act(row);
        Decision::Write
    });
    changed.unwrap();
}

fn record(name: &str, ticks: u64, deleted: bool) -> ObjectRecord {
    ObjectRecord {
        name: name.parse().unwrap(),
        data_timestamp: at(ticks),
        content_type_timestamp: at(ticks),
        metadata_timestamp: at(ticks),
        deleted,
        length: 5,
        etag: Etag::EMPTY,
        content_type: String::new(),
        annotations: Metadata::default(),
    }
}

fn tell(device: &Device, records: &[ObjectRecord], known: u16) -> Vec<usize> {
    let told = device.merge_news(&key(), None, records, known).unwrap();
    told.expect("the container is there").stale
}

fn live(device: &Device) -> u64 {
    device.roster(&key()).unwrap().unwrap().live_count
}

fn records(device: &Device) -> usize {
    let mut count = 0;
    let mut add = |_: &ObjectRecord| count += 1;
    device
        .visit_records::<ObjectRecord>(&key(), None, None, &mut add)
        .unwrap();
    count
}

fn reclaim(device: &Device, horizon: u16) -> u64 {
    device
        .reclaim_rosters(
            RosterKind::Container,
            &(key().slot(), Cover::Whole),
            horizon,
        )
        .unwrap()
}

fn settle(device: &Device) {
    let told = device.roster(&key()).unwrap().unwrap();
    device.forget_pending_container(&key(), &told).unwrap();
}

#[test]
fn traces_leave_by_days_and_replicas_that_are_not_as_far_hold_the_same() {
    on_both(|one| {
        let dir = tempfile::tempdir().unwrap();
        let two = open_memory(dir.path());
        for device in [one, &two] {
            change(device, |row| row.put_timestamp = at(DAY));
            tell(
                device,
                &[record("a", 10 * DAY, true), record("b", 10 * DAY + 1, true)],
                99,
            );
            tell(
                device,
                &[record("c", 11 * DAY, true), record("d", 10 * DAY, false)],
                99,
            );
        }
        let two = &two;
        let sums = |device: &Device, horizon| device.digests_above(Scope::Containers, 0, horizon);
        let digest = |device: &Device, horizon| {
            let keys = device.roster_keys(RosterKind::Container, key().slot(), horizon);
            keys.unwrap()[0].digest
        };
        assert_eq!(reclaim(one, 9), 0);
        assert_eq!(records(one), 4);
        assert_eq!(reclaim(one, 10), 2);
        assert_eq!((records(one), live(one)), (2, 1));
        assert_eq!(sums(one, 10), sums(two, 10));
        assert_ne!(sums(one, 0), sums(two, 0));
        assert_eq!(digest(one, 10), digest(two, 10));
        assert_eq!(
            one.record_runs::<ObjectRecord>(&key(), 100, 10).unwrap(),
            two.record_runs::<ObjectRecord>(&key(), 100, 10).unwrap()
        );
        // A settled trace is not taken up again; it still deletes what is there.
        tell(
            one,
            &[record("a", 10 * DAY, true), record("d", 10 * DAY + 5, true)],
            99,
        );
        assert_eq!((records(one), live(one)), (2, 0));
        assert_eq!(one.horizon(Scope::Containers, key().hash.as_bytes()), 10);
    });
}

#[test]
fn a_deleted_container_leaves_as_a_whole_once_its_account_was_told() {
    on_both(|device| {
        change(device, |row| row.put_timestamp = at(DAY));
        tell(device, &[record("a", 2 * DAY, true)], 99);
        change(device, |row| row.delete(at(10 * DAY)));
        assert_eq!(reclaim(device, 10), 0, "its account has not been told");
        settle(device);
        assert_eq!(reclaim(device, 11), 1);
        assert_eq!(device.roster(&key()).unwrap(), None);
        assert_eq!(records(device), 0);
        assert!(device.digests(Scope::Containers, 16).is_empty());
        // Its trace is not taken up again, and news of before neither begin it nor its records.
        let mut trace = blank();
        trace.put_timestamp = at(DAY);
        trace.delete(at(10 * DAY));
        let nothing: [ObjectRecord; 0] = [];
        let merged = device
            .merge_records(&key(), Some(&trace), &nothing)
            .unwrap();
        assert_eq!(merged, None);
        // A container of the same name is a new one.
        change(device, |row| row.put_timestamp = at(12 * DAY));
        assert_eq!((records(device), live(device)), (0, 0));
    });
}

#[test]
fn a_deleted_container_with_a_record_of_something_that_is_there_stays() {
    on_both(|device| {
        change(device, |row| row.put_timestamp = at(DAY));
        tell(device, &[record("a", 2 * DAY, false)], 99);
        change(device, |row| row.delete(at(10 * DAY)));
        settle(device);
        assert_eq!(reclaim(device, 10), 0);
        assert_eq!(records(device), 1);
        let keys = device
            .roster_keys(RosterKind::Container, key().slot(), 0)
            .unwrap();
        assert_eq!(keys[0].timestamps[1], Timestamp::ZERO);
    });
}

#[test]
fn what_is_old_and_comes_from_behind_is_stale() {
    on_both(|ahead| {
        let dir = tempfile::tempdir().unwrap();
        let behind = open_rocks(dir.path());
        for device in [ahead, &behind] {
            change(device, |row| row.put_timestamp = at(DAY));
        }
        tell(
            &behind,
            &[record("a", 3 * DAY, false), record("b", 12 * DAY, false)],
            99,
        );
        reclaim(ahead, 10);
        let (sent, _) = behind.changes::<ObjectRecord>(&key(), 0, 100).unwrap();
        assert_eq!(tell(ahead, &sent, 9), [0]);
        assert_eq!(live(ahead), 1);
        // Whoever has heard of everything may bring what is old.
        assert_eq!(
            tell(ahead, &[record("c", 3 * DAY, false)], 10),
            [] as [usize; 0]
        );
        let dropped = behind.drop_stale_records(&key(), &[record("a", 4 * DAY, false)]);
        assert_eq!(dropped.unwrap(), 0, "it has changed");
        assert_eq!(behind.drop_stale_records(&key(), &sent[..1]).unwrap(), 1);
        assert_eq!((records(&behind), live(&behind)), (1, 1));
        // A whole container.
        let sum = behind
            .roster_keys(RosterKind::Container, key().slot(), 10)
            .unwrap()[0];
        assert!(ahead.is_stale_roster(RosterKind::Container, &sum));
        assert!(behind.set_roster_aside(&key(), sum.digest, 10).unwrap());
        assert_eq!(behind.roster(&key()).unwrap(), None);
        let aside = std::fs::read_dir(dir.path().join("quarantine"))
            .unwrap()
            .next();
        let text = std::fs::read_to_string(aside.unwrap().unwrap().path()).unwrap();
        assert!(
            text.lines().count() == 1 && text.contains("\"b\""),
            "{text}"
        );
        drop(behind);
        assert_eq!(check(dir.path(), true).unwrap().problems, [] as [String; 0]);
    });
}

/// A row as the format before wrote it.
struct RowBefore(RosterRow);

impl table::Record for RowBefore {
    const NAME: &'static str = RosterRow::NAME;
    const VERSION: u16 = 1;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        self.0.encode_payload(payload);
        // The traces: their number, and nothing else.
        payload.truncate(payload.len() - 4);
    }

    fn decode_payload(_: u16, _: &[u8]) -> Result<Option<Self>, PayloadError> {
        Ok(None)
    }
}

/// A marker as the format before wrote it.
struct MarkerBefore(Marker);

impl table::Record for MarkerBefore {
    const NAME: &'static str = Marker::NAME;
    const VERSION: u16 = 2;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        self.0.encode_payload(payload);
    }

    fn decode_payload(_: u16, _: &[u8]) -> Result<Option<Self>, PayloadError> {
        Ok(None)
    }
}

fn write_before(directory: &Path) {
    let device = open_rocks(directory);
    let row = device.roster(&key()).unwrap().unwrap();
    let sum = row
        .traces
        .values()
        .fold(row.records_digest, |sum, part| sum + *part);
    let before = RosterRow {
        records_digest: sum,
        traces: std::collections::BTreeMap::new(),
        ..row
    };
    let mut batch = Batch::new();
    batch.put(ROSTER, key().bytes(), table::encode(&RowBefore(before)));
    device.store().write(&batch, Durability::Synced).unwrap();
    let id = device.id();
    drop(device);
    let marker = table::encode(&MarkerBefore(Marker { id, format: 2 }));
    for path in [directory.join("DEVICE"), id_file(directory)] {
        durable::replace(&path, &marker, Visibility::World).unwrap();
    }
}

#[test]
fn a_device_of_the_format_before_counts_its_traces_apart() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    let before = {
        let device = open_rocks(&directory);
        change(&device, |row| row.put_timestamp = at(DAY));
        tell(
            &device,
            &[
                record("a", 10 * DAY, true),
                record("b", 10 * DAY + 1, false),
            ],
            99,
        );
        (
            device.roster(&key()).unwrap(),
            device.digests(Scope::Containers, 16),
        )
    };
    write_before(&directory);
    {
        let device = open_rocks(&directory);
        let after = (
            device.roster(&key()).unwrap(),
            device.digests(Scope::Containers, 16),
        );
        assert_eq!(after, before);
        assert_eq!(reclaim(&device, 10), 1);
    }
    assert_eq!(check(&directory, true).unwrap().problems, [] as [String; 0]);
}

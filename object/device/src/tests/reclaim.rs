//! Tombstones leave by whole days, and what they deleted does not come back.

use super::{SCOPE, body_files, delete, key, on_both, open_rocks, path, put, read};
use crate::reclaim::Cover;
use crate::stored::trace_day;
use crate::{Device, Merge, Merged, NewRow};
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::replication::KeySum;
use onggi_object_wire::{ObjectRow, Slot};

const DAY: u64 = 86_400 * 100_000;

fn whole(slot: Slot) -> (Slot, Cover) {
    (slot, Cover::Whole)
}

fn sum(device: &Device, number: u8) -> KeySum {
    let keys = device
        .object_keys(key(1).policy, key(number).slot())
        .unwrap();
    let is_meant = |sum: &&KeySum| sum.hash == *key(number).hash.as_bytes();
    *keys.iter().find(is_meant).unwrap()
}

fn days(device: &Device) -> usize {
    let all = device.digests_above(SCOPE, 0, 0);
    usize::try_from(all.values().map(|sum| sum.count).sum::<u64>()).unwrap()
}

#[test]
fn a_day_leaves_at_once_and_is_not_taken_up_again() {
    on_both(|device| {
        put(device, 1, 10 * DAY, b"jar");
        delete(device, 1, 10 * DAY + 5);
        let slot = key(1).slot();
        let before = device.digests_above(SCOPE, 16, 10);
        assert_eq!(before.values().map(|sum| sum.count).sum::<u64>(), 0);
        assert_eq!(device.reclaim(key(1).policy, &whole(slot), 9).unwrap(), 0);
        assert_eq!(days(device), 1);
        assert_eq!(device.reclaim(key(1).policy, &whole(slot), 10).unwrap(), 1);
        assert_eq!(days(device), 0);
        assert_eq!(device.get_object(&key(1)).unwrap(), None);
        assert!(matches!(
            delete(device, 1, 10 * DAY + 5),
            Merged::Unchanged { .. }
        ));
        assert_eq!(device.get_object(&key(1)).unwrap(), None);
        // An old deletion of what is there is a deletion all the same.
        put(device, 1, 10 * DAY + 6, b"jar");
        assert!(matches!(
            delete(device, 1, 10 * DAY + 7),
            Merged::Changed { .. }
        ));
        // A younger one stays.
        delete(device, 2, 11 * DAY);
        let slot = key(2).slot();
        assert_eq!(device.reclaim(key(2).policy, &whole(slot), 10).unwrap(), 0);
        assert!(device.get_object(&key(2)).unwrap().is_some());
    });
}

#[test]
fn the_horizon_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let slot = key(1).slot();
    {
        let device = open_rocks(dir.path());
        delete(&device, 1, 10 * DAY);
        assert_eq!(device.reclaim(key(1).policy, &whole(slot), 10).unwrap(), 1);
        device.mark_alive(UtcTime::from_seconds(77)).unwrap();
    }
    let device = open_rocks(dir.path());
    assert_eq!(device.horizon(SCOPE, key(1).hash.as_bytes()), 10);
    assert_eq!(device.alive_at().unwrap(), Some(UtcTime::from_seconds(77)));
    assert_eq!(days(&device), 0);
    assert!(!device.units_behind(SCOPE, 16, 10).contains(&slot.number()));
    assert!(device.units_behind(SCOPE, 16, 11).contains(&slot.number()));
}

#[test]
fn horizons_are_raised_together_where_nothing_is_to_be_let_go_of() {
    let dir = tempfile::tempdir().unwrap();
    let all = || (0..1 << SLOT_BITS).filter_map(Slot::new).map(whole);
    let (old, young) = (key(1).slot(), key(2).slot());
    assert_ne!(old, young);
    {
        let device = open_rocks(dir.path());
        delete(&device, 1, 10 * DAY);
        delete(&device, 2, 11 * DAY);
        assert_eq!(
            device.raise_horizons(SCOPE, all(), 10).unwrap(),
            [whole(old)]
        );
        assert_eq!(device.units_behind(SCOPE, SLOT_BITS, 10), [old.number()]);
        assert!(device.get_object(&key(1)).unwrap().is_some());
        assert_eq!(device.reclaim(key(1).policy, &whole(old), 10).unwrap(), 1);
        // A horizon never goes back.
        assert!(device.raise_horizons(SCOPE, all(), 9).unwrap().is_empty());
        assert_eq!(device.horizon(SCOPE, key(2).hash.as_bytes()), 10);
    }
    let device = open_rocks(dir.path());
    assert!(device.units_behind(SCOPE, SLOT_BITS, 10).is_empty());
    assert!(device.get_object(&key(2)).unwrap().is_some());
}

#[test]
fn what_is_old_and_comes_from_behind_is_stale_and_is_kept_aside() {
    on_both(|ahead| {
        let dir = tempfile::tempdir().unwrap();
        let behind = open_rocks(dir.path());
        for (number, bytes) in [(1, vec![7; 3]), (2, vec![8; 300_000])] {
            put(&behind, number, 10 * DAY, &bytes);
            let policy = key(number).policy;
            let old = sum(&behind, number);
            assert!(!ahead.is_stale(policy, &old));
            ahead
                .reclaim(policy, &whole(key(number).slot()), 10)
                .unwrap();
            assert!(ahead.is_stale(policy, &old));
            put(&behind, number, 11 * DAY, &bytes);
            assert!(!ahead.is_stale(policy, &sum(&behind, number)));
            assert!(!behind.set_aside(policy, &old).unwrap(), "it has changed");
            let now = sum(&behind, number);
            assert!(behind.set_aside(policy, &now).unwrap());
            assert_eq!(read(&behind, number, &[]), None);
        }
        assert_eq!(days(&behind), 0);
        assert_eq!(body_files(&behind), 0);
        let aside = std::fs::read_dir(dir.path().join("quarantine")).unwrap();
        let mut kept: Vec<u64> = aside
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        kept.sort_unstable();
        assert_eq!(kept.len(), 2);
        assert!(kept[0] > 3 && kept[1] > 300_000);
    });
}

#[test]
fn the_trace_of_an_expired_object_is_as_old_as_its_date() {
    let mut row = ObjectRow::tombstone(path(1), Timestamp::from_ticks(10 * DAY).unwrap());
    assert_eq!(trace_day(&row), 10);
    row.metadata
        .insert("x-delete-at", (20 * 86_400).to_string());
    assert_eq!(trace_day(&row), 20);
    on_both(|device| {
        let new = NewRow {
            row: row.clone(),
            body: None,
        };
        device.merge_object(&key(1), new, Merge::default()).unwrap();
        let slot = key(1).slot();
        assert_eq!(device.reclaim(key(1).policy, &whole(slot), 19).unwrap(), 0);
        assert_eq!(device.reclaim(key(1).policy, &whole(slot), 20).unwrap(), 1);
    });
}

//! Partitions that are smaller than a slot: their digests, and horizons that speak for some of a slot's.

use super::{SCOPE, at, on_both, open_memory, open_rocks, path};
use crate::reclaim::Cover;
use crate::roster::Decision;
use crate::roster_row::RosterRow;
use crate::split::{SPLIT_UNITS_MAX, UnitDigests};
use crate::{Device, Merge, NewRow, ObjectKey, RosterKey, RosterKind};
use onggi_object_model::PolicyIndex;
use onggi_object_ring::PathHash;
use onggi_object_wire::digest::unit_of;
use onggi_object_wire::object::WHOLE;
use onggi_object_wire::replication::{KeySum, Scope};
use onggi_object_wire::{Digest, ObjectRow, Slot};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const DAY: u64 = 86_400 * 100_000;
const POLICY: PolicyIndex = PolicyIndex::new(0);
const BITS: u32 = 18;

/// The key at a place within a slot: two bits number its partition at [`BITS`].
fn key(slot: u8, unit: u8, number: u8) -> ObjectKey {
    let mut hash = [number; 16];
    hash[..3].copy_from_slice(&[slot, slot, (unit << 6) | (number & 0x3f)]);
    ObjectKey {
        policy: POLICY,
        hash: PathHash::new(hash),
        fragment: WHOLE,
    }
}

fn unit(key: &ObjectKey) -> u32 {
    unit_of(key.hash.as_bytes(), BITS)
}

fn delete(device: &Device, key: &ObjectKey, ticks: u64) {
    let new = NewRow {
        row: ObjectRow::tombstone(path(1), at(ticks)),
        body: None,
    };
    device.merge_object(key, new, Merge::default()).unwrap();
}

fn put(device: &Device, key: &ObjectKey, ticks: u64) {
    let mut upload = device.begin_upload(*key, Some(3)).unwrap();
    upload.write(device, b"jar").unwrap();
    let new = NewRow {
        row: super::put_row(1, ticks, b"jar"),
        body: Some(upload.finish()),
    };
    device.merge_object(key, new, Merge::default()).unwrap();
}

/// What partitions hold, added up row by row.
fn plain(device: &Device, bits: u32, horizon: u16) -> BTreeMap<u32, Digest> {
    let mut digests: BTreeMap<u32, Digest> = BTreeMap::new();
    for slot in device.digests(SCOPE, 16).into_keys().filter_map(Slot::new) {
        device
            .visit_objects(POLICY, slot, &mut |key, stored| {
                let digest = digests
                    .entry(unit_of(key.hash.as_bytes(), bits))
                    .or_default();
                if stored.day() == 0 || stored.day() > horizon {
                    *digest += stored.digest(key);
                }
            })
            .unwrap();
    }
    digests
}

fn sum(device: &Device, key: &ObjectKey) -> KeySum {
    let keys = device.object_keys(POLICY, key.slot()).unwrap();
    let is_meant = |sum: &&KeySum| sum.hash == *key.hash.as_bytes();
    *keys.iter().find(is_meant).unwrap()
}

#[test]
fn what_has_not_changed_is_not_read_again() {
    on_both(|device| {
        for slot in 0..8 {
            put(device, &key(slot, slot % 4, 1), 20 * DAY);
        }
        delete(device, &key(3, 0, 1), 10 * DAY);
        let ask = |horizon| {
            let scans = device.split_scans();
            let found = device.unit_digests(SCOPE, BITS, horizon, None);
            assert_eq!(found.digests, plain(device, BITS, horizon));
            device.split_scans() - scans
        };
        assert_eq!(ask(9), 8);
        assert_eq!(ask(9), 0);
        put(device, &key(5, 2, 9), 20 * DAY);
        assert_eq!(ask(9), 1);
        // Only one slot has a tombstone that is settled a day later.
        assert_eq!(ask(10), 1);
        assert_eq!(ask(10), 0);
        // What there is of a tombstone that does not count is seen to come and to go.
        delete(device, &key(6, 1, 2), 10 * DAY);
        assert_eq!(ask(10), 1);
        let part = (key(6, 1, 2).slot(), Cover::Whole);
        assert_eq!(device.reclaim(POLICY, &part, 10).unwrap(), 1);
        assert_eq!(ask(10), 1);
        assert_eq!(ask(10), 0);
    });
}

#[test]
fn only_the_slots_that_are_asked_about_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_memory(dir.path());
    for slot in 0..8 {
        put(&device, &key(slot, 1, 1), 20 * DAY);
    }
    let (one, none) = (key(3, 1, 1), key(99, 1, 1));
    let asked = BTreeSet::from([one.slot(), none.slot()]);
    let found = device.unit_digests(SCOPE, BITS, 0, Some(&asked));
    assert_eq!(found.digests.into_keys().collect::<Vec<_>>(), [unit(&one)]);
    assert_eq!(device.split_scans(), 1);
    assert_eq!(device.slots_in(SCOPE, unit(&one), BITS), [one.slot()]);
    assert_eq!(device.slots_in(SCOPE, unit(&none), BITS), []);
    let all = device.unit_digests(SCOPE, BITS, 0, None);
    assert_eq!((all.digests.len(), device.split_scans()), (8, 8));
}

#[test]
fn what_there_is_no_room_for_is_read_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_memory(dir.path());
    for slot in 0..8 {
        put(&device, &key(slot, 1, 1), 20 * DAY);
        put(&device, &key(slot, 2, 1), 20 * DAY);
    }
    let ask = |limit| {
        let scans = device.split_scans();
        let found = device.unit_digests_within(SCOPE, (BITS, 0), None, limit);
        assert_eq!(found.digests, plain(&device, BITS, 0));
        device.split_scans() - scans
    };
    assert_eq!(ask(7), 8);
    // Three slots have their two partitions remembered.
    assert_eq!(ask(7), 5);
    assert_eq!(ask(7), 5);
    // Other partitions take the place of these.
    assert_eq!(
        device.unit_digests_within(SCOPE, (20, 0), None, 7).digests,
        plain(&device, 20, 0)
    );
    assert_eq!(ask(SPLIT_UNITS_MAX), 8);
    assert_eq!(ask(SPLIT_UNITS_MAX), 0);
}

#[test]
fn containers_are_split_as_well() {
    on_both(|device| {
        let roster = |unit: u8| RosterKey {
            kind: RosterKind::Container,
            hash: key(7, unit, 1).hash,
        };
        let make = |unit: u8, ticks: u64| {
            let blank = || RosterRow::new("a".parse().unwrap(), Some("c".parse().unwrap()));
            let changed = device.change_roster(&roster(unit), blank(), |row| {
                row.put_timestamp = at(ticks);
                Decision::Write
            });
            changed.unwrap();
        };
        make(1, 20 * DAY);
        make(2, 20 * DAY);
        let ask = || {
            device
                .unit_digests(Scope::Containers, BITS, 5, None)
                .digests
        };
        let before = ask();
        assert_eq!(before.len(), 2);
        let whole = device.digests_above(Scope::Containers, 16, 5);
        let sum = before.values().fold(Digest::EMPTY, |sum, one| sum + *one);
        assert_eq!(whole.values().next().unwrap().digest, sum);
        make(2, 21 * DAY);
        let after = ask();
        let unit = |number: u8| unit_of(roster(number).hash.as_bytes(), BITS);
        assert_eq!(before[&unit(1)], after[&unit(1)]);
        assert_ne!(before[&unit(2)], after[&unit(2)]);
    });
}

#[test]
fn a_horizon_speaks_only_for_the_partitions_it_was_raised_for() {
    let dir = tempfile::tempdir().unwrap();
    let (own, foreign) = (key(7, 1, 1), key(7, 2, 1));
    let part = (own.slot(), Cover::of(BITS, [unit(&own)]));
    {
        let device = open_rocks(dir.path());
        for key in [&own, &foreign] {
            delete(&device, key, 10 * DAY);
        }
        let left = device.raise_horizons(SCOPE, [part.clone()], 10).unwrap();
        assert_eq!(left, std::slice::from_ref(&part));
        assert_eq!(device.reclaim(POLICY, &part, 10).unwrap(), 1);
        assert_eq!(device.get_object(&own).unwrap(), None);
        assert!(device.get_object(&foreign).unwrap().is_some());
        // The digests are those of what is there.
        assert_eq!(
            device
                .digests(SCOPE, 0)
                .values()
                .map(|sum| sum.count)
                .sum::<u64>(),
            1
        );
        assert!(!device.slots_behind(SCOPE, 10).contains(&own.slot()));
        assert!(
            device
                .units_behind(SCOPE, 16, 10)
                .contains(&own.slot().number())
        );
    }
    let device = open_rocks(dir.path());
    assert_eq!(device.horizon(SCOPE, own.hash.as_bytes()), 10);
    assert_eq!(device.horizon(SCOPE, foreign.hash.as_bytes()), 0);
    assert_eq!(sum(&device, &foreign).horizon, 0);
    // The deletion of what was reclaimed is not taken up again; another one is.
    delete(&device, &own, 9 * DAY);
    assert_eq!(device.get_object(&own).unwrap(), None);
    let other = key(7, 2, 2);
    delete(&device, &other, 9 * DAY);
    assert!(device.get_object(&other).unwrap().is_some());
    // So it is with what comes from behind.
    let behind = tempfile::tempdir().unwrap();
    let behind = open_memory(behind.path());
    for key in [key(7, 1, 3), key(7, 2, 3)] {
        put(&behind, &key, 10 * DAY);
        let is_stale = device.is_stale(POLICY, &sum(&behind, &key));
        assert_eq!(is_stale, unit(&key) == unit(&own));
    }
    // A stand-in's copy that goes leaves the horizon of others alone.
    device.drop_object(&sum(&device, &foreign), POLICY).unwrap();
    assert_eq!(device.horizon(SCOPE, own.hash.as_bytes()), 10);
    put(&device, &own, 20 * DAY);
    device.drop_object(&sum(&device, &own), POLICY).unwrap();
    assert_eq!(device.horizon(SCOPE, own.hash.as_bytes()), 0);
}

#[test]
fn a_horizon_that_speaks_for_more_takes_the_place_of_one_for_less_and_is_never_lowered() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_memory(dir.path());
    let (one, two) = (key(7, 1, 1), key(7, 2, 1));
    let raise = |units: &[u32], day| {
        let cover = Cover::of(BITS, units.iter().copied());
        let left = device.raise_horizons(SCOPE, [(one.slot(), cover)], day);
        assert!(left.unwrap().is_empty());
        [&one, &two].map(|key| device.horizon(SCOPE, key.hash.as_bytes()))
    };
    assert_eq!(raise(&[unit(&one)], 10), [10, 0]);
    assert_eq!(raise(&[unit(&one), unit(&two)], 9), [10, 0]);
    assert_eq!(raise(&[unit(&one), unit(&two)], 10), [10, 10]);
    assert_eq!(raise(&[unit(&two)], 11), [0, 11]);
    // A slot of which a device has nothing is done with for the day.
    assert_eq!(raise(&[], 12), [0, 0]);
    assert!(!device.slots_behind(SCOPE, 12).contains(&one.slot()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn partitions_add_up_to_what_their_rows_are(
        steps in prop::collection::vec((0u8..3, 0u8..4, 0u8..3, 0u8..3, 8u64..13), 1..40),
        bits in 17u32..=32,
        limit in 0usize..12,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let device = open_memory(dir.path());
        for (slot, unit, number, op, day) in steps {
            let key = key(slot, unit, number);
            let ticks = day * DAY + u64::from(number);
            match op {
                0 => put(&device, &key, ticks),
                1 => delete(&device, &key, ticks),
                _ => {
                    let cover = Cover::of(BITS, [u32::from(unit)]);
                    let day = u16::try_from(day).unwrap();
                    device.reclaim(POLICY, &(key.slot(), cover), day).unwrap();
                }
            }
            for horizon in [9, 10] {
                let found = device.unit_digests_within(SCOPE, (bits, horizon), None, limit);
                let digests = plain(&device, bits, horizon);
                prop_assert_eq!(found, UnitDigests { digests, unread: BTreeSet::new() });
            }
        }
        let kept = device.digests(SCOPE, 16).into_iter();
        let kept: BTreeMap<u32, Digest> = kept.map(|(slot, sum)| (slot, sum.digest)).collect();
        prop_assert_eq!(kept, plain(&device, 16, 0));
    }
}

//! Reservations of conditional PUTs.

use super::{at, delete, key, on_both, open_rocks, options, path, post, put_as, read};
use crate::reservation::{HELD_FOR, KEPT_FOR};
use crate::{Commit, Device, Guard, Merge, Merged, NewRow, Reserved, tables};
use onggi_common_host::SystemEntropy;
use onggi_common_meta::local::{MemoryStore, Store};
use onggi_common_units::{HexId, Timestamp, UtcTime};
use onggi_object_wire::ObjectRow;
use std::sync::Arc;

const NOW: UtcTime = UtcTime::from_seconds(1_000);

fn commit(token: u8, expected: Option<Timestamp>) -> Commit {
    let token = HexId::from_random([token; 16]);
    Commit { token, expected }
}

fn reserve(device: &Device, commit: &Commit, ticks: u64, now: UtcTime) -> Reserved {
    device.reserve(&key(1), commit, at(ticks), now).unwrap()
}

fn guarded(guard: Guard) -> Merge {
    Merge {
        guard,
        ..Merge::default()
    }
}

fn put(device: &Device, commit: Commit, ticks: u64, now: UtcTime) -> Merged {
    let guard = Guard::Commit { commit, now };
    put_as(device, 1, ticks, b"conditional", guarded(guard))
}

fn is_changed(merged: &Merged) -> bool {
    matches!(merged, Merged::Changed { taken, .. } if taken.data)
}

#[test]
fn one_of_several_has_the_key_until_it_commits_or_gives_it_up() {
    on_both(|device| {
        let (one, two) = (commit(1, None), commit(2, None));
        assert_eq!(reserve(device, &one, 5, NOW), Reserved::Granted);
        let taken = Reserved::Taken { stamp: at(5) };
        assert_eq!(reserve(device, &two, 6, NOW), taken);
        // Nobody else's token gives it up.
        device.release(&key(1), &two.token).unwrap();
        assert_eq!(reserve(device, &two, 6, NOW), taken);
        device.release(&key(1), &one.token).unwrap();
        assert_eq!(put(device, one, 5, NOW), Merged::Lapsed);
        assert!(device.get_object(&key(1)).unwrap().is_none());
        assert_eq!(reserve(device, &two, 6, NOW), Reserved::Granted);
        assert!(is_changed(&put(device, two, 6, NOW)));
        assert_eq!(read(device, 1, &[]).unwrap(), b"conditional");
        let present = Reserved::Present { newest: at(6) };
        assert_eq!(reserve(device, &commit(3, None), 7, NOW), present);
        // A commit that comes twice was made, and one with another stamp finds no reservation.
        let done = Merged::Unchanged {
            newest: at(6),
            is_deletion: false,
        };
        assert_eq!(put(device, two, 6, NOW), done);
        assert_eq!(put(device, two, 7, NOW), Merged::Lapsed);
    });
}

#[test]
fn an_expired_reservation_is_never_committed_and_the_next_goes_above_it() {
    on_both(|device| {
        let (one, two) = (commit(1, None), commit(2, None));
        assert_eq!(reserve(device, &one, 5, NOW), Reserved::Granted);
        let later = NOW.saturating_add(HELD_FOR);
        assert_eq!(put(device, one, 5, later), Merged::Lapsed);
        let newer = Reserved::Newer { newest: at(5) };
        assert_eq!(reserve(device, &two, 4, later), newer);
        assert_eq!(reserve(device, &two, 6, later), Reserved::Granted);
        assert_eq!(put(device, one, 5, NOW), Merged::Lapsed);
        assert!(is_changed(&put(device, two, 6, later)));
    });
}

#[test]
fn of_two_writes_of_one_moment_the_second_is_told_and_copies_still_merge() {
    on_both(|device| {
        let client = guarded(Guard::Above { now: NOW });
        assert!(is_changed(&put_as(device, 1, 5, b"one", client)));
        let unchanged = Merged::Unchanged {
            newest: at(5),
            is_deletion: false,
        };
        for bytes in [b"two".as_slice(), b"one", b"eno", b""] {
            assert_eq!(put_as(device, 1, 5, bytes, client), unchanged);
        }
        let gone = NewRow {
            row: ObjectRow::tombstone(path(1), at(5)),
            body: None,
        };
        let deleted = device.merge_object(&key(1), gone, client).unwrap();
        assert_eq!(deleted, unchanged);
        assert_eq!(read(device, 1, &[]).unwrap(), b"one");
        // Replicas decide alike, whatever comes first.
        assert!(is_changed(&delete(device, 1, 5)));
    });
}

#[test]
fn a_reservation_needs_what_it_expects_when_made_and_when_committed() {
    on_both(|device| {
        put_as(device, 1, 5, b"one", Merge::default());
        let present = Reserved::Present { newest: at(5) };
        assert_eq!(reserve(device, &commit(1, None), 9, NOW), present);
        let stale = commit(1, Some(at(4)));
        assert_eq!(reserve(device, &stale, 9, NOW), present);
        let fresh = commit(1, Some(at(5)));
        let newer = Reserved::Newer { newest: at(5) };
        assert_eq!(reserve(device, &fresh, 5, NOW), newer);
        assert_eq!(reserve(device, &fresh, 9, NOW), Reserved::Granted);
        // A write without a condition stays above the reservation, so that the commit cannot hide it.
        let above = guarded(Guard::Above { now: NOW });
        let refused = put_as(device, 1, 8, b"below", above);
        assert_eq!(refused, Merged::Reserved { stamp: at(9) });
        assert!(is_changed(&put_as(device, 1, 10, b"above", above)));
        // It comes after the commit, which changes nothing any more and leaves the key to others.
        let replaced = Merged::Unchanged {
            newest: at(10),
            is_deletion: false,
        };
        assert_eq!(put(device, fresh, 9, NOW), replaced);
        assert_eq!(read(device, 1, &[]).unwrap(), b"above");
        assert_eq!(put(device, fresh, 9, NOW), Merged::Lapsed);
        // So does a deletion.
        let next = commit(2, Some(at(10)));
        assert_eq!(reserve(device, &next, 11, NOW), Reserved::Granted);
        delete(device, 1, 12);
        let replaced = Merged::Unchanged {
            newest: at(12),
            is_deletion: true,
        };
        assert_eq!(put(device, next, 11, NOW), replaced);
        let last = commit(3, None);
        assert_eq!(reserve(device, &last, 13, NOW), Reserved::Granted);
    });
}

#[test]
fn a_post_between_reservation_and_commit_does_not_keep_the_bytes_out() {
    on_both(|device| {
        put_as(device, 1, 5, b"one", Merge::default());
        let fresh = commit(1, Some(at(5)));
        assert_eq!(reserve(device, &fresh, 9, NOW), Reserved::Granted);
        assert!(matches!(post(device, 1, 10, "tin"), Merged::Changed { .. }));
        assert!(is_changed(&put(device, fresh, 9, NOW)));
        assert_eq!(read(device, 1, &[]).unwrap(), b"conditional");
        let row = device.get_object(&key(1)).unwrap().unwrap().row;
        assert_eq!(row.metadata.get("x-object-meta-jar"), Some("tin"));
        assert_eq!(
            (row.data_timestamp, row.metadata_timestamp),
            (at(9), at(10))
        );
    });
}

#[test]
fn a_commit_that_replication_has_brought_is_done() {
    on_both(|device| {
        put_as(device, 1, 5, b"one", Merge::default());
        let fresh = commit(1, Some(at(5)));
        assert_eq!(reserve(device, &fresh, 9, NOW), Reserved::Granted);
        // Another node has committed it already, and pushes it.
        put_as(device, 1, 9, b"conditional", Merge::default());
        let done = Merged::Unchanged {
            newest: at(9),
            is_deletion: false,
        };
        assert_eq!(put(device, fresh, 9, NOW), done);
        assert_eq!(read(device, 1, &[]).unwrap(), b"conditional");
        // Should it come once more, the next racer keeps the key.
        let next = commit(2, Some(at(9)));
        assert_eq!(reserve(device, &next, 12, NOW), Reserved::Granted);
        assert_eq!(put(device, fresh, 9, NOW), done);
        assert!(is_changed(&put(device, next, 12, NOW)));
    });
}

#[test]
fn reservations_outlive_a_restart_are_in_no_digest_and_are_swept() {
    let dir = tempfile::tempdir().unwrap();
    let one = commit(1, None);
    {
        let device = open_rocks(dir.path());
        assert_eq!(reserve(&device, &one, 5, NOW), Reserved::Granted);
        assert!(device.scopes().is_empty());
    }
    let device = open_rocks(dir.path());
    let taken = Reserved::Taken { stamp: at(5) };
    assert_eq!(reserve(&device, &commit(2, None), 6, NOW), taken);
    let expired = NOW.saturating_add(HELD_FOR);
    assert_eq!(device.sweep_reservations(expired).unwrap(), 0);
    let old = expired.saturating_add(KEPT_FOR);
    assert_eq!(device.sweep_reservations(old).unwrap(), 1);
    drop(device);
    let device = open_rocks(dir.path());
    assert_eq!(device.sweep_reservations(old).unwrap(), 0);
    assert_eq!(put(&device, one, 5, NOW), Merged::Lapsed);
}

#[test]
fn a_granted_reservation_survives_a_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(MemoryStore::new(&tables::ALL));
    let open = |store: Arc<MemoryStore>| {
        Device::open_with(&options(dir.path()), &SystemEntropy, |path| {
            onggi_common_host::durable::create_dir_all(path)?;
            Ok(store as Arc<dyn Store>)
        })
        .unwrap()
    };
    let device = open(Arc::clone(&store));
    assert_eq!(
        reserve(&device, &commit(1, None), 5, NOW),
        Reserved::Granted
    );
    drop(device);
    let device = open(Arc::new(store.after_power_cut(0)));
    let taken = Reserved::Taken { stamp: at(5) };
    assert_eq!(reserve(&device, &commit(2, None), 6, NOW), taken);
}

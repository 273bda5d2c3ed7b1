//! Notes of what may be under another policy, and accounts that are to be reaped.

use super::rosters::record;
use super::{at, on_both};
use crate::roster::Decision;
use crate::{Change, Device, RosterKey, RosterKind, RosterRow};
use onggi_common_units::UtcTime;
use onggi_object_model::{ContainerRecord, ObjectRecord, PolicyIndex};
use onggi_object_ring::PathHash;
use onggi_object_wire::merge::CountedContainer;

const FIRST: PolicyIndex = PolicyIndex::new(0);
const OTHER: PolicyIndex = PolicyIndex::new(1);

fn key(kind: RosterKind, byte: u8) -> RosterKey {
    RosterKey {
        kind,
        hash: PathHash::new([byte; 16]),
    }
}

fn container() -> RosterKey {
    key(RosterKind::Container, 7)
}

fn row(policy: PolicyIndex, chosen: u64) -> RosterRow {
    let mut row = RosterRow::new("a".parse().unwrap(), Some("c".parse().unwrap()));
    row.policy = policy;
    row.policy_timestamp = at(chosen);
    row.put_timestamp = at(chosen);
    row
}

fn make(device: &Device, policy: PolicyIndex, chosen: u64) {
    let made = row(policy, chosen);
    let changed = device.change_roster(&container(), row(policy, chosen), |row| {
        *row = made;
        Decision::Write
    });
    assert!(changed.unwrap().after.exists());
}

fn tell(device: &Device, policy: PolicyIndex, records: Vec<ObjectRecord>) {
    let change = Change::ObjectRecords {
        key: container(),
        policy,
        records,
        known: u16::MAX,
    };
    device.commit(vec![change]).pop().unwrap().unwrap();
}

/// Policies and names of the notes.
fn notes(device: &Device) -> Vec<(u16, String)> {
    let notes = device.misplaced(None, 100).unwrap().into_iter();
    notes.map(|note| (note.policy.get(), note.name)).collect()
}

#[test]
fn names_that_come_under_another_policy_are_noted_also_when_they_are_known() {
    on_both(|device| {
        make(device, FIRST, 1);
        tell(device, FIRST, vec![record("a", 2, 1, false)]);
        assert_eq!(notes(device), []);
        tell(device, OTHER, vec![record("b", 2, 1, false)]);
        assert_eq!(notes(device), [(1, "b".to_owned())]);
        for note in device.misplaced(None, 100).unwrap() {
            device.forget_misplaced(&note).unwrap();
        }
        assert_eq!(notes(device), []);
        tell(device, OTHER, vec![record("b", 2, 1, false)]);
        assert_eq!(notes(device), [(1, "b".to_owned())], "told once more");
    });
}

#[test]
fn a_note_that_was_made_anew_is_not_forgotten() {
    on_both(|device| {
        make(device, FIRST, 1);
        tell(device, OTHER, vec![record("a", 2, 1, false)]);
        let seen = device.misplaced(None, 100).unwrap().remove(0);
        tell(device, OTHER, vec![record("a", 3, 1, false)]);
        device.forget_misplaced(&seen).unwrap();
        assert_eq!(notes(device).len(), 1);
        let seen = device.misplaced(None, 100).unwrap().remove(0);
        device
            .date_misplaced(&seen, UtcTime::from_seconds(9))
            .unwrap();
        device.forget_misplaced(&seen).unwrap();
        let dated = device.misplaced(None, 100).unwrap().remove(0);
        assert_eq!(dated.since, UtcTime::from_seconds(9));
        device.forget_misplaced(&dated).unwrap();
        assert_eq!(notes(device), []);
    });
}

#[test]
fn a_replica_whose_policy_gives_way_notes_all_it_lists() {
    on_both(|device| {
        make(device, OTHER, 2);
        let names = ["a", "b", "c", "d", "e"];
        let records = names.map(|name| record(name, 3, 1, name == "c"));
        tell(device, OTHER, records.to_vec());
        let theirs = [record("f", 3, 1, false)];
        device
            .merge_records(&container(), Some(&row(FIRST, 1)), &theirs)
            .unwrap();
        assert_eq!(device.roster(&container()).unwrap().unwrap().policy, FIRST);
        let mut whole = device.misplaced(None, 100).unwrap();
        assert_eq!(whole.len(), 1);
        let first = whole.remove(0);
        assert!(first.is_whole());
        device.spread_misplaced::<ObjectRecord>(&first, 2).unwrap();
        let expected = ["", "a", "b"].map(|name| (1, name.to_owned()));
        assert_eq!(notes(device), expected);
        for _ in 0..3 {
            let note = device.misplaced(None, 1).unwrap().remove(0);
            if note.is_whole() {
                device.spread_misplaced::<ObjectRecord>(&note, 2).unwrap();
            }
        }
        // "f" is there by now, and looked at for nothing.
        let expected = ["a", "b", "c", "d", "e", "f"].map(|name| (1, name.to_owned()));
        assert_eq!(notes(device), expected);
    });
}

#[test]
fn what_a_peer_lists_under_a_policy_that_gives_way_is_noted() {
    on_both(|device| {
        make(device, FIRST, 1);
        let theirs = [record("f", 3, 1, false)];
        device
            .merge_records(&container(), Some(&row(OTHER, 2)), &theirs)
            .unwrap();
        assert_eq!(notes(device), [(1, "f".to_owned())]);
        assert_eq!(device.roster(&container()).unwrap().unwrap().policy, FIRST);
    });
}

#[test]
fn a_deleted_account_hears_of_containers_until_it_lists_none() {
    on_both(|device| {
        let account = |byte| key(RosterKind::Account, byte);
        for byte in 1..=4 {
            let mut row = RosterRow::new("a".parse().unwrap(), None);
            row.put_timestamp = at(1);
            let made = row.clone();
            device
                .change_roster(&account(byte), row, |row| {
                    *row = made;
                    Decision::Write
                })
                .unwrap();
        }
        let told = |at_ticks, deleted| CountedContainer {
            record: ContainerRecord {
                name: "c".parse().unwrap(),
                put_timestamp: at(at_ticks),
                delete_timestamp: at(deleted),
                object_count: 0,
                bytes_used: 0,
                policy: None,
            },
            counted_at: at(at_ticks.max(deleted)),
        };
        for byte in 1..=3 {
            let delete = |row: &mut RosterRow| {
                row.delete(at(5));
                Decision::Write
            };
            let blank = RosterRow::new("a".parse().unwrap(), None);
            device.change_roster(&account(byte), blank, delete).unwrap();
        }
        let tell = |byte, record| {
            device
                .merge_records(&account(byte), None, &[record])
                .unwrap()
                .unwrap()
        };
        // A container that was made when the account was deleted already.
        for byte in [2, 3, 4] {
            assert_eq!(tell(byte, told(6, 0)).live_count, 1);
        }
        let found = |after: Option<&RosterKey>, limit| {
            let found = device.deleted_accounts(after, limit).unwrap().into_iter();
            found.map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(found(None, 10), [account(2), account(3)]);
        assert_eq!(found(None, 1), [account(2)]);
        assert_eq!(found(Some(&account(2)), 10), [account(3)]);
        tell(2, told(6, 7));
        assert_eq!(found(None, 10), [account(3)]);
    });
}

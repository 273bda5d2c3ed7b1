//! Containers that are copied to another cluster.

use super::{at, on_both, open_rocks};
use crate::roster::Decision;
use crate::{Device, RosterKey, RosterKind, RosterRow, SyncPoints};
use onggi_object_model::{Etag, ObjectRecord, StampedValue};
use onggi_object_ring::PathHash;

fn key(byte: u8) -> RosterKey {
    RosterKey {
        kind: RosterKind::Container,
        hash: PathHash::new([byte; 16]),
    }
}

fn blank() -> RosterRow {
    RosterRow::new("a".parse().unwrap(), Some("c".parse().unwrap()))
}

fn set(device: &Device, key: &RosterKey, ticks: u64, to: &str) {
    let changed = device.change_roster(key, blank(), |row| {
        row.put_timestamp = at(ticks);
        let item = StampedValue {
            timestamp: at(ticks),
            value: to.to_owned(),
        };
        row.metadata.insert(crate::container_sync::SYNC_TO, item);
        Decision::Write
    });
    assert!(changed.unwrap().after.exists());
}

fn tell(device: &Device, key: &RosterKey, name: &str, ticks: u64) {
    let record = ObjectRecord {
        name: name.parse().unwrap(),
        data_timestamp: at(ticks),
        content_type_timestamp: at(ticks),
        metadata_timestamp: at(ticks),
        deleted: false,
        length: 1,
        etag: Etag::EMPTY,
        content_type: String::new(),
        annotations: onggi_object_model::Metadata::default(),
    };
    device.merge_records(key, None, &[record]).unwrap().unwrap();
}

#[test]
fn the_list_has_what_is_copied_and_forgets_what_is_not_any_more() {
    on_both(|device| {
        for byte in 1..=4 {
            set(
                device,
                &key(byte),
                1,
                if byte == 2 { "" } else { "//r/c/a/c" },
            );
        }
        let listed = || device.copied_containers(None, 10).unwrap();
        assert_eq!(listed(), [key(1), key(3), key(4)]);
        let page = device.copied_containers(Some(&key(1)), 1).unwrap();
        assert_eq!(page, [key(3)]);
        // What objects bring leaves it there; an emptied header, a deletion and a drop take it away.
        tell(device, &key(1), "o", 2);
        set(device, &key(3), 2, "");
        let deleted = device.change_roster(&key(4), blank(), |row| {
            row.delete(at(3));
            Decision::Write
        });
        assert!(!deleted.unwrap().after.exists());
        assert_eq!(listed(), [key(1)]);
        let sums = device.roster_keys(RosterKind::Container, key(1).slot(), 0);
        let digest = sums.unwrap()[0].digest;
        assert!(device.drop_roster(&key(1), digest).unwrap());
        assert!(listed().is_empty());
    });
}

#[test]
fn points_are_of_one_destination_and_go_with_the_container() {
    on_both(|device| {
        let (key, here, there) = (key(1), [1; 16], [2; 16]);
        let points = SyncPoints {
            tried: 7,
            settled: 5,
            ..SyncPoints::start(here)
        };
        device.set_container_sync_points(&key, &points).unwrap();
        let read = |destination| device.container_sync_points(&key, destination).unwrap();
        assert_eq!(read(here), SyncPoints::start(here), "there is no container");
        set(device, &key, 1, "//r/c/a/c");
        device.set_container_sync_points(&key, &points).unwrap();
        assert_eq!(
            (read(here), read(there)),
            (points, SyncPoints::start(there))
        );
        // A peer's point is another thing.
        device.set_sync_point(&key, &[9; 16], 3).unwrap();
        assert_eq!(read(here), points);
    });
}

#[test]
fn changes_come_with_their_numbers_each_record_once() {
    on_both(|device| {
        let key = key(1);
        set(device, &key, 1, "//r/c/a/c");
        for (name, ticks) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            tell(device, &key, name, ticks);
        }
        let shown = |after, limit| -> Vec<(u64, String)> {
            let changes = device.numbered_changes::<ObjectRecord>(&key, after, limit);
            let changes = changes.unwrap();
            let shown = changes.iter().map(|(n, it)| (*n, it.name.to_string()));
            shown.collect()
        };
        let all = shown(0, 10);
        let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(names, ["b", "a", "c"]);
        assert!(all.is_sorted());
        assert_eq!(shown(all[0].0, 1), [all[1].clone()]);
        assert!(shown(all[2].0, 10).is_empty());
    });
}

#[test]
fn points_and_the_list_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let points = SyncPoints {
        tried: 2,
        settled: 1,
        ..SyncPoints::start([4; 16])
    };
    {
        let device = open_rocks(dir.path());
        set(&device, &key(1), 1, "//r/c/a/c");
        device.set_container_sync_points(&key(1), &points).unwrap();
    }
    let device = open_rocks(dir.path());
    assert_eq!(device.copied_containers(None, 9).unwrap(), [key(1)]);
    let read = device.container_sync_points(&key(1), [4; 16]);
    assert_eq!(read.unwrap(), points);
}

//! Changes that are written together come to what they come to one after the other.

use super::{SCOPE, at, key, open_memory, open_rocks, path, put_row, read};
use crate::roster::Decision;
use crate::{
    Change, Committed, Device, DeviceError, Merge, Merged, NewRow, PendingObject, RosterKey,
    RosterKind, RosterRow, Tell,
};
use onggi_object_model::{Etag, Metadata, ObjectRecord};
use onggi_object_ring::PathHash;
use onggi_object_wire::ObjectRow;
use onggi_object_wire::replication::Scope;
use proptest::prelude::*;

/// Hashes that share a stripe with objects: an object's number is its hash's every byte.
fn container(number: u8) -> RosterKey {
    RosterKey {
        kind: RosterKind::Container,
        hash: PathHash::new([number; 16]),
    }
}

fn make(device: &Device, number: u8) {
    let blank = RosterRow::new("a".parse().unwrap(), Some("c".parse().unwrap()));
    let made = device.change_roster(&container(number), blank, |row| {
        row.put_timestamp = at(1);
        Decision::Write
    });
    assert!(made.unwrap().after.exists());
}

/// The container whose copy is on the device, and whether others are to be told.
type Here = (Option<u8>, bool);

fn tell((here, elsewhere): Here) -> Tell {
    Tell {
        since: onggi_common_units::UtcTime::from_seconds(9),
        here: here.map(container),
        elsewhere: elsewhere || here.is_none(),
    }
}

/// One change of a test, which can be made twice.
#[derive(Debug, Clone)]
enum Step {
    Put {
        number: u8,
        ticks: u64,
        length: usize,
        here: Here,
    },
    Delete {
        number: u8,
        ticks: u64,
        here: Here,
    },
    Tell {
        container: u8,
        name: u8,
        ticks: u64,
        deleted: bool,
    },
    Told {
        number: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    // Few numbers and moments, so that changes meet.
    let (number, ticks) = (0..4u8, 2..9u64);
    let here = || (prop::option::of(0..4u8), any::<bool>());
    let length = prop_oneof![Just(3usize), Just(70_000)];
    prop_oneof![
        (number.clone(), ticks.clone(), length, here()).prop_map(
            |(number, ticks, length, here)| Step::Put {
                number,
                ticks,
                length,
                here
            }
        ),
        (number.clone(), ticks.clone(), here()).prop_map(|(number, ticks, here)| Step::Delete {
            number,
            ticks,
            here
        }),
        (number.clone(), number.clone(), ticks, any::<bool>()).prop_map(
            |(container, name, ticks, deleted)| Step::Tell {
                container,
                name,
                ticks,
                deleted
            }
        ),
        number.prop_map(|number| Step::Told { number }),
    ]
}

fn object(device: &Device, number: u8, row: ObjectRow, bytes: Option<&[u8]>, here: Here) -> Change {
    let how = Merge {
        tell: Some(tell(here)),
        ..Merge::default()
    };
    let body = bytes.map(|bytes| {
        let mut upload = device.begin_upload(key(number), None).unwrap();
        upload.write(device, bytes).unwrap();
        upload.finish()
    });
    let new = NewRow { row, body };
    let prepared = Box::new(device.prepare_object(&key(number), new).unwrap());
    Change::Object {
        key: key(number),
        prepared,
        how,
    }
}

fn change(device: &Device, step: &Step) -> Change {
    match step {
        Step::Put {
            number,
            ticks,
            length,
            here,
        } => {
            let bytes = vec![u8::try_from(*ticks).unwrap(); *length];
            let row = put_row(*number, *ticks, &bytes);
            object(device, *number, row, Some(&bytes), *here)
        }
        Step::Delete {
            number,
            ticks,
            here,
        } => {
            let row = ObjectRow::tombstone(path(*number), at(*ticks));
            object(device, *number, row, None, *here)
        }
        Step::Tell {
            container: of,
            name,
            ticks,
            deleted,
        } => Change::ObjectRecords {
            key: container(*of),
            policy: onggi_object_model::PolicyIndex::new(0),
            records: vec![ObjectRecord {
                name: format!("o{name}").parse().unwrap(),
                data_timestamp: at(*ticks),
                content_type_timestamp: at(*ticks),
                metadata_timestamp: at(*ticks),
                deleted: *deleted,
                length: *ticks,
                etag: Etag::EMPTY,
                content_type: String::new(),
                annotations: Metadata::default(),
            }],
            known: u16::MAX,
        },
        Step::Told { number } => {
            let pending = device.pending_objects(None, 100).unwrap();
            let found = pending.into_iter().find(|row| row.key == key(*number));
            let row = put_row(*number, 1, b"");
            Change::Told(Box::new(found.unwrap_or_else(|| PendingObject {
                key: key(*number),
                container: row.path.container_path(),
                record: row.record(),
                since: None,
            })))
        }
    }
}

fn done(outcomes: Vec<Result<Committed, DeviceError>>) -> Vec<Committed> {
    outcomes.into_iter().map(Result::unwrap).collect()
}

/// Everything that can be seen of a device.
fn seen(device: &Device) -> impl PartialEq + core::fmt::Debug {
    let objects: Vec<_> = (0..4u8)
        .map(|number| {
            let row = device
                .get_object(&key(number))
                .unwrap()
                .map(|stored| stored.row);
            (row, read(device, number, &[]))
        })
        .collect();
    let rosters: Vec<_> = (0..4u8)
        .map(|number| {
            let row = device.roster(&container(number)).unwrap();
            row.map(|row| (row.live_count, row.bytes_used, row.records_digest))
        })
        .collect();
    let digests = [SCOPE, Scope::Containers].map(|scope| {
        let units = device.digests(scope, 8).into_iter();
        units
            .map(|(unit, sum)| (unit, sum.count))
            .collect::<Vec<_>>()
    });
    let objects_digest = device.digests(SCOPE, 8);
    let files = std::fs::read_dir(device.directory().join("objects"));
    let files = files.map_or(0, Iterator::count);
    (objects, rosters, digests, objects_digest, files)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn together_is_one_after_the_other(groups in prop::collection::vec(prop::collection::vec(step(), 1..12), 1..4)) {
        let dir = tempfile::tempdir().unwrap();
        let together = open_rocks(&dir.path().join("together"));
        let alone = open_memory(&dir.path().join("alone"));
        for device in [&together, &alone] {
            make(device, 1);
            make(device, 2);
        }
        for group in groups {
            // What was told is what is pending when the group begins, on both.
            let changes: Vec<Change> = group.iter().map(|step| change(&together, step)).collect();
            let singles: Vec<Change> = group.iter().map(|step| change(&alone, step)).collect();
            let outcomes = done(together.commit(changes));
            let expected: Vec<Committed> =
                singles.into_iter().flat_map(|change| done(alone.commit(vec![change]))).collect();
            prop_assert_eq!(outcomes, expected);
        }
        prop_assert_eq!(seen(&together), seen(&alone));
        prop_assert_eq!(
            together.pending_objects(None, 100).unwrap(),
            alone.pending_objects(None, 100).unwrap()
        );
    }
}

#[test]
fn many_records_of_one_container_and_their_objects_are_written_together() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_rocks(dir.path());
    make(&device, 200);
    let mut changes = Vec::new();
    for number in 0..100u8 {
        let step = Step::Put {
            number,
            ticks: 5,
            length: 3,
            here: (None, true),
        };
        changes.push(change(&device, &step));
        let step = Step::Tell {
            container: 200,
            name: number,
            ticks: 5,
            deleted: false,
        };
        changes.push(change(&device, &step));
    }
    let outcomes = done(device.commit(changes));
    for pair in outcomes.chunks(2) {
        assert!(matches!(
            pair,
            [
                Committed::Object {
                    merged: Merged::Changed { .. },
                    is_listed: false
                },
                Committed::Records { is_there: true }
            ]
        ));
    }
    let row = device.roster(&container(200)).unwrap().unwrap();
    assert_eq!((row.live_count, row.bytes_used), (100, 500));
    drop(device);
    let device = open_rocks(dir.path());
    let row = device.roster(&container(200)).unwrap().unwrap();
    assert_eq!((row.live_count, row.bytes_used), (100, 500));
    assert_eq!(read(&device, 99, &[]), Some(vec![5; 3]));
}

#[test]
fn an_object_is_listed_in_its_own_batch_where_its_container_is_here() {
    let dir = tempfile::tempdir().unwrap();
    let device = open_rocks(dir.path());
    make(&device, 200);
    let put = |number: u8, here: Here| {
        let step = Step::Put {
            number,
            ticks: 5,
            length: 3,
            here,
        };
        change(&device, &step)
    };
    let (alone, with_others, not_there) =
        ((Some(200), false), (Some(200), true), (Some(201), false));
    // The container's stripe is its own object's as well.
    let changes = vec![
        put(1, alone),
        put(2, with_others),
        put(3, not_there),
        put(200, alone),
    ];
    let listed: Vec<bool> = done(device.commit(changes))
        .into_iter()
        .map(|outcome| match outcome {
            Committed::Object { is_listed, .. } => is_listed,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(listed, [true, true, false, true]);
    drop(device);
    let device = open_rocks(dir.path());
    let row = device.roster(&container(200)).unwrap().unwrap();
    assert_eq!((row.live_count, row.bytes_used), (3, 9));
    // What others have to be told is remembered, and so is what could not be listed here.
    let pending = device.pending_objects(None, 10).unwrap();
    let keys: Vec<_> = pending.iter().map(|pending| pending.key).collect();
    assert_eq!(keys, [key(2), key(3)]);
    // Deletions are listed in the same way.
    let delete = Step::Delete {
        number: 1,
        ticks: 6,
        here: alone,
    };
    done(device.commit(vec![change(&device, &delete)]));
    let row = device.roster(&container(200)).unwrap().unwrap();
    assert_eq!((row.live_count, row.bytes_used), (2, 6));
}

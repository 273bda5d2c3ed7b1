//! Containers and accounts: totals, listings, change logs, digests.

use super::{at, on_both, open_memory, open_rocks};
use crate::roster::Decision;
use crate::{Device, RosterKey, RosterKind, RosterRow};
use onggi_object_model::{Etag, ListingEntry, ListingQuery, ObjectRecord};
use onggi_object_ring::PathHash;
use onggi_object_wire::Digest;
use onggi_object_wire::replication::Scope;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn key() -> RosterKey {
    RosterKey {
        kind: RosterKind::Container,
        hash: PathHash::new([7; 16]),
    }
}

pub(super) fn blank() -> RosterRow {
    RosterRow::new("a".parse().unwrap(), Some("c".parse().unwrap()))
}

fn make(device: &Device, ticks: u64) {
    let changed = device.change_roster(&key(), blank(), |row| {
        row.put_timestamp = at(ticks);
        Decision::Write
    });
    assert!(changed.unwrap().after.exists());
}

pub(super) fn record(name: &str, ticks: u64, length: u64, deleted: bool) -> ObjectRecord {
    ObjectRecord {
        name: name.parse().unwrap(),
        data_timestamp: at(ticks),
        content_type_timestamp: at(ticks),
        metadata_timestamp: at(ticks),
        deleted,
        length,
        etag: Etag::EMPTY,
        content_type: String::new(),
        annotations: onggi_object_model::Metadata::default(),
    }
}

fn tell(device: &Device, records: &[ObjectRecord]) -> RosterRow {
    device
        .merge_records(&key(), None, records)
        .unwrap()
        .expect("the container is there")
}

fn names(device: &Device, query: &ListingQuery) -> Vec<String> {
    let listing = device.list::<ObjectRecord>(&key(), query).unwrap();
    let name = |entry| match entry {
        ListingEntry::Item(entry) => {
            let onggi_object_model::ObjectEntry { name, .. } = entry;
            name
        }
        ListingEntry::Subdir(name) => format!("[{name}]"),
    };
    listing.entries.into_iter().map(name).collect()
}

#[test]
fn totals_follow_records_in_any_order() {
    on_both(|device| {
        assert_eq!(
            device
                .merge_records(&key(), None, &[record("o", 1, 1, false)])
                .unwrap(),
            None
        );
        make(device, 1);
        tell(
            device,
            &[
                record("a", 2, 10, false),
                record("b", 2, 5, false),
                record("a", 3, 20, false),
            ],
        );
        let row = tell(device, &[record("a", 1, 99, false)]);
        assert_eq!((row.object_count, row.bytes_used), (2, 25));
        let row = tell(device, &[record("b", 4, 0, true), record("c", 9, 0, true)]);
        assert_eq!((row.object_count, row.bytes_used), (1, 20));
        // A PUT older than the deletion changes nothing.
        let row = tell(device, &[record("b", 3, 7, false)]);
        assert_eq!((row.object_count, row.bytes_used), (1, 20));
        assert_eq!(names(device, &ListingQuery::page(10)), ["a"]);
    });
}

#[test]
fn a_deleted_container_takes_no_records() {
    on_both(|device| {
        make(device, 1);
        device
            .change_roster(&key(), blank(), |row| {
                row.delete_timestamp = at(2);
                Decision::Write
            })
            .unwrap();
        assert_eq!(
            device
                .merge_records(&key(), None, &[record("o", 3, 1, false)])
                .unwrap(),
            None
        );
        // But it hears of what is gone.
        let row = tell(device, &[record("o", 3, 0, true)]);
        assert_eq!((row.exists(), row.live_count), (false, 0));
        assert!(
            device
                .record::<ObjectRecord>(&key(), "o")
                .unwrap()
                .unwrap()
                .deleted
        );
    });
}

#[test]
fn listings_fold_at_the_delimiter_and_seek_past_what_they_fold() {
    on_both(|device| {
        make(device, 1);
        let mut records: Vec<ObjectRecord> = ["a", "b/1", "b/2", "b/3/x", "c", "d/1", "d-1", "e"]
            .iter()
            .map(|name| record(name, 2, 1, false))
            .collect();
        records.push(record("gone/1", 2, 0, true));
        tell(device, &records);
        let query = |change: &dyn Fn(&mut ListingQuery)| {
            let mut query = ListingQuery::page(100);
            change(&mut query);
            query
        };
        let slash = |query: &mut ListingQuery| "/".clone_into(&mut query.delimiter);
        assert_eq!(
            names(device, &query(&slash)),
            ["a", "[b/]", "c", "d-1", "[d/]", "e"]
        );
        let reversed = query(&|query| {
            slash(query);
            query.reverse = true;
        });
        assert_eq!(
            names(device, &reversed),
            ["e", "[d/]", "d-1", "c", "[b/]", "a"]
        );
        let within = query(&|query| {
            slash(query);
            "b/".clone_into(&mut query.prefix);
        });
        assert_eq!(names(device, &within), ["b/1", "b/2", "[b/3/]"]);
        let page = query(&|query| {
            "a".clone_into(&mut query.marker);
            "d".clone_into(&mut query.end_marker);
            query.limit = 3;
        });
        assert_eq!(names(device, &page), ["b/1", "b/2", "b/3/x"]);
        let after_subdir = query(&|query| {
            slash(query);
            "b/".clone_into(&mut query.marker);
        });
        assert_eq!(names(device, &after_subdir), ["c", "d-1", "[d/]", "e"]);
        assert_eq!(names(device, &ListingQuery::page(0)), Vec::<String>::new());
    });
}

#[test]
fn the_change_log_gives_each_changed_record_once() {
    on_both(|device| {
        make(device, 1);
        tell(
            device,
            &[record("a", 2, 1, false), record("b", 2, 1, false)],
        );
        tell(device, &[record("a", 3, 2, false)]);
        let (changes, last) = device.changes::<ObjectRecord>(&key(), 0, 10).unwrap();
        let found: Vec<&str> = changes.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(found, ["b", "a"]);
        assert_eq!(changes[1].length, 2);
        assert_eq!(
            device.changes::<ObjectRecord>(&key(), last, 10).unwrap(),
            (Vec::new(), last)
        );
        let peer = [9; 16];
        assert_eq!(device.sync_point(&key(), &peer).unwrap(), 0);
        device.set_sync_point(&key(), &peer, last).unwrap();
        assert_eq!(device.sync_point(&key(), &peer).unwrap(), last);
    });
}

#[test]
fn runs_tell_where_two_containers_differ() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        open_memory(&dir.path().join("one")),
        open_memory(&dir.path().join("two")),
    );
    for device in [&one, &two] {
        make(device, 1);
        let records: Vec<ObjectRecord> = (0..10)
            .map(|number| record(&format!("o{number}"), 2, 1, false))
            .collect();
        tell(device, &records);
    }
    tell(&two, &[record("o5", 3, 9, false)]);
    let runs = one.record_runs::<ObjectRecord>(&key(), 4, 0).unwrap();
    assert_eq!(runs.len(), 3);
    let mut after = None;
    let differs: Vec<bool> = runs
        .iter()
        .map(|run| {
            let last = run.last.as_deref();
            let digest = two
                .run_digest::<ObjectRecord>(&key(), after, last, 0)
                .unwrap();
            after = last;
            digest != run.digest
        })
        .collect();
    assert_eq!(differs, [false, true, false]);
}

#[test]
fn a_dropped_container_leaves_nothing() {
    on_both(|device| {
        make(device, 1);
        tell(device, &[record("a", 2, 1, false)]);
        let seen = device
            .roster_keys(RosterKind::Container, key().slot(), 0)
            .unwrap();
        tell(device, &[record("b", 2, 1, false)]);
        assert!(!device.drop_roster(&key(), seen[0].digest).unwrap());
        let seen = device
            .roster_keys(RosterKind::Container, key().slot(), 0)
            .unwrap();
        assert!(device.drop_roster(&key(), seen[0].digest).unwrap());
        assert_eq!(device.roster(&key()).unwrap(), None);
        assert_eq!(device.record::<ObjectRecord>(&key(), "a").unwrap(), None);
        assert!(device.digests(Scope::Containers, 0).is_empty());
    });
}

#[test]
fn a_containers_account_is_told_until_it_was() {
    on_both(|device| {
        make(device, 1);
        assert_eq!(device.pending_containers(None, 10).unwrap(), [key()]);
        let told = device.roster(&key()).unwrap().unwrap();
        tell(device, &[record("a", 2, 1, false)]);
        device.forget_pending_container(&key(), &told).unwrap();
        assert_eq!(device.pending_containers(None, 10).unwrap(), [key()]);
        let told = device.roster(&key()).unwrap().unwrap();
        device.forget_pending_container(&key(), &told).unwrap();
        assert!(device.pending_containers(None, 10).unwrap().is_empty());
    });
}

#[test]
fn a_container_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    let before = {
        let device = open_rocks(&directory);
        make(&device, 1);
        tell(&device, &[record("a", 2, 1, false)]);
        device.digests(Scope::Containers, 16)
    };
    let device = open_rocks(&directory);
    assert_eq!(device.digests(Scope::Containers, 16), before);
    assert_eq!(names(&device, &ListingQuery::page(10)), ["a"]);
}

/// A record as the property below draws it: name, moment, length, deleted.
type Drawn = (u8, u64, u64, bool);

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    prop::collection::vec((0u8..5, 1u64..6, 0u64..3, any::<bool>()), 0..8)
}

#[test]
fn containers_that_exchange_changes_end_equal() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (
        open_memory(&dir.path().join("one")),
        open_memory(&dir.path().join("two")),
    );
    // Making a device costs more than a case: each case has a container of its own instead.
    let case = core::cell::Cell::new(0u32);
    let mut runner = TestRunner::new(ProptestConfig::with_source_file(file!()));
    let run = runner.run(&(drawn(), drawn()), |(ours, theirs)| {
        case.set(case.get() + 1);
        let mut hash = [7; 16];
        hash[4..8].copy_from_slice(&case.get().to_be_bytes());
        let key = RosterKey {
            kind: RosterKind::Container,
            hash: PathHash::new(hash),
        };
        check_exchange(&key, &one, &two, &ours, &theirs)
    });
    run.unwrap();
}

fn check_exchange(
    key: &RosterKey,
    one: &Device,
    two: &Device,
    ours: &[Drawn],
    theirs: &[Drawn],
) -> Result<(), TestCaseError> {
    for (device, acts) in [(one, ours), (two, theirs)] {
        device
            .change_roster(key, blank(), |row| {
                row.put_timestamp = at(1);
                Decision::Write
            })
            .unwrap();
        for (name, ticks, length, deleted) in acts {
            let record = record(&format!("o{name}"), *ticks, *length, *deleted);
            device.merge_records(key, None, &[record]).unwrap();
        }
    }
    for (from, to) in [(one, two), (two, one)] {
        let (changes, _) = from.changes::<ObjectRecord>(key, 0, 100).unwrap();
        let row = from.roster(key).unwrap();
        to.merge_records(key, row.as_ref(), &changes).unwrap();
    }
    let (a, b) = (
        one.roster(key).unwrap().unwrap(),
        two.roster(key).unwrap().unwrap(),
    );
    prop_assert_eq!(a.digest(), b.digest());
    prop_assert_eq!((a.live_count, a.bytes_used), (b.live_count, b.bytes_used));
    let query = ListingQuery::page(10);
    let list = |device: &Device| device.list::<ObjectRecord>(key, &query).unwrap();
    prop_assert_eq!(list(one), list(two));
    let mut sum = Digest::EMPTY;
    let mut add = |record: &ObjectRecord| {
        if !record.deleted {
            sum += onggi_object_wire::rows::Record::digest(record);
        }
    };
    one.visit_records::<ObjectRecord>(key, None, None, &mut add)
        .unwrap();
    prop_assert_eq!(a.records_digest, sum);
    Ok(())
}

/// Two copies that took the same but for what came last are alike before that, whatever order it came in.
#[test]
fn copies_are_alike_before_their_latest_news() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let devices = dirs.each_ref().map(|dir| open_memory(dir.path()));
    let [one, two] = &devices;
    let second = |second: u64| second * 100_000;
    for device in &devices {
        make(device, second(1));
    }
    let old = [
        record("a", second(10), 1, false),
        record("b", second(10), 1, false),
        record("c", second(11), 0, true),
    ];
    tell(one, &old);
    for record in old.iter().rev() {
        tell(two, core::slice::from_ref(record));
    }
    // Only one of them hears of these: new ones, one that replaces an old one, and one that replaces that.
    tell(one, &[record("d", second(20), 1, false)]);
    tell(one, &[record("a", second(20), 7, false)]);
    tell(
        one,
        &[
            record("a", second(22), 0, true),
            record("c", second(21), 3, false),
        ],
    );
    tell(two, &[record("e", second(23), 9, false)]);
    let base = at(second(20)).to_utc().seconds();
    let settled = |device: &Device, since| device.settled(&key(), since, 0).unwrap().unwrap();
    assert_eq!(settled(one, base).digest, settled(two, base).digest);
    assert_ne!(settled(one, base + 1).digest, settled(two, base + 1).digest);
    let digest = |device: &Device| device.roster(&key()).unwrap().unwrap().digest();
    assert_ne!(digest(one), digest(two));
    // All that stands before the news in the log is older.
    assert_eq!(
        (settled(one, base).through, settled(two, base).through),
        (3, 3)
    );
    let (logged, _) = one.changes::<ObjectRecord>(&key(), 3, 100).unwrap();
    assert_eq!(logged.len(), 3);
    // An old one that is missing shows.
    tell(one, &[record("f", second(12), 1, false)]);
    assert_ne!(settled(one, base).digest, settled(two, base).digest);
}

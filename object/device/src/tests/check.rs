//! Devices at rest: checked, and made again.

use super::{at, delete, key, open_rocks, options, path, pattern, put, read};
use crate::check::{check, rebuild_from_files, repair};
use crate::dump::dump;
use crate::large;
use crate::tables::{BODY, DIGEST, EXPIRY, OBJECT};
use crate::{Location, Merge, NewRow, OpenError, RosterKey, RosterKind, RosterRow, Tell};
use onggi_common_host::SystemEntropy;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability};
use onggi_common_units::UtcTime;
use onggi_object_ring::PathHash;
use onggi_object_wire::ObjectRow;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const LARGE: usize = 300_000;

/// Small and large objects, one of them replaced, a deletion and an account.
fn fill(directory: &Path) {
    let device = open_rocks(directory);
    put(&device, 1, 5, b"jar");
    put(&device, 2, 5, &pattern(LARGE));
    put(&device, 3, 5, &pattern(LARGE + 1));
    put(&device, 3, 6, &pattern(LARGE + 2));
    put(&device, 4, 5, b"gone");
    delete(&device, 4, 6);
    let account = RosterKey {
        kind: RosterKind::Account,
        hash: PathHash::new([5; 16]),
    };
    let row = RosterRow::new("AUTH_a".parse().unwrap(), None);
    let done = device.change_roster(&account, row, |_| crate::roster::Decision::Write);
    done.unwrap();
}

fn problems(directory: &Path, bytes: bool) -> Vec<String> {
    let report = check(directory, bytes).unwrap();
    assert_eq!(report.problem_count, report.problems.len() as u64);
    report.problems
}

#[test]
fn a_whole_device_is_whole_and_looking_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    fill(&directory);
    for bytes in [false, true] {
        let report = check(&directory, bytes).unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        let counts = (
            report.objects,
            report.tombstones,
            report.rosters,
            report.orphans,
        );
        assert_eq!(counts, (3, 1, 1, 0));
        assert_eq!(report.bytes, 3 + 2 * LARGE as u64 + 2);
    }
    let mut lines = Vec::new();
    dump(&directory, &mut |line| lines.push(line)).unwrap();
    assert_eq!(lines.len(), 5, "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("a/c/o4") && line.ends_with("deleted"))
    );
    assert!(lines.iter().any(|line| line.starts_with("account AUTH_a")));
    let device = open_rocks(&directory);
    assert!(
        matches!(check(&directory, false), Err(OpenError::Store(_))),
        "it is in use"
    );
    drop(device);
    let nowhere = check(&dir.path().join("d2"), false);
    assert!(matches!(nowhere, Err(OpenError::NoDevice { .. })));
}

#[test]
fn the_dump_shows_what_listings_have_and_what_they_have_yet_to_hear() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    let device = open_rocks(&directory);
    let container = RosterKey {
        kind: RosterKind::Container,
        hash: PathHash::new([6; 16]),
    };
    let row = RosterRow::new("a".parse().unwrap(), Some("c".parse().unwrap()));
    let made = device.change_roster(&container, row, |row| {
        row.put_timestamp = at(1);
        crate::roster::Decision::Write
    });
    made.unwrap();
    let tell = |number, ticks, here, elsewhere| {
        let how = Merge {
            tell: Some(Tell {
                since: UtcTime::from_seconds(9),
                here,
                elsewhere,
            }),
            ..Merge::default()
        };
        let row = ObjectRow::tombstone(path(number), at(ticks));
        let new = NewRow { row, body: None };
        device.merge_object(&key(number), new, how).unwrap();
    };
    tell(1, 5, Some(container), false);
    tell(2, 6, None, true);
    drop(device);
    let mut lines = Vec::new();
    dump(&directory, &mut |line| lines.push(line)).unwrap();
    let has = |start: &str, end: &str| {
        let mut lines = lines.iter();
        lines.any(|line| line.starts_with(start) && line.ends_with(end))
    };
    let stamps = |ticks| format!("{0} {0} {0} deleted", at(ticks));
    assert!(
        has("in container a/c: o1 ", &stamps(5)),
        "listed: {lines:?}"
    );
    assert!(
        has("untold container /a/c: o2 ", &stamps(6)),
        "untold: {lines:?}"
    );
    assert_eq!(lines.len(), 5, "{lines:?}");
}

#[test]
fn what_does_not_fit_is_told_and_what_follows_from_rows_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    fill(&directory);
    {
        let device = open_rocks(&directory);
        let mut batch = Batch::new();
        batch.delete_range(DIGEST, KeyRange::all());
        batch.put(EXPIRY, crate::expiry::index_key(7, &key(1)), [1]);
        device.store().write(&batch, Durability::Synced).unwrap();
    }
    let told = problems(&directory, false);
    assert!(
        told.iter().any(|problem| problem.contains("digest")),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|problem| problem.contains("index of dates")),
        "{told:?}"
    );
    repair(&directory).unwrap();
    assert_eq!(problems(&directory, true), Vec::<String>::new());
}

#[test]
fn o4_every_kind_of_lost_or_changed_bytes_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    fill(&directory);
    let name = {
        let device = open_rocks(&directory);
        let mut batch = Batch::new();
        batch.put(BODY, key(1).bytes(), b"jug");
        batch.put(BODY, key(9).bytes(), b"nobody's");
        device.store().write(&batch, Durability::Synced).unwrap();
        let stored = device.get_object(&key(2)).unwrap().unwrap();
        let Location::File(name) = stored.location else {
            panic!("{:?}", stored.location)
        };
        name
    };
    let path = large::body_path(&directory, &name);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"!", 100_000).unwrap();
    assert_eq!(problems(&directory, false).len(), 2);
    let told = problems(&directory, true);
    assert!(
        told.iter().any(|problem| problem.contains("chunk 1")),
        "{told:?}"
    );
    std::fs::remove_file(&path).unwrap();
    let told = problems(&directory, false);
    assert!(
        told.iter().any(|problem| problem.contains("missing")),
        "{told:?}"
    );
    assert_eq!(told.len(), 3);
}

#[test]
fn m3_a_lost_store_is_made_from_the_files_and_never_taken_for_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    fill(&directory);
    let id = open_rocks(&directory).id();
    std::fs::remove_dir_all(directory.join("store")).unwrap();
    assert!(matches!(
        check(&directory, false),
        Err(OpenError::StoreLost { .. })
    ));
    // A file that is no whole body, and one with another object's name.
    let cut = large::body_path(&directory, &large::file_name(&key(7), "cut"));
    std::fs::copy(directory.join("DEVICE"), &cut).unwrap();
    let rebuilt = rebuild_from_files(&options(&directory), &SystemEntropy).unwrap();
    assert_eq!((rebuilt.objects, rebuilt.refused.len()), (2, 1));
    assert_eq!(rebuilt.old_store, None);
    let report = check(&directory, true).unwrap();
    assert_eq!((report.objects, report.orphans), (2, 1));
    assert_eq!(report.problems, Vec::<String>::new());
    let device = open_rocks(&directory);
    assert_eq!(device.id(), id);
    assert_eq!(read(&device, 2, &[]).unwrap(), pattern(LARGE));
    assert_eq!(read(&device, 3, &[]).unwrap(), pattern(LARGE + 2));
    assert_eq!(
        device.alive_at().unwrap(),
        Some(UtcTime::EPOCH),
        "it is to be compared first"
    );
}

#[test]
fn a_damaged_store_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("d1");
    fill(&directory);
    let mut batch = Batch::new();
    batch.put(OBJECT, key(1).bytes(), b"no row");
    open_rocks(&directory)
        .store()
        .write(&batch, Durability::Synced)
        .unwrap();
    assert!(repair(&directory).is_err());
    let rebuilt = rebuild_from_files(&options(&directory), &SystemEntropy).unwrap();
    assert_eq!(rebuilt.old_store, Some(directory.join("store.damaged-1")));
    assert!(directory.join("store.damaged-1").is_dir());
    assert_eq!(check(&directory, true).unwrap().objects, 2);
}

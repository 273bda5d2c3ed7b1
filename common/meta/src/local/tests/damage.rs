//! M3: damage is noticed, and the file is named.

use super::*;
use onggi_common_host::durable::{self, Visibility};
use std::path::PathBuf;

/// A store with table files, blob files, and rows that are only in the log.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for row in 0..200u8 {
        let mut batch = Batch::new();
        batch
            .put(JARS, [b'a', row], vec![row; 100])
            .put(LIDS, [b'a', row], vec![row; 2_000]);
        store.write(&batch, Durability::Lazy).unwrap();
    }
    store.compact(JARS, &KeyRange::all()).unwrap();
    store.compact(LIDS, &KeyRange::all()).unwrap();
    for row in 0..200u8 {
        store
            .write(
                Batch::new().put(JARS, [b'b', row], vec![row; 100]),
                Durability::Synced,
            )
            .unwrap();
    }
    dir
}

fn row_count(store: &RocksStore, table: TableName) -> Result<usize, StoreError> {
    Ok(store
        .scan(
            table,
            &KeyRange::all(),
            Order::Ascending,
            Limit::rows(10_000),
        )?
        .rows
        .len())
}

/// The largest file of the store whose name ends so.
fn file(dir: &tempfile::TempDir, end: &str) -> PathBuf {
    let files = std::fs::read_dir(dir.path().join("db"))
        .unwrap()
        .map(|entry| entry.unwrap());
    let mut files: Vec<_> = files
        .filter(|entry| entry.file_name().to_str().unwrap().contains(end))
        .map(|entry| (entry.metadata().unwrap().len(), entry.path()))
        .collect();
    files.sort();
    files.pop().unwrap().1
}

fn flip(path: &Path, at: impl FnOnce(usize) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x40;
    durable::replace(path, &bytes, Visibility::World).unwrap();
}

fn assert_names(error: &OpenError, path: &Path) {
    let OpenError::Damaged { file, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(file, path, "{error}");
    assert!(error.to_string().contains("restore"), "{error}");
}

#[test]
fn m3_a_byte_flipped_in_the_middle_of_the_log_is_an_error_that_names_it() {
    let dir = filled();
    let log = file(&dir, ".log");
    flip(&log, |length| length / 2);
    assert_names(&RocksStore::open(dir.path(), &options()).unwrap_err(), &log);
}

#[test]
fn m3_a_byte_flipped_in_the_last_record_of_the_log_is_an_error_too() {
    let dir = filled();
    let log = file(&dir, ".log");
    flip(&log, |length| length - 5);
    assert_names(&RocksStore::open(dir.path(), &options()).unwrap_err(), &log);
}

#[test]
fn m3_a_log_cut_short_loses_its_last_record_only() {
    let dir = filled();
    let log = file(&dir, ".log");
    let bytes = std::fs::read(&log).unwrap();
    durable::replace(&log, &bytes[..bytes.len() - 5], Visibility::World).unwrap();
    let store = open(dir.path());
    assert_eq!(row_count(&store, JARS).unwrap(), 399);
    assert!(store.get(JARS, &[b'b', 199]).unwrap().is_none());
}

#[test]
fn m3_a_flipped_byte_in_a_table_file_is_never_answered_with_wrong_or_fewer_rows() {
    for part in [8, 3, 2] {
        let dir = filled();
        let table = file(&dir, ".sst");
        flip(&table, |length| length / part);
        let name = table.file_name().unwrap().to_str().unwrap().to_owned();
        match RocksStore::open(dir.path(), &options()) {
            Err(error) => assert_names(&error, &table),
            Ok(store) => {
                let error = row_count(&store, JARS)
                    .and_then(|_| row_count(&store, LIDS))
                    .unwrap_err();
                assert!(error.to_string().contains(&name), "{error}");
                // Out of service from now on.
                assert!(matches!(
                    store.get(JARS, b"x"),
                    Err(StoreError::Damaged { .. })
                ));
                let write = store.write(Batch::new().put(JARS, b"x", []), Durability::Synced);
                assert!(matches!(write, Err(StoreError::Damaged { .. })));
            }
        }
    }
}

#[test]
fn m3_a_flipped_byte_in_a_blob_file_is_an_error_when_it_is_read() {
    let dir = filled();
    let blob = file(&dir, ".blob");
    flip(&blob, |length| length / 2);
    let store = open(dir.path());
    let error = row_count(&store, LIDS).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn m3_damage_below_a_row_that_is_kept_in_memory_is_found_by_who_looks_for_it() {
    let dir = filled();
    let store = open(dir.path());
    let key = [b'a', 7];
    let value = store.get(LIDS, &key).unwrap();
    assert_eq!(value.as_deref(), Some([7; 2_000].as_slice()));
    assert_eq!(store.get_stored(LIDS, &key).unwrap(), value);
    // In place: the store has the file open.
    let blob = std::fs::OpenOptions::new()
        .write(true)
        .open(file(&dir, ".blob"))
        .unwrap();
    let length = blob.metadata().unwrap().len();
    for at in (1_000..length - 1_000).step_by(500) {
        std::os::unix::fs::FileExt::write_all_at(&blob, b"?", at).unwrap();
    }
    assert_eq!(store.get(LIDS, &key).unwrap(), value);
    let error = store.get_stored(LIDS, &key).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn m3_a_flipped_byte_in_the_manifest_is_an_error_that_names_it() {
    let dir = filled();
    let manifest = file(&dir, "MANIFEST");
    flip(&manifest, |length| length / 2);
    assert_names(
        &RocksStore::open(dir.path(), &options()).unwrap_err(),
        &manifest,
    );
}

#[test]
fn m3_a_flipped_byte_in_the_marker_is_an_error_that_names_it() {
    let dir = filled();
    let marker = dir.path().join("FORMAT");
    flip(&marker, |length| length / 2);
    assert_names(
        &RocksStore::open(dir.path(), &options()).unwrap_err(),
        &marker,
    );
}

#[test]
fn m3_a_file_that_is_gone_is_an_error_that_names_it() {
    for end in [".sst", "MANIFEST", "CURRENT"] {
        let dir = filled();
        let gone = file(&dir, end);
        durable::remove(&gone).unwrap();
        assert_names(
            &RocksStore::open(dir.path(), &options()).unwrap_err(),
            &gone,
        );
    }
    for (end, expected) in [(".log", "*.log"), (".blob", "*.blob")] {
        let dir = filled();
        durable::remove(&file(&dir, end)).unwrap();
        let error = RocksStore::open(dir.path(), &options()).unwrap_err();
        assert_names(&error, &dir.path().join("db").join(expected));
    }
}

#[test]
fn m3_a_store_whose_marker_or_files_are_gone_is_not_made_anew() {
    let dir = filled();
    durable::remove(&dir.path().join("FORMAT")).unwrap();
    let error = RocksStore::open(dir.path(), &options()).unwrap_err();
    assert_names(&error, &dir.path().join("FORMAT"));
    let dir = filled();
    std::fs::remove_dir_all(dir.path().join("db")).unwrap();
    let error = RocksStore::open(dir.path(), &options()).unwrap_err();
    assert_names(&error, &dir.path().join("db/CURRENT"));
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("letters.txt");
    durable::replace(&file, b"hello", Visibility::World).unwrap();
    let error = RocksStore::open(dir.path(), &options()).unwrap_err();
    assert!(
        matches!(&error, OpenError::NotAStore { file: found, .. } if *found == file),
        "{error}"
    );
}

#[test]
fn a_store_that_was_killed_while_it_was_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let marker = marker::Marker {
        phase: marker::Phase::Making,
        tables: std::collections::BTreeSet::new(),
    };
    marker.write(dir.path()).unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    put(&open(dir.path()), b"a", b"1");
    assert!(open(dir.path()).get(JARS, b"a").unwrap().is_some());
}

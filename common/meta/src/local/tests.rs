//! One suite for every local store, then what only one on a disk can be asked.

use super::*;
use crate::error::OpenError;
use crate::key::TableName;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use onggi_common_units::ByteCount;
use proptest::prelude::*;
use rocks::{Options, RocksStore};

mod crash;
mod damage;
mod torn;

const JARS: TableName = TableName::new("jars");
const LIDS: TableName = TableName::new("lids");
const NO_TABLE: TableName = TableName::new("none");

/// Values from this size on are in blob files of the RocksDB store under test.
const BLOB_BYTES: u64 = 1 << 10;

fn options() -> Options {
    Options::new(&[])
        .with_rows_cached(JARS, ByteCount::from_kib(64))
        .with_blobs(LIDS, ByteCount::new(BLOB_BYTES))
        .with_rows_cached(LIDS, ByteCount::from_kib(512))
}

fn open(directory: &Path) -> RocksStore {
    RocksStore::open(directory, &options()).unwrap()
}

/// Runs a check on each implementation, on an empty store.
fn on_each(check: fn(&dyn Store)) {
    check(&MemoryStore::new(&[JARS, LIDS]));
    let dir = tempfile::tempdir().unwrap();
    check(&open(dir.path()));
}

fn put(store: &dyn Store, key: &[u8], value: &[u8]) {
    store
        .write(Batch::new().put(JARS, key, value), Durability::Lazy)
        .unwrap();
}

fn keys(page: &Page) -> Vec<&[u8]> {
    page.rows.iter().map(|row| row.key.as_slice()).collect()
}

#[test]
fn a_batch_changes_several_tables_and_its_last_write_to_a_key_holds() {
    on_each(|store| {
        let mut batch = Batch::new();
        batch
            .put(JARS, b"a", b"1")
            .put(JARS, b"a", b"2")
            .put(LIDS, b"a", b"3")
            .delete(LIDS, b"a");
        store.write(&batch, Durability::Synced).unwrap();
        assert_eq!(
            store.get(JARS, b"a").unwrap().as_deref(),
            Some(b"2".as_slice())
        );
        assert_eq!(store.get(LIDS, b"a").unwrap(), None);
    });
}

#[test]
fn a_batch_that_names_no_table_writes_nothing() {
    on_each(|store| {
        let mut batch = Batch::new();
        batch.put(JARS, b"a", b"1").put(NO_TABLE, b"a", b"1");
        let error = store.write(&batch, Durability::Synced).unwrap_err();
        assert!(
            matches!(error, StoreError::UnknownTable { table: NO_TABLE }),
            "{error}"
        );
        assert_eq!(store.get(JARS, b"a").unwrap(), None);
        assert!(store.get(NO_TABLE, b"a").is_err());
        assert!(
            store
                .scan(NO_TABLE, &KeyRange::all(), Order::Ascending, Limit::rows(1))
                .is_err()
        );
    });
}

#[test]
fn keys_and_batches_over_the_limits_are_refused() {
    on_each(|store| {
        let longest = vec![u8::MAX; KEY_BYTES_MAX];
        put(store, &longest, b"fits");
        let error = store.write(
            Batch::new().put(JARS, [&longest[..], b"x"].concat(), []),
            Durability::Lazy,
        );
        assert!(matches!(error, Err(StoreError::KeyTooLong { .. })));
        let error = store.write(
            Batch::new().put(JARS, b"a", vec![0; BATCH_BYTES_MAX]),
            Durability::Lazy,
        );
        assert!(matches!(error, Err(StoreError::BatchTooLarge { .. })));
        store
            .write(
                Batch::new().delete_range(JARS, KeyRange::all()),
                Durability::Lazy,
            )
            .unwrap();
        assert_eq!(store.get(JARS, &longest).unwrap(), None);
    });
}

#[test]
fn pages_go_up_and_down_and_say_whether_there_is_more() {
    on_each(|store| {
        for key in [b"a", b"b", b"c", b"d"] {
            put(store, key, b"12345");
        }
        let range = KeyRange::from(b"b");
        let page = store
            .scan(JARS, &range, Order::Ascending, Limit::rows(2))
            .unwrap();
        assert_eq!(
            (keys(&page), page.more),
            (vec![b"b".as_slice(), b"c"], true)
        );
        let rest = range.resume_after(b"c");
        let page = store
            .scan(JARS, &rest, Order::Ascending, Limit::rows(2))
            .unwrap();
        assert_eq!((keys(&page), page.more), (vec![b"d".as_slice()], false));
        let page = store
            .scan(JARS, &range, Order::Descending, Limit::rows(2))
            .unwrap();
        assert_eq!(
            (keys(&page), page.more),
            (vec![b"d".as_slice(), b"c"], true)
        );
        let rest = range.resume_before(b"c");
        let page = store
            .scan(JARS, &rest, Order::Descending, Limit::rows(2))
            .unwrap();
        assert_eq!((keys(&page), page.more), (vec![b"b".as_slice()], false));
        // Six bytes a row: the second does not fit, the first always does.
        for bytes in [0, 11] {
            let limit = Limit { rows: 9, bytes };
            let page = store.scan(JARS, &range, Order::Ascending, limit).unwrap();
            assert_eq!((keys(&page), page.more), (vec![b"b".as_slice()], true));
        }
    });
}

#[test]
fn an_empty_range_has_no_rows_and_deletes_none() {
    on_each(|store| {
        put(store, b"b", b"");
        let range = KeyRange::between(b"c", b"a");
        let page = store
            .scan(JARS, &range, Order::Ascending, Limit::rows(1))
            .unwrap();
        assert_eq!(page, Page::default());
        store
            .write(Batch::new().delete_range(JARS, range), Durability::Lazy)
            .unwrap();
        assert!(store.get(JARS, b"b").unwrap().is_some());
    });
}

#[test]
fn a_snapshot_does_not_change() {
    on_each(|store| {
        put(store, b"a", b"old");
        let snapshot = store.snapshot();
        put(store, b"a", b"new");
        put(store, b"b", b"new");
        assert_eq!(
            snapshot.get(JARS, b"a").unwrap().as_deref(),
            Some(b"old".as_slice())
        );
        let page = snapshot
            .scan(JARS, &KeyRange::all(), Order::Ascending, Limit::rows(9))
            .unwrap();
        assert_eq!(keys(&page), [b"a"]);
        assert_eq!(
            store.get(JARS, b"a").unwrap().as_deref(),
            Some(b"new".as_slice())
        );
    });
}

#[test]
fn a_visitor_may_write_to_the_store_it_visits() {
    on_each(|store| {
        put(store, b"a", b"");
        put(store, b"b", b"");
        let mut seen = Vec::new();
        let visited = store.visit(JARS, &KeyRange::all(), Order::Ascending, &mut |key, _| {
            seen.push(key.to_vec());
            put(store, &[key, b"x"].concat(), b"");
            ControlFlow::Continue(())
        });
        visited.unwrap();
        assert_eq!(seen, [b"a", b"b"]);
    });
}

#[test]
fn large_values_come_back_whole() {
    on_each(|store| {
        let large: Vec<u8> = (0..1_000_003u32).map(|i| i.to_le_bytes()[0]).collect();
        store
            .write(
                Batch::new().put(LIDS, b"a", large.clone()),
                Durability::Synced,
            )
            .unwrap();
        assert_eq!(store.get(LIDS, b"a").unwrap(), Some(large));
    });
}

#[test]
fn threads_that_write_at_once_all_get_their_rows() {
    on_each(|store| {
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                scope.spawn(move || {
                    for row in 0..50u8 {
                        let batch = &mut Batch::new();
                        batch.put(JARS, [thread, row], [row]);
                        store.write(batch, Durability::Synced).unwrap();
                    }
                });
            }
        });
        let page = store
            .scan(JARS, &KeyRange::all(), Order::Ascending, Limit::rows(1_000))
            .unwrap();
        assert_eq!(page.rows.len(), 400);
    });
}

#[test]
fn readers_never_see_a_row_as_it_was_before() {
    const KEYS: usize = 4;
    const WRITES: u64 = 4_000;
    on_each(|store| {
        let written: [AtomicU64; KEYS] = core::array::from_fn(|_| AtomicU64::new(0));
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut seen = [0; KEYS];
                    for key in (0..KEYS).cycle() {
                        if is_over.load(Ordering::Relaxed) {
                            return;
                        }
                        let said = written[key].load(Ordering::SeqCst);
                        let value = store.get(JARS, &key.to_be_bytes()).unwrap();
                        let found = value.map_or(0, |value| {
                            u64::from_be_bytes(value.as_slice().try_into().unwrap())
                        });
                        assert!(found >= said, "{found} is read after {said} was written");
                        assert!(found >= seen[key], "{found} is read after {}", seen[key]);
                        seen[key] = found;
                    }
                });
            }
            for number in 1..=WRITES {
                let key = usize::try_from(number).unwrap() % KEYS;
                let mut batch = Batch::new();
                if number % 16 < 4 {
                    let next = (key + 1).to_be_bytes();
                    batch.delete_range(JARS, KeyRange::between(key.to_be_bytes(), next));
                }
                batch.put(JARS, key.to_be_bytes(), number.to_be_bytes());
                store.write(&batch, Durability::Lazy).unwrap();
                written[key].store(number, Ordering::SeqCst);
            }
            is_over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_power_cut_takes_lazy_batches_from_the_end_only() {
    let store = MemoryStore::new(&[JARS]);
    put(&store, b"a", b"");
    store
        .write(Batch::new().put(JARS, b"b", b""), Durability::Synced)
        .unwrap();
    put(&store, b"c", b"");
    put(&store, b"d", b"");
    assert_eq!(store.lazy_batch_count(), 2);
    for (kept, expected) in [(0, 2), (1, 3), (2, 4)] {
        let after = store.after_power_cut(kept);
        let page = after
            .scan(JARS, &KeyRange::all(), Order::Ascending, Limit::rows(9))
            .unwrap();
        assert_eq!(page.rows.len(), expected);
    }
    store.sync().unwrap();
    assert_eq!(
        store.after_power_cut(0).get(JARS, b"d").unwrap(),
        Some(Vec::new())
    );
}

#[test]
fn a_store_keeps_its_rows_over_a_restart_and_takes_new_tables() {
    let dir = tempfile::tempdir().unwrap();
    let only_jars = Options::new(&[JARS]);
    put(
        &RocksStore::open(dir.path(), &only_jars).unwrap(),
        b"a",
        b"1",
    );
    let store = open(dir.path());
    assert!(store.get(JARS, b"a").unwrap().is_some());
    store
        .write(
            Batch::new().put(LIDS, b"a", vec![7; 5_000]),
            Durability::Synced,
        )
        .unwrap();
    store.compact(LIDS, &KeyRange::all()).unwrap();
    drop(store);
    // A program that no longer names a table leaves it where it is.
    drop(RocksStore::open(dir.path(), &only_jars).unwrap());
    assert_eq!(
        open(dir.path()).get(LIDS, b"a").unwrap(),
        Some(vec![7; 5_000])
    );
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(dir.path());
    let error = RocksStore::open(dir.path(), &options()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
}

/// What the model test does.
#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    DeleteRange(Vec<u8>, Option<Vec<u8>>),
    Scan(Vec<u8>, Option<Vec<u8>>, bool, usize),
    Get(Vec<u8>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let key = || proptest::collection::vec(prop_oneof![0u8..3, Just(255)], 0..3);
    prop_oneof![
        4 => (key(), any::<Vec<u8>>()).prop_map(|(key, value)| Step::Put(key, value)),
        1 => key().prop_map(Step::Delete),
        1 => (key(), proptest::option::of(key())).prop_map(|(a, b)| Step::DeleteRange(a, b)),
        3 => (key(), proptest::option::of(key()), any::<bool>(), 0usize..5)
            .prop_map(|(a, b, up, limit)| Step::Scan(a, b, up, limit)),
        4 => key().prop_map(Step::Get),
    ]
}

fn range(start: Vec<u8>, end: Option<Vec<u8>>) -> KeyRange {
    match end {
        Some(end) => KeyRange::between(start, end),
        None => KeyRange::from(start),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn rocksdb_and_memory_answer_alike(steps in proptest::collection::vec(any_step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let stores: [Box<dyn Store>; 2] =
            [Box::new(MemoryStore::new(&[JARS, LIDS])), Box::new(open(dir.path()))];
        for step in steps {
            if let Step::Get(key) = step {
                let answers = stores.each_ref().map(|store| store.get(JARS, &key).unwrap());
                prop_assert_eq!(&answers[0], &answers[1]);
                continue;
            }
            let answers = stores.each_ref().map(|store| {
                let mut batch = Batch::new();
                match step.clone() {
                    Step::Get(_) => unreachable!("answered above"),
                    Step::Put(key, value) => { batch.put(JARS, key, value); }
                    Step::Delete(key) => { batch.delete(JARS, key); }
                    Step::DeleteRange(start, end) => { batch.delete_range(JARS, range(start, end)); }
                    Step::Scan(start, end, up, limit) => {
                        let order = if up { Order::Ascending } else { Order::Descending };
                        return store.scan(JARS, &range(start, end), order, Limit::rows(limit)).unwrap();
                    }
                }
                store.write(&batch, Durability::Lazy).unwrap();
                Page::default()
            });
            prop_assert_eq!(&answers[0], &answers[1]);
        }
    }
}

/// The blob files of a store, with their lengths.
fn blob_files(directory: &Path) -> std::collections::BTreeMap<std::ffi::OsString, u64> {
    let entries = std::fs::read_dir(directory.join("db")).unwrap();
    let entries = entries.map(Result::unwrap);
    entries
        .filter(|entry| entry.path().extension().is_some_and(|end| end == "blob"))
        .map(|entry| (entry.file_name(), entry.metadata().unwrap().len()))
        .collect()
}

#[test]
fn values_are_copied_out_of_blob_files_only_when_there_is_garbage_beside_them() {
    const VALUES: u32 = 400;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let value = vec![7; 256 << 10];
    for number in 0..VALUES {
        let mut batch = Batch::new();
        batch.put(LIDS, number.to_be_bytes(), value.clone());
        store.write(&batch, Durability::Lazy).unwrap();
        if number % 50 == 49 {
            store.compact(LIDS, &KeyRange::all()).unwrap();
        }
    }
    store.tend().unwrap();
    let before = blob_files(dir.path());
    // Others come between, and their tables are merged.
    for number in 0..VALUES {
        let mut batch = Batch::new();
        batch.put(LIDS, (number + 1_000).to_be_bytes(), *b"small");
        store.write(&batch, Durability::Lazy).unwrap();
    }
    store.compact(LIDS, &KeyRange::all()).unwrap();
    assert_eq!(blob_files(dir.path()), before);
    // Of four neighbours one stays.
    let mut batch = Batch::new();
    for number in (0..VALUES).filter(|number| number % 4 != 0) {
        batch.delete(LIDS, number.to_be_bytes());
    }
    store.write(&batch, Durability::Lazy).unwrap();
    store.compact(LIDS, &KeyRange::all()).unwrap();
    let bytes = || blob_files(dir.path()).values().sum::<u64>();
    let all = bytes();
    assert_eq!(before.values().sum::<u64>(), all);
    store.tend().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while bytes() > all * 3 / 4 {
        assert!(std::time::Instant::now() < deadline, "no space comes back");
        // What is merged anyway brings it along.
        store.compact(LIDS, &KeyRange::all()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    for number in (0..VALUES).step_by(4) {
        assert_eq!(
            store.get(LIDS, &number.to_be_bytes()).unwrap().as_ref(),
            Some(&value)
        );
    }
}

#[test]
fn the_cache_of_blocks_is_given_back_at_rest_and_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for number in 0..2_000_u32 {
        put(&store, &number.to_be_bytes(), &[7; 500]);
    }
    store.compact(JARS, &KeyRange::all()).unwrap();
    let read = || {
        let all = Limit::rows(10_000);
        let page = store.scan(JARS, &KeyRange::all(), Order::Ascending, all);
        assert_eq!(page.unwrap().rows.len(), 2_000);
        store.blocks_cached()
    };
    let full = read();
    assert!(full > 10_000, "{full}");
    store.tend().unwrap();
    assert_eq!(store.blocks_cached(), full);
    for _ in 0..7 {
        store.tend().unwrap();
    }
    assert!(store.blocks_cached() < full / 4);
    assert_eq!(read(), full);
    // Once is enough: who reads without writing has it from then on.
    store.tend().unwrap();
    assert_eq!(store.blocks_cached(), full);
}

#[test]
fn recent_rows_go_to_table_files_when_no_more_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let has_tables = || {
        let entries = std::fs::read_dir(dir.path().join("db")).unwrap();
        entries
            .map(Result::unwrap)
            .any(|entry| entry.path().extension().is_some_and(|end| end == "sst"))
    };
    let write = |count: u32, bytes: usize| {
        for number in 0..count {
            let mut batch = Batch::new();
            batch.put(JARS, number.to_be_bytes(), vec![7; bytes]);
            store.write(&batch, Durability::Lazy).unwrap();
        }
    };
    // While many come the store is left alone.
    for _ in 0..10 {
        write(2_000, 1 << 10);
        store.tend().unwrap();
    }
    // So it is for some time afterwards.
    for _ in 0..6 {
        write(10, 1);
        store.tend().unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(!has_tables());
    store.tend().unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !has_tables() {
        assert!(std::time::Instant::now() < deadline, "nothing is flushed");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(
        store.get(JARS, &20u32.to_be_bytes()).unwrap(),
        Some(vec![7; 1 << 10])
    );
}

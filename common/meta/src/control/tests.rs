//! One suite for every control store, then what only one on a disk can be asked.

use super::*;
use crate::key::TableName;
use crate::local::Store as _;
use onggi_common_host::Clock;
use onggi_common_units::UtcTime;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

mod crash;

const JARS: TableName = TableName::new("jars");
const LIDS: TableName = TableName::new("lids");

/// A clock that a test moves.
#[derive(Default)]
struct TestClock(AtomicU64);

impl TestClock {
    fn pass(&self, span: Duration) {
        self.0
            .fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UtcTime {
        UtcTime::from_micros(self.0.load(Ordering::SeqCst) * 1_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

fn id(number: u64) -> TxnId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    TxnId(Uuid::from_bytes(bytes))
}

/// A transaction with a name no other has.
fn txn() -> Transaction {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 40);
    Transaction::new(id(NEXT.fetch_add(1, Ordering::SeqCst)))
}

/// Runs a check on each implementation, on an empty store.
fn on_each(check: fn(&Arc<dyn Store>, &TestClock)) {
    let clock = Arc::new(TestClock::default());
    let memory: Arc<dyn Store> = Arc::new(Embedded::in_memory(clock.clone()));
    check(&memory, &clock);
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let rocks: Arc<dyn Store> = Arc::new(rocks::open(dir.path(), clock.clone()).unwrap());
    check(&rocks, &clock);
}

fn rows(page: &Page) -> Vec<(&[u8], &[u8], u64)> {
    let rows = page.rows.iter();
    rows.map(|row| (&row.key[..], &row.value[..], row.revision.number()))
        .collect()
}

#[test]
fn commits_count_revisions_and_rows_remember_theirs() {
    on_each(|store, _| {
        assert_eq!(
            store
                .scan(JARS, &KeyRange::all(), At::Now, 9)
                .unwrap()
                .revision,
            Revision::ZERO
        );
        let first = store
            .commit(&txn().put(JARS, "a", "1").put(LIDS, "a", "x"))
            .unwrap();
        let second = store
            .commit(&txn().put(JARS, "b", "2").delete(LIDS, "a"))
            .unwrap();
        assert_eq!((first.number(), second.number()), (1, 2));
        let row = store.get(JARS, b"a").unwrap().unwrap();
        assert_eq!(
            (row.value.as_slice(), row.revision),
            (b"1".as_slice(), first)
        );
        assert_eq!(store.get(LIDS, b"a").unwrap(), None);
        let page = store.scan(JARS, &KeyRange::all(), At::Now, 9).unwrap();
        assert_eq!(
            rows(&page),
            [(b"a".as_slice(), b"1".as_slice(), 1), (b"b", b"2", 2)]
        );
        assert_eq!((page.revision, page.more), (second, false));
        let page = store.scan(JARS, &KeyRange::all(), At::Now, 1).unwrap();
        assert!(page.more);
    });
}

#[test]
fn m2_a_condition_that_does_not_hold_stops_every_write() {
    on_each(|store, _| {
        let first = store
            .commit(&txn().absent(JARS, "a").put(JARS, "a", "1"))
            .unwrap();
        let error = store.commit(
            &txn()
                .absent(JARS, "b")
                .absent(JARS, "a")
                .put(JARS, "b", "2"),
        );
        assert!(
            matches!(error, Err(TxnError::Conflict { condition: 1, found: Some(found), .. }) if found == first)
        );
        assert_eq!(store.get(JARS, b"b").unwrap(), None);
        let second = store
            .commit(&txn().at(JARS, "a", first).put(JARS, "a", "2"))
            .unwrap();
        let error = store.commit(&txn().at(JARS, "a", first).put(JARS, "a", "3"));
        assert!(
            matches!(error, Err(TxnError::Conflict { found: Some(found), .. }) if found == second)
        );
        let error = store.commit(&txn().at(JARS, "c", first).delete(JARS, "a"));
        assert!(matches!(error, Err(TxnError::Conflict { found: None, .. })));
        assert!(store.get(JARS, b"a").unwrap().is_some());
    });
}

#[test]
fn a_range_condition_notices_new_and_changed_rows() {
    on_each(|store, _| {
        let range = || KeyRange::prefix("p/");
        let seen = store
            .commit(&txn().put(JARS, "p/a", "1").put(JARS, "q/a", "1"))
            .unwrap();
        let guarded = || txn().none_newer(JARS, range(), seen).put(LIDS, "x", "");
        store.commit(&guarded()).unwrap();
        store
            .commit(&txn().put(JARS, "q/b", "1").put(LIDS, "p/z", ""))
            .unwrap();
        store.commit(&guarded()).unwrap();
        store.commit(&txn().put(JARS, "p/b", "1")).unwrap();
        assert!(matches!(
            store.commit(&guarded()),
            Err(TxnError::Conflict { .. })
        ));
        store.commit(&txn().delete(JARS, "p/b")).unwrap();
        store.commit(&guarded()).unwrap();
    });
}

#[test]
fn a_transaction_over_a_limit_is_refused_and_writes_nothing() {
    on_each(|store, _| {
        let many = (0..=OPERATIONS_MAX).fold(txn(), |t, row| t.put(JARS, format!("{row}"), ""));
        let large = txn().put(JARS, "a", vec![0; TRANSACTION_BYTES_MAX]);
        let twice = txn().put(JARS, "a", "1").delete(JARS, "a");
        let unleased = txn().put_leased(JARS, "a", "1", LeaseId(77));
        let refusal = |t: &Transaction| match store.commit(t) {
            Err(TxnError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            refusal(&many),
            Refusal::TooManyOperations {
                count: OPERATIONS_MAX + 1
            }
        );
        assert_eq!(
            refusal(&large),
            Refusal::TooLarge {
                bytes: TRANSACTION_BYTES_MAX + 1
            }
        );
        assert_eq!(refusal(&twice), Refusal::WrittenTwice { table: JARS });
        assert_eq!(refusal(&unleased), Refusal::NoLease { lease: LeaseId(77) });
        let long_key = txn().put(JARS, vec![b'x'; crate::KEY_BYTES_MAX], "");
        assert!(matches!(
            store.commit(&long_key),
            Err(TxnError::Store(StoreError::KeyTooLong { .. }))
        ));
        let limit = txn().put(JARS, "a", vec![0; TRANSACTION_BYTES_MAX - 1]);
        assert_eq!(store.commit(&limit).unwrap().number(), 1);
    });
}

#[test]
fn a_transaction_happens_once_and_its_outcome_can_be_asked() {
    on_each(|store, _| {
        let once = Transaction::new(id(1))
            .absent(JARS, "a")
            .put(JARS, "a", "1");
        assert_eq!(store.outcome(id(1)).unwrap(), Outcome::Absent);
        let revision = store.commit(&once).unwrap();
        assert_eq!(store.commit(&once).unwrap(), revision);
        assert_eq!(store.outcome(id(1)).unwrap(), Outcome::Committed(revision));
        assert!(
            store
                .commit(
                    &Transaction::new(id(2))
                        .absent(JARS, "a")
                        .put(JARS, "a", "2")
                )
                .is_err()
        );
        assert_eq!(store.outcome(id(2)).unwrap(), Outcome::Absent);
        assert_eq!(store.commit(&Transaction::new(id(3))).unwrap(), revision);
    });
}

#[test]
fn an_older_state_can_be_read_page_by_page() {
    on_each(|store, _| {
        store
            .commit(
                &txn()
                    .put(JARS, "a", "1")
                    .put(JARS, "c", "1")
                    .put(JARS, "e", "1"),
            )
            .unwrap();
        let old = store
            .commit(&txn().put(JARS, "a", "2").delete(JARS, "e"))
            .unwrap();
        store
            .commit(
                &txn()
                    .put(JARS, "b", "3")
                    .delete(JARS, "a")
                    .put(JARS, "c", "3"),
            )
            .unwrap();
        store
            .commit(
                &txn()
                    .put(JARS, "a", "4")
                    .put(JARS, "e", "4")
                    .put(LIDS, "a", "4"),
            )
            .unwrap();
        let page = store
            .scan(JARS, &KeyRange::all(), At::Revision(old), 9)
            .unwrap();
        assert_eq!(
            rows(&page),
            [(b"a".as_slice(), b"2".as_slice(), 2), (b"c", b"1", 1)]
        );
        assert_eq!(page.revision, old);
        let first = store
            .scan(JARS, &KeyRange::all(), At::Revision(old), 1)
            .unwrap();
        assert!(first.more);
        let rest = KeyRange::all().resume_after(&first.rows[0].key);
        let second = store.scan(JARS, &rest, At::Revision(old), 1).unwrap();
        assert_eq!(
            (rows(&second), second.more),
            (vec![(b"c".as_slice(), b"1".as_slice(), 1)], false)
        );
        let empty = store
            .scan(JARS, &KeyRange::all(), At::Revision(Revision::ZERO), 9)
            .unwrap();
        assert!(empty.rows.is_empty());
        let future = store.scan(JARS, &KeyRange::all(), At::Revision(Revision::new(99)), 9);
        assert!(matches!(future, Err(ReadError::InTheFuture { .. })));
    });
}

#[test]
fn history_is_bounded_and_what_is_older_answers_compacted() {
    let clock = Arc::new(TestClock::default());
    let store = Embedded::in_memory(clock);
    // Each commit keeps the new value and the one before: 3 MiB of history.
    let commits = u64::try_from(HISTORY_BYTES_MAX / (3 << 20) + 5).unwrap();
    for number in 0..commits {
        let value = vec![1; TRANSACTION_BYTES_MAX - 1];
        store
            .commit(&Transaction::new(id(number)).put(JARS, "a", value))
            .unwrap();
    }
    let old = store.scan(JARS, &KeyRange::all(), At::Revision(Revision::new(1)), 9);
    let Err(ReadError::Compacted { oldest, .. }) = old else {
        panic!("{old:?}")
    };
    assert!(oldest > Revision::new(1));
    store
        .scan(JARS, &KeyRange::all(), At::Revision(oldest), 9)
        .unwrap();
    assert!(matches!(
        store.watch(JARS, b"", oldest),
        Err(ReadError::Compacted { .. })
    ));
    store.watch(JARS, b"", oldest.next()).unwrap();
    assert_eq!(store.outcome(id(0)).unwrap(), Outcome::Absent);
    assert!(matches!(
        store.outcome(id(commits - 1)).unwrap(),
        Outcome::Committed(_)
    ));
}

#[test]
fn a_watch_sees_every_change_of_its_prefix_in_order() {
    on_each(|store, _| {
        store.commit(&txn().put(JARS, "p/a", "1")).unwrap();
        let from = store
            .commit(&txn().put(JARS, "p/b", "2").put(JARS, "q", "2"))
            .unwrap();
        store.commit(&txn().put(LIDS, "p/b", "3")).unwrap();
        store
            .commit(&txn().delete(JARS, "p/a").delete(JARS, "p/none"))
            .unwrap();
        let mut watch = store.watch(JARS, b"p/", from).unwrap();
        let changes = watch.next(Duration::ZERO).unwrap();
        let seen: Vec<_> = changes
            .iter()
            .map(|c| (&c.key[..], c.value.as_deref(), c.revision.number()))
            .collect();
        assert_eq!(
            seen,
            [
                (b"p/b".as_slice(), Some(b"2".as_slice()), 2),
                (b"p/a", None, 4)
            ]
        );
        assert!(watch.next(Duration::ZERO).unwrap().is_empty());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| watch.next(Duration::from_secs(60)).unwrap());
            store.commit(&txn().put(JARS, "p/c", "5")).unwrap();
            assert_eq!(waiting.join().unwrap()[0].key, b"p/c");
        });
    });
}

#[test]
fn rows_go_when_their_lease_runs_out_or_is_given_back() {
    on_each(|store, clock| {
        let ttl = Duration::from_secs(10);
        let (kept, given_back) = (store.lease(ttl).unwrap(), store.lease(ttl).unwrap());
        store
            .commit(&txn().put_leased(JARS, "a", "1", kept).put(JARS, "b", "1"))
            .unwrap();
        store
            .commit(&txn().put_leased(JARS, "c", "1", given_back))
            .unwrap();
        // Written again without the lease, a row outlives it.
        store
            .commit(&txn().put_leased(JARS, "d", "1", kept))
            .unwrap();
        let last = store.commit(&txn().put(JARS, "d", "2")).unwrap();
        store.revoke(given_back).unwrap();
        assert!(store.get(JARS, b"c").unwrap().is_none());
        clock.pass(ttl / 2);
        store.keep_alive(kept).unwrap();
        clock.pass(ttl / 2);
        assert!(store.get(JARS, b"a").unwrap().is_some());
        clock.pass(ttl / 2);
        assert!(store.get(JARS, b"a").unwrap().is_none());
        assert!(matches!(
            store.keep_alive(kept),
            Err(LeaseError::NotThere { .. })
        ));
        assert!(matches!(
            store.revoke(given_back),
            Err(LeaseError::NotThere { .. })
        ));
        assert_eq!(
            store
                .scan(JARS, &KeyRange::all(), At::Now, 9)
                .unwrap()
                .rows
                .len(),
            2
        );
        let mut watch = store.watch(JARS, b"a", last).unwrap();
        assert_eq!(watch.next(Duration::ZERO).unwrap()[0].value, None);
        let newest = store.lease(ttl).unwrap();
        assert!(newest != kept && newest != given_back);
    });
}

#[test]
fn m2_of_many_who_race_for_a_row_one_wins_each_round() {
    on_each(|store, _| {
        const ROUNDS: u64 = 20;
        store
            .commit(&txn().put(JARS, "count", 0u64.to_le_bytes()))
            .unwrap();
        let wins = Mutex::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        let row = store.get(JARS, b"count").unwrap().unwrap();
                        let count = u64::from_le_bytes(row.value.try_into().unwrap());
                        let next = txn().at(JARS, "count", row.revision).put(
                            JARS,
                            "count",
                            (count + 1).to_le_bytes(),
                        );
                        if store.commit(&next).is_ok() {
                            *wins.lock().unwrap() += 1;
                        }
                    }
                });
            }
        });
        let row = store.get(JARS, b"count").unwrap().unwrap();
        assert_eq!(
            u64::from_le_bytes(row.value.try_into().unwrap()),
            *wins.lock().unwrap()
        );
    });
}

#[test]
fn a_store_with_a_gap_in_its_history_is_damaged() {
    use crate::local::{Batch, Durability, MemoryStore};
    let local = Arc::new(MemoryStore::new(&Embedded::TABLES));
    let store = Embedded::new(local.clone(), Arc::new(TestClock::default())).unwrap();
    for _ in 0..3 {
        store.commit(&txn().put(JARS, "a", "1")).unwrap();
    }
    drop(store);
    let mut batch = Batch::new();
    batch.delete(TableName::new("log"), 2u64.to_be_bytes());
    local.write(&batch, Durability::Synced).unwrap();
    let error = Embedded::new(local, Arc::new(TestClock::default()))
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains("from revision 1 to 3"),
        "{error}"
    );
}

/// A local store whose writes fail when it is told to, before or after they have happened.
struct Failing {
    inner: Arc<crate::local::MemoryStore>,
    /// Whether the failing write is nevertheless stored; `None` when writes do not fail.
    failure: Mutex<Option<bool>>,
}

impl crate::local::Read for Failing {
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(table, key)
    }

    fn visit(
        &self,
        table: TableName,
        range: &KeyRange,
        order: crate::local::Order,
        visitor: &mut crate::local::Visitor<'_>,
    ) -> Result<(), StoreError> {
        self.inner.visit(table, range, order, visitor)
    }
}

impl crate::local::Store for Failing {
    fn write(
        &self,
        batch: &crate::local::Batch,
        durability: crate::local::Durability,
    ) -> Result<(), StoreError> {
        let failure = *self.failure.lock().unwrap();
        if failure != Some(false) {
            self.inner.write(batch, durability)?;
        }
        match failure {
            None => Ok(()),
            Some(_) => Err(StoreError::Machine {
                operation: "writing",
                store: self.location().to_owned(),
                source: "planted".into(),
            }),
        }
    }

    fn snapshot(&self) -> Box<dyn crate::local::Read + '_> {
        self.inner.snapshot()
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn location(&self) -> &std::path::Path {
        self.inner.location()
    }
}

#[test]
fn a_commit_whose_outcome_is_unknown_can_be_asked_after_a_restart() {
    for is_stored in [true, false] {
        let inner = Arc::new(crate::local::MemoryStore::new(&Embedded::TABLES));
        let failing = Arc::new(Failing {
            inner: inner.clone(),
            failure: Mutex::default(),
        });
        let clock = Arc::new(TestClock::default());
        let store = Embedded::new(failing.clone(), clock.clone()).unwrap();
        store.commit(&txn().put(JARS, "a", "1")).unwrap();
        *failing.failure.lock().unwrap() = Some(is_stored);
        let doubtful = Transaction::new(id(7)).put(JARS, "b", "1");
        assert!(matches!(
            store.commit(&doubtful),
            Err(TxnError::Unknown { .. })
        ));
        // What is on the disk is not known here any more: neither commits nor outcomes are guessed.
        *failing.failure.lock().unwrap() = None;
        let next = store.commit(&txn().put(JARS, "c", "1"));
        assert!(matches!(
            next,
            Err(TxnError::Store(StoreError::OutOfService { .. }))
        ));
        assert!(matches!(
            store.outcome(id(7)),
            Err(StoreError::OutOfService { .. })
        ));
        let store = Embedded::new(inner, clock).unwrap();
        let expected = if is_stored {
            Outcome::Committed(Revision::new(2))
        } else {
            Outcome::Absent
        };
        assert_eq!(store.outcome(id(7)).unwrap(), expected);
        assert_eq!(store.commit(&doubtful).unwrap(), Revision::new(2));
        assert_eq!(
            store.get(JARS, b"b").unwrap().unwrap().revision,
            Revision::new(2)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_state_of_the_past_reads_as_it_was(
        commits in proptest::collection::vec(
            proptest::collection::btree_map(0u8..6, proptest::option::of(any::<u8>()), 1..4), 1..20),
        start in 0u8..6, limit in 1usize..5,
    ) {
        let store = Embedded::in_memory(Arc::new(TestClock::default()));
        let mut model: BTreeMap<u8, u8> = BTreeMap::new();
        let mut states = vec![model.clone()];
        for commit in &commits {
            let transaction = commit.iter().fold(txn(), |t, (key, value)| match value {
                Some(value) => { model.insert(*key, *value); t.put(JARS, [*key], [*value]) }
                None => { model.remove(key); t.delete(JARS, [*key]) }
            });
            store.commit(&transaction).unwrap();
            states.push(model.clone());
        }
        for (revision, state) in states.iter().enumerate() {
            let at = At::Revision(Revision::new(u64::try_from(revision).unwrap()));
            let page = store.scan(JARS, &KeyRange::from([start]), at, limit).unwrap();
            let expected: Vec<_> = state.range(start..).collect();
            let found: Vec<_> = page.rows.iter().map(|row| (&row.key[0], &row.value[0])).collect();
            prop_assert_eq!(&found[..], &expected[..expected.len().min(limit)]);
            prop_assert_eq!(page.more, expected.len() > limit);
        }
    }
}

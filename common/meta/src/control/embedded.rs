//! The control store on one machine: rows and history in a local store, one commit at a time.
//!
//! Commits take a lock, so they are linearizable by construction; each is one synced batch. Reads take a snapshot and do
//! not wait for commits. After a write that failed the store takes no more until it is opened again, because what is on
//! the disk is then not known.

use super::log::{
    LEASED, LEASES, LOG, LogChange, LogEntry, ROWS, StoredRow, TXNS, leased_key, row_key, row_range,
};
use super::{
    At, Condition, LeaseError, LeaseId, Outcome, Page, ReadError, Revision, Row, Store,
    Transaction, TxnError, TxnId, Watch, Write,
};
use crate::error::StoreError;
use crate::key::{KeyRange, TableName};
use crate::local::{self, Batch, Durability, Order};
use crate::table::{Record, decode, encode};
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use onggi_common_host::Clock;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

mod limits;
mod past;
mod state;
mod watch;

pub use state::{HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX};

use limits::{check_leases, check_limits};
use state::{Lease, State, forget_oldest, oldest_of};

/// The control store over a local store.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    store: Arc<dyn local::Store>,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Notified after each commit.
    committed: Condvar,
    /// When the next lease runs out, in ms of the monotonic clock, so that a read need not take the lock.
    next_expiry_ms: AtomicU64,
}

/// One commit being made.
struct Commit {
    revision: Revision,
    entry: LogEntry,
    batch: Batch,
}

impl Embedded {
    /// The tables the local store must have.
    pub const TABLES: [TableName; 5] = [ROWS, LOG, TXNS, LEASES, LEASED];

    /// Takes over a local store with [`Self::TABLES`]. Leases that were running start their time anew.
    ///
    /// # Errors
    /// When the history has a gap or a row of it cannot be understood (M3), or the store cannot answer.
    pub fn new(store: Arc<dyn local::Store>, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let now = clock.monotonic();
        let state = State::load(store.as_ref(), now)?;
        let next = state.next_expiry_ms();
        let shared = Shared {
            store,
            clock,
            state: Mutex::new(state),
            committed: Condvar::new(),
            next_expiry_ms: AtomicU64::new(next),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// An empty store in memory, for tests and simulation.
    #[must_use]
    pub fn in_memory(clock: Arc<dyn Clock>) -> Self {
        let store = Arc::new(local::MemoryStore::new(&Self::TABLES));
        Self::new(store, clock).expect("an empty store in memory has no history to be damaged")
    }
}

/// Reads a row of the embedded tables.
fn read_stored<R: Record>(
    store: &dyn local::Store,
    what: &str,
    bytes: &[u8],
) -> Result<R, StoreError> {
    decode(bytes).map_err(|error| StoreError::damaged(store.location(), format!("{what}: {error}")))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // State changes only after a batch is stored, in steps that do not panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock after carrying out what time has made due.
    fn lock_current(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.lock();
        self.expire(&mut state)?;
        Ok(state)
    }

    fn expire_if_due(&self) -> Result<(), StoreError> {
        let now = self.clock.monotonic().as_millis();
        if now >= u128::from(self.next_expiry_ms.load(Ordering::Acquire)) {
            drop(self.lock_current()?);
        }
        Ok(())
    }

    fn expire(&self, state: &mut State) -> Result<(), StoreError> {
        let now = self.clock.monotonic();
        let due: Vec<LeaseId> = state
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        due.into_iter()
            .try_for_each(|lease| self.end_lease(state, lease))
    }

    fn stored(&self, row_key: &[u8]) -> Result<Option<StoredRow>, StoreError> {
        let bytes = self.store.get(ROWS, row_key)?;
        let read = |bytes: Vec<u8>| {
            read_stored(
                self.store.as_ref(),
                &row_key.escape_ascii().to_string(),
                &bytes,
            )
        };
        bytes.map(read).transpose()
    }

    fn check(&self, index: usize, condition: &Condition) -> Result<(), TxnError> {
        let conflict = |table: TableName, found: Option<Revision>| TxnError::Conflict {
            condition: index,
            table,
            found,
        };
        match condition {
            Condition::Absent { table, key } => match self.stored(&row_key(*table, key))? {
                None => Ok(()),
                Some(row) => Err(conflict(*table, Some(row.revision))),
            },
            Condition::AtRevision {
                table,
                key,
                revision,
            } => {
                let found = self.stored(&row_key(*table, key))?.map(|row| row.revision);
                if found == Some(*revision) {
                    Ok(())
                } else {
                    Err(conflict(*table, found))
                }
            }
            Condition::NoneNewer {
                table,
                range,
                revision,
            } => {
                let newest = self.newest(*table, range)?;
                if newest.is_none_or(|newest| newest <= *revision) {
                    return Ok(());
                }
                Err(conflict(*table, newest))
            }
        }
    }

    fn newest(&self, table: TableName, range: &KeyRange) -> Result<Option<Revision>, StoreError> {
        let (mut newest, mut damage) = (None, None);
        let store = self.store.as_ref();
        store.visit(
            ROWS,
            &row_range(table, range),
            Order::Ascending,
            &mut |key, value| match read_stored::<StoredRow>(
                store,
                &key.escape_ascii().to_string(),
                value,
            ) {
                Ok(row) => {
                    newest = newest.max(Some(row.revision));
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
            },
        )?;
        damage.map_or(Ok(newest), Err)
    }

    /// Adds one write to a commit.
    fn stage(&self, commit: &mut Commit, write: &Write) -> Result<(), StoreError> {
        let (row_key, value, lease) = match write {
            Write::Put {
                table,
                key,
                value,
                lease,
            } => (row_key(*table, key), Some(value), *lease),
            Write::Delete { table, key } => (row_key(*table, key), None, None),
        };
        let previous = self.stored(&row_key)?;
        if let Some(old) = previous.as_ref().and_then(|row| row.lease) {
            commit.batch.delete(LEASED, leased_key(old, &row_key));
        }
        if let Some(value) = value {
            let row = StoredRow {
                revision: commit.revision,
                lease,
                value: value.clone(),
            };
            commit.batch.put(ROWS, row_key.clone(), encode(&row));
            if let Some(lease) = lease {
                commit.batch.put(LEASED, leased_key(lease, &row_key), []);
            }
        } else if previous.is_some() {
            commit.batch.delete(ROWS, row_key.clone());
        } else {
            return Ok(());
        }
        commit.entry.changes.push(LogChange {
            row_key,
            value: value.cloned(),
            previous,
        });
        Ok(())
    }

    /// Stores a commit and makes it the newest state.
    fn store_commit(&self, state: &mut State, mut commit: Commit) -> Result<Revision, StoreError> {
        let revision = commit.revision;
        let entry = encode(&commit.entry);
        let bytes = entry.len();
        commit
            .batch
            .put(LOG, revision.number().to_be_bytes(), entry);
        if let Some(TxnId(id)) = commit.entry.txn {
            commit
                .batch
                .put(TXNS, *id.as_bytes(), revision.number().to_le_bytes());
        }
        let dropped = forget_oldest(state, bytes, &mut commit.batch);
        if let Err(error) = self.store.write(&commit.batch, Durability::Synced) {
            if is_outcome_unknown(&error) {
                state.failed = Some(error.to_string());
            }
            return Err(error);
        }
        for kept in state.history.drain(..dropped) {
            state.history_bytes = state.history_bytes.saturating_sub(kept.bytes);
        }
        state.keep(bytes, commit.entry.txn);
        state.head = revision;
        self.committed.notify_all();
        Ok(revision)
    }

    fn begin(&self, state: &State, txn: Option<TxnId>) -> Result<Commit, StoreError> {
        if let Some(reason) = &state.failed {
            let store = self.store.location().to_owned();
            return Err(StoreError::OutOfService {
                store,
                reason: reason.clone(),
            });
        }
        let entry = LogEntry {
            txn,
            changes: Vec::new(),
        };
        Ok(Commit {
            revision: state.head.next(),
            entry,
            batch: Batch::new(),
        })
    }

    fn remembered(&self, id: TxnId) -> Result<Option<Revision>, StoreError> {
        let Some(bytes) = self.store.get(TXNS, id.0.as_bytes())? else {
            return Ok(None);
        };
        let number = bytes
            .as_slice()
            .try_into()
            .ok()
            .map(u64::from_le_bytes)
            .ok_or_else(|| {
                StoreError::damaged(
                    self.store.location(),
                    format!("transaction {} has no revision", id.0),
                )
            })?;
        Ok(Some(Revision::new(number)))
    }

    fn update_expiry(&self, state: &State) {
        self.next_expiry_ms
            .store(state.next_expiry_ms(), Ordering::Release);
    }

    fn end_lease(&self, state: &mut State, lease: LeaseId) -> Result<(), StoreError> {
        let mut commit = self.begin(state, None)?;
        let mut row_keys = Vec::new();
        let range = KeyRange::prefix(lease.0.to_be_bytes());
        self.store
            .visit(LEASED, &range, Order::Ascending, &mut |key, _| {
                row_keys.extend(key.get(size_of::<u64>()..).map(<[u8]>::to_vec));
                ControlFlow::Continue(())
            })?;
        for row_key in row_keys {
            commit.batch.delete(LEASED, leased_key(lease, &row_key));
            commit.batch.delete(ROWS, row_key.clone());
            let previous = self.stored(&row_key)?;
            commit.entry.changes.push(LogChange {
                row_key,
                value: None,
                previous,
            });
        }
        commit.batch.delete(LEASES, lease.0.to_be_bytes());
        self.store_commit(state, commit)?;
        state.leases.remove(&lease);
        self.update_expiry(state);
        Ok(())
    }
}

/// Whether a failed write may nevertheless be on the disk.
const fn is_outcome_unknown(error: &StoreError) -> bool {
    match error {
        StoreError::Machine { .. } | StoreError::Full { .. } | StoreError::Damaged { .. } => true,
        StoreError::UnknownTable { .. }
        | StoreError::KeyTooLong { .. }
        | StoreError::BatchTooLarge { .. }
        | StoreError::OutOfService { .. } => false,
    }
}

impl Store for Embedded {
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Row>, StoreError> {
        self.shared.expire_if_due()?;
        let stored = self.shared.stored(&row_key(table, key))?;
        Ok(stored.map(|row| Row {
            key: key.to_vec(),
            value: row.value,
            revision: row.revision,
        }))
    }

    fn scan(
        &self,
        table: TableName,
        range: &KeyRange,
        at: At,
        limit: usize,
    ) -> Result<Page, ReadError> {
        self.shared.expire_if_due()?;
        past::scan(self.shared.store.as_ref(), table, range, at, limit)
    }

    fn commit(&self, transaction: &Transaction) -> Result<Revision, TxnError> {
        check_limits(transaction)?;
        let mut state = self.shared.lock_current()?;
        let mut commit = self.shared.begin(&state, Some(transaction.id))?;
        if let Some(revision) = self.shared.remembered(transaction.id)? {
            return Ok(revision);
        }
        for (index, condition) in transaction.conditions.iter().enumerate() {
            self.shared.check(index, condition)?;
        }
        check_leases(&state, transaction)?;
        if transaction.writes.is_empty() {
            return Ok(state.head);
        }
        for write in &transaction.writes {
            self.shared.stage(&mut commit, write)?;
        }
        self.shared
            .store_commit(&mut state, commit)
            .map_err(|source| {
                if is_outcome_unknown(&source) {
                    TxnError::Unknown {
                        id: transaction.id,
                        source,
                    }
                } else {
                    TxnError::Store(source)
                }
            })
    }

    fn outcome(&self, id: TxnId) -> Result<Outcome, StoreError> {
        let state = self.shared.lock();
        // After a failed write the disk may hold what this process cannot see.
        self.shared.begin(&state, None)?;
        Ok(self
            .shared
            .remembered(id)?
            .map_or(Outcome::Absent, Outcome::Committed))
    }

    fn watch(
        &self,
        table: TableName,
        prefix: &[u8],
        from: Revision,
    ) -> Result<Box<dyn Watch>, ReadError> {
        watch::start(&self.shared, table, prefix, from)
    }

    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let mut state = self.shared.lock_current()?;
        let mut commit = self.shared.begin(&state, None)?;
        // The number of the commit that made it: no later lease has the same.
        let id = LeaseId(commit.revision.number());
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        commit
            .batch
            .put(LEASES, id.0.to_be_bytes(), ttl_ms.to_le_bytes());
        self.shared.store_commit(&mut state, commit)?;
        let deadline = self.shared.clock.monotonic().saturating_add(ttl);
        state.leases.insert(id, Lease { ttl, deadline });
        self.shared.update_expiry(&state);
        Ok(id)
    }

    fn keep_alive(&self, lease: LeaseId) -> Result<(), LeaseError> {
        let mut state = self.shared.lock_current()?;
        let now = self.shared.clock.monotonic();
        let kept = state
            .leases
            .get_mut(&lease)
            .ok_or(LeaseError::NotThere { lease })?;
        kept.deadline = now.saturating_add(kept.ttl);
        self.shared.update_expiry(&state);
        Ok(())
    }

    fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        let mut state = self.shared.lock_current()?;
        if !state.leases.contains_key(&lease) {
            return Err(LeaseError::NotThere { lease });
        }
        Ok(self.shared.end_lease(&mut state, lease)?)
    }
}

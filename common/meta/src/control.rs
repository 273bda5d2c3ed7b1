//! The small, linearizable store: conditions and writes in one atomic step, revisions, history, watches, leases.
//!
//! Every commit that writes takes the next [`Revision`]; a row remembers the revision that last wrote it, and conditions
//! compare with it. The store keeps some history (how much is an implementation's own limit): inside it a scan can ask for
//! an older revision and a watch can begin at one; older ones answer `Compacted`.
//!
//! The limits are etcd's, so that what runs on one machine runs on several.

use crate::error::StoreError;
use crate::key::{KeyRange, TableName};
use core::fmt;
use core::time::Duration;
use onggi_common_units::Uuid;

mod embedded;
mod log;
pub mod record;
pub mod rocks;

#[cfg(test)]
mod tests;

pub use embedded::{Embedded, HISTORY_BYTES_MAX, HISTORY_REVISIONS_MAX};
pub use record::{RecordError, Versioned, get_record, scan_records};

/// The most conditions and writes, together, of one transaction.
pub const OPERATIONS_MAX: usize = 128;
/// The most bytes, keys and values together, of one transaction: 1.5 MiB.
pub const TRANSACTION_BYTES_MAX: usize = 3 << 19;
/// The most rows of one page.
pub const PAGE_ROWS_MAX: usize = 10_000;

/// A state of the store: the count of commits that wrote since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// The empty store.
    pub const ZERO: Self = Self(0);

    /// The revision with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A caller's name for one transaction, random, so that its outcome can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId(pub Uuid);

/// A lease: rows written under it go when it runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
    /// The revision that last wrote it.
    pub revision: Revision,
}

/// Which state a scan reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The newest.
    Now,
    /// The one a commit made.
    Revision(Revision),
}

/// Some rows in ascending order of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// The state they were read from: scan on `At::Revision` of it to go on with the same state.
    pub revision: Revision,
    /// Whether the range holds more: go on with [`KeyRange::resume_after`] the last row.
    pub more: bool,
}

/// What must hold for a transaction to happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// There is no such row.
    Absent {
        /// The table.
        table: TableName,
        /// The row's key.
        key: Vec<u8>,
    },
    /// The row is there, last written at this revision.
    AtRevision {
        /// The table.
        table: TableName,
        /// The row's key.
        key: Vec<u8>,
        /// The revision.
        revision: Revision,
    },
    /// No row of the range was written after this revision: what was computed from a scan of it still holds, but for rows
    /// deleted since.
    NoneNewer {
        /// The table.
        table: TableName,
        /// The range.
        range: KeyRange,
        /// The revision.
        revision: Revision,
    },
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a row.
    Put {
        /// The table.
        table: TableName,
        /// The row's key.
        key: Vec<u8>,
        /// The row's value.
        value: Vec<u8>,
        /// The lease it lives under, if any.
        lease: Option<LeaseId>,
    },
    /// Removes a row; a missing one is fine.
    Delete {
        /// The table.
        table: TableName,
        /// The row's key.
        key: Vec<u8>,
    },
}

/// Writes that happen together, and only when every condition holds (M2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transaction {
    /// The caller's name for it.
    pub id: TxnId,
    /// What must hold.
    pub conditions: Vec<Condition>,
    /// What then happens. No two writes to one row.
    pub writes: Vec<Write>,
}

impl Transaction {
    /// A transaction without conditions and writes.
    #[must_use]
    pub const fn new(id: TxnId) -> Self {
        Self {
            id,
            conditions: Vec::new(),
            writes: Vec::new(),
        }
    }

    /// Only when there is no such row.
    #[must_use]
    pub fn absent(mut self, table: TableName, key: impl Into<Vec<u8>>) -> Self {
        self.conditions.push(Condition::Absent {
            table,
            key: key.into(),
        });
        self
    }

    /// Only when the row was last written at this revision.
    #[must_use]
    pub fn at(mut self, table: TableName, key: impl Into<Vec<u8>>, revision: Revision) -> Self {
        self.conditions.push(Condition::AtRevision {
            table,
            key: key.into(),
            revision,
        });
        self
    }

    /// Only when no row of the range was written after this revision.
    #[must_use]
    pub fn none_newer(mut self, table: TableName, range: KeyRange, revision: Revision) -> Self {
        self.conditions.push(Condition::NoneNewer {
            table,
            range,
            revision,
        });
        self
    }

    /// Sets a row.
    #[must_use]
    pub fn put(
        mut self,
        table: TableName,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> Self {
        self.writes.push(Write::Put {
            table,
            key: key.into(),
            value: value.into(),
            lease: None,
        });
        self
    }

    /// Sets a row that goes when the lease runs out.
    #[must_use]
    pub fn put_leased(
        mut self,
        table: TableName,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        lease: LeaseId,
    ) -> Self {
        let (key, value) = (key.into(), value.into());
        self.writes.push(Write::Put {
            table,
            key,
            value,
            lease: Some(lease),
        });
        self
    }

    /// Removes a row.
    #[must_use]
    pub fn delete(mut self, table: TableName, key: impl Into<Vec<u8>>) -> Self {
        self.writes.push(Write::Delete {
            table,
            key: key.into(),
        });
        self
    }
}

/// A transaction that did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum TxnError {
    /// A condition does not hold: someone else was first. Nothing was written; read again.
    #[error("condition {condition} of the transaction does not hold in table {table}")]
    Conflict {
        /// Which of the conditions, counted from 0.
        condition: usize,
        /// The table it is about.
        table: TableName,
        /// The revision of the row found; `None` when there is none.
        found: Option<Revision>,
    },
    /// The transaction breaks a rule of the store. Nothing was written.
    #[error("the transaction cannot be carried out: {0}")]
    Refused(#[from] Refusal),
    /// Whether it happened is not known: ask [`Store::outcome`] once the store answers again.
    #[error("whether transaction {id:?} happened is not known: {source}")]
    Unknown {
        /// The transaction.
        id: TxnId,
        /// What failed.
        source: StoreError,
    },
    /// The store cannot answer. Nothing was written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A rule that a transaction breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many conditions and writes.
    #[error("it has {count} conditions and writes, {OPERATIONS_MAX} are allowed")]
    TooManyOperations {
        /// How many.
        count: usize,
    },
    /// Too many bytes.
    #[error("it has {bytes} bytes, {TRANSACTION_BYTES_MAX} are allowed")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// Two writes to one row.
    #[error("it writes a row of table {table} twice")]
    WrittenTwice {
        /// The row's table.
        table: TableName,
    },
    /// A write under a lease that ran out or never was.
    #[error("lease {} is not there", lease.0)]
    NoLease {
        /// The lease.
        lease: LeaseId,
    },
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, and made this revision.
    Committed(Revision),
    /// It did not happen and never will, or it is older than the history kept.
    Absent,
}

/// A read or a watch that cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision is older than the history kept: read the newest state and go on from there.
    #[error(
        "revision {asked} is no longer kept, the oldest is {oldest}: read again from the newest state"
    )]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that can be asked for.
        oldest: Revision,
    },
    /// The revision is not made yet.
    #[error("revision {asked} is not made yet, the newest is {newest}")]
    InTheFuture {
        /// What was asked for.
        asked: Revision,
        /// The newest there is.
        newest: Revision,
    },
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease that cannot be had, kept or given back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// It ran out, was given back, or never was: its rows are gone.
    #[error("lease {} is not there: take a new one", lease.0)]
    NotThere {
        /// The lease.
        lease: LeaseId,
    },
    /// The store cannot answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit it was part of.
    pub revision: Revision,
    /// The row's key.
    pub key: Vec<u8>,
    /// Its new value; `None` when it was removed.
    pub value: Option<Vec<u8>>,
}

/// Changes as they come.
pub trait Watch: Send {
    /// Waits up to `wait` for changes and returns those of at least one whole commit; none when time is up. Blocks.
    ///
    /// # Errors
    /// `Compacted` when the watcher fell behind the history kept, and when the store cannot answer.
    fn next(&mut self, wait: Duration) -> Result<Vec<Change>, ReadError>;
}

/// The store. Its calls block: from async code use a blocking thread.
pub trait Store: Send + Sync + 'static {
    /// One row as it is now.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Row>, StoreError>;

    /// The first `limit` rows (at most [`PAGE_ROWS_MAX`]) of a range, in ascending order.
    ///
    /// # Errors
    /// `Compacted` or `InTheFuture` for a revision that cannot be read, and when the store cannot answer.
    fn scan(
        &self,
        table: TableName,
        range: &KeyRange,
        at: At,
        limit: usize,
    ) -> Result<Page, ReadError>;

    /// Carries out a transaction; durable when this returns (M1). One whose id has been carried out already is not carried
    /// out again: it answers its revision. One without writes answers the newest revision.
    ///
    /// # Errors
    /// `Conflict` when a condition does not hold; `Unknown` when the store failed half-way; see [`TxnError`].
    fn commit(&self, transaction: &Transaction) -> Result<Revision, TxnError>;

    /// What became of a transaction whose commit answered `Unknown`, or whose answer a crash swallowed.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn outcome(&self, id: TxnId) -> Result<Outcome, StoreError>;

    /// The changes of rows whose key begins with `prefix`, from the commit `from` on.
    ///
    /// # Errors
    /// `Compacted` when the history does not reach back to `from`, and when the store cannot answer.
    fn watch(
        &self,
        table: TableName,
        prefix: &[u8],
        from: Revision,
    ) -> Result<Box<dyn Watch>, ReadError>;

    /// A new lease of so long. Rows written under it go when it is not kept alive.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Starts the lease's time anew.
    ///
    /// # Errors
    /// `NotThere` when it ran out, and when the store cannot answer.
    fn keep_alive(&self, lease: LeaseId) -> Result<(), LeaseError>;

    /// Gives the lease back: its rows go now.
    ///
    /// # Errors
    /// `NotThere` when it ran out, and when the store cannot answer.
    fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError>;
}

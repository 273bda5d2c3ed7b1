//! One node's big ordered tables: batches, range scans, range deletes, snapshots, large values.
//!
//! A store is opened with the names of its tables. Batches are atomic and are applied in one order, in which a crash can
//! only cut off an end: when a batch is durable, so is every batch before it. A [`Durability::Synced`] batch is durable
//! when `write` returns (M1); many threads that write at once share one sync.

use crate::error::StoreError;
use crate::key::{KEY_BYTES_MAX, KeyRange, TableName};
use core::ops::ControlFlow;
use std::path::Path;

mod marker;
pub mod memory;
pub mod rocks;

#[cfg(test)]
mod tests;

pub use memory::MemoryStore;
pub use rocks::RocksStore;

/// The most bytes, keys and values together, of one batch.
pub const BATCH_BYTES_MAX: usize = 256 << 20;
/// The most bytes of one page, unless told otherwise. A page always has its first row, whatever its size.
pub const PAGE_BYTES_MAX: usize = 4 << 20;
/// What a write costs beside its key and value.
const WRITE_OVERHEAD_BYTES: usize = 16;

/// In which order rows are visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// From the least key up.
    Ascending,
    /// From the greatest key down.
    Descending,
}

/// When a batch is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// When `write` returns.
    Synced,
    /// With the next synced batch, or when the machine gets to it. It survives the process, not a power cut.
    Lazy,
}

/// How much a page may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The most rows.
    pub rows: usize,
    /// The most bytes, keys and values together.
    pub bytes: usize,
}

impl Limit {
    /// So many rows, and no more bytes than [`PAGE_BYTES_MAX`].
    #[must_use]
    pub const fn rows(rows: usize) -> Self {
        Self {
            rows,
            bytes: PAGE_BYTES_MAX,
        }
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// Some rows in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether the range holds more: go on with [`KeyRange::resume_after`] (or `resume_before`) the last row.
    pub more: bool,
}

/// What is called for each row; `Break` ends the visit.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What can be read: a store as it is now, or a snapshot of it.
pub trait Read {
    /// The value of one row if no disk is needed to know it; `None` when one is. It does not block.
    ///
    /// # Errors
    /// When the table is unknown or the store cannot answer.
    fn get_cached(
        &self,
        _table: TableName,
        _key: &[u8],
    ) -> Result<Option<Option<Vec<u8>>>, StoreError> {
        Ok(None)
    }

    /// The value of one row.
    ///
    /// # Errors
    /// When the table is unknown or the store cannot answer.
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The value of one row as it is stored, past what is kept of rows in memory: for those who look whether it is whole.
    ///
    /// # Errors
    /// When the table is unknown or the store cannot answer.
    fn get_stored(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(table, key)
    }

    /// Shows every row of the range, as of one moment, to the visitor, until it breaks.
    ///
    /// # Errors
    /// When the table is unknown or the store cannot answer.
    fn visit(
        &self,
        table: TableName,
        range: &KeyRange,
        order: Order,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError>;

    /// The first rows of the range.
    ///
    /// # Errors
    /// When the table is unknown or the store cannot answer.
    fn scan(
        &self,
        table: TableName,
        range: &KeyRange,
        order: Order,
        limit: Limit,
    ) -> Result<Page, StoreError> {
        let mut page = Page::default();
        let mut bytes = 0usize;
        self.visit(table, range, order, &mut |key, value| {
            bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
            if page.rows.len() >= limit.rows || (bytes > limit.bytes && !page.rows.is_empty()) {
                page.more = true;
                return ControlFlow::Break(());
            }
            page.rows.push(Row {
                key: key.to_vec(),
                value: value.to_vec(),
            });
            ControlFlow::Continue(())
        })?;
        Ok(page)
    }
}

/// One node's store. Its calls block: from async code use a blocking thread.
pub trait Store: Read + Send + Sync + 'static {
    /// Carries out a batch, all of it or nothing.
    ///
    /// # Errors
    /// When the batch breaks a limit or names an unknown table (then nothing is written), or the store cannot write. After
    /// `StoreError::Machine` or `Full` whether the batch is stored is known only when the store is opened again.
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError>;

    /// The store as it is now, for several reads that must agree.
    fn snapshot(&self) -> Box<dyn Read + '_>;

    /// Makes every batch so far durable.
    ///
    /// # Errors
    /// When the machine refuses.
    fn sync(&self) -> Result<(), StoreError>;

    /// Looks whether there is something to tidy up beside everything else, and if so begins; to be called every now and
    /// then. It does not wait for the end of it.
    ///
    /// # Errors
    /// When the store cannot answer.
    fn tend(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Where the store is, for errors and logs.
    fn location(&self) -> &Path;
}

/// One write of a batch.
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
    },
    /// Removes a row; a missing one is fine.
    Delete {
        /// The table.
        table: TableName,
        /// The row's key.
        key: Vec<u8>,
    },
    /// Removes every row of a range, in the time of one write.
    DeleteRange {
        /// The table.
        table: TableName,
        /// The range.
        range: KeyRange,
    },
}

impl Write {
    /// The table it changes.
    #[must_use]
    pub const fn table(&self) -> TableName {
        match self {
            Self::Put { table, .. }
            | Self::Delete { table, .. }
            | Self::DeleteRange { table, .. } => *table,
        }
    }
}

/// Writes that happen together. Of two to one key the later holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    writes: Vec<Write>,
    bytes: usize,
    longest_key: usize,
}

impl Batch {
    /// No writes.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            writes: Vec::new(),
            bytes: 0,
            longest_key: 0,
        }
    }

    /// Adds a row, or gives it a new value.
    pub fn put(
        &mut self,
        table: TableName,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
    ) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        self.account(key.len(), value.len());
        self.writes.push(Write::Put { table, key, value });
        self
    }

    /// Removes a row.
    pub fn delete(&mut self, table: TableName, key: impl Into<Vec<u8>>) -> &mut Self {
        let key = key.into();
        self.account(key.len(), 0);
        self.writes.push(Write::Delete { table, key });
        self
    }

    /// Removes the rows of a range.
    pub fn delete_range(&mut self, table: TableName, range: KeyRange) -> &mut Self {
        self.account(range.start().len(), 0);
        self.account(range.end().map_or(0, <[u8]>::len), 0);
        self.writes.push(Write::DeleteRange { table, range });
        self
    }

    /// Adds the writes of another batch after its own.
    pub fn append(&mut self, mut other: Self) -> &mut Self {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.longest_key = self.longest_key.max(other.longest_key);
        self.writes.append(&mut other.writes);
        self
    }

    fn account(&mut self, key: usize, value: usize) {
        self.longest_key = self.longest_key.max(key);
        let cost = key
            .saturating_add(value)
            .saturating_add(WRITE_OVERHEAD_BYTES);
        self.bytes = self.bytes.saturating_add(cost);
    }

    /// The writes, in order.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// What it costs against [`BATCH_BYTES_MAX`].
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Refuses a batch over the limits, before anything is written.
    pub(crate) const fn check(&self) -> Result<(), StoreError> {
        if self.longest_key > KEY_BYTES_MAX {
            return Err(StoreError::KeyTooLong {
                length: self.longest_key,
            });
        }
        if self.bytes > BATCH_BYTES_MAX {
            return Err(StoreError::BatchTooLarge {
                bytes: self.bytes,
                bytes_max: BATCH_BYTES_MAX,
            });
        }
        Ok(())
    }
}

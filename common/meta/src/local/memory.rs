//! The twin in memory: what it says is what RocksDB says, and it can lose what was not synced.

use super::{Batch, Durability, Order, Read, Store, Visitor, Write};
use crate::error::StoreError;
use crate::key::{KeyRange, TableName};
use core::ops::Bound;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A state of all tables. Cloning it is how snapshots are made: fine for tests and simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tables(BTreeMap<TableName, Rows>);

/// A store in memory, for tests and simulation.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Tables,
    durable: Tables,
    /// What was written since the last sync, in order.
    lazy: Vec<Batch>,
}

impl MemoryStore {
    /// An empty store with these tables.
    #[must_use]
    pub fn new(tables: &[TableName]) -> Self {
        Self::holding(Tables(
            tables.iter().map(|table| (*table, Rows::new())).collect(),
        ))
    }

    const fn empty_state(tables: Tables, durable: Tables) -> State {
        State {
            current: tables,
            durable,
            lazy: Vec::new(),
        }
    }

    fn holding(tables: Tables) -> Self {
        Self {
            state: Mutex::new(Self::empty_state(tables.clone(), tables)),
        }
    }

    /// The store as a power cut now leaves it: with every synced batch and the first `kept` of those that were not.
    #[must_use]
    pub fn after_power_cut(&self, kept: usize) -> Self {
        let state = self.lock();
        let mut tables = state.durable.clone();
        for batch in state.lazy.iter().take(kept) {
            tables.apply(batch);
        }
        Self::holding(tables)
    }

    /// What a power cut now would leave of a row for certain.
    ///
    /// # Errors
    /// When the table is unknown.
    pub fn durable(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.lock().durable.get(table, key)
    }

    /// How many batches a power cut could take.
    #[must_use]
    pub fn lazy_batch_count(&self) -> usize {
        self.lock().lazy.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while holding the lock cannot leave it half changed: batches are checked before they are applied.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sync(&mut self) {
        for batch in self.lazy.drain(..) {
            self.durable.apply(&batch);
        }
    }
}

impl Tables {
    fn rows(&self, table: TableName) -> Result<&Rows, StoreError> {
        self.0.get(&table).ok_or(StoreError::UnknownTable { table })
    }

    /// A copy of a range.
    fn part(&self, table: TableName, range: &KeyRange) -> Result<Rows, StoreError> {
        let rows = self.rows(table)?;
        if range.is_empty() {
            return Ok(Rows::new());
        }
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = rows.range::<[u8], _>((Bound::Included(range.start()), end));
        Ok(rows
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn apply(&mut self, batch: &Batch) {
        for write in batch.writes() {
            let Some(rows) = self.0.get_mut(&write.table()) else {
                continue;
            };
            match write {
                Write::Put { key, value, .. } => {
                    rows.insert(key.clone(), value.clone());
                }
                Write::Delete { key, .. } => {
                    rows.remove(key);
                }
                Write::DeleteRange { range, .. } => rows.retain(|key, _| !range.contains(key)),
            }
        }
    }
}

fn visit_all<'a>(
    mut rows: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
    visitor: &mut Visitor<'_>,
) {
    // Whether it broke or ran out is the visitor's to know.
    let _ended = rows.try_for_each(|(key, value)| visitor(key, value));
}

impl Read for Tables {
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows(table)?.get(key).cloned())
    }

    fn visit(
        &self,
        table: TableName,
        range: &KeyRange,
        order: Order,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        let rows = self.rows(table)?;
        if range.is_empty() {
            return Ok(());
        }
        let end = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = rows.range::<[u8], _>((Bound::Included(range.start()), end));
        match order {
            Order::Ascending => visit_all(rows, visitor),
            Order::Descending => visit_all(rows.rev(), visitor),
        }
        Ok(())
    }
}

impl Read for MemoryStore {
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.lock().current.get(table, key)
    }

    fn visit(
        &self,
        table: TableName,
        range: &KeyRange,
        order: Order,
        visitor: &mut Visitor<'_>,
    ) -> Result<(), StoreError> {
        // The visitor may write to this very store, so it sees a copy.
        let rows = self.lock().current.part(table, range)?;
        match order {
            Order::Ascending => visit_all(rows.iter(), visitor),
            Order::Descending => visit_all(rows.iter().rev(), visitor),
        }
        Ok(())
    }
}

impl Store for MemoryStore {
    fn write(&self, batch: &Batch, durability: Durability) -> Result<(), StoreError> {
        batch.check()?;
        let mut state = self.lock();
        for write in batch.writes() {
            state.current.rows(write.table())?;
        }
        state.current.apply(batch);
        state.lazy.push(batch.clone());
        match durability {
            Durability::Synced => state.sync(),
            Durability::Lazy => {}
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + '_> {
        Box::new(self.lock().current.clone())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.lock().sync();
        Ok(())
    }

    fn location(&self) -> &Path {
        Path::new("in memory")
    }
}

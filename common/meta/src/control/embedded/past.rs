//! Scans of the newest state, and of an older one by undoing the log.

use super::super::log::{
    LOG, LogEntry, ROWS, StoredRow, log_from, log_revision, row_range, table_prefix,
};
use super::super::{At, PAGE_ROWS_MAX, Page, ReadError, Revision, Row};
use super::read_stored;
use crate::error::StoreError;
use crate::key::{KeyRange, TableName};
use crate::local::{self, Order, Read};
use core::ops::ControlFlow;
use std::collections::BTreeMap;

/// What a state of the past had instead of the newest rows: for each row written since, what was there before.
type Undo = BTreeMap<Vec<u8>, Option<StoredRow>>;

/// The oldest and the newest revision of a log; both zero when it is empty.
fn bounds(view: &dyn Read) -> Result<(Revision, Revision), StoreError> {
    let end = |order| -> Result<Revision, StoreError> {
        let mut found = Revision::ZERO;
        view.visit(LOG, &KeyRange::all(), order, &mut |key, _| {
            found = log_revision(key).unwrap_or(found);
            ControlFlow::Break(())
        })?;
        Ok(found)
    };
    Ok((end(Order::Ascending)?, end(Order::Descending)?))
}

/// Scans a range as of one state.
pub(super) fn scan(
    store: &dyn local::Store,
    table: TableName,
    range: &KeyRange,
    at: At,
    limit: usize,
) -> Result<Page, ReadError> {
    let view = store.snapshot();
    let (oldest, newest) = bounds(view.as_ref())?;
    let rows = row_range(table, range);
    let (revision, undo) = match at {
        At::Now => (newest, Undo::new()),
        At::Revision(asked) if asked > newest => {
            return Err(ReadError::InTheFuture { asked, newest });
        }
        // Undoing takes every entry after the revision: the one before the oldest kept can still be read.
        At::Revision(asked) if asked.next() < oldest => {
            let oldest = Revision::new(oldest.number().saturating_sub(1));
            return Err(ReadError::Compacted { asked, oldest });
        }
        At::Revision(asked) => (asked, undo_after(store, view.as_ref(), asked, &rows)?),
    };
    let mut merge = Merge {
        undo: undo.into_iter().peekable(),
        page: Page {
            rows: Vec::new(),
            revision,
            more: false,
        },
        key_start: table_prefix(table).len(),
        limit: limit.min(PAGE_ROWS_MAX),
        damage: None,
    };
    view.visit(ROWS, &rows, Order::Ascending, &mut |key, value| {
        merge.row(store, key, value)
    })?;
    if let Some(damage) = merge.damage {
        return Err(damage.into());
    }
    merge.rest();
    Ok(merge.page)
}

/// Collects what the rows of a range were before the entries after `revision`.
fn undo_after(
    store: &dyn local::Store,
    view: &dyn Read,
    revision: Revision,
    rows: &KeyRange,
) -> Result<Undo, StoreError> {
    let mut undo = Undo::new();
    let mut damage = None;
    view.visit(
        LOG,
        &log_from(revision.next()),
        Order::Ascending,
        &mut |_, value| {
            match read_stored::<LogEntry>(store, "the log", value) {
                Ok(entry) => {
                    let changes = entry.changes.into_iter();
                    for change in changes.filter(|change| rows.contains(&change.row_key)) {
                        // The first change after the revision knows what the revision had.
                        undo.entry(change.row_key).or_insert(change.previous);
                    }
                    ControlFlow::Continue(())
                }
                Err(error) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
            }
        },
    )?;
    damage.map_or(Ok(undo), Err)
}

/// Merges the newest rows with what a state of the past had instead.
struct Merge<I: Iterator<Item = (Vec<u8>, Option<StoredRow>)>> {
    undo: core::iter::Peekable<I>,
    page: Page,
    key_start: usize,
    limit: usize,
    damage: Option<StoreError>,
}

impl<I: Iterator<Item = (Vec<u8>, Option<StoredRow>)>> Merge<I> {
    fn row(&mut self, store: &dyn local::Store, key: &[u8], value: &[u8]) -> ControlFlow<()> {
        while let Some((earlier, row)) = self.undo.next_if(|(undone, _)| undone.as_slice() < key) {
            self.emit(&earlier, row)?;
        }
        if let Some((_, row)) = self.undo.next_if(|(undone, _)| undone.as_slice() == key) {
            return self.emit(key, row);
        }
        match read_stored(store, &key.escape_ascii().to_string(), value) {
            Ok(row) => self.emit(key, Some(row)),
            Err(error) => {
                self.damage = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn rest(&mut self) {
        while !self.page.more
            && let Some((key, row)) = self.undo.next()
        {
            // When the page is full its flag ends the loop.
            let _full = self.emit(&key, row);
        }
    }

    fn emit(&mut self, row_key: &[u8], row: Option<StoredRow>) -> ControlFlow<()> {
        let Some(row) = row else {
            return ControlFlow::Continue(());
        };
        if self.page.rows.len() >= self.limit {
            self.page.more = true;
            return ControlFlow::Break(());
        }
        let key = row_key.get(self.key_start..).unwrap_or_default().to_vec();
        self.page.rows.push(Row {
            key,
            value: row.value,
            revision: row.revision,
        });
        ControlFlow::Continue(())
    }
}

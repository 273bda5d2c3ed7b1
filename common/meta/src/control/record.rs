//! Typed rows in a control store.

use super::{At, PAGE_ROWS_MAX, ReadError, Revision, Store};
use crate::error::StoreError;
use crate::key::{KeyRange, TableName};
use crate::table::{DecodeError, Record, decode};

/// A record, and the revision its row was last written at: what a condition needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<R> {
    /// The record.
    pub record: R,
    /// When its row was last written.
    pub revision: Revision,
}

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The row is there and cannot be understood.
    #[error("table {table}, key {key}: {source}")]
    Decode {
        /// The table.
        table: TableName,
        /// The row's key, printable.
        key: String,
        /// What is wrong with the row.
        source: DecodeError,
    },
    /// The scan cannot be answered.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<StoreError> for RecordError {
    fn from(error: StoreError) -> Self {
        Self::Read(ReadError::Store(error))
    }
}

fn decode_row<R: Record>(table: TableName, row: &super::Row) -> Result<Versioned<R>, RecordError> {
    let record = decode(&row.value).map_err(|source| RecordError::Decode {
        table,
        key: row.key.escape_ascii().to_string(),
        source,
    })?;
    Ok(Versioned {
        record,
        revision: row.revision,
    })
}

/// One record as it is now.
///
/// # Errors
/// When the store cannot answer or the row cannot be understood.
pub fn get_record<R: Record>(
    store: &dyn Store,
    table: TableName,
    key: &[u8],
) -> Result<Option<Versioned<R>>, RecordError> {
    store
        .get(table, key)?
        .map(|row| decode_row(table, &row))
        .transpose()
}

/// Every record of a range, all as of one revision, which is returned with them.
///
/// # Errors
/// When the store cannot answer or a row cannot be understood.
pub fn scan_records<R: Record>(
    store: &dyn Store,
    table: TableName,
    range: &KeyRange,
) -> Result<(Vec<Versioned<R>>, Revision), RecordError> {
    let mut records = Vec::new();
    let mut page = store.scan(table, range, At::Now, PAGE_ROWS_MAX)?;
    loop {
        for row in &page.rows {
            records.push(decode_row(table, row)?);
        }
        let Some(last) = page.rows.last().filter(|_| page.more) else {
            return Ok((records, page.revision));
        };
        let rest = range.resume_after(&last.key);
        page = store.scan(table, &rest, At::Revision(page.revision), PAGE_ROWS_MAX)?;
    }
}

//! What an embedded control store keeps in its local tables: rows, and the log that is its history.
//!
//! | table | key | value |
//! |---|---|---|
//! | `rows` | table name, 0x00, key | [`StoredRow`] |
//! | `log` | revision, big-endian | [`LogEntry`]: what a commit changed, and what was there before |
//! | `txns` | transaction id | its revision, little-endian |
//! | `leases` | lease id, big-endian | its time to live in ms, little-endian |
//! | `leased` | lease id, big-endian, then a key of `rows` | empty |
//!
//! One batch changes all of them, so they always agree. The log's revisions have no gaps; a gap is damage (M3).
//! A state of the past is the newest one with the entries after it undone.

use super::{LeaseId, Revision, TxnId};
use crate::key::{KeyRange, TableName};
use crate::table::{PayloadError, Record};
use onggi_common_units::Uuid;

pub(super) const ROWS: TableName = TableName::new("rows");
pub(super) const LOG: TableName = TableName::new("log");
pub(super) const TXNS: TableName = TableName::new("txns");
pub(super) const LEASES: TableName = TableName::new("leases");
pub(super) const LEASED: TableName = TableName::new("leased");

/// Separates a table's name from a key in `rows`. No table name has it.
const SEPARATOR: u8 = 0;

/// A row as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredRow {
    pub(super) revision: Revision,
    pub(super) lease: Option<LeaseId>,
    pub(super) value: Vec<u8>,
}

/// One change of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogChange {
    /// The key in `rows`.
    pub(super) row_key: Vec<u8>,
    /// The new value; `None` when removed.
    pub(super) value: Option<Vec<u8>>,
    /// What was there before.
    pub(super) previous: Option<StoredRow>,
}

/// What one commit changed. Its revision is its key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct LogEntry {
    /// The caller's name for it; `None` when the store made the commit itself.
    pub(super) txn: Option<TxnId>,
    pub(super) changes: Vec<LogChange>,
}

/// The key in `rows`.
pub(super) fn row_key(table: TableName, key: &[u8]) -> Vec<u8> {
    let mut row_key = table_prefix(table);
    row_key.extend_from_slice(key);
    row_key
}

/// What every key of the table begins with in `rows`.
pub(super) fn table_prefix(table: TableName) -> Vec<u8> {
    let mut prefix = table.as_str().as_bytes().to_vec();
    prefix.push(SEPARATOR);
    prefix
}

/// A range of the table as a range of `rows`.
pub(super) fn row_range(table: TableName, range: &KeyRange) -> KeyRange {
    let start = row_key(table, range.start());
    if let Some(end) = range.end() {
        return KeyRange::between(start, row_key(table, end));
    }
    let mut end = table.as_str().as_bytes().to_vec();
    end.push(SEPARATOR + 1);
    KeyRange::between(start, end)
}

/// The log from one revision on.
pub(super) fn log_from(revision: Revision) -> KeyRange {
    KeyRange::from(revision.number().to_be_bytes())
}

/// The revision a key of `log` stands for.
pub(super) fn log_revision(key: &[u8]) -> Option<Revision> {
    Some(Revision::new(u64::from_be_bytes(key.try_into().ok()?)))
}

pub(super) fn leased_key(lease: LeaseId, row_key: &[u8]) -> Vec<u8> {
    let mut key = lease.0.to_be_bytes().to_vec();
    key.extend_from_slice(row_key);
    key
}

/// Takes numbers and texts off the front of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], PayloadError> {
        let short = || PayloadError {
            detail: "it ends too early".to_owned(),
        };
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(short)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u64(&mut self) -> Result<u64, PayloadError> {
        self.array().map(u64::from_le_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], PayloadError> {
        let length = u32::from_le_bytes(self.array()?);
        let too_long = || PayloadError {
            detail: format!("it has no {length} more bytes"),
        };
        let length = usize::try_from(length).ok().ok_or_else(too_long)?;
        let (head, rest) = self.0.split_at_checked(length).ok_or_else(too_long)?;
        self.0 = rest;
        Ok(head)
    }

    fn flag(&mut self) -> Result<bool, PayloadError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(PayloadError {
                detail: format!("{other} is no flag"),
            }),
        }
    }

    fn end(&self) -> Result<(), PayloadError> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(PayloadError {
            detail: format!("{} bytes follow its end", self.0.len()),
        })
    }
}

fn put_bytes(payload: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len())
        .expect("keys and values are far below 4 GiB by the store's limits");
    payload.extend_from_slice(&length.to_le_bytes());
    payload.extend_from_slice(bytes);
}

fn put_row(payload: &mut Vec<u8>, row: &StoredRow) {
    payload.extend_from_slice(&row.revision.number().to_le_bytes());
    // 0 stands for no lease: leases are numbered from 1.
    payload.extend_from_slice(&row.lease.map_or(0, |lease| lease.0).to_le_bytes());
    put_bytes(payload, &row.value);
}

fn take_row(reader: &mut Reader<'_>) -> Result<StoredRow, PayloadError> {
    let revision = Revision::new(reader.u64()?);
    let lease = Some(LeaseId(reader.u64()?)).filter(|lease| lease.0 != 0);
    Ok(StoredRow {
        revision,
        lease,
        value: reader.bytes()?.to_vec(),
    })
}

impl Record for StoredRow {
    const NAME: &'static str = "control row";
    const VERSION: u16 = 1;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        put_row(payload, self);
    }

    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
        if version != Self::VERSION {
            return Ok(None);
        }
        let mut reader = Reader(payload);
        let row = take_row(&mut reader)?;
        reader.end()?;
        Ok(Some(row))
    }
}

impl Record for LogEntry {
    const NAME: &'static str = "control log";
    const VERSION: u16 = 1;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        payload.push(u8::from(self.txn.is_some()));
        if let Some(TxnId(id)) = self.txn {
            payload.extend_from_slice(id.as_bytes());
        }
        for change in &self.changes {
            put_bytes(payload, &change.row_key);
            payload.push(u8::from(change.value.is_some()));
            if let Some(value) = &change.value {
                put_bytes(payload, value);
            }
            payload.push(u8::from(change.previous.is_some()));
            if let Some(previous) = &change.previous {
                put_row(payload, previous);
            }
        }
    }

    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
        if version != Self::VERSION {
            return Ok(None);
        }
        let mut reader = Reader(payload);
        let mut entry = Self::default();
        if reader.flag()? {
            entry.txn = Some(TxnId(Uuid::from_bytes(reader.array()?)));
        }
        while !reader.0.is_empty() {
            let row_key = reader.bytes()?.to_vec();
            let value = if reader.flag()? {
                Some(reader.bytes()?.to_vec())
            } else {
                None
            };
            let previous = if reader.flag()? {
                Some(take_row(&mut reader)?)
            } else {
                None
            };
            entry.changes.push(LogChange {
                row_key,
                value,
                previous,
            });
        }
        Ok(Some(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{decode, encode};
    use proptest::prelude::*;

    const GOLDEN_ROW: &[u8] = include_bytes!("../../golden/control_row.v1");
    const GOLDEN_ENTRY: &[u8] = include_bytes!("../../golden/control_log.v1");

    fn row() -> StoredRow {
        StoredRow {
            revision: Revision::new(7),
            lease: Some(LeaseId(3)),
            value: b"jar".to_vec(),
        }
    }

    fn entry() -> LogEntry {
        LogEntry {
            txn: Some(TxnId(Uuid::from_random([0x11; 16]))),
            changes: vec![
                LogChange {
                    row_key: row_key(ROWS, b"a"),
                    value: Some(b"b".to_vec()),
                    previous: Some(row()),
                },
                LogChange {
                    row_key: row_key(ROWS, b"c"),
                    value: None,
                    previous: None,
                },
            ],
        }
    }

    #[test]
    fn version_1_rows_are_still_read_and_still_written_the_same() {
        assert_eq!(decode::<StoredRow>(GOLDEN_ROW).unwrap(), row());
        assert_eq!(encode(&row()), GOLDEN_ROW);
        assert_eq!(decode::<LogEntry>(GOLDEN_ENTRY).unwrap(), entry());
        assert_eq!(encode(&entry()), GOLDEN_ENTRY);
    }

    #[test]
    fn a_table_ranges_over_its_own_rows_only() {
        let (a, ab) = (TableName::new("a"), TableName::new("ab"));
        let range = row_range(a, &KeyRange::all());
        assert!(range.contains(&row_key(a, b"")) && range.contains(&row_key(a, &[0xff; 9])));
        assert!(!range.contains(&row_key(ab, b"")) && !range.contains(b"`"));
    }

    fn any_row() -> impl Strategy<Value = StoredRow> {
        (any::<u64>(), any::<u64>(), any::<Vec<u8>>()).prop_map(|(revision, lease, value)| {
            StoredRow {
                revision: Revision::new(revision),
                lease: Some(LeaseId(lease)).filter(|lease| lease.0 != 0),
                value,
            }
        })
    }

    fn any_entry() -> impl Strategy<Value = LogEntry> {
        let change = (
            any::<Vec<u8>>(),
            any::<Option<Vec<u8>>>(),
            proptest::option::of(any_row()),
        )
            .prop_map(|(row_key, value, previous)| LogChange {
                row_key,
                value,
                previous,
            });
        (
            any::<Option<[u8; 16]>>(),
            proptest::collection::vec(change, 0..5),
        )
            .prop_map(|(id, changes)| LogEntry {
                txn: id.map(|id| TxnId(Uuid::from_bytes(id))),
                changes,
            })
    }

    proptest! {
        #[test]
        fn entries_decode_to_what_was_encoded(entry in any_entry()) {
            prop_assert_eq!(decode::<LogEntry>(&encode(&entry)).unwrap(), entry);
        }

        #[test]
        fn payloads_from_anywhere_do_not_panic(payload in any::<Vec<u8>>()) {
            drop(LogEntry::decode_payload(1, &payload));
            drop(StoredRow::decode_payload(1, &payload));
        }
    }
}

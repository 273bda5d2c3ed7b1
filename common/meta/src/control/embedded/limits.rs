//! The rules a transaction must keep.

use super::super::{Condition, OPERATIONS_MAX, Refusal, TRANSACTION_BYTES_MAX, Transaction, Write};
use super::state::State;
use std::collections::BTreeSet;

/// Refuses what breaks a rule, before the store is asked anything.
pub(super) fn check_limits(transaction: &Transaction) -> Result<(), Refusal> {
    let count = transaction.conditions.len() + transaction.writes.len();
    if count > OPERATIONS_MAX {
        return Err(Refusal::TooManyOperations { count });
    }
    let condition_bytes = transaction
        .conditions
        .iter()
        .map(|condition| match condition {
            Condition::Absent { key, .. } | Condition::AtRevision { key, .. } => key.len(),
            Condition::NoneNewer { range, .. } => {
                range.start().len() + range.end().map_or(0, <[u8]>::len)
            }
        });
    let write_bytes = transaction.writes.iter().map(|write| match write {
        Write::Put { key, value, .. } => key.len() + value.len(),
        Write::Delete { key, .. } => key.len(),
    });
    let bytes = condition_bytes.chain(write_bytes).sum();
    if bytes > TRANSACTION_BYTES_MAX {
        return Err(Refusal::TooLarge { bytes });
    }
    let mut written = BTreeSet::new();
    for write in &transaction.writes {
        let (Write::Put { table, key, .. } | Write::Delete { table, key }) = write;
        if !written.insert((*table, key)) {
            return Err(Refusal::WrittenTwice { table: *table });
        }
    }
    Ok(())
}

pub(super) fn check_leases(state: &State, transaction: &Transaction) -> Result<(), Refusal> {
    for write in &transaction.writes {
        match write {
            Write::Put {
                lease: Some(lease), ..
            } if !state.leases.contains_key(lease) => {
                return Err(Refusal::NoLease { lease: *lease });
            }
            Write::Put { .. } | Write::Delete { .. } => {}
        }
    }
    Ok(())
}

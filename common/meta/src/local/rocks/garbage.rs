//! Garbage in blob files: values that no row names any more, in files that others still need.
//!
//! RocksDB copies what is alive out of its oldest blob files whenever it merges table files, whether there is garbage in
//! them or not. On a store that only grows every value would be copied again and again. So that is switched on only while
//! there is enough garbage to be worth it. Files without anything alive go at once, whatever the switch says.

use super::RocksStore;
use crate::error::StoreError;
use crate::key::TableName;
use core::sync::atomic::{AtomicBool, Ordering};

/// Less garbage than this is left where it is.
const GARBAGE_BYTES_MIN: u64 = 64 << 20;
/// Copying begins when one byte of so many is garbage.
const BEGINS_AT: u64 = 4;
/// It ends when one byte of so many is.
const ENDS_AT: u64 = 8;

const LIVE: &str = "rocksdb.live-blob-file-size";
const GARBAGE: &str = "rocksdb.live-blob-file-garbage-size";
const SWITCH: &str = "enable_blob_garbage_collection";
/// The share of the blob files, from the oldest on, that are copied out of.
const AGE: (&str, &str) = ("blob_garbage_collection_age_cutoff", "0.5");
/// The share of garbage in the oldest files from which on they are copied out of without waiting for a merge.
const FORCE: (&str, &str) = ("blob_garbage_collection_force_threshold", "0.3");

/// A table with blob files, and whether they are copied out of.
#[derive(Debug)]
pub(super) struct Blobs {
    pub(super) table: TableName,
    is_collecting: AtomicBool,
}

impl Blobs {
    pub(super) const fn new(table: TableName) -> Self {
        Self {
            table,
            is_collecting: AtomicBool::new(false),
        }
    }
}

/// Whether copying goes on, begins or ends with so much garbage among so many bytes.
const fn is_worth_it(is_collecting: bool, garbage: u64, all: u64) -> bool {
    let share = if is_collecting { ENDS_AT } else { BEGINS_AT };
    garbage >= GARBAGE_BYTES_MIN && garbage >= all / share
}

impl RocksStore {
    pub(super) fn tend_blobs(&self, blobs: &Blobs) -> Result<(), StoreError> {
        let family = self.table(blobs.table)?;
        let count = |name| {
            let value = self.db.property_int_value_cf(family, name);
            let value = value.map_err(|error| self.failed("looking for garbage", error));
            Ok::<u64, StoreError>(value?.unwrap_or(0))
        };
        let (garbage, all) = (count(GARBAGE)?, count(LIVE)?);
        let was = blobs.is_collecting.load(Ordering::Relaxed);
        let is = is_worth_it(was, garbage, all);
        if is == was {
            return Ok(());
        }
        tracing::info!(store = %self.directory.display(), table = %blobs.table, garbage, all, is_collecting = is, "garbage in blob files");
        let switch = if is { "true" } else { "false" };
        self.db
            .set_options_cf(family, &[(SWITCH, switch), AGE, FORCE])
            .map_err(|error| self.failed("switching the collection of garbage", error))?;
        blobs.is_collecting.store(is, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_collected_from_a_quarter_down_to_an_eighth() {
        let mib = |count: u64| count << 20;
        assert!(!is_worth_it(false, mib(60), mib(100)), "too little");
        assert!(!is_worth_it(false, mib(99), mib(400)));
        assert!(is_worth_it(false, mib(100), mib(400)));
        assert!(is_worth_it(true, mib(99), mib(400)));
        assert!(!is_worth_it(true, mib(99), mib(800)));
    }
}

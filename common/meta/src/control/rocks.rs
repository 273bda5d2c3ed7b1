//! The control store in RocksDB, for a control plane on one machine.

use super::Embedded;
use crate::error::{ADVICE_DAMAGED, OpenError, StoreError};
use crate::local::rocks::{Options, RocksStore};
use onggi_common_host::{Clock, in_use};
use onggi_common_units::ByteCount;
use std::path::Path;
use std::sync::Arc;

/// Opens the control store in a directory, making it when the directory is empty or not there.
///
/// # Errors
/// When the store is damaged, in use, of a newer format, or the machine refuses.
pub fn open(directory: &Path, clock: Arc<dyn Clock>) -> Result<Embedded, OpenError> {
    let mut options = Options::new(&Embedded::TABLES);
    options.cache = ByteCount::from_mib(8);
    options.write_buffers = ByteCount::from_mib(16);
    let store = in_use::awaited(
        || RocksStore::open(directory, &options),
        |error| matches!(error, OpenError::InUse { .. }),
    )?;
    let store = Arc::new(store);
    Embedded::new(store, clock).map_err(|error| match error {
        StoreError::Damaged { store, detail, .. } => OpenError::Damaged {
            file: store.join("db"),
            store,
            detail,
            advice: ADVICE_DAMAGED,
            source: None,
        },
        StoreError::UnknownTable { .. }
        | StoreError::KeyTooLong { .. }
        | StoreError::BatchTooLarge { .. }
        | StoreError::Full { .. }
        | StoreError::Machine { .. }
        | StoreError::OutOfService { .. } => OpenError::Machine {
            operation: "reading the history of",
            store: directory.to_owned(),
            source: error.into(),
        },
    })
}

//! What can go wrong with a store.

use crate::key::{KEY_BYTES_MAX, TableName};
use std::path::{Path, PathBuf};

/// What an engine said, kept as the source of our errors.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A store that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file of the store is missing or its bytes are not what was written (M3).
    #[error("the store {store} is damaged: {file}: {detail}; {advice}", store = store.display(), file = file.display())]
    Damaged {
        /// The store's directory.
        store: PathBuf,
        /// The file that is missing or damaged.
        file: PathBuf,
        /// What is wrong with it.
        detail: String,
        /// What to do.
        advice: &'static str,
        /// What the engine said, when it was the one to notice.
        source: Option<Cause>,
    },
    /// There is something in the directory that no store made.
    #[error("{file} is not part of a store: {detail}; name an empty directory, or the one the store was in", file = file.display())]
    NotAStore {
        /// The file in the way.
        file: PathBuf,
        /// Why it is not ours.
        detail: String,
    },
    /// A newer program wrote it.
    #[error("{file} has format {found}, this program knows up to {known}: start the newer program again", file = file.display())]
    TooNew {
        /// The file that says so.
        file: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format this program knows.
        known: u32,
    },
    /// Another process, or another part of this one, has it open.
    #[error("the store {store} is in use: stop the process that has it open (fuser {store}/db/LOCK)", store = store.display())]
    InUse {
        /// The store's directory.
        store: PathBuf,
        /// What the engine said.
        source: Cause,
    },
    /// The machine refused: permissions, space, an I/O error.
    #[error("{operation} the store {store}: {source}", store = store.display())]
    Machine {
        /// What was being done.
        operation: &'static str,
        /// The store's directory.
        store: PathBuf,
        /// Why it failed.
        source: Cause,
    },
}

/// A store that cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The table is not one the store was opened with.
    #[error("the store has no table {table}")]
    UnknownTable {
        /// The table asked for.
        table: TableName,
    },
    /// The key is too long to store.
    #[error("a key of {length} bytes is longer than the limit of {KEY_BYTES_MAX}")]
    KeyTooLong {
        /// The key's length.
        length: usize,
    },
    /// The batch is too large to write at once.
    #[error("a batch of {bytes} bytes is larger than the limit of {bytes_max}")]
    BatchTooLarge {
        /// The batch's size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// What was read is not what was written (M3). The store answers nothing else from now on.
    #[error("the store {store} is damaged and out of service: {detail}; {advice}", store = store.display())]
    Damaged {
        /// The store's directory.
        store: PathBuf,
        /// What is wrong, naming the file where the engine knows it.
        detail: String,
        /// What to do.
        advice: &'static str,
    },
    /// There is no space left. What was being written is not stored.
    #[error("no space left for the store {store}: free some, then restart the process that uses it", store = store.display())]
    Full {
        /// The store's directory.
        store: PathBuf,
        /// What the engine said.
        source: Cause,
    },
    /// The machine refused: an I/O error. After a failed write the store takes no more writes until it is opened again.
    #[error("{operation} in the store {store}: {source}", store = store.display())]
    Machine {
        /// What was being done.
        operation: &'static str,
        /// The store's directory.
        store: PathBuf,
        /// Why it failed.
        source: Cause,
    },
    /// An earlier write failed, so that what the store holds is known only after it is opened again.
    #[error("the store {store} takes no more writes since one failed ({reason}): restart the process that uses it", store = store.display())]
    OutOfService {
        /// The store's directory.
        store: PathBuf,
        /// What failed earlier.
        reason: String,
    },
}

/// What to do with a damaged store.
pub(crate) const ADVICE_DAMAGED: &str =
    "keep a copy of the directory, check the disk, then restore the store from its last backup";

impl StoreError {
    pub(crate) fn damaged(store: &Path, detail: impl Into<String>) -> Self {
        Self::Damaged {
            store: store.to_owned(),
            detail: detail.into(),
            advice: ADVICE_DAMAGED,
        }
    }
}

//! The metadata layer: a control store and a local store over one table encoding.
//!
//! - [`control::Store`] is small and linearizable: conditions and writes in one atomic step, revisions, watches, leases.
//!   Identity, the volume catalogue and the task journal live in it.
//! - [`local::Store`] is one node's big ordered tables: batches, range scans, range deletes, large values.
//!   What a storage device holds lives in it.
//! - [`table`] is the encoding of rows both use: a version and a checksum around each payload.
//!
//! Invariants (named by the tests that attack them):
//! - **M1** a commit that returned survives `kill -9` and power loss.
//! - **M2** conditions and writes are one atomic step.
//! - **M3** damage is noticed, not truncated away: a store that lost a file or holds a flipped bit answers with an error
//!   that names the file, never with fewer rows.
#![forbid(unsafe_code)]

pub mod control;
pub mod error;
pub mod key;
pub mod local;
pub mod table;

pub use error::{Cause, OpenError, StoreError};
pub use key::{KEY_BYTES_MAX, KeyRange, TableName};

//! Where a volume's bytes live: an LVM volume group or sparse files.
//!
//! A [`Pool`] makes, grows and removes volumes and says where their bytes are ([`Pool::open`]); the target opens what
//! that names. There are two:
//! - [`LvmPool`]: logical volumes of a volume group on a loop device or a disk, with or without device-mapper;
//! - [`FilePool`]: one sparse file per volume, which needs no root.
//!
//! Every call may be repeated: a plan that runs again after a crash finds its earlier work and goes on.
//! All calls block; an asynchronous caller uses a blocking thread.
#![forbid(unsafe_code)]

pub mod error;
pub mod file;
pub mod lvm;
pub mod pool;
mod zero;

pub use error::PoolError;
pub use file::FilePool;
pub use lvm::LvmPool;
pub use pool::{Capacity, Labels, Pool, PoolKind, StoredVolume};

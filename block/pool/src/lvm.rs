//! The pool on LVM: logical volumes of one volume group, on one loop device or disk.
//!
//! Commands run in a worker ([`protocol`], [`worker`]), their reports become types ([`report`]), `group` makes the
//! volume group at first start and finds it again later, `volumes` is the pool itself, `reclaim` zeroes what
//! removed volumes leave behind.
//!
//! What makes this safe:
//! - LVM sees our one device and nothing else ([`config`]), so no other group of the machine can be touched. Its locks
//!   are the machine's, so an operator's own `lvs` or `lvextend` and ours wait for each other.
//! - A group is made only on bytes that are all zero, and used only when it carries our tag and the id it was made with.
//! - **B5** free extents are zero: new extents are cleared, on stable storage, before the volume is complete (tags
//!   `onggi.unready`, `onggi.growing=`), and those of removed volumes before they are free (`onggi-zeroing-*`).
//! - Auto-activation is off: no kernel starts volumes that this pool serves.
//!
//! Without device-mapper a volume is served through its physical extents: volume byte `b` of extent `e` lies at
//! `pe_start + e * extent_size + b` of the device, which is where a kernel with device-mapper would put it.

pub mod config;
mod device_mapper;
mod error;
mod ground;
mod group;
mod hints;
mod mapping;
pub mod names;
pub mod protocol;
mod reclaim;
pub mod report;
mod volumes;
pub mod worker;

pub use error::LvmError;
pub use group::{Activation, Backing, LvmOptions, SIZE_MIN};
pub use names::VgName;
pub use volumes::{LvmPool, VOLUME_SIZE_MAX};

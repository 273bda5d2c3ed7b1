//! A user-space initiator, and the ways to show a LUN: as a block device of this machine, or in a QEMU guest.
//!
//! [`session::Session`] is a blocking disk over the pure iSCSI machine: it logs in again when the connection breaks and
//! sends again what was not answered. [`attach`] shows such a LUN to others.

pub mod attach;
pub mod disk;
pub mod session;
pub mod spec;

pub use spec::{ChapCredentials, ConnectionSpec};

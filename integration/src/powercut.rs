//! Power cuts. A workload runs in a guest, on a disk whose writes and flushes QEMU logs in the order in which the guest
//! made them. Afterwards the disk is put together as a power cut at any point of that log could have left it, and a
//! checker looks whether everything is there that had been acknowledged.
//!
//! - **What a cut leaves.** All that was written before the last flush that precedes the cut stays, and so does what was
//!   written with FUA. Of every later write each block (of 512 bytes, or of 4 KiB) stays or is lost by chance.
//! - **What was acknowledged** the log tells itself: the workload puts a [`Mark`](marks) on the same disk, outside of
//!   what it works on, after each acknowledgement and before it goes on.
//! - **A workload** is a program that runs in the guest and a [`Check`]: [`volume`] is that of the iSCSI target,
//!   [`objects`] that of the object store, [`control`] that of the control store. Others need only those two.
//! - **The check must be able to fail.** [`Fault`] takes the flushes away from below a workload, or from the program
//!   under test, and then the same check has to find losses.
//!
//! What this cannot show: blocks that are torn below 512 bytes, writes that land in a wrong place, and a write that was
//! still under way when a flush began (QEMU logs a request when it begins).

pub mod control;
pub mod control_check;
pub mod log;
pub mod marks;
pub mod mounted;
pub mod objects;
pub mod objects_check;
pub mod random;
pub mod record;
pub mod replay;
pub mod volume;
pub mod volume_check;

pub use record::{Fault, Recording, Workload};
pub use replay::{Check, Report, replay};

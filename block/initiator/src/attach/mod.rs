//! The ways to show a LUN: as a block device of this machine ([`local`]) or as a disk of a QEMU guest ([`qemu`]).

pub mod local;
pub mod open_iscsi;
pub mod qemu;

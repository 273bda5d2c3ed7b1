//! Where things live: builder, partitions, devices, zones, handoffs, ring file.
//!
//! A ring maps a path's hash to a partition, and a partition to the devices that keep its copies. It is data: made by
//! a [`RingBuilder`], written in Swift's own file format, and read by proxies and nodes.
#![forbid(unsafe_code)]

pub mod builder;
pub mod device;
pub mod file;
pub mod hash;
pub mod ring;

pub use builder::{
    Balance, BuilderError, DeviceChange, NewDevice, Rebalanced, Report, RingBuilder, Search,
    SearchError, TierReport, canonical_address,
};
pub use device::{Device, DeviceId};
pub use file::RingFileError;
pub use hash::{HashSecrets, PartPower, Partition, PathHash};
pub use ring::{Handoffs, Ring};

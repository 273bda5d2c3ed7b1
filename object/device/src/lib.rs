//! What one device holds: object rows, bodies, account and container rows, digests.
//!
//! A device is a directory ([`mod@format`]): RocksDB for rows and small bodies, files for large bodies. Its calls block;
//! async code makes them on blocking threads.
//!
//! | table | key | value |
//! |---|---|---|
//! | `object` | policy 2, path hash 16, fragment 1 | [`stored::StoredObject`]: the row and where its bytes are |
//! | `body` | the same | a body of at most 64 KiB; large values go to RocksDB's blob files |
//! | `digest` | scope 1, policy 2, slot 4, day 2 | sum and count of the slot's rows; day 0 for what is there, else the day of its tombstones and of traces in its containers |
//! | `roster` | kind 1, path hash 16 | [`roster_row::RosterRow`]: a container or an account |
//! | `record` | kind 1, path hash 16, shard 2, name | a record of the roster and its place in the change log |
//! | `change` | kind 1, path hash 16, sequence 8 | the name of the record changed then: one entry per record |
//! | `sync` | kind 1, path hash 16, peer 16 | how far of the change log the peer has; also the cluster it is copied to |
//! | `pending` | kind 1, key | what other devices still have to be told, which containers are copied to another cluster, and [`misplaced`] objects |
//! | `reservation` | as `object` | [`reservation::Reservation`]: the key is kept for a conditional PUT |
//! | `horizon` | scope 1, policy 2, slot 4 | the last day whose tombstones are settled, and in which part of the slot, see [`reclaim`]; and when the device was alive last |
//! | `expiry` | second 8, as `object` | objects that have a date of deletion, in the order of the dates |
//!
//! A partition is the top bits of the path hash, so it is one range of `object` and of `digest` at any partition power
//! up to the slot bits; digests of smaller ones are added up from rows ([`split`]). Whatever belongs together is written in one synced batch: the row, its digest, its pending row.
//!
//! Invariants: **O1** what a call acknowledged is on stable storage. **O2** newest wins group by group, in any order of
//! arrival. **O3** readers see a whole object or none. **O4** bytes that fail their checksum are quarantined, never
//! given out.

pub mod body;
pub mod check;
pub mod commit;
pub mod container_sync;
mod deleted;
pub mod device;
pub mod digests;
pub mod dump;
pub mod error;
pub mod expiry;
pub mod format;
mod horizons;
pub mod key;
mod large;
pub mod listing;
pub mod misplaced;
pub mod object;
pub mod pending;
mod plan;
mod rebuild;
pub mod recent;
pub mod reclaim;
mod reclaim_roster;
pub mod reservation;
pub mod roster;
pub mod roster_row;
mod space;
pub mod split;
pub mod stored;
mod stripes;
mod sweep;
pub mod tables;
pub mod upload;

#[cfg(test)]
mod tests;

pub use body::BodyReader;
pub use commit::{Change, Committed};
pub use container_sync::SyncPoints;
pub use device::{Device, DeviceOptions};
pub use error::{DeviceError, OpenError};
pub use expiry::Due;
pub use key::{ObjectKey, RosterKey, RosterKind};
pub use object::{Guard, Merge, Merged, NewRow};
pub use pending::{PendingObject, Tell};
pub use recent::Settled;
pub use reservation::{Commit, Reserved};
pub use roster_row::RosterRow;
pub use stored::{Location, ReadFrom, StoredObject};
pub use upload::{Finished, Upload};

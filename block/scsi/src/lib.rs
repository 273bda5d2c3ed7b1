//! What a CDB means: SPC and SBC commands, sense, VPD, mode pages, reservations.
//!
//! A [`LogicalUnit`] takes a command descriptor block and says what comes of it: a finished [`Response`], or a
//! [`MediaOp`] that somebody who owns the medium carries out and hands to [`MediaOp::finish`]. There is no I/O here, no
//! clock, no lock: the shell decides where a unit lives and who may touch it. A [`View`] is the part of a unit's state
//! that reading and writing need, so that the data path takes no lock shared between nexuses.
#![forbid(unsafe_code)]

mod alua;
pub mod attention;
pub mod cdb;
pub mod copy;
pub mod inquiry;
pub mod log;
pub mod logical_unit;
pub mod media;
pub mod mode;
mod opcodes;
pub mod range;
pub mod report;
pub mod reservation;
pub mod sanitize;
pub mod sense;
mod wire;

pub use attention::UnitAttention;
pub use cdb::{Cdb, CdbBytes, DataLength};
pub use copy::{CopyPlan, CopyProgress, CopySegment, CopyTarget};
pub use inquiry::Identity;
pub use log::SpaceUsage;
pub use logical_unit::{CopyAccess, LogicalUnit, MissingUnit, Nexus, Outcome, Settings, View};
pub use media::{Fill, LbaStatus, MediaFailure, MediaOp, MediaResult, Provisioning};
pub use range::{BlockSize, Capacity, Lba, LbaRange, Lun};
pub use reservation::{PersistentReservation, ReservationType, SavedError, SavedReservations};
pub use sanitize::Erasure;
pub use sense::{Response, Sense, SenseKey, Status};

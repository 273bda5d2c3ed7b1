//! Quantities, names, ids, secrets and timestamps both halves share.
//!
//! Everything here is parsed once, at the edge of the program, into a type that proves its own validity.
#![forbid(unsafe_code)]

pub mod byte_count;
pub mod id;
pub mod secret;
pub mod timestamp;

pub use byte_count::{ByteCount, ByteCountError};
pub use id::{HexId, IdError, Uuid};
pub use secret::Secret;
pub use timestamp::{Timestamp, TimestampError, UtcTime};

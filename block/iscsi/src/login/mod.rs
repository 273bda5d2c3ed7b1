//! Login (RFC 7143 §6, §13): what both sides may say, and what comes out of it.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

pub(crate) mod initiator;
pub(crate) mod keys;
pub(crate) mod status;
pub(crate) mod target;

pub use keys::{DigestPreference, Negotiated, Offer};

/// The most PDUs one login may take.
pub const LOGIN_PDUS_MAX: u32 = 32;

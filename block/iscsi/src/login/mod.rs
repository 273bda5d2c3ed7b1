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

use crate::chap::ChapAlgorithm;

/// Which hashes a target takes for CHAP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChapPolicy {
    /// SHA-256 where the initiator knows it, MD5 otherwise: some initiators know nothing else.
    #[default]
    Sha256OrMd5,
    /// SHA-256 only: nobody can talk the two sides down to MD5.
    Sha256,
}

impl ChapPolicy {
    pub(crate) const fn algorithms(self) -> &'static [ChapAlgorithm] {
        match self {
            Self::Sha256OrMd5 => &ChapAlgorithm::ALL,
            Self::Sha256 => &[ChapAlgorithm::Sha256],
        }
    }
}

/// The most PDUs one login may take.
pub const LOGIN_PDUS_MAX: u32 = 32;

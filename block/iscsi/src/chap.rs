//! CHAP (RFC 1994 as RFC 7143 §12.1.3 uses it): one-way and mutual, with MD5 and SHA-256.
//!
//! Challenges are arguments: this crate has no entropy.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use md5::Digest as _;
use onggi_common_units::Secret;
use subtle::ConstantTimeEq;

/// RFC 7143 §9.2.1: shorter secrets fall to a dictionary. Where secrets are made and configured, this is the floor.
pub const SECRET_BYTES_MIN: usize = 12;
/// The longest challenge that is taken (RFC 7143 §12.1.3).
pub const CHALLENGE_BYTES_MAX: usize = 1024;
/// How many accounts of one user name are tried.
pub const CLAIMS_MAX: usize = 16;
/// The longest user name that is taken.
pub const NAME_BYTES_MAX: usize = 255;

/// The hash of a CHAP exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChapAlgorithm {
    /// 5
    Md5,
    /// 7
    Sha256,
}

impl ChapAlgorithm {
    /// Both, the better first.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Md5];

    /// The number IANA gave it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha256 => "7",
        }
    }

    /// The algorithm of this number.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.code() == code)
    }

    const fn response_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 => 32,
        }
    }
}

/// A user and what only it and its peer know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapPair {
    /// CHAP_N.
    pub user: String,
    /// What the response is made of.
    pub secret: Secret,
}

/// An initiator that may prove itself, and how the target proves itself to it in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapAccount {
    /// The initiator's CHAP_N.
    pub user: String,
    /// What its response is made of.
    pub secret: Secret,
    /// The target's own, when the initiator may ask for proof.
    pub mutual: Option<ChapPair>,
}

/// A challenge to the peer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Challenge {
    id: u8,
    bytes: [u8; 32],
}

impl core::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Challenge")
    }
}

impl Challenge {
    /// A challenge of fresh random bytes. A challenge that comes twice can be answered by listening.
    #[must_use]
    pub const fn new(random: [u8; 33]) -> Self {
        let [id, bytes @ ..] = random;
        Self { id, bytes }
    }

    /// CHAP_I.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.id
    }

    /// CHAP_C: as long as the hash.
    #[must_use]
    pub fn bytes(&self, algorithm: ChapAlgorithm) -> &[u8] {
        self.bytes
            .get(..algorithm.response_bytes())
            .unwrap_or(&self.bytes)
    }
}

/// CHAP_R: the hash of id, secret and challenge.
#[must_use]
pub fn response(algorithm: ChapAlgorithm, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
    let parts = [&[id][..], secret.expose().as_bytes(), challenge];
    match algorithm {
        ChapAlgorithm::Md5 => {
            let hash = parts
                .iter()
                .fold(md5::Md5::new(), |hash, part| hash.chain_update(part));
            hash.finalize().to_vec()
        }
        ChapAlgorithm::Sha256 => {
            let hash = parts
                .iter()
                .fold(sha2::Sha256::new(), |hash, part| hash.chain_update(part));
            hash.finalize().to_vec()
        }
    }
}

/// Whether a response is the right one, in time that does not depend on where it differs.
#[must_use]
pub fn verify(
    algorithm: ChapAlgorithm,
    challenge: &Challenge,
    secret: &Secret,
    given: &[u8],
) -> bool {
    let expected = response(algorithm, challenge.id, secret, challenge.bytes(algorithm));
    expected.ct_eq(given).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u8 = 0x26;

    fn challenge() -> Challenge {
        let mut random = [7; 33];
        random[0] = ID;
        Challenge::new(random)
    }

    #[test]
    fn responses_are_the_hash_of_id_secret_and_challenge() {
        // By Python's hashlib over the same bytes.
        let secret = Secret::new("secretsecret12");
        let hex = |algorithm| {
            let challenge = challenge();
            crate::text::hex(&response(
                algorithm,
                ID,
                &secret,
                challenge.bytes(algorithm),
            ))
        };
        assert_eq!(
            hex(ChapAlgorithm::Md5),
            "0x776609678032532cfa709ee1ba192292"
        );
        let sha256 = "0x857bbf4333e43028b789cc6f6a16377a928c5c9c77c9638f9bb6912da46bd38e";
        assert_eq!(hex(ChapAlgorithm::Sha256), sha256);
    }

    #[test]
    fn only_the_right_secret_is_accepted() {
        for algorithm in ChapAlgorithm::ALL {
            let challenge = challenge();
            let right = Secret::new("secretsecret12");
            let given = response(algorithm, ID, &right, challenge.bytes(algorithm));
            assert!(verify(algorithm, &challenge, &right, &given));
            assert!(!verify(
                algorithm,
                &challenge,
                &Secret::new("secretsecret13"),
                &given
            ));
            assert!(!verify(
                algorithm,
                &challenge,
                &right,
                given.split_last().unwrap().1
            ));
            assert!(!verify(algorithm, &challenge, &right, &[]));
        }
    }
}

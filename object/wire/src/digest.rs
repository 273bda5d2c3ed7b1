//! Digests of sets of rows: sums mod 2¹²⁸ of row hashes, so that order does not matter and a row can be taken out again.

use core::fmt;
use core::ops::{Add, AddAssign, Sub, SubAssign};

/// The sum of the hashes of the rows in a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Digest(u128);

impl Digest {
    /// The digest of no rows.
    pub const EMPTY: Self = Self(0);

    /// The hash of one row's canonical bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let hash = blake3::hash(bytes);
        let (first, _) = hash.as_bytes().split_at(16);
        Self(
            first
                .iter()
                .fold(0, |sum, byte| (sum << 8) | u128::from(*byte)),
        )
    }

    /// Takes a stored value.
    #[must_use]
    pub const fn from_value(value: u128) -> Self {
        Self(value)
    }

    /// The value to store.
    #[must_use]
    pub const fn value(self) -> u128 {
        self.0
    }
}

impl Add for Digest {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl Sub for Digest {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Digest {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Hash bits that choose a slot. Digests are kept per slot; a partition at any power up to this one is a run of slots, and at a
/// higher one a part of a slot.
pub const SLOT_BITS: u32 = 16;

/// Hash bits that may number partitions.
pub const HASH_BITS_MAX: u32 = 32;

/// A bucket of the hash space: the first [`SLOT_BITS`] bits of a path hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

impl Slot {
    /// The slot a path hash falls into.
    #[must_use]
    pub fn of(hash: &[u8; 16]) -> Self {
        Self(unit_of(hash, SLOT_BITS))
    }

    /// The slot of this number, if there is one.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number < 1 << SLOT_BITS {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The partition this slot belongs to when partitions are the first `bits` bits (at most [`SLOT_BITS`]).
    #[must_use]
    pub const fn unit(self, bits: u32) -> u32 {
        self.0 >> SLOT_BITS.saturating_sub(bits)
    }
}

/// The first `bits` bits (at most 32) of a path hash: its partition at that partition power.
#[must_use]
pub fn unit_of(hash: &[u8; 16], bits: u32) -> u32 {
    let [a, b, c, d, ..] = *hash;
    u32::from_be_bytes([a, b, c, d])
        .checked_shr(32u32.saturating_sub(bits))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_partition_is_a_run_of_slots() {
        let hash = [0xab, 0xcd, 0xef, 0x01, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Slot::of(&hash).number(), 0xabcd);
        assert_eq!(Slot::of(&hash).unit(8), 0xab);
        assert_eq!(unit_of(&hash, 8), 0xab);
        assert_eq!(unit_of(&hash, 0), 0);
        assert_eq!(Slot::new(1 << SLOT_BITS), None);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_rows_can_be_taken_out(rows in prop::collection::vec(any::<[u8; 8]>(), 1..20)) {
            let forward = rows.iter().fold(Digest::EMPTY, |sum, row| sum + Digest::of(row));
            let backward = rows.iter().rev().fold(Digest::EMPTY, |sum, row| sum + Digest::of(row));
            prop_assert_eq!(forward, backward);
            let without = forward - Digest::of(&rows[0]);
            let rest = rows[1..].iter().fold(Digest::EMPTY, |sum, row| sum + Digest::of(row));
            prop_assert_eq!(without, rest);
        }
    }
}

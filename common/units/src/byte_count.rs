//! A number of bytes, with the binary units people write in configuration files and on command lines.

use core::fmt;
use core::str::FromStr;

/// A number of bytes.
///
/// Its text form is an integer with an optional binary unit (`512`, `64KiB`, `2GiB`); formatting picks the largest
/// unit that divides the value evenly, so that what is printed parses back to the same value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteCount(u64);

/// Why a text is no byte count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByteCountError {
    /// The text is not an integer followed by a known unit.
    #[error("{text:?} is not a size: write an integer and a unit, for example 64KiB, 10GiB or 512")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// The value does not fit in 64 bits.
    #[error("{text:?} is larger than 16 EiB")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// So many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many KiB; saturates at 64 bits.
    #[must_use]
    pub const fn from_kib(kib: u64) -> Self {
        Self(kib.saturating_mul(1 << 10))
    }

    /// So many MiB; saturates at 64 bits.
    #[must_use]
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// So many GiB; saturates at 64 bits.
    #[must_use]
    pub const fn from_gib(gib: u64) -> Self {
        Self(gib.saturating_mul(1 << 30))
    }

    /// The bytes as an integer.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whole GiB, rounded up: how Cinder counts the size of what it adopts.
    #[must_use]
    pub const fn gib_rounded_up(self) -> u64 {
        self.0.div_ceil(1 << 30)
    }

    /// The sum, or `None` past 64 bits.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl fmt::Display for ByteCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in UNITS {
            if self.0 != 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for ByteCount {
    type Err = ByteCountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || ByteCountError::Malformed {
            text: text.to_owned(),
        };
        let trimmed = text.trim();
        let digits_end = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (digits, unit) = trimmed.split_at(digits_end);
        let unit = unit.trim();
        let shift = if unit.is_empty() {
            0
        } else {
            UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .ok_or_else(malformed)?
                .1
        };
        if digits.is_empty() {
            return Err(malformed());
        }
        let too_large = || ByteCountError::TooLarge {
            text: text.to_owned(),
        };
        let value: u64 = digits.parse().ok().ok_or_else(too_large)?;
        value
            .checked_mul(1u64 << shift)
            .map(Self)
            .ok_or_else(too_large)
    }
}

impl serde::Serialize for ByteCount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ByteCount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_binary_and_case_sensitive() {
        assert_eq!("64KiB".parse(), Ok(ByteCount::from_kib(64)));
        assert_eq!("2 GiB".parse(), Ok(ByteCount::from_gib(2)));
        assert_eq!("7".parse(), Ok(ByteCount::new(7)));
        for bad in ["", "GiB", "-1", "1.5GiB", "1gib", "1GB"] {
            assert!(
                matches!(
                    bad.parse::<ByteCount>(),
                    Err(ByteCountError::Malformed { .. })
                ),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_value_past_64_bits_is_refused() {
        for bad in ["18446744073709551616", "16777216TiB"] {
            assert!(
                matches!(
                    bad.parse::<ByteCount>(),
                    Err(ByteCountError::TooLarge { .. })
                ),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(bytes in any::<u64>(), shift in 0u32..40) {
            let count = ByteCount::new(bytes >> shift << shift);
            prop_assert_eq!(count.to_string().parse(), Ok(count));
        }
    }
}

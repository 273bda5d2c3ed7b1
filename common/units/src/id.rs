//! Identifiers: UUIDs (volumes, attachments, requests) and Keystone's 32-digit ids (projects, users).
//!
//! Entropy is an argument: this crate makes no random numbers.

use core::fmt;
use core::str::FromStr;

/// A random (version 4) UUID in its hyphenated lower-case text form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid([u8; 16]);

/// A 128-bit id in Keystone's text form: 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HexId([u8; 16]);

/// A text that is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct IdError {
    /// What was given, cut to 64 characters.
    pub text: String,
    /// What was expected.
    pub expected: &'static str,
}

impl IdError {
    fn new(text: &str, expected: &'static str) -> Self {
        Self {
            text: text.chars().take(64).collect(),
            expected,
        }
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn parse_hex(digits: impl Iterator<Item = u8>) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    let mut count = 0usize;
    for byte in digits {
        let value = hex_digit(byte)?;
        let slot = out.get_mut(count / 2)?;
        *slot = (*slot << 4) | value;
        count += 1;
    }
    (count == 32).then_some(out)
}

impl Uuid {
    /// Makes a version 4 UUID of sixteen random bytes (RFC 9562 §5.4).
    #[must_use]
    pub const fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// Takes the bytes as they are, for a stored or derived id.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The sixteen bytes in text order.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || IdError::new(text, "a UUID");
        let bytes = text.as_bytes();
        if bytes.len() == 36 {
            for index in [8, 13, 18, 23] {
                if bytes.get(index) != Some(&b'-') {
                    return Err(error());
                }
            }
        } else if bytes.len() != 32 {
            return Err(error());
        }
        parse_hex(bytes.iter().copied().filter(|b| *b != b'-'))
            .map(Self)
            .ok_or_else(error)
    }
}

impl HexId {
    /// Takes sixteen random bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The sixteen bytes in text order.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for HexId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_hex(text.bytes())
            .map(Self)
            .ok_or_else(|| IdError::new(text, "32 hexadecimal digits"))
    }
}

macro_rules! text_form {
    ($($type:ty),*) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serde::Serialize::serialize(&self.0, serializer)
                }
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if !deserializer.is_human_readable() {
                    return <[u8; 16]>::deserialize(deserializer).map(Self);
                }
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
text_form!(Uuid, HexId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_prints_and_parses_in_both_forms() {
        let id = Uuid::from_random([0xff; 16]);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().replace('-', "").parse(), Ok(id));
    }

    #[test]
    fn texts_that_are_no_ids_are_refused() {
        for bad in [
            "",
            "nope",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "../../../../../../../../../../etc/pa",
        ] {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
            assert!(bad.parse::<HexId>().is_err(), "{bad}");
        }
        assert!("gfffffffffffffffffffffffffffffff".parse::<HexId>().is_err());
        assert!(
            "ffffffff-ffff-4fff-bfff-ffffffffffff"
                .parse::<HexId>()
                .is_err()
        );
    }
}

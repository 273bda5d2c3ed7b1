//! Entity tags: the MD5 of an object's bytes.

use core::fmt;
use core::str::FromStr;

/// The MD5 of an object's bytes, printed as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Etag([u8; 16]);

/// A text that is no entity tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no ETag: 32 hexadecimal digits are expected")]
pub struct EtagError {
    /// What was given, cut to 64 characters.
    pub text: String,
}

impl Etag {
    /// The tag of no bytes.
    pub const EMPTY: Self = Self([
        0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8, 0x42,
        0x7e,
    ]);

    /// The tag with this digest.
    #[must_use]
    pub const fn new(digest: [u8; 16]) -> Self {
        Self(digest)
    }

    /// The digest.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads the digits, with or without the quotes HTTP puts around them.
impl FromStr for Etag {
    type Err = EtagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        digest(text).map(Self).ok_or_else(|| EtagError {
            text: text.chars().take(64).collect(),
        })
    }
}

fn digest(text: &str) -> Option<[u8; 16]> {
    let digits = text.trim().trim_matches('"').as_bytes();
    if digits.len() != 32 {
        return None;
    }
    let mut digest = [0; 16];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        let value = char::from(high).to_digit(16)? * 16 + char::from(low).to_digit(16)?;
        *byte = u8::try_from(value).ok()?;
    }
    Some(digest)
}

impl serde::Serialize for Etag {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serde::Serialize::serialize(&self.0, serializer)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Etag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return <[u8; 16]>::deserialize(deserializer).map(Self);
        }
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_print_and_parse_with_and_without_quotes() {
        let text = "d41d8cd98f00b204e9800998ecf8427e";
        assert_eq!(Etag::EMPTY.to_string(), text);
        assert_eq!(format!("\"{text}\"").parse(), Ok(Etag::EMPTY));
        assert_eq!(text.to_uppercase().parse(), Ok(Etag::EMPTY));
    }

    #[test]
    fn texts_that_are_no_tags_are_refused() {
        for bad in [
            "",
            "x",
            "d41d8cd98f00b204e9800998ecf8427",
            "é41d8cd98f00b204e9800998ecf8427",
        ] {
            assert!(bad.parse::<Etag>().is_err(), "{bad}");
        }
    }
}

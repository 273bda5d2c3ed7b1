//! Key=value text (RFC 7143 §6.1): pairs, each ended by a zero byte, over one or more PDUs.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions
)]

use bytes::Bytes;

/// The longest text of one exchange, all its PDUs together.
pub const TEXT_BYTES_MAX: usize = 16 << 10;
/// The most pairs in one text.
pub const PAIRS_MAX: usize = 128;
/// The longest key (RFC 7143 §6.1: key-name).
pub const KEY_BYTES_MAX: usize = 63;
/// The longest value: every PDU of a login holds 8 KiB.
pub const VALUE_BYTES_MAX: usize = 8192;

/// Pairs of key and value, in order, no key twice.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text(Vec<(String, String)>);

/// Why bytes are no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// It is longer than allowed.
    #[error("a text of more than {TEXT_BYTES_MAX} bytes")]
    TooLong,
    /// There are more pairs than allowed.
    #[error("more than {PAIRS_MAX} keys")]
    TooManyPairs,
    /// A key is empty, too long or has characters that no key has.
    #[error("malformed key")]
    BadKey,
    /// A value is too long or not UTF-8.
    #[error("malformed value of {key}")]
    BadValue {
        /// The key.
        key: String,
    },
    /// A key is there twice.
    #[error("{key} is there twice")]
    Duplicate {
        /// The key.
        key: String,
    },
}

impl Text {
    /// No pairs.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Reads the pairs. Zero bytes between them may be several.
    ///
    /// # Errors
    /// When a pair is malformed, too long or there twice.
    pub fn parse(bytes: &[u8]) -> Result<Self, TextError> {
        if bytes.len() > TEXT_BYTES_MAX {
            return Err(TextError::TooLong);
        }
        let mut text = Self::new();
        for item in bytes
            .split(|byte| *byte == 0)
            .filter(|item| !item.is_empty())
        {
            if text.0.len() >= PAIRS_MAX {
                return Err(TextError::TooManyPairs);
            }
            let (key, value) = parse_pair(item)?;
            if text.get(&key).is_some() {
                return Err(TextError::Duplicate { key });
            }
            text.0.push((key, value));
        }
        Ok(text)
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value.as_str())
    }

    /// One more pair at the end.
    pub fn push(&mut self, key: &str, value: impl Into<String>) {
        self.0.push((key.to_owned(), value.into()));
    }

    /// The same with one more pair.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.push(key, value);
        self
    }

    /// Whether there are no pairs.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The bytes: each pair ended by a zero byte.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut bytes = Vec::new();
        for (key, value) in &self.0 {
            bytes.extend_from_slice(key.as_bytes());
            bytes.push(b'=');
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(0);
        }
        bytes.into()
    }
}

fn parse_pair(item: &[u8]) -> Result<(String, String), TextError> {
    let at = item
        .iter()
        .position(|byte| *byte == b'=')
        .ok_or(TextError::BadKey)?;
    let (key, value) = item.split_at_checked(at).ok_or(TextError::BadKey)?;
    let is_key_byte = |byte: &u8| byte.is_ascii_alphanumeric() || b".-+@_#".contains(byte);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.iter().all(is_key_byte) {
        return Err(TextError::BadKey);
    }
    let key = String::from_utf8_lossy(key).into_owned();
    let value = value.get(1..).unwrap_or_default();
    match str::from_utf8(value) {
        Ok(value) if value.len() <= VALUE_BYTES_MAX => Ok((key, value.to_owned())),
        Ok(_) | Err(_) => Err(TextError::BadValue { key }),
    }
}

/// Collects a text that comes in several PDUs.
#[derive(Debug, Default)]
pub struct TextAssembly(Vec<u8>);

impl TextAssembly {
    /// One more part.
    ///
    /// # Errors
    /// When the whole becomes longer than a text may be.
    pub fn push(&mut self, part: &[u8]) -> Result<(), TextError> {
        if self.0.len().saturating_add(part.len()) > TEXT_BYTES_MAX {
            return Err(TextError::TooLong);
        }
        self.0.extend_from_slice(part);
        Ok(())
    }

    /// The pairs of all parts; the assembly is empty afterwards.
    ///
    /// # Errors
    /// When a pair is malformed, too long or there twice.
    pub fn finish(&mut self) -> Result<Text, TextError> {
        Text::parse(&core::mem::take(&mut self.0))
    }
}

/// A number as text keys have it: decimal, or hexadecimal with `0x`.
#[must_use]
pub fn parse_number(value: &str) -> Option<u32> {
    match value
        .strip_prefix("0x")
        .or_else(|| value.strip_prefix("0X"))
    {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if value.bytes().all(|byte| byte.is_ascii_digit()) => value.parse().ok(),
        None => None,
    }
}

/// A truth value as text keys have it.
#[must_use]
pub fn parse_boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// A truth value as text.
#[must_use]
pub const fn boolean(value: bool) -> &'static str {
    if value { "Yes" } else { "No" }
}

/// Bytes as text keys have them: `0x` and hexadecimal digits, or `0b` and base64; at most `bytes_max`.
#[must_use]
pub fn parse_binary(value: &str, bytes_max: usize) -> Option<Vec<u8>> {
    let (prefix, digits) = value.split_at_checked(2)?;
    let bytes = match prefix {
        "0x" | "0X" => parse_hex(digits)?,
        "0b" | "0B" => parse_base64(digits)?,
        _ => return None,
    };
    (bytes.len() <= bytes_max).then_some(bytes)
}

fn parse_hex(digits: &str) -> Option<Vec<u8>> {
    if digits.is_empty() {
        return None;
    }
    let mut values = digits
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    let mut bytes = Vec::new();
    // An odd number of digits has an unwritten zero in front.
    if !digits.len().is_multiple_of(2) {
        bytes.push(values.next()??);
    }
    while let Some(high) = values.next() {
        bytes.push(high?.wrapping_shl(4) | values.next()??);
    }
    Some(bytes)
}

fn base64_value(byte: u8) -> Option<u32> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let at = ALPHABET.iter().position(|letter| *letter == byte)?;
    u32::try_from(at).ok()
}

fn parse_base64(digits: &str) -> Option<Vec<u8>> {
    let stripped = digits.trim_end_matches('=');
    if stripped.is_empty()
        || !digits.len().is_multiple_of(4)
        || stripped.len() < digits.len().saturating_sub(2)
    {
        return None;
    }
    let mut bytes = Vec::new();
    for group in stripped.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for place in 0..4 {
            let value = group
                .get(place)
                .map_or(Some(0), |byte| base64_value(*byte))?;
            bits = bits.wrapping_shl(6) | value;
        }
        let [_, triple @ ..] = bits.to_be_bytes();
        // Four digits are three bytes, three are two, two are one; one alone is nothing.
        let count = group.len().checked_sub(1).filter(|count| *count > 0)?;
        bytes.extend(triple.into_iter().take(count));
    }
    Some(bytes)
}

/// Bytes as hexadecimal text with `0x`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value & 0x0f), 16).unwrap_or('0');
    let mut text = String::from("0x");
    for byte in bytes {
        text.push(digit(byte.wrapping_shr(4)));
        text.push(digit(*byte));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_go_there_and_back() {
        let text = Text::new()
            .with("InitiatorName", "iqn.a")
            .with("Empty", "")
            .with("A", "b=c");
        assert_eq!(Text::parse(&text.to_bytes()), Ok(text));
    }

    #[test]
    fn malformed_texts_are_refused() {
        assert_eq!(Text::parse(b"novalue\0"), Err(TextError::BadKey));
        assert_eq!(Text::parse(b"=x\0"), Err(TextError::BadKey));
        assert_eq!(Text::parse(b"a b=x\0"), Err(TextError::BadKey));
        assert!(matches!(
            Text::parse(b"A=\xff\0"),
            Err(TextError::BadValue { .. })
        ));
        assert!(matches!(
            Text::parse(b"A=1\0A=1\0"),
            Err(TextError::Duplicate { .. })
        ));
        let long_key = [&[b'k'; 64][..], b"=1\0"].concat();
        assert_eq!(Text::parse(&long_key), Err(TextError::BadKey));
        let long_value = [b"K=", &[b'v'; VALUE_BYTES_MAX + 1][..], b"\0"].concat();
        assert!(matches!(
            Text::parse(&long_value),
            Err(TextError::BadValue { .. })
        ));
    }

    #[test]
    fn text_bombs_are_refused() {
        let many: Vec<u8> = (0..=PAIRS_MAX)
            .flat_map(|n| format!("K{n}=\0").into_bytes())
            .collect();
        assert_eq!(Text::parse(&many), Err(TextError::TooManyPairs));
        let mut assembly = TextAssembly::default();
        assembly.push(&[b'a'; TEXT_BYTES_MAX]).unwrap();
        assert_eq!(assembly.push(b"a"), Err(TextError::TooLong));
    }

    #[test]
    fn binary_values_are_hexadecimal_or_base64() {
        assert_eq!(parse_binary("0xAbc", 9), Some(vec![0x0a, 0xbc]));
        assert_eq!(parse_binary("0bYWJj", 9), Some(b"abc".to_vec()));
        assert_eq!(parse_binary("0bYWI=", 9), Some(b"ab".to_vec()));
        for bad in [
            "", "0x", "0xg1", "abcd", "0b", "0bYW", "0b====", "0x0102", "0é",
        ] {
            assert_eq!(parse_binary(bad, 1), None, "{bad}");
        }
    }

    #[test]
    fn numbers_are_decimal_or_hexadecimal() {
        assert_eq!(parse_number("0x10"), Some(16));
        assert_eq!(parse_number("262144"), Some(262_144));
        for bad in ["", "-1", "+1", "4294967296", "1k"] {
            assert_eq!(parse_number(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hexadecimal_goes_there_and_back(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(parse_binary(&hex(&bytes), 64), Some(bytes));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), value in ".{0,40}") {
            drop(Text::parse(&bytes));
            drop(parse_binary(&value, 32));
            prop_assert!(parse_number(&value).is_none_or(|number| u64::from(number) < 1 << 32));
        }
    }
}

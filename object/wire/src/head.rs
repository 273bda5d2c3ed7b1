//! Heads: typed JSON in one header line, of requests and of answers.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The header a head stands in, of a request and of an answer.
pub const HEAD: &str = "x-onggi-head";
/// The header a signature stands in.
pub const AUTHORIZATION: &str = "x-onggi-authorization";
/// The trailer that ends a streamed body: see [`crate::object::Tail`].
pub const TAIL: &str = "x-onggi-tail";
/// The trailer that proves the tail.
pub const TAIL_PROOF: &str = "x-onggi-tail-proof";
/// Carries the request id through the cluster, for logs only.
pub const REQUEST_ID: &str = "x-onggi-request-id";

/// Bytes of a head. With the other headers it stays below a listener's limit of 64 KiB.
pub const HEAD_BYTES_MAX: usize = 48 << 10;

/// A head that cannot be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    /// There is none.
    #[error("the message has no {HEAD} header")]
    Missing,
    /// It is too long.
    #[error("the head has {bytes} bytes, {HEAD_BYTES_MAX} are allowed")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// It is not what was expected.
    #[error("the head is malformed: {source}")]
    Malformed {
        /// Why.
        source: serde_json::Error,
    },
}

/// A head as a header's value.
///
/// # Errors
/// When it is too long.
pub fn encode<T: Serialize>(head: &T) -> Result<Vec<u8>, HeadError> {
    let text = serde_json::to_string(head).map_err(|source| HeadError::Malformed { source })?;
    // JSON escapes every control character but this one, which header values may not hold.
    let text = if text.contains('\u{7f}') {
        text.replace('\u{7f}', "\\u007f")
    } else {
        text
    };
    if text.len() > HEAD_BYTES_MAX {
        return Err(HeadError::TooLong { bytes: text.len() });
    }
    Ok(text.into_bytes())
}

/// A head from a header's value.
///
/// # Errors
/// When there is none, or it is not what was expected.
pub fn decode<T: DeserializeOwned>(value: Option<&[u8]>) -> Result<T, HeadError> {
    let bytes = value.ok_or(HeadError::Missing)?;
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(HeadError::TooLong { bytes: bytes.len() });
    }
    serde_json::from_slice(bytes).map_err(|source| HeadError::Malformed { source })
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(
                *DIGITS.get(usize::from(nibble)).unwrap_or(&b'0'),
            ));
        }
    }
    text
}

/// Exactly `N` bytes from their hexadecimal digits.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return None;
    }
    let mut out = [0u8; N];
    for (slot, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            *slot = (*slot << 4) | value;
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_text_survives_a_header_line(text in any::<String>()) {
            let value = encode(&text).unwrap();
            prop_assert!(value.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f));
            prop_assert_eq!(decode::<String>(Some(&value)).unwrap(), text);
        }

        #[test]
        fn hexadecimal_digits_come_back(bytes in any::<[u8; 16]>()) {
            prop_assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn a_head_that_is_too_long_is_refused() {
        assert!(matches!(
            encode(&"x".repeat(HEAD_BYTES_MAX)),
            Err(HeadError::TooLong { .. })
        ));
        let long = vec![b' '; HEAD_BYTES_MAX + 1];
        assert!(matches!(
            decode::<String>(Some(&long)),
            Err(HeadError::TooLong { .. })
        ));
        assert!(matches!(decode::<String>(None), Err(HeadError::Missing)));
    }
}

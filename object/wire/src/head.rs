//! Heads: what a request asks and an answer says, in a binary form that names no fields: both ends are of one version.
//!
//! Within a process and over a link a head travels as it is, in HTTP as base64 in one header line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
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

/// Bytes of a head. As base64 and with the other headers it stays below a listener's limit of 64 KiB.
pub const HEAD_BYTES_MAX: usize = 44 << 10;

/// What most heads fit in.
const USUAL_BYTES: usize = 512;

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
        source: postcard::Error,
    },
    /// There is something behind it.
    #[error("{bytes} bytes follow the head")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

/// A head's bytes.
///
/// # Errors
/// When it is too long.
pub fn encode<T: Serialize>(head: &T) -> Result<Vec<u8>, HeadError> {
    let room = Vec::with_capacity(USUAL_BYTES);
    let bytes =
        postcard::to_extend(head, room).map_err(|source| HeadError::Malformed { source })?;
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(HeadError::TooLong { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// A head from its bytes.
///
/// # Errors
/// When there are none, or it is not what was expected.
pub fn decode<T: DeserializeOwned>(bytes: Option<&[u8]>) -> Result<T, HeadError> {
    let bytes = bytes.ok_or(HeadError::Missing)?;
    if bytes.len() > HEAD_BYTES_MAX {
        return Err(HeadError::TooLong { bytes: bytes.len() });
    }
    let taken = postcard::take_from_bytes(bytes);
    match taken.map_err(|source| HeadError::Malformed { source })? {
        (head, []) => Ok(head),
        (_, rest) => Err(HeadError::Trailing { bytes: rest.len() }),
    }
}

/// A head's bytes as a header's value.
#[must_use]
pub fn to_text(bytes: &[u8]) -> String {
    STANDARD_NO_PAD.encode(bytes)
}

/// A head's bytes from a header's value, if it is one.
#[must_use]
pub fn from_text(value: &[u8]) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(value).ok()
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
            let value = to_text(&encode(&text).unwrap());
            prop_assert!(value.bytes().all(|byte| byte.is_ascii_graphic()));
            let bytes = from_text(value.as_bytes()).unwrap();
            prop_assert_eq!(decode::<String>(Some(&bytes)).unwrap(), text);
        }

        #[test]
        fn bytes_of_anybody_are_no_head_or_one(bytes in any::<Vec<u8>>()) {
            // Neither may it panic, nor make more than the bytes could hold.
            if let Ok(found) = decode::<crate::object::Found>(Some(&bytes)) {
                prop_assert_eq!(encode(&found).map(|again| again.len() <= bytes.len()).ok(), Some(true));
            }
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
        assert!(matches!(
            decode::<u8>(Some(&[1, 2])),
            Err(HeadError::Trailing { bytes: 1 })
        ));
        let long = vec![b' '; HEAD_BYTES_MAX + 1];
        assert!(matches!(
            decode::<String>(Some(&long)),
            Err(HeadError::TooLong { .. })
        ));
        assert!(matches!(decode::<String>(None), Err(HeadError::Missing)));
    }
}

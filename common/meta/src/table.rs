//! How rows are written: a version and a checksum around each payload.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 1 | envelope format, [`ENVELOPE_FORMAT`]: first, so that a reader knows what the rest is |
//! | 1 | 2 | version of the record, little-endian |
//! | 3 | n | payload |
//! | 3 + n | 4 | CRC-32C of everything before it, little-endian: last, so that a cut row is noticed |
//!
//! Readers refuse what they do not know. Each version of each record has a golden file that a test decodes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The format of the envelope itself.
pub const ENVELOPE_FORMAT: u8 = 1;
/// What most rows fit in.
const USUAL_BYTES: usize = 320;
const HEADER_BYTES: usize = 3;
const CHECKSUM_BYTES: usize = 4;

/// A typed row.
pub trait Record: Sized {
    /// What it is called in errors.
    const NAME: &'static str;
    /// The version that is written.
    const VERSION: u16;

    /// Writes the payload in version [`Self::VERSION`].
    fn encode_payload(&self, payload: &mut Vec<u8>);

    /// Reads a payload of any version still known; `Ok(None)` for a version that is not.
    ///
    /// # Errors
    /// When the payload is not what its version says.
    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError>;
}

/// A payload that is not what its version says.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub struct PayloadError {
    /// What is wrong with it.
    pub detail: String,
}

/// A row that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than an envelope has.
    #[error("a {record} row of {length} bytes is cut short")]
    Short {
        /// The kind of record.
        record: &'static str,
        /// The row's length.
        length: usize,
    },
    /// The bytes are not those that were written.
    #[error(
        "a {record} row has checksum {found:08x} instead of {expected:08x}: its bytes have changed since it was written"
    )]
    Checksum {
        /// The kind of record.
        record: &'static str,
        /// What the row says.
        expected: u32,
        /// What its bytes give.
        found: u32,
    },
    /// A newer program wrote it.
    #[error(
        "a {record} row has version {version}, this program knows up to {known}: start the newer program again"
    )]
    UnknownVersion {
        /// The kind of record.
        record: &'static str,
        /// The row's version.
        version: u16,
        /// The newest version known.
        known: u16,
    },
    /// The envelope is of another format.
    #[error("a {record} row begins with {found:#04x}, which is no envelope this program knows")]
    UnknownEnvelope {
        /// The kind of record.
        record: &'static str,
        /// The byte found.
        found: u8,
    },
    /// The payload is not what its version says.
    #[error("a {record} row of version {version}: {source}")]
    Payload {
        /// The kind of record.
        record: &'static str,
        /// The row's version.
        version: u16,
        /// What is wrong.
        source: PayloadError,
    },
}

/// Writes a record as a row.
#[must_use]
pub fn encode<R: Record>(record: &R) -> Vec<u8> {
    let mut row = Vec::with_capacity(USUAL_BYTES);
    row.push(ENVELOPE_FORMAT);
    row.extend_from_slice(&R::VERSION.to_le_bytes());
    record.encode_payload(&mut row);
    let checksum = crc32c::crc32c(&row);
    row.extend_from_slice(&checksum.to_le_bytes());
    row
}

/// Reads a row as a record.
///
/// # Errors
/// When the row is damaged, or a newer program wrote it.
pub fn decode<R: Record>(row: &[u8]) -> Result<R, DecodeError> {
    let record = R::NAME;
    let short = || DecodeError::Short {
        record,
        length: row.len(),
    };
    let (body, checksum) = row.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(short)?;
    let (header, payload) = body.split_first_chunk::<HEADER_BYTES>().ok_or_else(short)?;
    let [envelope, low, high] = *header;
    if envelope != ENVELOPE_FORMAT {
        return Err(DecodeError::UnknownEnvelope {
            record,
            found: envelope,
        });
    }
    let (expected, found) = (u32::from_le_bytes(*checksum), crc32c::crc32c(body));
    if expected != found {
        return Err(DecodeError::Checksum {
            record,
            expected,
            found,
        });
    }
    let version = u16::from_le_bytes([low, high]);
    R::decode_payload(version, payload)
        .map_err(|source| DecodeError::Payload {
            record,
            version,
            source,
        })?
        .ok_or(DecodeError::UnknownVersion {
            record,
            version,
            known: R::VERSION,
        })
}

/// Writes a payload as JSON: for records that are few and that people may want to look at.
pub fn to_json<T: Serialize>(value: &T, payload: &mut Vec<u8>) {
    serde_json::to_writer(payload, value)
        .expect("writing to memory cannot fail, and records have text keys and finite numbers");
}

/// Reads a JSON payload.
///
/// # Errors
/// When the payload is not JSON of that shape.
pub fn from_json<T: DeserializeOwned>(payload: &[u8]) -> Result<T, PayloadError> {
    serde_json::from_slice(payload).map_err(|error| PayloadError {
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
    struct Jar {
        litres: u64,
    }

    impl Record for Jar {
        const NAME: &'static str = "jar";
        const VERSION: u16 = 2;

        fn encode_payload(&self, payload: &mut Vec<u8>) {
            to_json(self, payload);
        }

        fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
            match version {
                // Version 1 counted decilitres, as text.
                1 => {
                    let text = String::from_utf8_lossy(payload);
                    let decilitres: u64 = text.parse().map_err(|error| PayloadError {
                        detail: format!("{error}"),
                    })?;
                    Ok(Some(Self {
                        litres: decilitres / 10,
                    }))
                }
                2 => from_json(payload).map(Some),
                _ => Ok(None),
            }
        }
    }

    fn sealed(version: u16, payload: &[u8]) -> Vec<u8> {
        let mut row = vec![ENVELOPE_FORMAT];
        row.extend_from_slice(&version.to_le_bytes());
        row.extend_from_slice(payload);
        row.extend_from_slice(&crc32c::crc32c(&row).to_le_bytes());
        row
    }

    #[test]
    fn an_older_version_is_read_and_a_newer_one_refused() {
        assert_eq!(
            decode::<Jar>(&encode(&Jar { litres: 7 })).unwrap(),
            Jar { litres: 7 }
        );
        assert_eq!(decode::<Jar>(&sealed(1, b"70")).unwrap(), Jar { litres: 7 });
        let newer = decode::<Jar>(&sealed(3, b"")).unwrap_err();
        assert!(
            matches!(
                newer,
                DecodeError::UnknownVersion {
                    version: 3,
                    known: 2,
                    ..
                }
            ),
            "{newer}"
        );
        let payload = decode::<Jar>(&sealed(2, b"{\"litres\": 7}}")).unwrap_err();
        assert!(matches!(payload, DecodeError::Payload { .. }), "{payload}");
    }

    proptest! {
        #[test]
        fn m3_no_flipped_bit_and_no_cut_goes_unnoticed(litres: u64, bit in 0usize..200, cut in 0usize..40) {
            let row = encode(&Jar { litres });
            let mut flipped = row.clone();
            let bit = bit % (row.len() * 8);
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode::<Jar>(&flipped).is_err());
            prop_assert!(decode::<Jar>(&row[..cut.min(row.len() - 1)]).is_err());
        }
    }
}

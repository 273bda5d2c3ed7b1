//! The message by which a node asks its peers whether they know anything newer than objects whose date of deletion has
//! come.
//!
//! Each primary deletes its own copy, after a read quorum of primaries (itself among them) has said no. The date alone is
//! not enough: a POST may have moved it on nodes that this one has not heard from.

use crate::codec::{CodecError, Reader, Writer};
use onggi_common_units::Timestamp;
use onggi_object_model::PolicyIndex;

/// The most objects one message asks about.
pub const DUE_MAX: usize = 1_000;
const WHAT: &str = "a list of objects that are due";
const DUE_BYTES: usize = 49;

/// The head. The body is [`encode_due`]; the answer (200) are the positions of those of which the peer knows something
/// newer, as [`encode_units`](crate::replication::encode_units).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expiry {
    /// The policy of all of them.
    pub policy: PolicyIndex,
}

/// An object whose date has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueKey {
    /// The path hash.
    pub hash: [u8; 16],
    /// The fragment's byte.
    pub fragment: u8,
    /// When its bytes were put.
    pub data_timestamp: Timestamp,
    /// When its date was set.
    pub metadata_timestamp: Timestamp,
}

/// Objects that are due.
///
/// # Panics
/// When there are more than 2³².
#[must_use]
pub fn encode_due(keys: &[DueKey]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u32(u32::try_from(keys.len()).expect("messages are bounded far below 2^32 items"));
    for key in keys {
        writer.raw(&key.hash);
        writer.u8(key.fragment);
        writer.timestamp(key.data_timestamp);
        writer.timestamp(key.metadata_timestamp);
    }
    writer.finish()
}

/// Reads what [`encode_due`] wrote.
///
/// # Errors
/// When the bytes are something else, or name more than [`DUE_MAX`].
pub fn decode_due(bytes: &[u8]) -> Result<Vec<DueKey>, CodecError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(WHAT, DUE_BYTES)?;
    if count > DUE_MAX {
        return Err(CodecError::Malformed { what: WHAT });
    }
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        keys.push(DueKey {
            hash: reader.array(WHAT)?,
            fragment: reader.u8(WHAT)?,
            data_timestamp: reader.timestamp(WHAT)?,
            metadata_timestamp: reader.timestamp(WHAT)?,
        });
    }
    reader.end(WHAT)?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lists_come_back_and_no_bytes_panic(
            hashes in prop::collection::vec(any::<([u8; 16], u8)>(), 0..20),
            ticks in 0u64..1 << 40,
            noise in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let at = Timestamp::from_ticks(ticks).unwrap();
            let keys: Vec<DueKey> = hashes
                .into_iter()
                .map(|(hash, fragment)| DueKey {
                    hash,
                    fragment,
                    data_timestamp: at,
                    metadata_timestamp: at.with_offset(7),
                })
                .collect();
            prop_assert_eq!(decode_due(&encode_due(&keys)), Ok(keys));
            drop(decode_due(&noise));
        }
    }
}

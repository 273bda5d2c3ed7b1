//! Messages between nodes that hold copies of the same things.
//!
//! A node pushes; nobody pulls. It sends the digests of what it shares with a peer ([`Digests`]), learns which differ,
//! asks the same about their slots, sends what rows the differing slots hold ([`Wants`]), and pushes those the peer lacks
//! (`rows` with small bodies, `body` for large ones, `roster` for containers and accounts).

use crate::body::Root;
use crate::codec::{CodecError, Reader, Writer};
use crate::digest::Digest;
use crate::row::ObjectRow;
use onggi_common_units::Timestamp;
use onggi_object_model::{AccountInfo, AccountName, ContainerInfo, ContainerPath, PolicyIndex};

/// Bytes of a message between nodes, bodies sent as streams apart.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes of rows a sender puts into one message.
pub const PUSH_BYTES_MAX: usize = 4 << 20;

/// What is compared.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Objects under a policy.
    Objects(PolicyIndex),
    /// Containers.
    Containers,
    /// Accounts.
    Accounts,
}

/// The head of a comparison of digests. The body is [`encode_sums`]; the answer (200) [`encode_units`] of those that
/// differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// Of what.
    pub scope: Scope,
    /// The number of hash bits that number the units: the partition power, or the slot bits.
    pub bits: u32,
    /// Tombstones up to this day (since 1970) are left out of the digests: each device lets go of them when it may.
    pub horizon: u16,
}

/// The head of a comparison of rows. The body is [`encode_keys`]; the answer (200) the positions of those wanted, as
/// [`encode_units`], with [`ROW_ONLY`] set where the receiver has the bytes, and of those that are [`STALE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wants {
    /// Of what.
    pub scope: Scope,
    /// In digests of containers and accounts, traces up to this day are left out.
    pub horizon: u16,
}

/// The head of a message with object rows. The body is [`encode_pushes`]; the answer (202) [`encode_units`] of those
/// not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// The policy of all of them.
    pub policy: PolicyIndex,
}

/// The head of one object row whose body follows as a stream with a tail. Answers: 201, 202 (row taken, bytes were
/// there), 409 (newer there), 422, 507.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushBody {
    /// The policy.
    pub policy: PolicyIndex,
    /// The fragment's byte.
    pub fragment: u8,
    /// The row.
    pub row: ObjectRow,
}

/// A container's or account's own row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RosterInfo {
    /// A container.
    Container {
        /// Its name.
        path: ContainerPath,
        /// What is known about it; its totals are the receiver's own affair.
        info: ContainerInfo,
    },
    /// An account.
    Account {
        /// Its name.
        account: AccountName,
        /// What is known about it; its totals are the receiver's own affair.
        info: AccountInfo,
        /// When it was deleted last.
        delete_timestamp: Timestamp,
    },
}

/// The head of a message with a container's or account's row and some of its records ([`crate::rows`]). The answer (202)
/// is a [`RosterState`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// Its own row.
    pub roster: RosterInfo,
    /// In the digest of the answer, traces up to this day are left out.
    pub horizon: u16,
    /// The horizon of its slot on the sender: the last day whose deletions it surely has heard of.
    pub known: u16,
    /// Records stamped in this second (since 1970) or later are left out of [`RosterState::settled`].
    pub settled_before: u64,
}

/// What a peer holds after a roster message.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterState {
    /// The digest over its row and records.
    pub digest: Digest,
    /// The same without the news of the last seconds, as far as the peer knows which they are.
    pub settled: Digest,
    /// Positions of records that the peer lacks and did not take: they are older than its horizon, and the sender's is
    /// behind, so that they may be of what was deleted and reclaimed meanwhile.
    pub stale: Vec<u32>,
}

/// The head of a comparison of runs of records. The body is [`encode_runs`]; the answer (200) [`encode_units`] of those
/// that differ.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RosterRuns {
    /// Containers or accounts.
    pub scope: Scope,
    /// The path hash.
    pub hash: [u8; 16],
    /// Traces up to this day are left out.
    pub horizon: u16,
}

const LENGTH_OK: &str = "messages are bounded far below 2^32 items";

fn count(writer: &mut Writer, items: usize) {
    writer.u32(u32::try_from(items).expect(LENGTH_OK));
}

/// Numbered digests, in any order.
///
/// # Panics
/// When there are more than 2³².
#[must_use]
pub fn encode_sums(sums: &[(u32, Digest)]) -> Vec<u8> {
    let mut writer = Writer::new();
    count(&mut writer, sums.len());
    for (unit, digest) in sums {
        writer.u32(*unit);
        writer.u128(digest.value());
    }
    writer.finish()
}

/// Reads what [`encode_sums`] wrote.
///
/// # Errors
/// When the bytes are something else.
pub fn decode_sums(bytes: &[u8]) -> Result<Vec<(u32, Digest)>, CodecError> {
    const WHAT: &str = "a list of digests";
    let mut reader = Reader::new(bytes);
    let count = reader.count(WHAT, 20)?;
    let mut sums = Vec::with_capacity(count);
    for _ in 0..count {
        sums.push((reader.u32(WHAT)?, Digest::from_value(reader.u128(WHAT)?)));
    }
    reader.end(WHAT)?;
    Ok(sums)
}

/// A list of numbers.
///
/// # Panics
/// When there are more than 2³².
#[must_use]
pub fn encode_units(units: &[u32]) -> Vec<u8> {
    let mut writer = Writer::new();
    count(&mut writer, units.len());
    for unit in units {
        writer.u32(*unit);
    }
    writer.finish()
}

/// Reads what [`encode_units`] wrote.
///
/// # Errors
/// When the bytes are something else.
pub fn decode_units(bytes: &[u8]) -> Result<Vec<u32>, CodecError> {
    const WHAT: &str = "a list of numbers";
    let mut reader = Reader::new(bytes);
    let count = reader.count(WHAT, 4)?;
    let mut units = Vec::with_capacity(count);
    for _ in 0..count {
        units.push(reader.u32(WHAT)?);
    }
    reader.end(WHAT)?;
    Ok(units)
}

/// One row of a comparison: where it is, and its part of the digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySum {
    /// The path hash.
    pub hash: [u8; 16],
    /// The fragment's byte.
    pub fragment: u8,
    /// The row's digest.
    pub digest: Digest,
    /// When its bytes, its content type and its metadata were set: the receiver does not want what it knows to be older.
    /// Of a container or account: when it was put, when it was deleted if it is a trace of that (else zero), and the newest
    /// of all its own stamps.
    pub timestamps: [Timestamp; 3],
    /// The horizon of its slot on the sender: the last day whose tombstones it knows to be settled.
    pub horizon: u16,
}

/// In an answer to [`Wants`]: the receiver has the row's bytes and wants only the row.
pub const ROW_ONLY: u32 = 1 << 31;
/// In an answer to [`Wants`]: the receiver does not have the row and does not want it. The row is older than the
/// receiver's horizon, and the sender's horizon is behind: it may be what a reclaimed tombstone deleted.
pub const STALE: u32 = 1 << 30;

/// Rows to compare.
///
/// # Panics
/// When there are more than 2³².
#[must_use]
pub fn encode_keys(keys: &[KeySum]) -> Vec<u8> {
    let mut writer = Writer::new();
    count(&mut writer, keys.len());
    for key in keys {
        writer.raw(&key.hash);
        writer.u8(key.fragment);
        writer.u128(key.digest.value());
        for at in key.timestamps {
            writer.timestamp(at);
        }
        writer.u16(key.horizon);
    }
    writer.finish()
}

/// Reads what [`encode_keys`] wrote.
///
/// # Errors
/// When the bytes are something else.
pub fn decode_keys(bytes: &[u8]) -> Result<Vec<KeySum>, CodecError> {
    const WHAT: &str = "a list of keys";
    let mut reader = Reader::new(bytes);
    let count = reader.count(WHAT, 83)?;
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        keys.push(KeySum {
            hash: reader.array(WHAT)?,
            fragment: reader.u8(WHAT)?,
            digest: Digest::from_value(reader.u128(WHAT)?),
            timestamps: [
                reader.timestamp(WHAT)?,
                reader.timestamp(WHAT)?,
                reader.timestamp(WHAT)?,
            ],
            horizon: reader.u16(WHAT)?,
        });
    }
    reader.end(WHAT)?;
    Ok(keys)
}

/// A row on its way to a peer, with its bytes when they are few.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRow {
    /// The fragment's byte.
    pub fragment: u8,
    /// The row.
    pub row: ObjectRow,
    /// Its bytes; `None` for a tombstone, and for a row whose bytes the peer has.
    pub bytes: Option<Vec<u8>>,
}

impl PushRow {
    /// About how many bytes it takes in a message.
    #[must_use]
    pub fn cost(&self) -> usize {
        const ROW_BYTES: usize = 1_024;
        self.bytes.as_ref().map_or(0, Vec::len) + ROW_BYTES
    }
}

/// Rows on their way to a peer.
///
/// # Panics
/// When there are more than 2³².
#[must_use]
pub fn encode_pushes(rows: &[PushRow]) -> Vec<u8> {
    let mut writer = Writer::new();
    count(&mut writer, rows.len());
    for push in rows {
        writer.u8(push.fragment);
        push.row.encode(&mut writer);
        match &push.bytes {
            None => writer.u8(0),
            Some(bytes) => {
                writer.u8(1);
                writer.bytes(bytes);
            }
        }
    }
    writer.finish()
}

/// Reads what [`encode_pushes`] wrote. Bodies that do not have the root their row names are refused.
///
/// # Errors
/// When the bytes are something else.
pub fn decode_pushes(bytes: &[u8]) -> Result<Vec<PushRow>, CodecError> {
    const WHAT: &str = "a list of rows";
    let mut reader = Reader::new(bytes);
    let count = reader.count(WHAT, 32)?;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let fragment = reader.u8(WHAT)?;
        let row = ObjectRow::decode(&mut reader)?;
        let bytes = match reader.u8(WHAT)? {
            0 => None,
            1 => Some(reader.bytes(WHAT)?.to_vec()),
            _ => return Err(CodecError::Malformed { what: WHAT }),
        };
        let fits = match (&bytes, &row.body) {
            (None, _) => true,
            (Some(bytes), Some(body)) => {
                bytes.len() as u64 == body.length && Root::of(bytes) == body.root
            }
            (Some(_), None) => false,
        };
        if !fits {
            return Err(CodecError::Malformed {
                what: "a row's body",
            });
        }
        rows.push(PushRow {
            fragment,
            row,
            bytes,
        });
    }
    reader.end(WHAT)?;
    Ok(rows)
}

/// A run of records: the name of its last one, and the digest over it. A run begins after the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The name the run ends with; `None` runs to the end.
    pub last: Option<String>,
    /// The digest over its records.
    pub digest: Digest,
}

/// Runs of records in the order of their names.
///
/// # Panics
/// When there are more than 2³².
#[must_use]
pub fn encode_runs(runs: &[Run]) -> Vec<u8> {
    let mut writer = Writer::new();
    count(&mut writer, runs.len());
    for run in runs {
        match &run.last {
            None => writer.u8(0),
            Some(last) => {
                writer.u8(1);
                writer.text(last);
            }
        }
        writer.u128(run.digest.value());
    }
    writer.finish()
}

/// Reads what [`encode_runs`] wrote.
///
/// # Errors
/// When the bytes are something else.
pub fn decode_runs(bytes: &[u8]) -> Result<Vec<Run>, CodecError> {
    const WHAT: &str = "a list of runs";
    let mut reader = Reader::new(bytes);
    let count = reader.count(WHAT, 17)?;
    let mut runs = Vec::with_capacity(count);
    for _ in 0..count {
        let last = match reader.u8(WHAT)? {
            0 => None,
            1 => Some(reader.text(WHAT)?),
            _ => return Err(CodecError::Malformed { what: WHAT }),
        };
        runs.push(Run {
            last,
            digest: Digest::from_value(reader.u128(WHAT)?),
        });
    }
    reader.end(WHAT)?;
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_pushed_body_must_have_the_root_of_its_row() {
        let mut row = ObjectRow::tombstone(crate::row::tests::path(), Timestamp::ZERO);
        row.body = Some(crate::Body {
            length: 3,
            etag: onggi_object_model::Etag::EMPTY,
            root: Root::of(b"jar"),
            system: onggi_object_model::Metadata::default(),
        });
        let push = |bytes: &[u8]| {
            encode_pushes(&[PushRow {
                fragment: 255,
                row: row.clone(),
                bytes: Some(bytes.to_vec()),
            }])
        };
        assert_eq!(decode_pushes(&push(b"jar")).unwrap().len(), 1);
        assert!(decode_pushes(&push(b"jug")).is_err());
        assert!(decode_pushes(&push(b"jars")).is_err());
    }

    #[test]
    fn heads_print_and_parse() {
        let runs = RosterRuns {
            scope: Scope::Objects(PolicyIndex::new(3)),
            hash: [0xab; 16],
            horizon: 7,
        };
        let value = crate::head::encode(&runs).unwrap();
        assert_eq!(
            crate::head::decode::<RosterRuns>(Some(&value)).unwrap(),
            runs
        );
        let state = RosterState {
            digest: Digest::of(b"x"),
            settled: Digest::from_value(7),
            stale: vec![3],
        };
        let value = crate::head::encode(&state).unwrap();
        assert_eq!(
            crate::head::decode::<RosterState>(Some(&value)).unwrap(),
            state
        );
    }

    proptest! {
        #[test]
        fn lists_come_back(units in prop::collection::vec(any::<u32>(), 0..20), sum in any::<u128>(), name in ".{0,10}") {
            prop_assert_eq!(decode_units(&encode_units(&units)), Ok(units.clone()));
            let sums: Vec<_> = units.iter().map(|unit| (*unit, Digest::from_value(sum))).collect();
            prop_assert_eq!(decode_sums(&encode_sums(&sums)), Ok(sums));
            let runs = vec![Run { last: Some(name), digest: Digest::from_value(sum) }, Run { last: None, digest: Digest::EMPTY }];
            prop_assert_eq!(decode_runs(&encode_runs(&runs)), Ok(runs));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            drop(decode_units(&bytes));
            drop(decode_sums(&bytes));
            drop(decode_keys(&bytes));
            drop(decode_pushes(&bytes));
            drop(decode_runs(&bytes));
        }
    }
}

//! PDUs to bytes, without touching the payload.

use super::bhs::BHS_BYTES;
use super::{DATA_SEGMENT_BYTES_MAX, Framing, Pdu};
use crate::digest::{self, DIGEST_BYTES};
use bytes::Bytes;
use core::any::Any;
use std::sync::Arc;

/// Turns PDUs into bytes.
#[derive(Debug, Clone, Copy)]
pub struct PduEncoder {
    framing: Framing,
}

/// Room for the header with its digest when there are no additional header segments.
const INLINE_HEAD_BYTES: usize = BHS_BYTES + DIGEST_BYTES;

#[derive(Debug, Clone)]
enum Head {
    Bare([u8; BHS_BYTES]),
    Digested([u8; INLINE_HEAD_BYTES]),
    Long(Vec<u8>),
}

/// Data of a read that only the shell has: a range of what it knows as its source. It sends it from there, at the
/// place of the payload, so that the bytes never come through here.
#[derive(Debug, Clone)]
pub struct LentData {
    source: Arc<dyn Any + Send + Sync>,
    offset: u64,
    length: u32,
}

impl LentData {
    /// All of a source that has so many bytes.
    #[must_use]
    pub const fn new(source: Arc<dyn Any + Send + Sync>, length: u32) -> Self {
        Self {
            source,
            offset: 0,
            length,
        }
    }

    /// What the shell gave.
    #[must_use]
    pub const fn source(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.source
    }

    /// Where in its source it begins.
    #[must_use]
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes it has.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.length
    }

    pub(crate) fn truncate(&mut self, length: u32) {
        self.length = self.length.min(length);
    }

    /// The first so many bytes, at most what there is; the rest stays.
    pub(crate) fn split_to(&mut self, length: u32) -> Self {
        let length = length.min(self.length);
        let first = Self {
            length,
            ..self.clone()
        };
        self.offset = self.offset.saturating_add(u64::from(length));
        self.length = self.length.saturating_sub(length);
        first
    }
}

/// A PDU as the pieces to be sent one after another: header, payload, padding with digest.
#[derive(Debug, Clone)]
pub struct EncodedPdu {
    head: Head,
    data: Bytes,
    lent: Option<LentData>,
    padding: &'static [u8],
    digest: Option<[u8; DIGEST_BYTES]>,
}

impl EncodedPdu {
    /// The pieces, for a gathering write. Some are empty. What is lent goes after the second of them.
    #[must_use]
    pub fn slices(&self) -> [&[u8]; 4] {
        let digest = self
            .digest
            .as_ref()
            .map_or(&[][..], <[u8; DIGEST_BYTES]>::as_slice);
        [self.head_bytes(), &self.data, self.padding, digest]
    }

    fn head_bytes(&self) -> &[u8] {
        match &self.head {
            Head::Bare(bytes) => bytes,
            Head::Digested(bytes) => bytes,
            Head::Long(bytes) => bytes,
        }
    }

    /// The payload, shared, not copied; empty when it is lent.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.data
    }

    /// The payload that only the shell has, if this is such a PDU.
    #[must_use]
    pub const fn lent(&self) -> Option<&LentData> {
        self.lent.as_ref()
    }

    /// The length of all pieces, with what is lent.
    #[must_use]
    pub fn len(&self) -> usize {
        let lent = self.lent.as_ref().map_or(0, LentData::length);
        self.slices()
            .iter()
            .fold(usize::try_from(lent).unwrap_or(usize::MAX), |sum, slice| {
                sum.saturating_add(slice.len())
            })
    }

    /// Never: a PDU has at least its header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// All pieces in one vector, without what is lent, for where gathering does not matter.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.slices().concat()
    }
}

impl PduEncoder {
    /// An encoder of PDUs in this form.
    #[must_use]
    pub const fn new(framing: Framing) -> Self {
        Self { framing }
    }

    /// From the next PDU on, another form holds.
    pub const fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// The form that holds.
    #[must_use]
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// The pieces of a PDU.
    ///
    /// # Panics
    /// When the payload is longer than a data segment can be: whoever makes PDUs cuts them to what was agreed.
    #[must_use]
    pub fn encode(&self, pdu: Pdu) -> EncodedPdu {
        self.encode_with(pdu, None)
    }

    /// The pieces of a PDU without data, in whose place something lent is sent.
    ///
    /// # Panics
    /// As for [`PduEncoder::encode`], when the PDU has data of its own, and when data digests were agreed: the digest of
    /// what is not here cannot be told.
    #[must_use]
    pub fn encode_lent(&self, pdu: Pdu, lent: LentData) -> EncodedPdu {
        assert!(!self.framing.has_data_digest, "a digest of lent data");
        self.encode_with(pdu, Some(lent))
    }

    fn encode_with(&self, pdu: Pdu, lent: Option<LentData>) -> EncodedPdu {
        let (mut bhs, ahs, data) = pdu.into_parts();
        let data_bytes = match &lent {
            Some(lent) => {
                assert!(data.is_empty(), "lent data beside data");
                lent.length()
            }
            None => u32::try_from(data.len()).unwrap_or(u32::MAX),
        };
        assert!(
            data_bytes <= DATA_SEGMENT_BYTES_MAX,
            "a data segment of {data_bytes} bytes"
        );
        assert!(
            ahs.len() <= super::AHS_BYTES_MAX && ahs.len().is_multiple_of(4),
            "AHS length"
        );
        bhs.data_bytes = data_bytes;
        bhs.ahs_words = u8::try_from(ahs.len().div_euclid(4)).unwrap_or(u8::MAX);
        let bare = bhs.to_bytes();
        let head = match (ahs.is_empty(), self.framing.has_header_digest) {
            (true, false) => Head::Bare(bare),
            (true, true) => Head::Digested(joined(&bare, digest::crc32c([bare.as_slice()]))),
            (false, has_digest) => {
                let mut long = bare.to_vec();
                long.extend_from_slice(&ahs);
                if has_digest {
                    long.extend_from_slice(&digest::crc32c([&*long]));
                }
                Head::Long(long)
            }
        };
        let padding: &[u8] = match data_bytes & 3 {
            0 => &[],
            1 => &[0, 0, 0],
            2 => &[0, 0],
            _ => &[0],
        };
        let is_digested = self.framing.has_data_digest && !data.is_empty();
        let digest = is_digested.then(|| digest::crc32c([&*data, padding]));
        EncodedPdu {
            head,
            data,
            lent,
            padding,
            digest,
        }
    }
}

fn joined(bare: &[u8; BHS_BYTES], digest: [u8; DIGEST_BYTES]) -> [u8; INLINE_HEAD_BYTES] {
    let mut bytes = bare.iter().chain(&digest).copied();
    core::array::from_fn(|_| bytes.next().unwrap_or_default())
}

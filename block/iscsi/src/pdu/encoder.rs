//! PDUs to bytes, without touching the payload.

use super::bhs::BHS_BYTES;
use super::{DATA_SEGMENT_BYTES_MAX, Framing, Pdu};
use crate::digest::{self, DIGEST_BYTES};
use bytes::Bytes;

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

/// A PDU as the pieces to be sent one after another: header, payload, padding with digest.
#[derive(Debug, Clone)]
pub struct EncodedPdu {
    head: Head,
    data: Bytes,
    padding: &'static [u8],
    digest: Option<[u8; DIGEST_BYTES]>,
}

impl EncodedPdu {
    /// The pieces, for a gathering write. Some are empty.
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

    /// The payload, shared, not copied.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.data
    }

    /// The length of all pieces.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slices()
            .iter()
            .fold(0, |sum, slice| sum.saturating_add(slice.len()))
    }

    /// Never: a PDU has at least its header.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// All pieces in one vector, for where gathering does not matter.
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
        let (mut bhs, ahs, data) = pdu.into_parts();
        let data_bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
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
            padding,
            digest,
        }
    }
}

fn joined(bare: &[u8; BHS_BYTES], digest: [u8; DIGEST_BYTES]) -> [u8; INLINE_HEAD_BYTES] {
    let mut bytes = bare.iter().chain(&digest).copied();
    core::array::from_fn(|_| bytes.next().unwrap_or_default())
}

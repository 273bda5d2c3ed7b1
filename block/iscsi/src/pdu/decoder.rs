//! Bytes to PDUs, at any split.

use super::bhs::{BHS_BYTES, Bhs};
use super::{Framing, Pdu, PduError};
use crate::digest::{self, DIGEST_BYTES};
use bytes::{Buf, Bytes, BytesMut};

/// The longest additional header segments: byte 4 counts words.
pub const AHS_BYTES_MAX: usize = 255 * 4;

/// Turns bytes into PDUs.
///
/// The header is judged as soon as it is there, so that a refused PDU's data segment is never buffered. Payloads are
/// slices of what was received, not copies.
#[derive(Debug)]
pub struct PduDecoder {
    framing: Framing,
    buffer: BytesMut,
    head: Option<Head>,
    last_bhs: [u8; BHS_BYTES],
}

/// A header that was taken from the buffer and judged; its data segment is still coming.
#[derive(Debug)]
struct Head {
    bhs: Bhs,
    ahs: Bytes,
}

impl PduDecoder {
    /// A decoder of PDUs in this form.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        Self {
            framing,
            buffer: BytesMut::new(),
            head: None,
            last_bhs: [0; BHS_BYTES],
        }
    }

    /// From the next PDU on, another form holds.
    pub const fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Appends received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The receive buffer: a shell may read its socket straight into the spare room.
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// How many bytes are missing before [`PduDecoder::next_pdu`] can make a step; a hint for how much room to make.
    #[must_use]
    pub fn wanted_bytes(&self) -> usize {
        let whole = match &self.head {
            None => BHS_BYTES,
            Some(head) => self.body_bytes(&head.bhs),
        };
        whole.saturating_sub(self.buffer.len())
    }

    /// The basic header segment met last, for a Reject.
    #[must_use]
    pub const fn last_bhs(&self) -> &[u8; BHS_BYTES] {
        &self.last_bhs
    }

    /// The next whole PDU, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// When the bytes are no PDU of the agreed form. The stream is out of step then: the connection must end.
    pub fn next_pdu(&mut self) -> Result<Option<Pdu>, PduError> {
        if self.head.is_none() {
            self.head = self.take_head()?;
        }
        let Some(head) = self.head.take() else {
            return Ok(None);
        };
        if self.buffer.len() < self.body_bytes(&head.bhs) {
            self.head = Some(head);
            return Ok(None);
        }
        let data = self.take_data(&head.bhs)?;
        Pdu::from_parts(&head.bhs, &head.ahs, data).map(Some)
    }

    fn take_head(&mut self) -> Result<Option<Head>, PduError> {
        let Some(bytes) = self.buffer.first_chunk::<BHS_BYTES>() else {
            return Ok(None);
        };
        self.last_bhs = *bytes;
        let bhs = Bhs::parse(bytes);
        let limit = self.framing.data_segment_bytes_max;
        if !self.framing.has_header_digest {
            bhs.judge(limit)?;
        }
        let digest_bytes = if self.framing.has_header_digest {
            DIGEST_BYTES
        } else {
            0
        };
        let digested_bytes = BHS_BYTES.saturating_add(bhs.ahs_bytes());
        if self.buffer.len() < digested_bytes.saturating_add(digest_bytes) {
            return Ok(None);
        }
        if digested_bytes == BHS_BYTES && digest_bytes == 0 {
            // The most frequent header by far; moving on shares nothing and costs nothing.
            self.buffer.advance(BHS_BYTES);
            let ahs = Bytes::new();
            return Ok(Some(Head { bhs, ahs }));
        }
        let mut ahs = self.buffer.split_to(digested_bytes);
        if self.framing.has_header_digest {
            let expected = digest::crc32c([&*ahs]);
            if *self.buffer.split_to(digest_bytes) != expected {
                return Err(PduError::HeaderDigest);
            }
            bhs.judge(limit)?;
        }
        Ok(Some(Head {
            bhs,
            ahs: ahs.split_off(BHS_BYTES).freeze(),
        }))
    }

    /// The length of data segment, padding and data digest.
    fn body_bytes(&self, bhs: &Bhs) -> usize {
        if bhs.data_bytes == 0 {
            return 0;
        }
        let padded = usize::try_from(bhs.data_bytes)
            .unwrap_or(usize::MAX)
            .saturating_add(3)
            & !3;
        padded.saturating_add(if self.framing.has_data_digest {
            DIGEST_BYTES
        } else {
            0
        })
    }

    fn take_data(&mut self, bhs: &Bhs) -> Result<Bytes, PduError> {
        let body_bytes = self.body_bytes(bhs);
        if body_bytes == 0 {
            return Ok(Bytes::new());
        }
        let mut body = self.buffer.split_to(body_bytes);
        if self.framing.has_data_digest {
            let digest = body.split_off(body_bytes.saturating_sub(DIGEST_BYTES));
            if *digest != digest::crc32c([&*body]) {
                return Err(PduError::DataDigest);
            }
        }
        body.truncate(usize::try_from(bhs.data_bytes).unwrap_or(usize::MAX));
        Ok(body.freeze())
    }
}

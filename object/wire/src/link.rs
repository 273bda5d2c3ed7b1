//! Links: many small requests and answers on one connection, each in a frame.
//!
//! HTTP/1.1 costs a connection, a header block, a signature and several system calls for each request under way. What is
//! small and frequent goes over a link instead: one connection between two processes, frames that are numbered, answered in
//! any order, and written together when several wait. What is long or streamed stays with HTTP, on the same port.
//!
//! A link begins with [`PREFACE`], the length (2 bytes) and text of an authorization as requests have it ([`crate::auth`],
//! over [`METHOD`], the node's address and [`PATH`]). The node answers [`PREFACE`], 16 random bytes and a proof that it
//! holds the key. Both derive one key for each direction from that; every frame ends with 16 bytes of keyed BLAKE3 over its
//! number in its direction and all that stands before, so that frames can be neither made, nor changed, nor repeated, nor
//! left out.
//!
//! | part of a frame | bytes |
//! |---|---|
//! | length of what follows, big endian, as all numbers | 4 |
//! | which request, or the answer to which | 4 |
//! | request: method 1, resource 1, device's name with its length 1, head with its length 4, the rest is the body | |
//! | answer: status 2 (0: too long for a link, ask over HTTP), head with its length 4 (all ones: none), the rest is the body | |
//! | seal | 16 |

use crate::head::HEAD_BYTES_MAX;
use crate::object::BUFFERED_BYTES_MAX;
use crate::target::{DEVICE_BYTES_MAX, Resource};
use subtle::ConstantTimeEq;

/// What a link begins with, in both directions.
pub const PREFACE: &[u8; 12] = b"onggi-link-2";
/// The method the first signature covers.
pub const METHOD: &str = "LINK";
/// The path the first signature covers.
pub const PATH: &str = "/2/link";
/// Bytes of the first message's authorization.
pub const AUTHORIZATION_BYTES_MAX: usize = 1_024;
/// Random bytes a node adds to a link's keys.
pub const NONCE_BYTES: usize = 16;
/// Bytes of the node's proof.
pub const PROOF_BYTES: usize = 32;
/// The longest body of a request or an answer.
pub const BODY_BYTES_MAX: usize = BUFFERED_BYTES_MAX;
/// The longest frame after its length.
pub const FRAME_BYTES_MAX: usize = 64 + DEVICE_BYTES_MAX + HEAD_BYTES_MAX + BODY_BYTES_MAX;
/// The status of an answer that is too long for a link.
pub const TOO_LONG: u16 = 0;

const LENGTH_BYTES: usize = 4;
const SEAL_BYTES: usize = 16;
const NO_HEAD: u32 = u32::MAX;
const METHODS: [&str; 5] = ["GET", "HEAD", "PUT", "POST", "DELETE"];

/// Bytes that are no frame of this link. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// A frame over the limit.
    #[error("a frame of {bytes} bytes, {FRAME_BYTES_MAX} are allowed")]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// The seal does not fit.
    #[error("a frame's seal does not fit")]
    Forged,
    /// The seal fits, and what it seals is no frame.
    #[error("a frame is malformed")]
    Malformed,
}

/// The keys of a link, one for each direction.
#[derive(Clone)]
pub struct LinkKeys {
    /// Seals what the caller sends.
    pub to_node: [u8; 32],
    /// Seals what the node sends.
    pub to_caller: [u8; 32],
}

impl core::fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("LinkKeys")
    }
}

/// A request as a frame carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its number.
    pub id: u32,
    /// The method: one of those [`is_method`] knows.
    pub method: &'static str,
    /// What it is about.
    pub resource: Resource,
    /// Which device.
    pub device: &'a str,
    /// The head, encoded.
    pub head: &'a [u8],
    /// The body.
    pub body: &'a [u8],
}

/// An answer as a frame carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The request's number.
    pub id: u32,
    /// The status, or [`TOO_LONG`].
    pub status: u16,
    /// The head, encoded, if there is one.
    pub head: Option<&'a [u8]>,
    /// The body.
    pub body: &'a [u8],
}

/// The method under the name a frame can carry, if it can.
#[must_use]
pub fn is_method(method: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|known| *known == method)
}

fn seal(key: &[u8; 32], count: u64, bytes: &[u8]) -> [u8; SEAL_BYTES] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    // The frame first, which says its own length: so the hash's chunks begin where it begins, and several go at once.
    hasher.update(bytes);
    hasher.update(&count.to_be_bytes());
    let mut out = [0; SEAL_BYTES];
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Writes frames of one direction.
#[derive(Debug)]
pub struct Sealer {
    key: [u8; 32],
    count: u64,
}

impl Sealer {
    /// Writes the frames of a new link.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self { key, count: 0 }
    }

    fn frame(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        write(out);
        let length = out.len() - start - LENGTH_BYTES + SEAL_BYTES;
        let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
        if let Some(slot) = out.get_mut(start..start + LENGTH_BYTES) {
            slot.copy_from_slice(&length);
        }
        let sealed = seal(&self.key, self.count, out.get(start..).unwrap_or_default());
        self.count = self.count.wrapping_add(1);
        out.extend_from_slice(&sealed);
    }

    /// Appends a request. Its head and body are within [`HEAD_BYTES_MAX`] and [`BODY_BYTES_MAX`]: the reader refuses
    /// longer frames.
    pub fn request(&mut self, out: &mut Vec<u8>, request: &Request<'_>) {
        let method = METHODS.iter().position(|known| *known == request.method);
        self.frame(out, |out| {
            out.extend_from_slice(&request.id.to_be_bytes());
            out.push(small(method.unwrap_or(METHODS.len())));
            out.push(request.resource.number());
            out.push(small(request.device.len()));
            out.extend_from_slice(request.device.as_bytes());
            out.extend_from_slice(&length(request.head));
            out.extend_from_slice(request.head);
            out.extend_from_slice(request.body);
        });
    }

    /// Appends an answer, within the same limits.
    pub fn answer(&mut self, out: &mut Vec<u8>, answer: &Answer<'_>) {
        self.frame(out, |out| {
            out.extend_from_slice(&answer.id.to_be_bytes());
            out.extend_from_slice(&answer.status.to_be_bytes());
            match answer.head {
                Some(head) => {
                    out.extend_from_slice(&length(head));
                    out.extend_from_slice(head);
                }
                None => out.extend_from_slice(&NO_HEAD.to_be_bytes()),
            }
            out.extend_from_slice(answer.body);
        });
    }
}

fn small(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len())
        .unwrap_or(NO_HEAD - 1)
        .to_be_bytes()
}

/// Reads frames of one direction.
#[derive(Debug)]
pub struct Opener {
    key: [u8; 32],
    count: u64,
}

impl Opener {
    /// Reads the frames of a new link.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self { key, count: 0 }
    }

    /// How many of the bytes that came are the next frame; `None` while it is not whole. Its seal is checked, and the
    /// next call is for the frame after it.
    ///
    /// # Errors
    /// When this is no frame of the link.
    pub fn next(&mut self, came: &[u8]) -> Result<Option<usize>, LinkError> {
        let Some(length) = came.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let bytes = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if bytes > FRAME_BYTES_MAX {
            return Err(LinkError::TooLong { bytes });
        }
        let end = LENGTH_BYTES + bytes;
        let Some(sealed_at) = end.checked_sub(SEAL_BYTES).filter(|at| *at >= LENGTH_BYTES) else {
            return Err(LinkError::Malformed);
        };
        let (Some(frame), Some(given)) = (came.get(..sealed_at), came.get(sealed_at..end)) else {
            return Ok(None);
        };
        if !bool::from(seal(&self.key, self.count, frame).ct_eq(given)) {
            return Err(LinkError::Forged);
        }
        self.count = self.count.wrapping_add(1);
        Ok(Some(end))
    }
}

/// Takes parts from the front of a frame that [`Opener::next`] found whole.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn of(frame: &'a [u8]) -> Option<Self> {
        let sealed_at = frame.len().checked_sub(SEAL_BYTES)?;
        Some(Self(frame.get(LENGTH_BYTES..sealed_at)?))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn long(&mut self) -> Option<&'a [u8]> {
        let count = u32::from_be_bytes(self.take()?);
        self.bytes(usize::try_from(count).ok()?)
    }
}

impl<'a> Request<'a> {
    /// The request of a whole frame.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(frame: &'a [u8]) -> Result<Self, LinkError> {
        Self::read(frame).ok_or(LinkError::Malformed)
    }

    fn read(frame: &'a [u8]) -> Option<Self> {
        let mut parts = Parts::of(frame)?;
        let id = u32::from_be_bytes(parts.take()?);
        let [method, resource, device] = parts.take()?;
        let device = parts.bytes(usize::from(device))?;
        Some(Self {
            id,
            method: METHODS.get(usize::from(method)).copied()?,
            resource: Resource::from_number(resource)?,
            device: core::str::from_utf8(device).ok()?,
            head: parts.long()?,
            body: parts.0,
        })
    }
}

impl<'a> Answer<'a> {
    /// The answer of a whole frame.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(frame: &'a [u8]) -> Result<Self, LinkError> {
        Self::read(frame).ok_or(LinkError::Malformed)
    }

    fn read(frame: &'a [u8]) -> Option<Self> {
        let mut parts = Parts::of(frame)?;
        let id = u32::from_be_bytes(parts.take()?);
        let status = u16::from_be_bytes(parts.take()?);
        let head = if parts.0.first_chunk() == Some(&NO_HEAD.to_be_bytes()) {
            parts.take::<4>()?;
            None
        } else {
            Some(parts.long()?)
        };
        Some(Self {
            id,
            status,
            head,
            body: parts.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: [u8; 32] = [7; 32];

    /// The frames of a stream, however it is cut into pieces.
    fn frames(stream: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, LinkError> {
        let (mut opener, mut came, mut found) = (Opener::new(KEY), Vec::new(), Vec::new());
        for piece in stream.chunks(piece) {
            came.extend_from_slice(piece);
            while let Some(end) = opener.next(&came)? {
                found.push(came.drain(..end).collect());
            }
        }
        Ok(found)
    }

    prop_compose! {
        fn bytes(most: usize)(bytes in prop::collection::vec(any::<u8>(), 0..most)) -> Vec<u8> { bytes }
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(
            messages in prop::collection::vec((any::<u32>(), 0..5usize, bytes(40), bytes(90), any::<bool>()), 1..6),
            piece in 1..64usize,
        ) {
            let (mut requests, mut answers) = (Vec::new(), Vec::new());
            let (mut sealer, mut answering) = (Sealer::new(KEY), Sealer::new(KEY));
            for (id, method, head, body, has_head) in &messages {
                sealer.request(&mut requests, &Request {
                    id: *id, method: METHODS[*method], resource: Resource::ContainerRows, device: "sdb1", head, body,
                });
                let head = has_head.then_some(head.as_slice());
                answering.answer(&mut answers, &Answer { id: *id, status: 201, head, body });
            }
            let (requests, answers) = (frames(&requests, piece).unwrap(), frames(&answers, piece).unwrap());
            prop_assert_eq!(requests.len(), messages.len());
            for (((id, method, head, body, has_head), request), answer) in messages.iter().zip(&requests).zip(&answers) {
                let request = Request::parse(request).unwrap();
                prop_assert_eq!(request, Request {
                    id: *id, method: METHODS[*method], resource: Resource::ContainerRows, device: "sdb1", head, body,
                });
                let head = has_head.then_some(head.as_slice());
                prop_assert_eq!(Answer::parse(answer).unwrap(), Answer { id: *id, status: 201, head, body });
            }
        }

        #[test]
        fn a_changed_bit_a_repeated_and_a_missing_frame_are_noticed(at in any::<prop::sample::Index>(), bit in 0..8u32) {
            let (mut stream, mut sealer) = (Vec::new(), Sealer::new(KEY));
            let answer = Answer { id: 1, status: 200, head: None, body: b"body" };
            sealer.answer(&mut stream, &answer);
            let first = stream.len();
            sealer.answer(&mut stream, &answer);
            prop_assert_eq!(frames(&stream, 7).unwrap().len(), 2);
            let repeated = [&stream[..first], &stream[..first]].concat();
            prop_assert_eq!(frames(&repeated, 7), Err(LinkError::Forged));
            prop_assert_eq!(frames(&stream[first..], 7), Err(LinkError::Forged));
            let mut changed = stream.clone();
            let place = at.index(changed.len());
            changed[place] ^= 1 << bit;
            // A longer length may leave a frame unfinished: nothing of it is taken then either.
            prop_assert!(frames(&changed, 1_000).map_or(true, |frames| frames.len() < 2));
        }

        #[test]
        fn any_bytes_are_no_panic(stream in bytes(300)) {
            drop(frames(&stream, 11));
            prop_assert!(Request::parse(&stream).is_err() || stream.len() > 20);
            prop_assert!(Answer::parse(&stream).is_err() || stream.len() > 20);
        }
    }

    #[test]
    fn a_frame_over_the_limit_is_refused_before_it_is_read() {
        let mut opener = Opener::new(KEY);
        let bytes = FRAME_BYTES_MAX + 1;
        let length = u32::try_from(bytes).unwrap().to_be_bytes();
        assert_eq!(opener.next(&length), Err(LinkError::TooLong { bytes }));
    }
}

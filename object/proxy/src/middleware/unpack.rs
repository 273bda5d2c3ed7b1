//! An archive as it arrives: taken apart without ever being held, compressed or not.
//!
//! Decompression yields at most [`EXPANDED_BYTES_MAX`] and a little at a time, and is only driven by who takes entries:
//! a body that expands a thousandfold costs time and no memory.

use bytes::{Buf as _, Bytes};
use bzip2::{Decompress, Status};
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, BodyError};
use onggi_object_model::tar::{TarDecoder, TarEntry, TarError, TarEvent};
use std::io::Write as _;

/// Bytes that are decompressed before they are looked at.
const EXPANDED_BYTES_MAX: usize = 256 << 10;
/// Compressed bytes given to a decoder at a time: it may make a thousand times as many of them.
const COMPRESSED_PIECE_BYTES: usize = 1 << 10;
/// Bytes behind the archive's end that are read, so that the connection can be used again.
const TRAILING_BYTES_MAX: u64 = 1 << 20;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Bzip2,
}

impl Compression {
    /// Reads the value of `extract-archive`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().trim_matches('.') {
            "tar" => Some(Self::None),
            "tar.gz" => Some(Self::Gzip),
            "tar.bz2" => Some(Self::Bzip2),
            _ => None,
        }
    }
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("not compressed as it should be: {source}")]
    Compressed { source: std::io::Error },
    /// The request's body broke off.
    #[error("the body broke off: {source}")]
    Body { source: BodyError },
}

/// What comes next of an archive.
#[derive(Debug)]
pub(crate) enum Unpacked {
    Entry(TarEntry),
    Bytes(Bytes),
    End,
}

enum Decoder {
    None,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Bzip2 {
        decoder: Decompress,
        /// Whether it has taken a byte of a stream that is not over.
        within: bool,
    },
}

fn compressed(error: impl Into<BodyError>) -> UnpackError {
    UnpackError::Compressed {
        source: std::io::Error::other(error),
    }
}

impl Decoder {
    fn new(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Compression::Bzip2 => Self::Bzip2 {
                decoder: Decompress::new(false),
                within: false,
            },
        }
    }

    /// Decompresses some of `input` and takes it off.
    fn expand(&mut self, input: &mut Bytes) -> Result<Bytes, UnpackError> {
        match self {
            Self::None => Ok(core::mem::take(input)),
            Self::Gzip(decoder) => {
                while !input.is_empty() && decoder.get_ref().len() < EXPANDED_BYTES_MAX {
                    let piece = input
                        .get(..input.len().min(COMPRESSED_PIECE_BYTES))
                        .unwrap_or_default();
                    let taken = decoder
                        .write(piece)
                        .map_err(|source| UnpackError::Compressed { source })?;
                    if taken == 0 && decoder.get_ref().is_empty() {
                        return Err(compressed("bytes behind its end"));
                    }
                    input.advance(taken);
                }
                Ok(core::mem::take(decoder.get_mut()).into())
            }
            Self::Bzip2 { decoder, within } => {
                let mut expanded = Vec::with_capacity(EXPANDED_BYTES_MAX);
                while !input.is_empty() && expanded.len() < expanded.capacity() {
                    let before = decoder.total_in();
                    let status = decoder
                        .decompress_vec(input, &mut expanded)
                        .map_err(compressed)?;
                    let taken = decoder.total_in().saturating_sub(before);
                    let taken = usize::try_from(taken).unwrap_or(input.len());
                    input.advance(taken.min(input.len()));
                    *within = true;
                    if status == Status::StreamEnd {
                        // As pbzip2 writes them: one stream behind another.
                        *decoder = Decompress::new(false);
                        *within = false;
                    }
                }
                Ok(expanded.into())
            }
        }
    }

    /// What is left when no more input comes.
    fn finish(&mut self) -> Result<Bytes, UnpackError> {
        match self {
            Self::None => Ok(Bytes::new()),
            Self::Gzip(decoder) => {
                decoder
                    .try_finish()
                    .map_err(|source| UnpackError::Compressed { source })?;
                Ok(core::mem::take(decoder.get_mut()).into())
            }
            Self::Bzip2 { decoder, within } => {
                let mut expanded = Vec::with_capacity(EXPANDED_BYTES_MAX);
                if *within {
                    let status = decoder
                        .decompress_vec(&[], &mut expanded)
                        .map_err(compressed)?;
                    *within = status != Status::StreamEnd && !expanded.is_empty();
                    if status != Status::StreamEnd && expanded.is_empty() {
                        return Err(TarError::Truncated.into());
                    }
                }
                Ok(expanded.into())
            }
        }
    }
}

/// An archive that is being taken apart.
pub(crate) struct Unpacker {
    body: Body,
    decoder: Decoder,
    tar: TarDecoder,
    /// Bytes that came and are still compressed.
    input: Bytes,
    /// Bytes of the archive itself.
    expanded: Bytes,
    body_is_over: bool,
    /// Zeros of a hole that are still to be passed on.
    hole: u64,
}

/// What holes are made of.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl Unpacker {
    pub(crate) fn new(body: Body, compression: Compression) -> Self {
        Self {
            body,
            decoder: Decoder::new(compression),
            tar: TarDecoder::default(),
            input: Bytes::new(),
            expanded: Bytes::new(),
            body_is_over: false,
            hole: 0,
        }
    }

    /// The next entry or bytes of one.
    pub(crate) async fn next(&mut self) -> Result<Unpacked, UnpackError> {
        loop {
            if self.hole > 0 {
                let zeros = Bytes::from_static(&ZEROS);
                let count = usize::try_from(self.hole).map_or(zeros.len(), |n| n.min(zeros.len()));
                self.hole -= count as u64;
                return Ok(Unpacked::Bytes(zeros.slice(..count)));
            }
            let expanded = self.expanded.clone();
            let mut rest = &expanded[..];
            let event = self.tar.next(&mut rest)?;
            let taken = expanded.len() - rest.len();
            self.expanded.advance(taken);
            match event {
                Some(TarEvent::Entry(entry)) => return Ok(Unpacked::Entry(entry)),
                Some(TarEvent::Bytes(bytes)) => {
                    return Ok(Unpacked::Bytes(expanded.slice_ref(bytes)));
                }
                Some(TarEvent::Hole(count)) => {
                    self.hole = count;
                    continue;
                }
                Some(TarEvent::End) => return Ok(Unpacked::End),
                None => {}
            }
            if !self.fill().await? {
                self.tar.finish()?;
                return Ok(Unpacked::End);
            }
        }
    }

    /// Gets more bytes of the archive; `false` when there are none.
    async fn fill(&mut self) -> Result<bool, UnpackError> {
        loop {
            if self.input.is_empty() && !self.body_is_over {
                match self.arriving().await? {
                    Some(bytes) => self.input = bytes,
                    None => self.body_is_over = true,
                }
            }
            self.expanded = if self.input.is_empty() && self.body_is_over {
                self.decoder.finish()?
            } else {
                self.decoder.expand(&mut self.input)?
            };
            if !self.expanded.is_empty() {
                // Another request's turn: decompression has no other point to wait at while bytes are at hand.
                tokio::task::yield_now().await;
                return Ok(true);
            }
            if self.input.is_empty() && self.body_is_over {
                return Ok(false);
            }
        }
    }

    async fn arriving(&mut self) -> Result<Option<Bytes>, UnpackError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|source| UnpackError::Body { source })?;
            if let Ok(bytes) = frame.into_data()
                && !bytes.is_empty()
            {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Reads what stands behind the archive's end, if it is not much.
    pub(crate) async fn drain(mut self) {
        let mut left = TRAILING_BYTES_MAX;
        while let Ok(Some(bytes)) = self.arriving().await {
            match left.checked_sub(bytes.len() as u64) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::feed::feed;

    /// An archive with one file.
    fn archive(name: &str, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[156] = b'0';
        block[148..156].copy_from_slice(b"        ");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block.extend_from_slice(content);
        block.resize(block.len().next_multiple_of(512) + 1_024, 0);
        block
    }

    fn packed(compression: Compression, bytes: &[u8]) -> Vec<u8> {
        match compression {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let level = flate2::Compression::best();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Compression::Bzip2 => {
                let level = bzip2::Compression::best();
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), level);
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    /// The only file of an archive that comes in pieces, and the most that was held of it at a time.
    async fn unpacked(
        compression: Compression,
        bytes: Vec<u8>,
        piece: usize,
    ) -> Result<(String, Vec<u8>, usize), UnpackError> {
        let (feed, body) = feed();
        let feeding = tokio::spawn(async move {
            for piece in bytes.chunks(piece) {
                if feed.send(Bytes::copy_from_slice(piece)).await.is_err() {
                    return;
                }
            }
        });
        let mut unpacker = Unpacker::new(body, compression);
        let (mut name, mut content, mut held) = (String::new(), Vec::new(), 0);
        loop {
            match unpacker.next().await? {
                Unpacked::Entry(entry) => name = String::from_utf8(entry.name).unwrap(),
                Unpacked::Bytes(bytes) => content.extend_from_slice(&bytes),
                Unpacked::End => break,
            }
            held = held.max(unpacker.expanded.len());
        }
        unpacker.drain().await;
        feeding.await.unwrap();
        Ok((name, content, held))
    }

    const ALL: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Bzip2];

    #[tokio::test]
    async fn every_compression_gives_the_same_however_it_is_cut() {
        let content: Vec<u8> = (0..200_000u32)
            .flat_map(|at| (at / 7).to_le_bytes())
            .collect();
        let archive = archive("name", &content);
        for compression in ALL {
            for piece in [1_000, 64 << 10, usize::MAX] {
                let bytes = packed(compression, &archive);
                let (name, found, _) = unpacked(compression, bytes, piece).await.unwrap();
                assert_eq!(name, "name");
                assert!(found == content, "{compression:?} in pieces of {piece}");
            }
        }
    }

    #[tokio::test]
    async fn several_streams_behind_each_other_are_one_archive() {
        let archive = archive("name", &[7; 5_000]);
        let (front, back) = archive.split_at(1_234);
        for compression in [Compression::Gzip, Compression::Bzip2] {
            let bytes = [packed(compression, front), packed(compression, back)].concat();
            let (_, found, _) = unpacked(compression, bytes, 100).await.unwrap();
            assert_eq!(found, [7; 5_000], "{compression:?}");
        }
    }

    #[tokio::test]
    async fn what_expands_a_thousandfold_is_never_held() {
        let archive = archive("zeros", &vec![0; 64 << 20]);
        for compression in [Compression::Gzip, Compression::Bzip2] {
            let bytes = packed(compression, &archive);
            assert!(bytes.len() < 128 << 10, "{}", bytes.len());
            let (_, found, held) = unpacked(compression, bytes, usize::MAX).await.unwrap();
            assert_eq!(found.len(), 64 << 20);
            // A piece of compressed bytes may bring a little more than the limit.
            assert!(held <= 3 * EXPANDED_BYTES_MAX, "{held}");
        }
    }

    #[tokio::test]
    async fn what_breaks_off_or_is_something_else_is_refused() {
        let content: Vec<u8> = (0..50_000u32)
            .flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes())
            .collect();
        let archive = archive("name", &content);
        for compression in ALL {
            let mut bytes = packed(compression, &archive);
            bytes.truncate(bytes.len() / 2);
            assert!(unpacked(compression, bytes, 1_000).await.is_err());
            let nonsense = b"this is no archive at all".repeat(100);
            assert!(unpacked(compression, nonsense, 1_000).await.is_err());
        }
    }
}

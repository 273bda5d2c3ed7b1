//! Reading bodies: every byte is verified against its chunk's hash before it leaves (O4).

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::ObjectKey;
use crate::large::{self, LargeBody, LargeError};
use crate::stored::{Location, ReadFrom, StoredObject};
use crate::tables::BODY;
use bytes::Bytes;
use onggi_object_model::ByteRange;
use onggi_object_wire::Root;
use onggi_object_wire::body::{CHUNK_BYTES, chunk_hash};

/// How many chunks are read at once: fewer hops between threads for a long body.
const CHUNKS_AT_ONCE: u64 = 8;

#[derive(Debug)]
enum Source {
    Small(Bytes),
    Large(LargeBody),
}

/// A body that is being read, range by range.
#[derive(Debug)]
pub struct BodyReader {
    key: ObjectKey,
    stored: StoredObject,
    source: Source,
    length: u64,
    left: Pieces,
}

/// What is to be read of a body, piece by piece.
#[derive(Debug, Default)]
pub struct Pieces {
    /// The body's length.
    length: u64,
    /// The next range is the last.
    ranges: Vec<ByteRange>,
}

/// A piece of a body: some of one block.
#[derive(Debug, Clone, Copy)]
pub struct Piece(ByteRange);

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        let range = self.ranges.pop()?;
        let block_start = range.start() / CHUNK_BYTES as u64 * CHUNK_BYTES as u64;
        let block_end = (block_start + CHUNKS_AT_ONCE * CHUNK_BYTES as u64).min(self.length);
        let end = range.end().min(block_end);
        if let Some(rest) = ByteRange::new(end, range.end()) {
            self.ranges.push(rest);
        }
        ByteRange::new(range.start(), end).map(Piece)
    }
}

impl Device {
    /// Opens the body of an object as [`Device::get_object`] found it. Without ranges, all of it.
    ///
    /// # Errors
    /// When it is damaged (it is then quarantined), or the machine refuses.
    pub fn open_body(
        &self,
        key: &ObjectKey,
        stored: &StoredObject,
        ranges: &[ByteRange],
    ) -> Result<BodyReader, DeviceError> {
        let damaged = |detail: String| self.damaged(key, stored, detail);
        let Some(body) = &stored.row.body else {
            return Err(damaged("a tombstone has no body".to_owned()));
        };
        let source = match &stored.location {
            Location::Inline => {
                let value = self.reader().get_stored(BODY, &key.bytes())?;
                let value = value.ok_or_else(|| damaged("its row is missing".to_owned()))?;
                if Root::of(&value) != body.root {
                    return Err(damaged("it fails its checksum".to_owned()));
                }
                Source::Small(value.into())
            }
            Location::File(name) => {
                let path = large::body_path(self.directory(), name);
                let is_cold = self.warmth().was_cold(name);
                let opened = large::open(&path, body.length, is_cold);
                let opened = opened.map_err(|error| self.large_error(key, stored, error))?;
                if opened.root != body.root {
                    return Err(damaged("its hashes are not those of the row".to_owned()));
                }
                Source::Large(opened)
            }
            Location::Nowhere | Location::Quarantined => {
                let key = key.text();
                return Err(DeviceError::Damaged {
                    key,
                    detail: "it is quarantined".to_owned(),
                });
            }
        };
        Ok(BodyReader::new(key, stored, source, (body.length, ranges)))
    }

    /// The same for a small body that passes its checksum; `None` for all others. It blocks only where the disk may be read.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub fn open_small_body(
        &self,
        key: &ObjectKey,
        stored: &StoredObject,
        ranges: &[ByteRange],
        from: ReadFrom,
    ) -> Result<Option<BodyReader>, DeviceError> {
        let Some(body) = stored
            .row
            .body
            .as_ref()
            .filter(|_| stored.location == Location::Inline)
        else {
            return Ok(None);
        };
        let value = match from {
            ReadFrom::Memory => self.reader().get_cached(BODY, &key.bytes())?.flatten(),
            ReadFrom::Disk => self.reader().get(BODY, &key.bytes())?,
        };
        // What is missing or damaged is looked at again by who may block and quarantine.
        let value = value.filter(|value| Root::of(value) == body.root);
        Ok(value.map(|value| {
            BodyReader::new(
                key,
                stored,
                Source::Small(value.into()),
                (body.length, ranges),
            )
        }))
    }

    fn large_error(
        &self,
        key: &ObjectKey,
        stored: &StoredObject,
        error: LargeError,
    ) -> DeviceError {
        match error {
            LargeError::Damaged(detail) => self.damaged(key, stored, detail),
            LargeError::Io(source) => {
                crate::error::io_at("reading a body on", self.directory())(source)
            }
        }
    }

    /// Quarantines the body and says so.
    fn damaged(&self, key: &ObjectKey, stored: &StoredObject, detail: String) -> DeviceError {
        // Between reading the row and its bytes a newer PUT may have taken them away: that is no damage.
        if let Err(error) = self.quarantine(key, stored, &detail) {
            tracing::error!(%error, key = key.text(), "a damaged body could not be quarantined");
        }
        DeviceError::Damaged {
            key: key.text(),
            detail,
        }
    }
}

impl BodyReader {
    fn new(
        key: &ObjectKey,
        stored: &StoredObject,
        source: Source,
        (length, ranges): (u64, &[ByteRange]),
    ) -> Self {
        let whole = ByteRange::new(0, length);
        let mut left: Vec<ByteRange> = if ranges.is_empty() {
            whole.into_iter().collect()
        } else {
            ranges.to_vec()
        };
        left.reverse();
        Self {
            key: *key,
            stored: stored.clone(),
            source,
            length,
            left: Pieces {
                length,
                ranges: left,
            },
        }
    }

    /// The next verified bytes; `None` at the end.
    ///
    /// # Errors
    /// When they are damaged (the body is then quarantined), or the machine refuses.
    pub fn next(&mut self, device: &Device) -> Result<Option<Bytes>, DeviceError> {
        let piece = self.left.next();
        piece.map(|piece| self.read(device, piece)).transpose()
    }

    /// Takes over what is left to read: pieces may be read in any order, and several at a time.
    pub fn take_pieces(&mut self) -> Pieces {
        core::mem::take(&mut self.left)
    }

    /// The verified bytes of a piece.
    ///
    /// # Errors
    /// When they are damaged (the body is then quarantined), or the machine refuses.
    pub fn read(&self, device: &Device, piece: Piece) -> Result<Bytes, DeviceError> {
        let (start, end) = (piece.0.start(), piece.0.end());
        let chunk_bytes = CHUNK_BYTES as u64;
        let first_chunk = start / chunk_bytes;
        let block_start = first_chunk * chunk_bytes;
        // Only the chunks the range touches are read.
        let block_end = end
            .div_ceil(chunk_bytes)
            .saturating_mul(chunk_bytes)
            .min(self.length);
        let block = match &self.source {
            Source::Small(bytes) => {
                let whole = 0..bytes.len();
                bytes.slice(whole)
            }
            Source::Large(large) => {
                let read = read_block(large, block_start, block_end, first_chunk);
                read.map_err(|error| device.large_error(&self.key, &self.stored, error))?
            }
        };
        let block_start = if matches!(self.source, Source::Small(_)) {
            0
        } else {
            block_start
        };
        let within = |offset: u64| usize::try_from(offset - block_start).unwrap_or(usize::MAX);
        Ok(block.slice(within(start)..within(end)))
    }
}

fn read_block(
    large: &LargeBody,
    start: u64,
    end: u64,
    first_chunk: u64,
) -> Result<Bytes, LargeError> {
    let too_long = || LargeError::Damaged("a chunk past the end".to_owned());
    let length = usize::try_from(end - start).ok().ok_or_else(too_long)?;
    let (memory, range) = large.file.read_exact_at(start, length)?;
    let block = Bytes::from(memory).slice(range);
    let first = usize::try_from(first_chunk).ok().ok_or_else(too_long)?;
    for (index, chunk) in block.chunks(CHUNK_BYTES).enumerate() {
        if large.hashes.get(first + index) != Some(&chunk_hash(chunk)) {
            let at = start + (index * CHUNK_BYTES) as u64;
            return Err(LargeError::Damaged(format!(
                "the chunk at {at} fails its checksum"
            )));
        }
    }
    Ok(block)
}

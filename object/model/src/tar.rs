//! Tar archives, read from the front as their bytes come: ustar, the GNU long names, pax records and sparse files.
//!
//! [`TarDecoder`] keeps at most one block, one extension record of [`EXTENSION_BYTES_MAX`] and the map of one sparse file;
//! the bytes of files pass through it. However the archive is cut, the same events come.
//!
//! | bytes of a header block | |
//! |---|---|
//! | 0..100 | name |
//! | 124..136 | size: octal, or base 256 with the first bit set |
//! | 148..156 | checksum: the sum of all bytes with these as spaces |
//! | 156 | type |
//! | 257..263 | `ustar` |
//! | 345..500 | what stands before the name (ustar only, not in GNU's format) |

mod sparse;

use sparse::{Map, Piece, Stretch, TextMap};
use std::collections::BTreeMap;

/// Bytes of a block: headers are one, contents are filled up to whole ones.
const BLOCK_BYTES: usize = 512;
/// Bytes of one extension record: a long name, or all attributes of a file.
pub const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Attributes that one file may have, and all files together.
const ATTRIBUTES_MAX: usize = 1_000;
/// Bytes of what is said about all files together: it is copied for each.
const GLOBAL_BYTES_MAX: u64 = 16 << 10;

/// Why bytes are no archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A header whose checksum is wrong, or with a number that is none.
    #[error("a header is malformed: {what}")]
    Header {
        /// Which part.
        what: &'static str,
    },
    /// A name or attribute record that is longer than [`EXTENSION_BYTES_MAX`], or with too many items.
    #[error("the attributes of a file are too long")]
    ExtensionTooLong,
    /// A pax record that does not follow its own length.
    #[error("a pax record is malformed")]
    Pax,
    /// The bytes end within a file or a header.
    #[error("unexpected end of data")]
    Truncated,
}

/// What kind of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarKind {
    /// A regular file: its bytes follow.
    File,
    /// A file whose holes were left out in a way that is not known: its bytes are not those of the file.
    Sparse,
    /// A directory, link, device or something unknown.
    Other,
}

/// One thing in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// The name as it is written; mostly UTF-8.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// How many bytes follow, those of holes among them.
    pub size: u64,
    /// The pax attributes.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

/// What the next bytes of an archive are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarEvent<'a> {
    /// An entry begins; its bytes follow as [`TarEvent::Bytes`], [`TarEntry::size`] of them.
    Entry(TarEntry),
    /// Bytes of the entry that began last.
    Bytes(&'a [u8]),
    /// So many zeros of it, which are not in the archive.
    Hole(u64),
    /// The archive is over; bytes behind it mean nothing.
    End,
}

#[derive(Debug)]
enum State {
    /// Collecting a header block.
    Header,
    /// Collecting an extension: its type, and the bytes that are still to come.
    Extension {
        kind: u8,
        left: u64,
        padding: u64,
    },
    /// Passing an entry's bytes on.
    Bytes {
        left: u64,
        padding: u64,
    },
    /// Collecting the map of a sparse file: blocks behind its header, or text before its bytes.
    Mapping(Mapping),
    /// Passing a sparse file on, so many stored bytes of it.
    Sparse {
        map: Map,
        left: u64,
        padding: u64,
    },
    /// Leaving bytes out.
    Skip {
        left: u64,
    },
    Ended,
}

/// A sparse file whose map is being read.
#[derive(Debug)]
struct Mapping {
    entry: TarEntry,
    /// How long the file is.
    length: u64,
    /// How many bytes follow.
    size: u64,
    form: MapForm,
}

#[derive(Debug)]
enum MapForm {
    /// Blocks behind the header; the pieces so far.
    Blocks(Vec<Piece>),
    /// Text, which counts as bytes of the file.
    Text(TextMap),
}

/// What extensions say about the next entry.
#[derive(Debug, Default)]
struct Said {
    name: Option<Vec<u8>>,
    attributes: BTreeMap<String, Vec<u8>>,
}

/// Reads an archive from the front.
#[derive(Debug)]
pub struct TarDecoder {
    state: State,
    /// Part of a header or extension.
    held: Vec<u8>,
    said: Said,
    /// What global pax records say about all entries.
    global: BTreeMap<String, Vec<u8>>,
}

impl Default for TarDecoder {
    fn default() -> Self {
        Self {
            state: State::Header,
            held: Vec::new(),
            said: Said::default(),
            global: BTreeMap::new(),
        }
    }
}

/// Takes at most `count` bytes off the front.
fn take<'a>(input: &mut &'a [u8], count: u64) -> &'a [u8] {
    let count = usize::try_from(count).map_or(input.len(), |count| count.min(input.len()));
    let (taken, rest) = input.split_at(count);
    *input = rest;
    taken
}

const fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}

/// What fills the last block of a content.
const fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_BYTES as u64
}

fn field(block: &[u8], at: usize, bytes: usize) -> &[u8] {
    block.get(at..at + bytes).unwrap_or_default()
}

/// A text up to its NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A number: octal digits between spaces and NULs, or base 256.
fn number(field: &[u8], what: &'static str) -> Result<u64, TarError> {
    let bad = TarError::Header { what };
    let Some((first, rest)) = field.split_first() else {
        return Err(bad);
    };
    if *first == 0x80 {
        let (high, low) = rest.split_at(rest.len().saturating_sub(8));
        if high.iter().any(|byte| *byte != 0) {
            return Err(bad);
        }
        return Ok(low
            .iter()
            .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)));
    }
    let digits = core::str::from_utf8(text(field)).map_err(|_not_ascii| bad.clone())?;
    let digits = digits.trim_matches(' ');
    if digits.is_empty() {
        return Ok(0);
    }
    if !digits.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        return Err(bad);
    }
    u64::from_str_radix(digits, 8).map_err(|_too_large| bad)
}

/// Whether a header's checksum is right; very old archives sum signed bytes.
fn check_sum(block: &[u8]) -> Result<(), TarError> {
    let said = number(field(block, 148, 8), "checksum")?;
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (at, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) {
            b' '
        } else {
            *byte
        };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if said == unsigned || i64::try_from(said) == Ok(signed) {
        Ok(())
    } else {
        Err(TarError::Header { what: "checksum" })
    }
}

fn header_name(block: &[u8]) -> Vec<u8> {
    let name = text(field(block, 0, 100));
    let prefix = text(field(block, 345, 155));
    // GNU's own format has other things where ustar has the prefix.
    let is_ustar = field(block, 257, 6) == b"ustar\0";
    if !is_ustar || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// The records of a pax extension: `length key=value\n`, the length counting itself.
fn pax(bytes: &[u8], into: &mut BTreeMap<String, Vec<u8>>) -> Result<(), TarError> {
    let mut rest = bytes;
    while !rest.is_empty() && rest.first() != Some(&0) {
        let space = rest.iter().position(|byte| *byte == b' ');
        let space = space.filter(|at| *at <= 20).ok_or(TarError::Pax)?;
        let digits = rest.get(..space).unwrap_or_default();
        let record_length: usize = core::str::from_utf8(digits)
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|text| text.parse().ok())
            .ok_or(TarError::Pax)?;
        let record = rest.get(space + 1..record_length).ok_or(TarError::Pax)?;
        let record = record.strip_suffix(b"\n").ok_or(TarError::Pax)?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let equals = equals.ok_or(TarError::Pax)?;
        let (key, value) = record.split_at(equals);
        let key = core::str::from_utf8(key).map_err(|_not_utf8| TarError::Pax)?;
        if into.len() >= ATTRIBUTES_MAX && !into.contains_key(key) {
            return Err(TarError::ExtensionTooLong);
        }
        let value = value.get(1..).unwrap_or_default();
        // Sparse files of the first kind say these for every piece.
        let is_repeated = matches!(key, "GNU.sparse.offset" | "GNU.sparse.numbytes");
        match into.get_mut(key).filter(|_| is_repeated) {
            Some(said) => {
                said.push(b',');
                said.extend_from_slice(value);
            }
            None => {
                into.insert(key.to_owned(), value.to_vec());
            }
        }
        rest = rest.get(record_length..).unwrap_or_default();
    }
    Ok(())
}

fn decimal(bytes: &[u8]) -> Result<u64, TarError> {
    let digits = core::str::from_utf8(bytes).map_err(|_not_utf8| TarError::Pax)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TarError::Pax);
    }
    digits.parse().map_err(|_too_large| TarError::Pax)
}

impl TarDecoder {
    /// The next event of the bytes at the front of `input`, which is moved past them; `None` when it takes more bytes
    /// to tell.
    ///
    /// # Errors
    /// When the bytes are no archive. The decoder cannot go on then.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<TarEvent<'a>>, TarError> {
        loop {
            match self.state {
                State::Header => {
                    let Some(block) = self.block(input) else {
                        return Ok(None);
                    };
                    if let Some(event) = self.header(&block)? {
                        return Ok(Some(event));
                    }
                }
                State::Extension {
                    kind,
                    left,
                    padding,
                } => {
                    let taken = take(input, left);
                    self.held.extend_from_slice(taken);
                    let left = left - length(taken);
                    self.state = State::Extension {
                        kind,
                        left,
                        padding,
                    };
                    if left > 0 {
                        return Ok(None);
                    }
                    self.extension(kind)?;
                    self.state = State::Skip { left: padding };
                }
                State::Mapping(_) => {
                    let Some(block) = self.block(input) else {
                        return Ok(None);
                    };
                    if let Some(entry) = self.mapping(&block)? {
                        return Ok(Some(TarEvent::Entry(entry)));
                    }
                }
                State::Sparse { .. } => {
                    if let Some(event) = self.stretch(input) {
                        return Ok(event);
                    }
                }
                State::Bytes { left: 0, padding } => self.state = State::Skip { left: padding },
                State::Bytes { left, padding } => {
                    let taken = take(input, left);
                    if taken.is_empty() {
                        return Ok(None);
                    }
                    let left = left - length(taken);
                    self.state = State::Bytes { left, padding };
                    return Ok(Some(TarEvent::Bytes(taken)));
                }
                State::Skip { left: 0 } => self.state = State::Header,
                State::Skip { left } => {
                    let taken = take(input, left);
                    if taken.is_empty() {
                        return Ok(None);
                    }
                    let left = left - length(taken);
                    self.state = State::Skip { left };
                }
                State::Ended => return Ok(Some(TarEvent::End)),
            }
        }
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// When the archive is not over yet. One without the two empty blocks at its end is.
    pub fn finish(&self) -> Result<(), TarError> {
        let is_over = match self.state {
            State::Header => self.held.is_empty() && self.said.name.is_none(),
            State::Bytes { left, .. } => left == 0,
            State::Sparse { ref map, .. } => map.next() == Stretch::End,
            // What fills the last block is left out by some.
            State::Skip { .. } | State::Ended => true,
            State::Extension { .. } | State::Mapping(_) => false,
        };
        if is_over {
            Ok(())
        } else {
            Err(TarError::Truncated)
        }
    }

    fn header<'a>(&mut self, block: &[u8]) -> Result<Option<TarEvent<'a>>, TarError> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::Ended;
            return Ok(None);
        }
        check_sum(block)?;
        let size = number(field(block, 124, 12), "size")?;
        let kind = block.get(156).copied().unwrap_or_default();
        if matches!(kind, b'L' | b'K' | b'x' | b'X' | b'g') {
            if size > EXTENSION_BYTES_MAX {
                return Err(TarError::ExtensionTooLong);
            }
            self.state = State::Extension {
                kind,
                left: size,
                padding: padding(size),
            };
            return Ok(None);
        }
        let entry = self.entry(block, kind, size)?;
        Ok(entry.map(TarEvent::Entry))
    }

    /// A whole block, once its bytes are there.
    fn block(&mut self, input: &mut &[u8]) -> Option<Vec<u8>> {
        let missing = BLOCK_BYTES.saturating_sub(self.held.len());
        self.held.extend_from_slice(take(input, missing as u64));
        (self.held.len() >= BLOCK_BYTES).then(|| core::mem::take(&mut self.held))
    }

    /// A block of a sparse file's map; the entry once the map is whole.
    fn mapping(&mut self, block: &[u8]) -> Result<Option<TarEntry>, TarError> {
        let State::Mapping(mut mapping) = core::mem::replace(&mut self.state, State::Ended) else {
            return Ok(None);
        };
        let pieces = match &mut mapping.form {
            MapForm::Blocks(pieces) => {
                let is_continued = sparse::of_block(block, pieces)?;
                (!is_continued).then(|| core::mem::take(pieces))
            }
            MapForm::Text(text) => {
                let whole = BLOCK_BYTES as u64;
                mapping.size = mapping
                    .size
                    .checked_sub(whole)
                    .ok_or(TarError::Header { what: "sparse map" })?;
                text.take(block)?
            }
        };
        match pieces {
            Some(pieces) => self.begin_sparse(mapping, pieces).map(Some),
            None => {
                self.state = State::Mapping(mapping);
                Ok(None)
            }
        }
    }

    /// A sparse file whose map begins in its header.
    fn begin_old_sparse(
        &mut self,
        block: &[u8],
        entry: TarEntry,
    ) -> Result<Option<TarEntry>, TarError> {
        let (pieces, is_continued, length) = sparse::of_header(block)?;
        let mapping = |pieces| Mapping {
            size: entry.size,
            entry,
            length,
            form: MapForm::Blocks(pieces),
        };
        if is_continued {
            self.state = State::Mapping(mapping(pieces));
            return Ok(None);
        }
        self.begin_sparse(mapping(Vec::new()), pieces).map(Some)
    }

    fn begin_sparse(&mut self, mapping: Mapping, pieces: Vec<Piece>) -> Result<TarEntry, TarError> {
        let map = Map::new(pieces, mapping.length, mapping.size)?;
        let size = map.length();
        self.state = State::Sparse {
            map,
            left: mapping.size,
            padding: padding(mapping.size),
        };
        Ok(TarEntry {
            size,
            ..mapping.entry
        })
    }

    /// What comes next of a sparse file; `None` at its end.
    fn stretch<'a>(&mut self, input: &mut &'a [u8]) -> Option<Option<TarEvent<'a>>> {
        let State::Sparse { map, left, padding } = &mut self.state else {
            return None;
        };
        match map.next() {
            Stretch::Hole(count) => {
                map.pass(count);
                Some(Some(TarEvent::Hole(count)))
            }
            Stretch::Stored(count) => {
                let taken = take(input, count.min(*left));
                if taken.is_empty() {
                    return Some(None);
                }
                map.pass(length(taken));
                *left -= length(taken);
                Some(Some(TarEvent::Bytes(taken)))
            }
            Stretch::End => {
                let left = left.saturating_add(*padding);
                self.state = State::Skip { left };
                None
            }
        }
    }

    /// The entry a header begins; `None` when its map comes first.
    fn entry(&mut self, block: &[u8], kind: u8, size: u64) -> Result<Option<TarEntry>, TarError> {
        let said = core::mem::take(&mut self.said);
        let name = said.attributes.get("path").cloned().or(said.name);
        let name = name.unwrap_or_else(|| header_name(block));
        // Links, devices, directories and pipes have no bytes, whatever their headers say. Before there were
        // directories in archives, a slash at the end said it.
        let is_file = matches!(kind, b'0' | b'7' | b'S' | 0);
        if matches!(kind, b'1'..=b'6') || (is_file && size == 0 && name.ends_with(b"/")) {
            self.state = State::Header;
            return Ok(Some(TarEntry {
                name,
                kind: TarKind::Other,
                size: 0,
                attributes: BTreeMap::new(),
            }));
        }
        let mut attributes = said.attributes;
        if is_file {
            for (key, value) in &self.global {
                let kept = attributes.entry(key.clone());
                kept.or_insert_with(|| value.clone());
            }
        }
        let size = match attributes.get("size") {
            Some(size) => decimal(size)?,
            None => size,
        };
        if size > i64::MAX.cast_unsigned() {
            return Err(TarError::Header { what: "size" });
        }
        let (said, real_name) = sparse::of_attributes(&mut attributes)?;
        let entry = TarEntry {
            name: real_name.unwrap_or(name),
            kind: match (is_file, &said) {
                (true, sparse::Said::Unknown) => TarKind::Sparse,
                (true, _) => TarKind::File,
                (false, _) => TarKind::Other,
            },
            size,
            attributes,
        };
        if kind == b'S' {
            return self.begin_old_sparse(block, entry);
        }
        let mapping = |length, form| Mapping {
            entry: entry.clone(),
            length,
            size,
            form,
        };
        match said {
            sparse::Said::Here(pieces, length) if is_file => {
                let form = MapForm::Blocks(Vec::new());
                let begun = self.begin_sparse(mapping(length, form), pieces);
                begun.map(Some)
            }
            sparse::Said::BeforeBytes(length) if is_file => {
                let form = MapForm::Text(TextMap::default());
                self.state = State::Mapping(mapping(length, form));
                Ok(None)
            }
            _ => {
                self.state = State::Bytes {
                    left: size,
                    padding: padding(size),
                };
                Ok(Some(entry))
            }
        }
    }

    fn extension(&mut self, kind: u8) -> Result<(), TarError> {
        let bytes = core::mem::take(&mut self.held);
        match kind {
            b'L' => self.said.name = Some(text(&bytes).to_vec()),
            b'g' => {
                let mut said = BTreeMap::new();
                pax(&bytes, &mut said)?;
                if self.global.len().saturating_add(said.len()) > ATTRIBUTES_MAX {
                    return Err(TarError::ExtensionTooLong);
                }
                self.global.extend(said);
                let held = self.global.values().map(|value| length(value));
                if held.sum::<u64>() > GLOBAL_BYTES_MAX {
                    return Err(TarError::ExtensionTooLong);
                }
            }
            b'x' | b'X' => pax(&bytes, &mut self.said.attributes)?,
            // Where a link leads is not asked for.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

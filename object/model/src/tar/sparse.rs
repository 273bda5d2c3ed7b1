//! Sparse files: where their bytes stand, as GNU tar's four ways to say it have it.
//!
//! | way | where the map is |
//! |---|---|
//! | type `S` | in the header at 386, four pieces; then in blocks of 21 while a flag says so. The file's length is at 483 |
//! | pax 0.0 | attributes `GNU.sparse.offset` and `GNU.sparse.numbytes`, again and again |
//! | pax 0.1 | one attribute `GNU.sparse.map`, numbers between commas |
//! | pax 1.0 | lines of decimal numbers before the bytes, filled up to whole blocks |

use super::{TarError, decimal, field, number};
use std::collections::{BTreeMap, VecDeque};

/// Pieces of one file.
pub(super) const PIECES_MAX: usize = 65_536;
/// Bytes of one number in a map that is text, with the end of its line.
const NUMBER_BYTES_MAX: usize = 21;

const MALFORMED: TarError = TarError::Header { what: "sparse map" };

/// One piece: where it begins, and how many bytes it has.
pub(super) type Piece = (u64, u64);

/// What comes next of a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    Hole(u64),
    Stored(u64),
    End,
}

/// Where a file's bytes stand, and how far it has been read.
#[derive(Debug)]
pub(super) struct Map {
    pieces: VecDeque<Piece>,
    at: u64,
    length: u64,
}

impl Map {
    /// Checks that the pieces follow one another within the file, and that so many bytes are stored.
    pub(super) fn new(pieces: Vec<Piece>, length: u64, stored: u64) -> Result<Self, TarError> {
        let (mut at, mut sum) = (0u64, 0u64);
        for (start, count) in &pieces {
            if *start < at {
                return Err(MALFORMED);
            }
            at = start.checked_add(*count).ok_or(MALFORMED)?;
            sum = sum.saturating_add(*count);
        }
        if at > length || sum != stored || length > i64::MAX.cast_unsigned() {
            return Err(MALFORMED);
        }
        let pieces = pieces.into_iter().filter(|(_, count)| *count > 0);
        Ok(Self {
            pieces: pieces.collect(),
            at: 0,
            length,
        })
    }

    pub(super) const fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn next(&self) -> Stretch {
        match self.pieces.front() {
            Some((start, count)) if *start <= self.at => {
                Stretch::Stored(start.saturating_add(*count).saturating_sub(self.at))
            }
            Some((start, _)) => Stretch::Hole(start.saturating_sub(self.at)),
            None if self.at < self.length => Stretch::Hole(self.length - self.at),
            None => Stretch::End,
        }
    }

    /// So many bytes of the file were passed on.
    pub(super) fn pass(&mut self, count: u64) {
        self.at = self.at.saturating_add(count);
        if let Some((start, length)) = self.pieces.front()
            && start.saturating_add(*length) <= self.at
        {
            self.pieces.pop_front();
        }
    }
}

/// How pax attributes say where the bytes of a file stand.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// They do not.
    Nothing,
    /// In a way that is not known.
    Unknown,
    /// Here, and how long the file is.
    Here(Vec<Piece>, u64),
    /// Before the bytes; how long the file is.
    BeforeBytes(u64),
}

/// What the attributes say; those of GNU's sparse files are taken out, the name among them comes back.
pub(super) fn of_attributes(
    attributes: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(Said, Option<Vec<u8>>), TarError> {
    let (sparse, others) = core::mem::take(attributes)
        .into_iter()
        .partition(|(key, _)| key.starts_with("GNU.sparse."));
    *attributes = others;
    let sparse: BTreeMap<String, Vec<u8>> = sparse;
    let value = |name: &str| sparse.get(&format!("GNU.sparse.{name}"));
    let name = value("name").cloned();
    if sparse.is_empty() {
        return Ok((Said::Nothing, None));
    }
    let length = value("realsize").or(value("size"));
    let length = length.map(|text| decimal(text)).transpose()?;
    let is_1_0 = value("major").is_some_and(|text| text == b"1")
        && value("minor").is_some_and(|text| text == b"0");
    let said = match (length, value("map"), value("offset"), value("numbytes")) {
        (Some(length), Some(map), _, _) => {
            let numbers = numbers(map)?;
            if !numbers.len().is_multiple_of(2) {
                return Err(MALFORMED);
            }
            let pairs = numbers.chunks(2).filter_map(|pair| match pair {
                [start, count] => Some((*start, *count)),
                _ => None,
            });
            Said::Here(pairs.collect(), length)
        }
        (Some(length), None, Some(starts), Some(counts)) => {
            let (starts, counts) = (numbers(starts)?, numbers(counts)?);
            if starts.len() != counts.len() {
                return Err(MALFORMED);
            }
            Said::Here(starts.into_iter().zip(counts).collect(), length)
        }
        (Some(length), None, _, _) if is_1_0 => Said::BeforeBytes(length),
        _ => Said::Unknown,
    };
    Ok((said, name))
}

/// Numbers between commas; none of an empty text.
fn numbers(text: &[u8]) -> Result<Vec<u64>, TarError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Result<Vec<u64>, TarError> = text
        .split(|byte| *byte == b',')
        .take(2 * PIECES_MAX + 1)
        .map(some_decimal)
        .collect();
    let numbers = numbers?;
    if numbers.len() > 2 * PIECES_MAX {
        return Err(TarError::ExtensionTooLong);
    }
    Ok(numbers)
}

fn some_decimal(text: &[u8]) -> Result<u64, TarError> {
    if text.is_empty() {
        return Err(MALFORMED);
    }
    decimal(text).map_err(|_not_a_number| MALFORMED)
}

/// The pieces a header of type `S` names, whether more follow in a block, and how long the file is.
pub(super) fn of_header(block: &[u8]) -> Result<(Vec<Piece>, bool, u64), TarError> {
    let mut pieces = Vec::new();
    add_pieces(field(block, 386, 4 * 24), &mut pieces)?;
    let is_continued = block.get(482).is_some_and(|flag| *flag != 0);
    let length = number(field(block, 483, 12), "sparse map")?;
    Ok((pieces, is_continued, length))
}

/// Adds the pieces of a block behind such a header; whether another one follows.
pub(super) fn of_block(block: &[u8], pieces: &mut Vec<Piece>) -> Result<bool, TarError> {
    add_pieces(field(block, 0, 21 * 24), pieces)?;
    if pieces.len() > PIECES_MAX {
        return Err(TarError::ExtensionTooLong);
    }
    Ok(block.get(504).is_some_and(|flag| *flag != 0))
}

fn add_pieces(fields: &[u8], pieces: &mut Vec<Piece>) -> Result<(), TarError> {
    for pair in fields.chunks(24) {
        // What is not used is empty.
        if pair.iter().all(|byte| *byte == 0) {
            continue;
        }
        let start = number(field(pair, 0, 12), "sparse map")?;
        let count = number(field(pair, 12, 12), "sparse map")?;
        pieces.push((start, count));
    }
    Ok(())
}

/// A map that stands before the bytes, as its blocks come.
#[derive(Debug, Default)]
pub(super) struct TextMap {
    /// Digits of a number that is not over.
    held: Vec<u8>,
    /// How many pieces there are.
    count: Option<usize>,
    numbers: Vec<u64>,
}

impl TextMap {
    /// Reads a block; the pieces when that was the last.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<Option<Vec<Piece>>, TarError> {
        for byte in block {
            if self.is_whole() {
                break;
            }
            if *byte != b'\n' {
                self.held.push(*byte);
                if self.held.len() >= NUMBER_BYTES_MAX {
                    return Err(MALFORMED);
                }
                continue;
            }
            let number = some_decimal(&core::mem::take(&mut self.held))?;
            if self.count.is_some() {
                self.numbers.push(number);
                continue;
            }
            let count = usize::try_from(number).unwrap_or(usize::MAX);
            if count > PIECES_MAX {
                return Err(TarError::ExtensionTooLong);
            }
            self.count = Some(count);
        }
        if !self.is_whole() {
            return Ok(None);
        }
        let pairs = self.numbers.chunks(2).filter_map(|pair| match pair {
            [start, count] => Some((*start, *count)),
            _ => None,
        });
        Ok(Some(pairs.collect()))
    }

    fn is_whole(&self) -> bool {
        self.count
            .is_some_and(|count| self.numbers.len() >= 2 * count)
    }
}

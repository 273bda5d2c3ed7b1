//! A small binary form for rows: big-endian integers, byte strings with their length before them.
//!
//! Readers never allocate more than the bytes they were given, and refuse what is left over.

use core::fmt;
use onggi_common_units::Timestamp;
use std::collections::BTreeMap;

/// Bytes that are no row of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The bytes end before the value does.
    #[error("{what} needs {needed} bytes, {left} are left")]
    Short {
        /// What was being read.
        what: &'static str,
        /// How many bytes it needs.
        needed: usize,
        /// How many there are.
        left: usize,
    },
    /// A value no writer makes.
    #[error("{what} is malformed")]
    Malformed {
        /// What was being read.
        what: &'static str,
    },
    /// A version this program does not know.
    #[error("{what} has version {found}, this program knows up to {known}")]
    Version {
        /// What was being read.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest one known.
        known: u8,
    },
    /// Bytes after the end of the value.
    #[error("{count} bytes follow the end of {what}")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many.
        count: usize,
    },
}

/// What most rows fit in.
const ROW_BYTES: usize = 256;

/// Appends values to a buffer.
#[derive(Clone, Default)]
pub struct Writer(Vec<u8>);

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({} bytes)", self.0.len())
    }
}

impl Writer {
    /// An empty buffer, which does not grow for most rows.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(ROW_BYTES))
    }

    /// The bytes written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    /// How many bytes were written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Sixteen bytes.
    pub fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Bytes of a length both sides know.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A byte string: four bytes of length, then the bytes.
    ///
    /// # Panics
    /// When the string is longer than 4 GiB, which no caller's limits allow.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("byte strings are bounded far below 4 GiB");
        self.u32(length);
        self.raw(bytes);
    }

    /// A text.
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    /// A timestamp: ticks, then offset.
    pub fn timestamp(&mut self, at: Timestamp) {
        self.u64(at.ticks());
        self.u64(at.offset());
    }

    /// A map of texts in key order.
    ///
    /// # Panics
    /// When the map has more than 2³² entries.
    pub fn map(&mut self, map: &BTreeMap<String, String>) {
        let pairs = map.iter();
        self.pairs(
            map.len(),
            pairs.map(|(key, value)| (key.as_str(), value.as_str())),
        );
    }

    /// So many pairs of texts, each key once and in order: what [`Reader::map`] reads.
    ///
    /// # Panics
    /// When there are more than 2³² pairs.
    pub fn pairs<'a>(&mut self, count: usize, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
        let count = u32::try_from(count).expect("metadata is bounded far below 4 billion items");
        self.u32(count);
        for (key, value) in pairs {
            self.text(key);
            self.text(value);
        }
    }
}

/// Takes values from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from these bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether every byte was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of a known length.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn raw(&mut self, what: &'static str, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CodecError::Short {
            what,
            needed: count,
            left: self.0.len(),
        })?;
        self.0 = rest;
        Ok(taken)
    }

    /// An array of bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CodecError> {
        let left = self.0.len();
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(CodecError::Short {
            what,
            needed: N,
            left,
        })?;
        self.0 = rest;
        Ok(*taken)
    }

    /// One byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, CodecError> {
        self.array(what).map(|[byte]| byte)
    }

    /// Two bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, CodecError> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CodecError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u128(&mut self, what: &'static str) -> Result<u128, CodecError> {
        self.array(what).map(u128::from_be_bytes)
    }

    /// A count of things that follow, each at least `bytes_min` long: one that cannot be true is refused before
    /// anything is allocated for it.
    ///
    /// # Errors
    /// When the bytes end, or cannot hold so many.
    pub fn count(&mut self, what: &'static str, bytes_min: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.u32(what)?)
            .ok()
            .ok_or(CodecError::Malformed { what })?;
        let needed = count
            .checked_mul(bytes_min.max(1))
            .ok_or(CodecError::Malformed { what })?;
        if needed > self.0.len() {
            return Err(CodecError::Short {
                what,
                needed,
                left: self.0.len(),
            });
        }
        Ok(count)
    }

    /// A byte string.
    ///
    /// # Errors
    /// When the bytes end before it does.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = self.count(what, 1)?;
        self.raw(what, length)
    }

    /// A text.
    ///
    /// # Errors
    /// When the bytes end before it does, or are no UTF-8.
    pub fn text(&mut self, what: &'static str) -> Result<String, CodecError> {
        let bytes = self.bytes(what)?;
        core::str::from_utf8(bytes)
            .map(str::to_owned)
            .ok()
            .ok_or(CodecError::Malformed { what })
    }

    /// A timestamp.
    ///
    /// # Errors
    /// When the bytes end, or the ticks are past the end of time.
    pub fn timestamp(&mut self, what: &'static str) -> Result<Timestamp, CodecError> {
        let ticks = self.u64(what)?;
        let offset = self.u64(what)?;
        let at = Timestamp::from_ticks(ticks).ok_or(CodecError::Malformed { what })?;
        Ok(at.with_offset(offset))
    }

    /// A map of texts.
    ///
    /// # Errors
    /// When the bytes end, or hold no map.
    pub fn map(&mut self, what: &'static str) -> Result<BTreeMap<String, String>, CodecError> {
        let count = self.count(what, 8)?;
        let mut map = BTreeMap::new();
        for _ in 0..count {
            let key = self.text(what)?;
            map.insert(key, self.text(what)?);
        }
        // One text form per value, or digests of equal rows would differ.
        if map.len() == count {
            Ok(map)
        } else {
            Err(CodecError::Malformed { what })
        }
    }

    /// A version byte that must be one this program knows.
    ///
    /// # Errors
    /// When it is not.
    pub fn version(&mut self, what: &'static str, known: u8) -> Result<u8, CodecError> {
        match self.u8(what)? {
            0 => Err(CodecError::Malformed { what }),
            found if found > known => Err(CodecError::Version { what, found, known }),
            found => Ok(found),
        }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// When something is.
    pub const fn end(self, what: &'static str) -> Result<(), CodecError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(CodecError::Trailing {
                what,
                count: self.0.len(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_count_that_cannot_be_true_is_refused_before_allocating() {
        let bytes = u32::MAX.to_be_bytes();
        assert!(matches!(
            Reader::new(&bytes).bytes("x"),
            Err(CodecError::Short { .. })
        ));
        assert!(matches!(
            Reader::new(&bytes).map("x"),
            Err(CodecError::Short { .. })
        ));
    }

    #[test]
    fn left_over_bytes_and_unknown_versions_are_refused() {
        assert!(Reader::new(b"x").end("row").is_err());
        assert!(matches!(
            Reader::new(&[9]).version("row", 1),
            Err(CodecError::Version { found: 9, .. })
        ));
        assert!(Reader::new(&[0]).version("row", 1).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(a in any::<u64>(), text in ".{0,40}", map in prop::collection::btree_map(".{0,5}", ".{0,5}", 0..5)) {
            let mut writer = Writer::new();
            writer.u64(a);
            writer.text(&text);
            writer.map(&map);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.u64("a"), Ok(a));
            prop_assert_eq!(reader.text("t"), Ok(text));
            prop_assert_eq!(reader.map("m"), Ok(map));
            prop_assert_eq!(reader.end("all"), Ok(()));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut reader = Reader::new(&bytes);
            drop(reader.map("m"));
            drop(reader.timestamp("t"));
            drop(reader.text("t"));
        }
    }
}

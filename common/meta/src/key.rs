//! Names of tables, and ranges of keys.
//!
//! Keys are bytes and sort as bytes, the shorter of two that share a beginning first.

use core::fmt;

/// The longest key either store takes.
pub const KEY_BYTES_MAX: usize = 8 << 10;
/// The longest name of a table.
pub const TABLE_NAME_BYTES_MAX: usize = 64;

/// The name of a table: 1 to 64 of `a-z`, `0-9` and `_`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName(&'static str);

impl TableName {
    /// A table's name, written in the program.
    ///
    /// # Panics
    /// When the text is no such name; in a `const` the compiler says so.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(
            !bytes.is_empty() && bytes.len() <= TABLE_NAME_BYTES_MAX,
            "1 to 64 characters"
        );
        let mut index = 0;
        while index < bytes.len() {
            assert!(
                matches!(bytes[index], b'a'..=b'z' | b'0'..=b'9' | b'_'),
                "a table's name is made of a-z, 0-9 and _"
            );
            index += 1;
        }
        Self(name)
    }

    /// The name as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A range of keys: from `start` on, up to but not including `end`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub const fn all() -> Self {
        Self {
            start: Vec::new(),
            end: None,
        }
    }

    /// The keys from `start` on.
    #[must_use]
    pub fn from(start: impl Into<Vec<u8>>) -> Self {
        Self {
            start: start.into(),
            end: None,
        }
    }

    /// The keys greater than `key`.
    #[must_use]
    pub fn after(key: impl Into<Vec<u8>>) -> Self {
        Self::from(successor(key.into()))
    }

    /// The keys from `start` on that are less than `end`.
    #[must_use]
    pub fn between(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self {
            start: start.into(),
            end: Some(end.into()),
        }
    }

    /// The keys that begin with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start: Vec<u8> = prefix.into();
        let end = prefix_end(&start);
        Self { start, end }
    }

    /// The same range without the keys up to and including `key`: the rest after a page that ended with it.
    #[must_use]
    pub fn resume_after(&self, key: &[u8]) -> Self {
        let next = successor(key.to_vec());
        Self {
            start: next.max(self.start.clone()),
            end: self.end.clone(),
        }
    }

    /// The same range without the keys from `key` on: the rest after a page in descending order that ended with it.
    #[must_use]
    pub fn resume_before(&self, key: &[u8]) -> Self {
        let end = match &self.end {
            Some(end) if end.as_slice() <= key => end.clone(),
            Some(_) | None => key.to_vec(),
        };
        Self {
            start: self.start.clone(),
            end: Some(end),
        }
    }

    /// The first key that can be in it.
    #[must_use]
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// The first key past it; `None` when it has no upper end.
    #[must_use]
    pub fn end(&self) -> Option<&[u8]> {
        self.end.as_deref()
    }

    /// Whether the key is in it.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Whether no key can be in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end
            .as_deref()
            .is_some_and(|end| end <= self.start.as_slice())
    }
}

/// The least key greater than `key`.
fn successor(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

/// The first key past all that begin with `prefix`: without its trailing 0xff bytes, and the last byte one up.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_prefix_of_0xff_has_no_end() {
        assert_eq!(KeyRange::prefix([0xff, 0xff]).end(), None);
        assert_eq!(KeyRange::prefix([1, 0xff]).end(), Some([2].as_slice()));
        assert_eq!(KeyRange::prefix([]), KeyRange::all());
    }

    proptest! {
        #[test]
        fn a_prefix_range_holds_what_begins_with_it(
            prefix in proptest::collection::vec(250u8.., 0..3),
            key in proptest::collection::vec(249u8.., 0..5),
        ) {
            prop_assert_eq!(KeyRange::prefix(prefix.clone()).contains(&key), key.starts_with(&prefix));
        }

        #[test]
        fn resuming_leaves_out_what_was_seen(
            low in any::<[u8; 2]>(), high in any::<[u8; 2]>(),
            seen in proptest::collection::vec(any::<u8>(), 0..3),
            key in proptest::collection::vec(any::<u8>(), 0..4),
        ) {
            let range = KeyRange::between(low, high);
            prop_assert_eq!(range.resume_after(&seen).contains(&key), range.contains(&key) && key > seen);
            prop_assert_eq!(range.resume_before(&seen).contains(&key), range.contains(&key) && key < seen);
        }
    }
}

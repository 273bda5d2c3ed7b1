//! `Range` headers, and the bytes they select.

use crate::limits::{RANGE_OVERLAPS_MAX, RANGES_MAX, RANGES_OUT_OF_ORDER_MAX};

/// One range as written: not yet compared with a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeSpec {
    /// `first-last` or `first-`.
    From { first: u64, last: Option<u64> },
    /// `-count`: the last so many bytes.
    Suffix { count: u64 },
}

/// A `Range: bytes=…` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeHeader(Vec<RangeSpec>);

/// A run of bytes within a body: `start..end`, never empty, never past the body it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

/// Which bytes of a body a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them: 200.
    Whole,
    /// One range: 206.
    One(ByteRange),
    /// Several: 206 with `multipart/byteranges`.
    Many(Vec<ByteRange>),
    /// None of the ranges touches the body, or there are more than a reader has use for: 416.
    Unsatisfiable,
}

impl ByteRange {
    /// The bytes `start..end`, or `None` when that is empty.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// The first byte's offset.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// The offset after the last byte.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// How many bytes there are; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// The `Content-Range` of these bytes out of `length`.
    #[must_use]
    pub fn content_range(self, length: u64) -> String {
        format!("bytes {}-{}/{length}", self.start, self.end - 1)
    }
}

fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // More digits than a u64 holds still mean "further than any body".
    Some(text.parse().unwrap_or(u64::MAX))
}

fn spec(text: &str) -> Option<RangeSpec> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim(), last.trim());
    if first.is_empty() {
        return Some(RangeSpec::Suffix {
            count: number(last)?,
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        None
    } else {
        Some(number(last)?)
    };
    if last.is_some_and(|last| last < first) {
        return None;
    }
    Some(RangeSpec::From { first, last })
}

impl RangeHeader {
    /// Reads a header's value. `None` when it is malformed: the header is then ignored, as RFC 9110 §14.2 allows.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Blanks around the parts do no harm, and clients send them.
        let (unit, list) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let specs: Option<Vec<RangeSpec>> = list
            .split(',')
            .filter(|item| !item.trim().is_empty())
            .map(spec)
            .collect();
        specs.filter(|specs| !specs.is_empty()).map(Self)
    }

    /// Which bytes of a body of `length` bytes are meant.
    #[must_use]
    pub fn select(&self, length: u64) -> Selection {
        let mut ranges = Vec::with_capacity(self.0.len());
        for spec in &self.0 {
            let range = match *spec {
                RangeSpec::From { first, last } => {
                    let end = last.map_or(length, |last| last.saturating_add(1).min(length));
                    ByteRange::new(first, end)
                }
                // The end of an empty body is the whole of it.
                RangeSpec::Suffix { count } if count > 0 && length == 0 => return Selection::Whole,
                RangeSpec::Suffix { count } => ByteRange::new(length.saturating_sub(count), length),
            };
            ranges.extend(range);
        }
        match ranges.as_slice() {
            many if is_egregious(many) => Selection::Unsatisfiable,
            [] => Selection::Unsatisfiable,
            [one] => Selection::One(*one),
            [_, _, ..] => Selection::Many(ranges),
        }
    }
}

/// Whether ranges would make much work of little: RFC 9110 §17.15 advises against serving these, and the bounds are Swift's.
/// Two ranges overlap when one's end or beginning lies within the other, so the same range said twice does not.
fn is_egregious(ranges: &[ByteRange]) -> bool {
    if ranges.len() > RANGES_MAX {
        return true;
    }
    let is_descending = ranges.windows(2).any(|pair| match pair {
        [one, next] => one.start > next.start,
        _ => false,
    });
    if is_descending && ranges.len() >= RANGES_OUT_OF_ORDER_MAX {
        return true;
    }
    let within = |at: u64, range: &ByteRange| range.start < at && at < range.end;
    let overlap = |one: &ByteRange, other: &ByteRange| {
        within(other.start, one)
            || within(other.end, one)
            || within(one.start, other)
            || within(one.end, other)
    };
    let pairs = ranges.iter().enumerate().flat_map(|(index, one)| {
        let others = ranges.iter().skip(index + 1);
        others.filter(move |other| overlap(one, other))
    });
    pairs.take(RANGE_OVERLAPS_MAX + 1).count() > RANGE_OVERLAPS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn select(text: &str, length: u64) -> Option<Selection> {
        Some(RangeHeader::parse(text)?.select(length))
    }

    fn one(start: u64, end: u64) -> Option<Selection> {
        ByteRange::new(start, end).map(Selection::One)
    }

    #[test]
    fn ranges_select_what_rfc_9110_says() {
        assert_eq!(select("bytes=0-4", 10), one(0, 5));
        assert_eq!(select("bytes=5-", 10), one(5, 10));
        assert_eq!(select("bytes=-3", 10), one(7, 10));
        assert_eq!(select("bytes=-30", 10), one(0, 10));
        assert_eq!(select("bytes=0-99999999999999999999999", 10), one(0, 10));
        assert_eq!(select("bytes=10-", 10), Some(Selection::Unsatisfiable));
        assert_eq!(select("bytes=-0", 10), Some(Selection::Unsatisfiable));
        assert_eq!(select("BYTES = 0 - 4 ", 10), one(0, 5));
        assert_eq!(select("bytes=-5", 0), Some(Selection::Whole));
        assert_eq!(select("bytes=0-", 0), Some(Selection::Unsatisfiable));
        assert!(matches!(
            select("bytes=0-1, 4-5", 10),
            Some(Selection::Many(_))
        ));
        assert_eq!(select("bytes=0-1,40-50", 10), one(0, 2));
    }

    #[test]
    fn malformed_ranges_are_ignored() {
        for bad in [
            "",
            "bytes",
            "bytes=",
            "bytes=a-b",
            "bytes=5-4",
            "bits=0-1",
            "bytes=--1",
            "bytes=+1-2",
        ] {
            assert_eq!(select(bad, 10), None, "{bad}");
        }
    }

    /// As `Range.ranges_for_length` of Swift's `test_swob` has it.
    #[test]
    fn ranges_that_make_much_work_of_little_are_refused() {
        let refused = Some(Selection::Unsatisfiable);
        let ascending = |count: u64| {
            let parts: Vec<String> = (0..count).map(|n| format!("{}-{}", n * 2, n * 2)).collect();
            format!("bytes={}", parts.join(","))
        };
        assert!(matches!(
            select(&ascending(50), 1_000),
            Some(Selection::Many(_))
        ));
        assert_eq!(select(&ascending(51), 1_000), refused);
        // Those past the end count for nothing.
        assert!(matches!(
            select(&ascending(51), 90),
            Some(Selection::Many(_))
        ));
        let descending = |count: u64| {
            let parts: Vec<String> = (0..count)
                .rev()
                .map(|n| format!("{}-{}", n * 2, n * 2))
                .collect();
            format!("bytes={}", parts.join(","))
        };
        assert!(matches!(
            select(&descending(7), 100),
            Some(Selection::Many(_))
        ));
        assert_eq!(select(&descending(8), 100), refused);
        assert!(matches!(
            select("bytes=0-10,5-15,12-20,18-30", 100),
            Some(Selection::Unsatisfiable)
        ));
        assert!(matches!(
            select("bytes=0-10,5-15,12-20", 100),
            Some(Selection::Many(_))
        ));
        // Swift does not take the same range for one that overlaps.
        assert!(matches!(
            select("bytes=0-9,0-9,0-9,0-9", 100),
            Some(Selection::Many(_))
        ));
    }

    #[test]
    fn content_range_names_the_last_byte() {
        assert_eq!(
            ByteRange::new(0, 5).unwrap().content_range(10),
            "bytes 0-4/10"
        );
    }

    proptest! {
        #[test]
        fn a_selection_is_never_past_the_body(text in "bytes=[0-9,-]{0,40}", length in 0u64..200) {
            let ranges = match select(&text, length) {
                Some(Selection::One(range)) => vec![range],
                Some(Selection::Many(ranges)) => ranges,
                Some(Selection::Whole | Selection::Unsatisfiable) | None => Vec::new(),
            };
            for range in ranges {
                prop_assert!(range.start() < range.end() && range.end() <= length);
            }
        }
    }
}

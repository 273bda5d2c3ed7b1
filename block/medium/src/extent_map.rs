//! Which bytes of a medium make up a volume.
//!
//! Invariants of an [`ExtentMap`], checked once when it is made:
//! - its extents are sorted by volume offset and cover `[0, size)` without hole or overlap, `size > 0`;
//! - no two extents share a byte of the medium, and no extent ends past [`MEDIUM_OFFSET_MAX`];
//! - neighbours that continue each other on the medium are one extent.

use core::ops::Range;
use onggi_common_units::ByteCount;
use serde::{Deserialize, Serialize};

/// The last offset a file or device can have: the kernel counts offsets in signed 64-bit integers.
pub const MEDIUM_OFFSET_MAX: u64 = i64::MAX.unsigned_abs();

/// How many extents a map may have: a volume scattered more than this is refused, not served slowly.
pub const EXTENT_COUNT_MAX: usize = 1 << 20;

/// A run of bytes that follow each other both in the volume and on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Where it begins in the volume.
    pub volume_offset: u64,
    /// Where it begins on the medium.
    pub medium_offset: u64,
    /// How many bytes it has.
    pub length: u64,
}

/// Which bytes of a medium make up a volume. See the module's invariants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Extent>", into = "Vec<Extent>")]
pub struct ExtentMap {
    extents: Vec<Extent>,
    size: ByteCount,
}

/// Why extents are no map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtentMapError {
    /// There is no extent at all.
    #[error("an extent map without extents")]
    Empty,
    /// There are more extents than [`EXTENT_COUNT_MAX`].
    #[error("an extent map of {count} extents, {EXTENT_COUNT_MAX} allowed")]
    TooMany {
        /// How many were given.
        count: usize,
    },
    /// An extent has no bytes.
    #[error("the extent at volume offset {volume_offset} has no bytes")]
    NoBytes {
        /// Where it begins in the volume.
        volume_offset: u64,
    },
    /// Some bytes of the volume are in no extent.
    #[error("bytes {from} to {until} of the volume are in no extent")]
    Hole {
        /// The first missing byte.
        from: u64,
        /// The first byte that is there again.
        until: u64,
    },
    /// Some bytes of the volume are in two extents.
    #[error("byte {volume_offset} of the volume is in two extents")]
    Overlap {
        /// The first byte that is there twice.
        volume_offset: u64,
    },
    /// Two extents share bytes of the medium: writing one would damage the other.
    #[error("byte {medium_offset} of the medium is in two extents")]
    MediumOverlap {
        /// The first byte that is used twice.
        medium_offset: u64,
    },
    /// An extent ends past what an offset can express.
    #[error("the extent at volume offset {volume_offset} ends past the largest offset")]
    TooFar {
        /// Where it begins in the volume.
        volume_offset: u64,
    },
}

/// A range that is not inside the volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes {start} to {end} are not inside a volume of {size}")]
pub struct OutOfRange {
    /// The range's first byte.
    pub start: u64,
    /// The byte after the range's last one.
    pub end: u64,
    /// The volume's size.
    pub size: ByteCount,
}

impl ExtentMap {
    /// A map of these extents, given in any order.
    ///
    /// # Errors
    /// When they do not cover the volume exactly once, share bytes of the medium, or reach too far.
    pub fn new(mut extents: Vec<Extent>) -> Result<Self, ExtentMapError> {
        if extents.len() > EXTENT_COUNT_MAX {
            return Err(ExtentMapError::TooMany {
                count: extents.len(),
            });
        }
        check_each(&extents)?;
        check_medium(&mut extents)?;
        extents.sort_unstable_by_key(|extent| extent.volume_offset);
        let mut merged: Vec<Extent> = Vec::with_capacity(extents.len());
        let mut end = 0;
        for extent in extents {
            if extent.volume_offset > end {
                return Err(ExtentMapError::Hole {
                    from: end,
                    until: extent.volume_offset,
                });
            }
            if extent.volume_offset < end {
                return Err(ExtentMapError::Overlap {
                    volume_offset: extent.volume_offset,
                });
            }
            end = extent.volume_end();
            match merged.last_mut() {
                Some(last) if last.medium_end() == extent.medium_offset => {
                    last.length += extent.length
                }
                _ => merged.push(extent),
            }
        }
        if end == 0 {
            return Err(ExtentMapError::Empty);
        }
        Ok(Self {
            extents: merged,
            size: ByteCount::new(end),
        })
    }

    /// The map of a volume that is the medium's first `size` bytes.
    ///
    /// # Errors
    /// When the size is zero or larger than an offset can express.
    pub fn linear(size: ByteCount) -> Result<Self, ExtentMapError> {
        if size == ByteCount::ZERO {
            return Err(ExtentMapError::Empty);
        }
        Self::new(vec![Extent {
            volume_offset: 0,
            medium_offset: 0,
            length: size.bytes(),
        }])
    }

    /// The volume's size.
    #[must_use]
    pub const fn size(&self) -> ByteCount {
        self.size
    }

    /// The extents, sorted by volume offset, neighbours merged.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The first medium offset no extent reaches: what the medium's size must be at least.
    #[must_use]
    pub fn medium_end(&self) -> u64 {
        self.extents
            .iter()
            .map(|extent| extent.medium_end())
            .max()
            .unwrap_or(0)
    }

    /// The pieces of the medium that hold a range of the volume, in order. An empty range has none.
    ///
    /// # Errors
    /// When the range is not inside the volume or ends before it begins.
    pub fn resolve(&self, range: Range<u64>) -> Result<Resolve<'_>, OutOfRange> {
        let Range { start, end } = range;
        if start > end || end > self.size.bytes() {
            return Err(OutOfRange {
                start,
                end,
                size: self.size,
            });
        }
        let first = self
            .extents
            .partition_point(|extent| extent.volume_end() <= start);
        Ok(Resolve {
            extents: self.extents.get(first..).unwrap_or(&[]),
            next: start,
            end,
        })
    }

    /// Whether the bytes of `earlier` are where they were, with more behind them or not: what growing a volume keeps.
    #[must_use]
    pub fn begins_with(&self, earlier: &Self) -> bool {
        self.resolve(0..earlier.size.bytes())
            .is_ok_and(|pieces| pieces.eq(earlier.extents.iter().copied()))
    }
}

impl Extent {
    // Both sums were checked when the map was made.
    const fn volume_end(&self) -> u64 {
        self.volume_offset + self.length
    }

    const fn medium_end(&self) -> u64 {
        self.medium_offset + self.length
    }
}

fn check_each(extents: &[Extent]) -> Result<(), ExtentMapError> {
    for extent in extents {
        let volume_offset = extent.volume_offset;
        if extent.length == 0 {
            return Err(ExtentMapError::NoBytes { volume_offset });
        }
        let fits = |offset: u64| {
            offset
                .checked_add(extent.length)
                .is_some_and(|end| end <= MEDIUM_OFFSET_MAX)
        };
        if !fits(volume_offset) || !fits(extent.medium_offset) {
            return Err(ExtentMapError::TooFar { volume_offset });
        }
    }
    Ok(())
}

fn check_medium(extents: &mut [Extent]) -> Result<(), ExtentMapError> {
    extents.sort_unstable_by_key(|extent| extent.medium_offset);
    let mut end = 0;
    for extent in extents {
        if extent.medium_offset < end {
            return Err(ExtentMapError::MediumOverlap {
                medium_offset: extent.medium_offset,
            });
        }
        end = extent.medium_end();
    }
    Ok(())
}

impl TryFrom<Vec<Extent>> for ExtentMap {
    type Error = ExtentMapError;

    fn try_from(extents: Vec<Extent>) -> Result<Self, Self::Error> {
        Self::new(extents)
    }
}

impl From<ExtentMap> for Vec<Extent> {
    fn from(map: ExtentMap) -> Self {
        map.extents
    }
}

/// The pieces of a medium that hold a range of a volume. Made by [`ExtentMap::resolve`].
#[derive(Debug, Clone)]
pub struct Resolve<'a> {
    extents: &'a [Extent],
    next: u64,
    end: u64,
}

impl Iterator for Resolve<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        if self.next >= self.end {
            return None;
        }
        let (extent, rest) = self.extents.split_first()?;
        let volume_offset = self.next;
        let skipped = volume_offset - extent.volume_offset;
        let end = extent.volume_end().min(self.end);
        self.extents = rest;
        self.next = end;
        Some(Extent {
            volume_offset,
            medium_offset: extent.medium_offset + skipped,
            length: end - volume_offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn extent(volume_offset: u64, medium_offset: u64, length: u64) -> Extent {
        Extent {
            volume_offset,
            medium_offset,
            length,
        }
    }

    #[test]
    fn extents_in_any_order_become_one_sorted_map() {
        let map = ExtentMap::new(vec![extent(8, 100, 4), extent(0, 50, 8)]).unwrap();
        assert_eq!(map.extents(), [extent(0, 50, 8), extent(8, 100, 4)]);
        assert_eq!(map.size(), ByteCount::new(12));
        assert_eq!(map.medium_end(), 104);
    }

    #[test]
    fn neighbours_that_continue_each_other_are_merged() {
        let map =
            ExtentMap::new(vec![extent(0, 10, 5), extent(5, 15, 5), extent(10, 0, 5)]).unwrap();
        assert_eq!(map.extents(), [extent(0, 10, 10), extent(10, 0, 5)]);
    }

    #[test]
    fn what_is_no_map_is_refused_by_name() {
        use ExtentMapError as E;
        let cases = [
            (vec![], E::Empty),
            (vec![extent(0, 0, 0)], E::NoBytes { volume_offset: 0 }),
            (vec![extent(1, 0, 1)], E::Hole { from: 0, until: 1 }),
            (
                vec![extent(0, 0, 4), extent(6, 10, 4)],
                E::Hole { from: 4, until: 6 },
            ),
            (
                vec![extent(0, 0, 4), extent(2, 10, 4)],
                E::Overlap { volume_offset: 2 },
            ),
            (
                vec![extent(0, 0, 4), extent(4, 3, 4)],
                E::MediumOverlap { medium_offset: 3 },
            ),
            (vec![extent(0, u64::MAX, 2)], E::TooFar { volume_offset: 0 }),
            (
                vec![extent(0, MEDIUM_OFFSET_MAX, 1)],
                E::TooFar { volume_offset: 0 },
            ),
            (
                vec![extent(u64::MAX, 0, 2)],
                E::TooFar {
                    volume_offset: u64::MAX,
                },
            ),
        ];
        for (extents, error) in cases {
            assert_eq!(ExtentMap::new(extents), Err(error));
        }
        assert_eq!(ExtentMap::linear(ByteCount::ZERO), Err(E::Empty));
    }

    #[test]
    fn a_stored_map_is_checked_when_it_is_read() {
        let text = "[{\"volume_offset\":512,\"medium_offset\":0,\"length\":512}]";
        let error = serde_json::from_str::<ExtentMap>(text).unwrap_err();
        assert!(error.to_string().contains("in no extent"), "{error}");
    }

    #[test]
    fn a_range_outside_the_volume_is_refused() {
        let map = ExtentMap::linear(ByteCount::new(8)).unwrap();
        assert_eq!(map.resolve(8..8).unwrap().count(), 0);
        #[expect(
            clippy::reversed_empty_ranges,
            reason = "the range that must be refused"
        )]
        for range in [0..9, 9..9, 5..4, 0..u64::MAX] {
            assert!(map.resolve(range).is_err());
        }
    }

    #[test]
    fn a_grown_map_begins_with_the_earlier_one_and_a_moved_one_does_not() {
        let earlier = ExtentMap::new(vec![extent(0, 100, 8), extent(8, 0, 4)]).unwrap();
        let grown =
            ExtentMap::new(vec![extent(0, 100, 8), extent(8, 0, 8), extent(16, 50, 2)]).unwrap();
        let moved = ExtentMap::new(vec![extent(0, 100, 8), extent(8, 1, 8)]).unwrap();
        assert!(grown.begins_with(&earlier) && earlier.begins_with(&earlier));
        assert!(!earlier.begins_with(&grown) && !moved.begins_with(&earlier));
    }

    /// Valid extents: lengths in volume order, laid on the medium in another order with gaps.
    fn valid() -> impl Strategy<Value = Vec<Extent>> {
        let pieces = prop::collection::vec((1u64..200, 0u64..3, any::<u32>()), 1..40);
        pieces.prop_map(|pieces| {
            let mut volume_offset = 0;
            let mut placed: Vec<(u32, u64, Extent)> = Vec::new();
            for (length, gap, place) in pieces {
                placed.push((place, gap, extent(volume_offset, 0, length)));
                volume_offset += length;
            }
            placed.sort_by_key(|(place, _, _)| *place);
            let mut medium_offset = 0;
            for (_, gap, extent) in &mut placed {
                extent.medium_offset = medium_offset + *gap;
                medium_offset = extent.medium_end();
            }
            placed.into_iter().map(|(_, _, extent)| extent).collect()
        })
    }

    fn byte_by_byte(extents: &[Extent]) -> Vec<u64> {
        let mut at = vec![
            0;
            usize::try_from(extents.iter().map(|extent| extent.length).sum::<u64>())
                .unwrap()
        ];
        for extent in extents {
            for offset in 0..extent.length {
                at[usize::try_from(extent.volume_offset + offset).unwrap()] =
                    extent.medium_offset + offset;
            }
        }
        at
    }

    proptest! {
        #[test]
        fn every_range_resolves_to_the_bytes_of_the_naive_table(extents in valid(), a in any::<u64>(), b in any::<u64>()) {
            let table = byte_by_byte(&extents);
            let map = ExtentMap::new(extents).unwrap();
            let size = map.size().bytes();
            let (a, b) = (a % (size + 1), b % (size + 1));
            let range = a.min(b)..a.max(b);
            let mut next = range.start;
            let mut seen = Vec::new();
            for piece in map.resolve(range.clone()).unwrap() {
                prop_assert_eq!(piece.volume_offset, next);
                prop_assert!(piece.length > 0);
                seen.extend(piece.medium_offset..piece.medium_end());
                next = piece.volume_end();
            }
            prop_assert_eq!(next, range.end);
            let bounds = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            prop_assert_eq!(&seen[..], &table[bounds]);
        }

        #[test]
        fn a_map_survives_json_and_is_already_merged(extents in valid()) {
            let map = ExtentMap::new(extents).unwrap();
            let text = serde_json::to_string(&map).unwrap();
            let back: ExtentMap = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(back.extents().len(), map.extents().len());
            prop_assert_eq!(back, map);
        }

        #[test]
        fn any_extents_are_a_map_or_an_error_and_never_a_panic(
            raw in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..6)
        ) {
            let extents: Vec<_> = raw.into_iter().map(|(v, m, l)| extent(v, m, l)).collect();
            if let Ok(map) = ExtentMap::new(extents) {
                prop_assert_eq!(map.resolve(0..map.size().bytes()).unwrap().count(), map.extents().len());
            }
        }
    }
}

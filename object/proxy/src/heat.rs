//! What is read again and again, at this moment.
//!
//! Reads of a thing go to its first primary, so that the caches of the cluster do not all hold the same. What many want
//! at once is read from all of its primaries by turns.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use onggi_object_ring::PathHash;

/// Read again within this time, a thing is hot.
const HOT_WITHIN: Duration = Duration::from_millis(100);
/// Things that are remembered. Two that share a place keep each other cold.
const PLACES: usize = 4_096;

/// When what was read last, roughly: in each place a mark of the thing above the milliseconds.
#[derive(Debug)]
pub(crate) struct Heat(Vec<AtomicU64>);

impl Heat {
    pub(crate) fn new() -> Self {
        Self((0..PLACES).map(|_| AtomicU64::new(0)).collect())
    }

    /// Notes a read of what has this hash at this moment of the monotonic clock; whether it is hot.
    pub(crate) fn note(&self, hash: &PathHash, now: Duration) -> bool {
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let place = usize::from(u16::from_be_bytes([a, b])) % PLACES;
        let mark = u64::from(u32::from_be_bytes([c, d, e, f]) ^ u32::from_be_bytes([0, 0, g, h]));
        // 49 days in milliseconds: after that one read may be taken for hot, which does no harm.
        let millis = u64::try_from(now.as_millis()).unwrap_or(0) & u64::from(u32::MAX);
        let read = (mark << 32) | millis;
        let Some(place) = self.0.get(place) else {
            return false;
        };
        let before = place.swap(read, Ordering::Relaxed);
        let since = millis.saturating_sub(before & u64::from(u32::MAX));
        before >> 32 == mark && u128::from(since) < HOT_WITHIN.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_again_at_once_is_hot_and_cools_down() {
        let heat = Heat::new();
        let (jar, lid) = (PathHash::new([7; 16]), PathHash::new([9; 16]));
        let at = Duration::from_millis;
        assert!(!heat.note(&jar, at(5_000)));
        assert!(!heat.note(&lid, at(5_001)));
        assert!(heat.note(&jar, at(5_099)));
        assert!(heat.note(&jar, at(5_150)));
        assert!(!heat.note(&jar, at(5_300)));
        assert!(!heat.note(&lid, at(5_301)));
    }

    #[test]
    fn two_that_share_a_place_are_told_apart() {
        let heat = Heat::new();
        let (mut one, mut other) = ([7; 16], [7; 16]);
        (one[5], other[5]) = (1, 2);
        let at = Duration::from_millis;
        assert!(!heat.note(&PathHash::new(one), at(9)));
        assert!(!heat.note(&PathHash::new(other), at(9)));
        assert!(!heat.note(&PathHash::new(one), at(9)));
    }
}

//! Random numbers from a seed: SplitMix64 (Steele, Lea, Flood 2014). Not for secrets.

use core::ops::Range;
use core::time::Duration;

/// A sequence of numbers that its seed decides.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of a range; its start when it is empty.
    pub const fn within(&mut self, range: Range<u64>) -> u64 {
        let span = range.end.saturating_sub(range.start);
        if span == 0 {
            return range.start;
        }
        range.start + self.next() % span
    }

    /// An index below `count`; 0 when that is 0.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.within(0..count as u64)).unwrap_or(0)
    }

    /// True so many times in a thousand.
    pub const fn per_mille(&mut self, times: u64) -> bool {
        self.within(0..1_000) < times
    }

    /// A span of time of a range, in whole microseconds.
    pub fn span(&mut self, range: &Range<Duration>) -> Duration {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.within(micros(range.start)..micros(range.end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_numbers_of_the_paper() {
        let mut random = Random::new(1_234_567);
        let first: Vec<u64> = (0..3).map(|_| random.next()).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
        assert_eq!(random.within(5..5), 5);
        assert!((0..100).all(|_| random.index(3) < 3));
    }
}

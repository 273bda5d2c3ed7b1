//! Timestamps for writes: the wall clock, but never behind what was seen.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use onggi_common_host::{Clock, Entropy};
use onggi_common_units::Timestamp;
use std::sync::Arc;

/// How far ahead of the wall clock a timestamp may be. What claims to be further ahead is not followed.
pub(crate) const AHEAD_MAX: Duration = Duration::from_secs(60);
/// The bits of a mark that count a proxy's own stamps; those above are the proxy's. The lowest one is free: the trace of
/// an expired object is stamped one offset above its bytes.
const COUNTED_BITS: u32 = 24;

/// A hybrid clock: each stamp is newer than the last one, and than everything observed.
pub(crate) struct HybridClock {
    wall: Arc<dyn Clock>,
    last_ticks: AtomicU64,
    /// What tells this proxy's marks from those of others.
    own: u64,
    marks: AtomicU64,
}

impl HybridClock {
    pub(crate) fn new(wall: Arc<dyn Clock>, entropy: &dyn Entropy) -> Self {
        let mut own = [0; 8];
        entropy.fill(&mut own);
        Self {
            wall,
            last_ticks: AtomicU64::new(0),
            own: u64::from_be_bytes(own) >> COUNTED_BITS << COUNTED_BITS,
            marks: AtomicU64::new(0),
        }
    }

    /// The moment, without making it a stamp.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_utc(self.wall.now())
    }

    /// The clock below, for tasks that outlive a request.
    pub(crate) fn wall(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.wall)
    }

    /// Time since some start.
    pub(crate) fn monotonic(&self) -> Duration {
        self.wall.monotonic()
    }

    /// A stamp newer than all before.
    pub(crate) fn stamp(&self) -> Timestamp {
        let now = self.now().ticks();
        let last = self
            .last_ticks
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last| {
                Some(now.max(last.saturating_add(1)))
            });
        let ticks = last.map_or(now, |last| now.max(last.saturating_add(1)));
        Timestamp::from_ticks(ticks).unwrap_or_else(|| self.now())
    }

    /// A stamp newer than all before for a write of an object: no other write has the same, whichever proxy makes it. Two
    /// proxies whose clocks lag stamp right above what they have seen; of two writes of one stamp, one's bytes could be
    /// read under the other's metadata (O3).
    pub(crate) fn write_stamp(&self) -> Timestamp {
        self.stamp().with_offset(self.mark())
    }

    fn mark(&self) -> u64 {
        let count = self.marks.fetch_add(1, Ordering::Relaxed) << 1;
        self.own | (count & ((1 << COUNTED_BITS) - 1))
    }

    /// The same so far ahead of the wall clock; those that follow need not be newer than it until it is observed.
    pub(crate) fn ahead(&self, lead: Duration) -> Timestamp {
        let last = self.last_ticks.load(Ordering::Acquire);
        let ahead = Timestamp::from_utc(self.wall.now().saturating_add(lead));
        let ticks = ahead.ticks().max(last.saturating_add(1));
        Timestamp::from_ticks(ticks)
            .unwrap_or(ahead)
            .with_offset(self.mark())
    }

    /// Someone else's stamp was seen: later stamps are newer than it.
    pub(crate) fn observe(&self, seen: Timestamp) {
        let limit = Timestamp::from_utc(self.wall.now().saturating_add(AHEAD_MAX));
        if seen <= limit {
            self.last_ticks.fetch_max(seen.ticks(), Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemEntropy;
    use onggi_common_units::UtcTime;
    use std::collections::BTreeSet;

    struct Stopped;
    impl Clock for Stopped {
        fn now(&self) -> UtcTime {
            UtcTime::from_seconds(1_000)
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[test]
    fn no_two_writes_have_one_stamp_although_all_clocks_say_the_same() {
        let clocks = [(); 3].map(|()| HybridClock::new(Arc::new(Stopped), &SystemEntropy));
        let mut stamps = BTreeSet::new();
        for clock in &clocks {
            for _ in 0..100 {
                for stamp in [clock.write_stamp(), clock.ahead(Duration::from_secs(1))] {
                    assert!(stamps.insert(stamp), "{stamp} was given twice");
                    assert_eq!(stamp.offset() & 1, 0, "the trace's place is free");
                }
            }
        }
        let met = stamps
            .iter()
            .filter(|one| one.normal() == clocks[0].now().normal());
        assert_eq!(met.count(), clocks.len(), "they did not meet in one tick");
    }

    #[test]
    fn stamps_rise_even_when_the_wall_clock_stands() {
        let clock = HybridClock::new(Arc::new(Stopped), &SystemEntropy);
        let (one, two) = (clock.stamp(), clock.stamp());
        assert!(one < two && one == clock.now());
        let ahead: Timestamp = "1030".parse().unwrap();
        clock.observe(ahead);
        assert!(clock.stamp() > ahead);
        let lead = Duration::from_secs(2);
        let stamped = clock.stamp();
        assert!(clock.ahead(lead) > stamped);
        assert!(
            clock.stamp() < "1031".parse().unwrap(),
            "it was not observed"
        );
        let absurd: Timestamp = "9999".parse().unwrap();
        clock.observe(absurd);
        assert!(clock.stamp() < absurd);
    }
}

//! Timestamps for writes: the wall clock, but never behind what was seen.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use onggi_common_host::Clock;
use onggi_common_units::Timestamp;
use std::sync::Arc;

/// How far ahead of the wall clock a timestamp may be. What claims to be further ahead is not followed.
pub(crate) const AHEAD_MAX: Duration = Duration::from_secs(60);

/// A hybrid clock: each stamp is newer than the last one, and than everything observed.
pub(crate) struct HybridClock {
    wall: Arc<dyn Clock>,
    last_ticks: AtomicU64,
}

impl HybridClock {
    pub(crate) fn new(wall: Arc<dyn Clock>) -> Self {
        Self {
            wall,
            last_ticks: AtomicU64::new(0),
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

    /// A stamp so far ahead of the wall clock, and newer than all before; those that follow need not be newer than it until it
    /// is observed.
    pub(crate) fn ahead(&self, lead: Duration) -> Timestamp {
        let last = self.last_ticks.load(Ordering::Acquire);
        let ahead = Timestamp::from_utc(self.wall.now().saturating_add(lead));
        let ticks = ahead.ticks().max(last.saturating_add(1));
        Timestamp::from_ticks(ticks).unwrap_or(ahead)
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
    use onggi_common_units::UtcTime;

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
    fn stamps_rise_even_when_the_wall_clock_stands() {
        let clock = HybridClock::new(Arc::new(Stopped));
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

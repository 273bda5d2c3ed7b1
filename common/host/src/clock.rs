//! What time it is.

use core::time::Duration;
use onggi_common_units::UtcTime;
use std::time::Instant;

/// A source of time: the wall clock people read, and a monotonic one for time limits.
pub trait Clock: Send + Sync + 'static {
    /// The moment on the wall clock. It may jump in both directions.
    fn now(&self) -> UtcTime;

    /// Time since an arbitrary start; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UtcTime {
        let spec = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        // A clock before 1970 counts as 1970: nothing stored may carry a negative time.
        let seconds = u64::try_from(spec.tv_sec).unwrap_or(0);
        let micros = u64::try_from(spec.tv_nsec / 1_000).unwrap_or(0);
        UtcTime::from_micros(seconds.saturating_mul(1_000_000).saturating_add(micros))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

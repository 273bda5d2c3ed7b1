//! How fast a device gives what its peers lack: so many bytes in a second, whoever they go to.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Slower than this a peer would take a large body's sender for one that hangs.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// Bytes that leave in order, and when the next may.
#[derive(Debug)]
pub(crate) struct Pace {
    /// 0: as fast as it goes.
    bytes_per_second: u64,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) const fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: if bytes_per_second == 0 || bytes_per_second > BYTES_PER_SECOND_MIN {
                bytes_per_second
            } else {
                BYTES_PER_SECOND_MIN
            },
            next: Mutex::new(None),
        }
    }

    /// Waits until what went before has had its time; these bytes may go then.
    pub(crate) async fn pass(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let micros = bytes.saturating_mul(1_000_000) / self.bytes_per_second;
        let now = Instant::now();
        let at = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = next.unwrap_or(now).max(now);
            *next = Some(at + Duration::from_micros(micros));
            at
        };
        if at > now {
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_no_faster_than_they_may_whoever_sends_them() {
        let pace = Pace::new(1);
        let begun = Instant::now();
        let send = async |count: usize| {
            for _ in 0..count {
                pace.pass(512 << 10).await;
            }
        };
        tokio::join!(send(3), send(2));
        assert_eq!(begun.elapsed().as_millis(), 2_000);
        // What was not used is not saved up.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let begun = Instant::now();
        send(3).await;
        assert_eq!(begun.elapsed().as_millis(), 1_000);
        let begun = Instant::now();
        Pace::new(0).pass(usize::MAX).await;
        assert_eq!(begun.elapsed().as_millis(), 0);
    }
}

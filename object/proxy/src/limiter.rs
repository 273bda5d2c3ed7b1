//! Nodes that keep failing are left alone for a while.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Failures in a row after which a node is left alone.
const FAILURES_MAX: u32 = 10;
/// How long it is left alone. Then one request is let through: an answer ends the matter, silence starts the time again.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    failures: u32,
    until: Duration,
}

/// What is known about each node, by address.
#[derive(Debug, Default)]
pub(crate) struct Limiter(Mutex<HashMap<String, Record>>);

impl Limiter {
    /// Whether a node is to be left alone now.
    pub(crate) fn is_limited(&self, address: &str, now: Duration) -> bool {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let record = records.get(address);
        record.is_some_and(|record| record.failures >= FAILURES_MAX && now < record.until)
    }

    /// A request goes to a node. To one that kept failing it is a probe: others wait for what it brings.
    pub(crate) fn on_sent(&self, address: &str, now: Duration) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(address)
            && record.failures >= FAILURES_MAX
        {
            record.until = now + PAUSE;
        }
    }

    /// A node answered.
    pub(crate) fn on_success(&self, address: &str) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(address) {
            if record.failures >= FAILURES_MAX {
                tracing::info!(node = address, "storage node answers again");
            }
            records.remove(address);
        }
    }

    /// A node did not answer, or not in time.
    pub(crate) fn on_failure(&self, address: &str, now: Duration) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let record = records.entry(address.to_owned()).or_default();
        record.failures = record.failures.saturating_add(1);
        if record.failures >= FAILURES_MAX {
            if record.failures == FAILURES_MAX {
                tracing::warn!(
                    node = address,
                    "storage node keeps failing and is left alone"
                );
            }
            record.until = now + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_left_alone_after_ten_failures_and_probed_after_the_pause() {
        let limiter = Limiter::default();
        let second = Duration::from_secs;
        for _ in 0..9 {
            limiter.on_failure("a", second(1));
        }
        assert!(!limiter.is_limited("a", second(1)));
        limiter.on_failure("a", second(1));
        assert!(limiter.is_limited("a", second(2)) && !limiter.is_limited("b", second(2)));
        assert!(!limiter.is_limited("a", second(12)) && !limiter.is_limited("a", second(12)));
        limiter.on_sent("a", second(12));
        assert!(
            limiter.is_limited("a", second(12)),
            "one probe and only one"
        );
        limiter.on_success("a");
        assert!(!limiter.is_limited("a", second(13)));
    }
}

//! Nodes that keep failing, or say nothing at all, are left alone for a while.
//!
//! A node that is stopped or hangs still takes connections, so that each request to it would wait for a time limit. It is
//! told from a slow one by its silence: nothing came from it, on any connection, since a request was sent.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Failures in a row after which a node is left alone.
const FAILURES_MAX: u32 = 10;
/// How long it is left alone. Then one request is let through: an answer ends the matter, silence starts the time again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long a node may be silent before others are asked in its place and it is left alone.
pub const SILENT_AFTER: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    failures: u32,
    /// When it answered last.
    answered: Option<Duration>,
    /// Until when it is left alone, and from when on one request at a time probes it.
    until: Option<Duration>,
}

/// What is known about each node, by address. Moments are those of the caller's monotonic clock.
#[derive(Debug, Default)]
pub struct Limiter(Mutex<HashMap<String, Record>>);

impl Limiter {
    fn with<T>(&self, address: &str, act: impl FnOnce(&mut Record) -> T) -> T {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(address) {
            return act(record);
        }
        act(records.entry(address.to_owned()).or_default())
    }

    /// Whether a node is to be left alone now.
    pub fn is_limited(&self, address: &str, now: Duration) -> bool {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = records.get(address).and_then(|record| record.until);
        until.is_some_and(|until| now < until)
    }

    /// A request goes to a node. To one that was left alone it is a probe: others wait for what it brings.
    pub fn on_sent(&self, address: &str, now: Duration) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(address)
            && let Some(until) = &mut record.until
        {
            *until = now + PAUSE;
        }
    }

    /// A node answered.
    pub fn on_success(&self, address: &str, now: Duration) {
        self.with(address, |record| {
            if record.until.is_some() {
                tracing::info!(node = address, "storage node answers again");
            }
            *record = Record {
                failures: 0,
                answered: Some(now),
                until: None,
            };
        });
    }

    /// A node did not answer, or not in time.
    pub fn on_failure(&self, address: &str, now: Duration) {
        self.with(address, |record| {
            record.failures = record.failures.saturating_add(1);
            if record.failures >= FAILURES_MAX {
                if record.until.is_none() {
                    tracing::warn!(
                        node = address,
                        "storage node keeps failing and is left alone"
                    );
                }
                record.until = Some(now + PAUSE);
            }
        });
    }

    /// A request sent at `sent` still waits. True when nothing came from the node since then, for [`SILENT_AFTER`] or
    /// longer: then it is left alone.
    pub fn on_waiting(&self, address: &str, sent: Duration, now: Duration) -> bool {
        if now < sent + SILENT_AFTER {
            return false;
        }
        self.with(address, |record| {
            let is_silent = record.answered.is_none_or(|answered| answered <= sent);
            if is_silent {
                if record.until.is_none() {
                    tracing::warn!(node = address, "storage node is silent and is left alone");
                }
                record.until = Some(now + PAUSE);
            }
            is_silent
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(number: u64) -> Duration {
        Duration::from_millis(number)
    }

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
        limiter.on_success("a", second(12));
        assert!(!limiter.is_limited("a", second(13)));
    }

    #[test]
    fn a_silent_node_is_left_alone_at_once_and_a_slow_one_is_not() {
        let limiter = Limiter::default();
        limiter.on_success("slow", millis(1_100));
        limiter.on_success("silent", millis(900));
        for node in ["slow", "silent", "unknown"] {
            assert!(!limiter.on_waiting(node, millis(1_000), millis(1_200)));
            let is_silent = limiter.on_waiting(node, millis(1_000), millis(1_250));
            assert_eq!(is_silent, node != "slow");
            assert_eq!(limiter.is_limited(node, millis(1_250)), is_silent);
        }
        limiter.on_success("silent", millis(1_300));
        assert!(!limiter.is_limited("silent", millis(1_300)));
    }
}

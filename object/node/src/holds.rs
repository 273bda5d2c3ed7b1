//! Keys that a conditional PUT or DELETE is about to change.
//!
//! Writes without a condition to such a key wait a little, so that a stream of them does not keep the other from ever
//! being the newest. Nothing is safe because of a hold: reservations see to that, and a hold that is forgotten costs the
//! racer another round.

use core::time::Duration;
use onggi_common_units::HexId;
use onggi_object_device::ObjectKey;
use onggi_object_wire::DeviceName;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a write waits at most; shorter than the silence after which a node is taken for one that hangs.
const WAIT_MAX: Duration = Duration::from_millis(150);
/// How long a key is held after its racer was heard of last: its proxy may have died.
const HELD_MAX: Duration = Duration::from_millis(500);
/// The most keys held at a time. More are not held.
const HOLDS_MAX: usize = 16_384;

struct Hold {
    token: HexId,
    until: Instant,
    /// Dropped with the hold, which wakes who waits.
    ended: watch::Sender<()>,
}

type Key = (DeviceName, ObjectKey);

/// The keys held at this moment.
#[derive(Default)]
pub(crate) struct Holds(Mutex<HashMap<Key, Hold>>);

impl Holds {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Hold>> {
        // Every change is one insertion or removal: a panic leaves the map whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a key, unless another racer does.
    pub(crate) fn begin(&self, device: &DeviceName, key: ObjectKey, token: HexId) {
        let now = Instant::now();
        let mut holds = self.lock();
        if holds.len() >= HOLDS_MAX {
            holds.retain(|_, hold| now < hold.until);
            if holds.len() >= HOLDS_MAX {
                return;
            }
        }
        let until = now + HELD_MAX;
        match holds.get_mut(&(device.clone(), key)) {
            Some(hold) if hold.token == token => hold.until = until,
            Some(hold) if now < hold.until => {}
            Some(_) | None => {
                let hold = Hold {
                    token,
                    until,
                    ended: watch::Sender::new(()),
                };
                holds.insert((device.clone(), key), hold);
            }
        }
    }

    /// Lets a key go that this racer holds.
    pub(crate) fn end(&self, device: &DeviceName, key: ObjectKey, token: &HexId) {
        let mut holds = self.lock();
        let place = (device.clone(), key);
        if holds.get(&place).is_some_and(|hold| hold.token == *token) {
            holds.remove(&place);
        }
    }

    /// Waits until nobody holds a key, or as long as a write may be held up.
    pub(crate) async fn wait(&self, device: &DeviceName, key: ObjectKey) {
        let deadline = Instant::now() + WAIT_MAX;
        let place = (device.clone(), key);
        loop {
            let now = Instant::now();
            let (mut ended, until) = match self.lock().get(&place) {
                Some(hold) if now < hold.until => (hold.ended.subscribe(), hold.until),
                Some(_) | None => return,
            };
            if now >= deadline {
                return;
            }
            // Both ends are looked at again above.
            drop(tokio::time::timeout_at(until.min(deadline), ended.changed()).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicBool, Ordering};
    use onggi_object_model::PolicyIndex;
    use onggi_object_ring::PathHash;

    fn device() -> DeviceName {
        "d1".parse().unwrap()
    }

    fn key() -> ObjectKey {
        ObjectKey {
            policy: PolicyIndex::default(),
            hash: PathHash::new([7; 16]),
            fragment: 0xff,
        }
    }

    fn token(digit: &str) -> HexId {
        digit.repeat(32).parse().unwrap()
    }

    #[tokio::test]
    async fn a_write_waits_for_the_racer_and_not_for_ever() {
        let holds = Holds::default();
        holds.begin(&device(), key(), token("1"));
        let begun = Instant::now();
        holds.wait(&device(), key()).await;
        assert!(begun.elapsed() >= WAIT_MAX);
        let is_over = AtomicBool::new(false);
        let end = async {
            // Another racer's end is nothing to this one.
            holds.end(&device(), key(), &token("2"));
            tokio::task::yield_now().await;
            is_over.store(true, Ordering::Relaxed);
            holds.end(&device(), key(), &token("1"));
        };
        let wait = async {
            holds.wait(&device(), key()).await;
            assert!(is_over.load(Ordering::Relaxed));
        };
        tokio::join!(wait, end);
        assert!(holds.lock().is_empty());
    }

    #[tokio::test]
    async fn a_racer_that_is_not_heard_of_holds_nothing() {
        let holds = Holds::default();
        holds.begin(&device(), key(), token("1"));
        holds.begin(&device(), key(), token("2"));
        assert_eq!(holds.lock()[&(device(), key())].token, token("1"));
        tokio::time::sleep(HELD_MAX).await;
        holds.begin(&device(), key(), token("2"));
        assert_eq!(holds.lock()[&(device(), key())].token, token("2"));
    }
}

//! What containers and accounts took lately: so that two copies of one that is written to all the time can be compared.
//!
//! While news come, no two copies are alike at any moment, and their digests say nothing. But a digest is a sum: without what
//! the records stamped since some moment have added to it, it is that of the copy as it was before them. Copies that are
//! alike but for news of the last seconds are alike enough to be left alone; the rest is compared when it is older.
//!
//! This is only in memory. What is not known here makes copies look different, never alike: then they are compared in the
//! ways that cost more.

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::RosterKey;
use onggi_common_units::Timestamp;
use onggi_object_wire::Digest;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

/// Seconds that are remembered of one roster.
const SECONDS_MAX: usize = 30;
/// Rosters that are remembered.
const ROSTERS_MAX: usize = 4_096;

/// What rosters took lately, by the second of the records' stamps.
#[derive(Debug, Default)]
pub(crate) struct Recent(Mutex<HashMap<RosterKey, Seconds>>);

/// What came with the stamps of each second.
type Seconds = BTreeMap<u64, News>;

/// What some records changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct News {
    /// What they added to the roster's digest, less what those they took the places of had.
    added: Digest,
    /// The least number they have in the change log.
    first: u64,
}

/// What a batch brings one roster.
#[derive(Debug)]
pub(crate) struct Taken {
    key: RosterKey,
    seconds: Seconds,
}

/// All that came since some second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since {
    /// What it added to the roster's digest.
    pub(crate) added: Digest,
    /// Where in the change log it begins: all that stands before it is older.
    pub(crate) first: Option<u64>,
}

/// A copy of a roster as it was before the news of its last seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The digest over it and its records, without traces of days up to the horizon that was asked for.
    pub digest: Digest,
    /// Up to this number its change log is older than the news.
    pub through: u64,
}

impl Device {
    /// A roster without what it took with stamps of this second (since 1970) or later; `None` when it is not here.
    ///
    /// # Errors
    /// When the store cannot answer, or the row is damaged.
    pub fn settled(
        &self,
        key: &RosterKey,
        second: u64,
        horizon: u16,
    ) -> Result<Option<Settled>, DeviceError> {
        // A batch changes the row first, then what is remembered of it.
        let _guard = self.stripes().lock(key.slot());
        let row = self.roster(key)?;
        let since = self.digest_table().recent().since(key, second);
        Ok(row.map(|row| Settled {
            digest: row.digest_above(horizon) - since.added,
            through: since.first.unwrap_or(row.next_sequence).saturating_sub(1),
        }))
    }
}

impl Taken {
    pub(crate) const fn new(key: RosterKey) -> Self {
        Self {
            key,
            seconds: Seconds::new(),
        }
    }

    /// A record with this stamp was taken under a number of the change log.
    pub(crate) fn note(&mut self, stamp: Timestamp, added: Digest, sequence: u64) {
        let news = News {
            added,
            first: sequence,
        };
        join(&mut self.seconds, stamp.to_utc().seconds(), news);
    }
}

fn join(seconds: &mut Seconds, second: u64, news: News) {
    let known = seconds.entry(second).or_insert(News {
        added: Digest::EMPTY,
        first: news.first,
    });
    known.added += news.added;
    known.first = known.first.min(news.first);
}

impl Recent {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<RosterKey, Seconds>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A batch is written.
    pub(crate) fn keep(&self, taken: Taken) {
        self.with(|rosters| {
            if rosters.len() >= ROSTERS_MAX && !rosters.contains_key(&taken.key) {
                rosters.clear();
            }
            let seconds = rosters.entry(taken.key).or_default();
            for (second, news) in taken.seconds {
                join(seconds, second, news);
            }
            while seconds.len() > SECONDS_MAX {
                seconds.pop_first();
            }
        });
    }

    /// A roster is gone; another one of its name begins anew.
    pub(crate) fn forget(&self, key: &RosterKey) {
        self.with(|rosters| rosters.remove(key));
    }

    /// What the roster took with stamps of this second or later.
    pub(crate) fn since(&self, key: &RosterKey, second: u64) -> Since {
        let mut since = Since {
            added: Digest::EMPTY,
            first: None,
        };
        self.with(|rosters| {
            let seconds = rosters.get(key).into_iter();
            for (_, news) in seconds.flat_map(|seconds| seconds.range(second..)) {
                since.added += news.added;
                since.first = Some(
                    since
                        .first
                        .map_or(news.first, |first| first.min(news.first)),
                );
            }
        });
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::RosterKind;
    use onggi_common_units::UtcTime;
    use onggi_object_ring::PathHash;

    fn key(number: u16) -> RosterKey {
        let mut hash = [0; 16];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        RosterKey {
            kind: RosterKind::Container,
            hash: PathHash::new(hash),
        }
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_utc(UtcTime::from_micros(second * 1_000_000 + 5))
    }

    fn take(recent: &Recent, key: RosterKey, second: u64, sum: u128, sequence: u64) {
        let mut taken = Taken::new(key);
        taken.note(at(second), Digest::from_value(sum), sequence);
        recent.keep(taken);
    }

    #[test]
    fn what_came_since_a_second_is_told_from_what_came_before() {
        let recent = Recent::default();
        take(&recent, key(1), 10, 1, 7);
        take(&recent, key(1), 12, 4, 9);
        take(&recent, key(1), 11, 2, 8);
        take(&recent, key(1), 11, 16, 10);
        take(&recent, key(2), 11, 64, 1);
        let since = |second| {
            let before = recent.since(&key(1), second);
            (before.added.value(), before.first)
        };
        assert_eq!(since(0), (23, Some(7)));
        assert_eq!(since(11), (22, Some(8)));
        assert_eq!(since(12), (4, Some(9)));
        assert_eq!(since(13), (0, None));
        recent.forget(&key(1));
        assert_eq!(since(0), (0, None));
        assert_eq!(recent.since(&key(2), 0).added.value(), 64);
    }

    #[test]
    fn old_seconds_are_forgotten_and_so_are_too_many_rosters() {
        let recent = Recent::default();
        for second in 1..=100 {
            take(&recent, key(1), second, 1, second);
        }
        let before = recent.since(&key(1), 0);
        assert_eq!(before.added.value(), SECONDS_MAX as u128);
        for number in 0..=u16::try_from(ROSTERS_MAX).unwrap() {
            take(&recent, key(number), 100, 1, 1);
        }
        assert!(recent.with(|rosters| rosters.len()) <= ROSTERS_MAX);
    }
}

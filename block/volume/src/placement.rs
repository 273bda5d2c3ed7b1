//! Which pool takes a new volume: of those with room, the one with most of it.

use crate::volume::SizeGib;
use core::fmt;
use core::str::FromStr;
use onggi_common_units::ByteCount;
use serde::{Deserialize, Serialize};

/// Where a pool is: `host@backend#pool`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PoolAddress {
    host: String,
    backend: String,
    pool: String,
}

/// A text that is no address of a pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no pool: write host@backend#pool")]
pub struct PoolAddressError {
    /// What was given, cut to 128 characters.
    pub text: String,
}

impl PoolAddress {
    /// The pool of a backend on a host.
    ///
    /// # Errors
    /// When a part is empty or has an `@` or `#`.
    pub fn new(host: &str, backend: &str, pool: &str) -> Result<Self, PoolAddressError> {
        let is_part = |part: &str| {
            !part.is_empty()
                && part
                    .chars()
                    .all(|c| !matches!(c, '@' | '#') && !c.is_control())
        };
        if [host, backend, pool].into_iter().all(is_part) {
            let [host, backend, pool] = [host, backend, pool].map(str::to_owned);
            return Ok(Self {
                host,
                backend,
                pool,
            });
        }
        let text = format!("{host}@{backend}#{pool}")
            .chars()
            .take(128)
            .collect();
        Err(PoolAddressError { text })
    }

    /// The name of the pool within its backend.
    #[must_use]
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The backend that has it.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// The service that has it: `host@backend`.
    #[must_use]
    pub fn service(&self) -> String {
        format!("{}@{}", self.host, self.backend)
    }
}

impl fmt::Display for PoolAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}#{}", self.host, self.backend, self.pool)
    }
}

impl FromStr for PoolAddress {
    type Err = PoolAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = || {
            let (host, rest) = text.split_once('@')?;
            let (backend, pool) = rest.split_once('#')?;
            Self::new(host, backend, pool).ok()
        };
        parts().ok_or_else(|| PoolAddressError {
            text: text.chars().take(128).collect(),
        })
    }
}

impl TryFrom<String> for PoolAddress {
    type Error = PoolAddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PoolAddress> for String {
    fn from(address: PoolAddress) -> Self {
        address.to_string()
    }
}

/// What a pool says about its room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolReport {
    /// Where it is.
    pub address: PoolAddress,
    /// What it could hold if it were empty.
    pub total: ByteCount,
    /// What is not taken up.
    pub free: ByteCount,
    /// The sizes of its volumes together.
    pub provisioned: ByteCount,
    /// What removed volumes still take up until their bytes are gone; free later.
    pub reclaiming: ByteCount,
    /// Whether a volume takes up space only as it is written.
    pub is_thin: bool,
    /// How many times its own size a thin pool may promise, in hundredths: Cinder's 20.0 is 2,000.
    pub over_subscription_percent: u64,
}

/// No pool has room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no pool has room for {asked}: the most that fits is {most} ({pool_count} pools were asked); {advice}",
    advice = self.advice()
)]
pub struct NoPool {
    /// What was asked for.
    pub asked: ByteCount,
    /// The largest volume that would fit.
    pub most: ByteCount,
    /// How many pools there are.
    pub pool_count: usize,
    /// What the pools' removed volumes still take up until their bytes are gone.
    pub reclaiming: ByteCount,
}

impl NoPool {
    /// What helps.
    fn advice(&self) -> String {
        const MORE: &str = "delete volumes, or add room to a pool";
        let reclaiming = self.reclaiming;
        if reclaiming == ByteCount::ZERO {
            return MORE.to_owned();
        }
        let later = self.most.bytes().saturating_add(reclaiming.bytes());
        let advice = if later >= self.asked.bytes() {
            "try again shortly"
        } else {
            MORE
        };
        format!("{reclaiming} of deleted volumes are still being cleared: {advice}")
    }
}

impl PoolReport {
    /// The largest volume it would take: Cinder's capacity filter.
    #[must_use]
    pub fn room(&self) -> ByteCount {
        if !self.is_thin {
            return self.free;
        }
        let percent = u128::from(self.over_subscription_percent.max(100));
        let promised = u128::from(self.total.bytes()) * percent / 100;
        let promised = u64::try_from(promised).unwrap_or(u64::MAX);
        ByteCount::new(promised.saturating_sub(self.provisioned.bytes()))
    }
}

/// The pool with the most room, if the volume fits.
///
/// # Errors
/// When it fits nowhere.
pub fn choose(pools: &[PoolReport], size: SizeGib) -> Result<&PoolReport, NoPool> {
    let asked = size.bytes();
    let best = pools.iter().max_by_key(|pool| (pool.room(), pool.free));
    let most = best.map_or(ByteCount::ZERO, PoolReport::room);
    best.filter(|_| most >= asked).ok_or(NoPool {
        asked,
        most,
        pool_count: pools.len(),
        reclaiming: ByteCount::new(
            pools
                .iter()
                .map(|pool| pool.reclaiming.bytes())
                .fold(0, u64::saturating_add),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, total: u64, free: u64, provisioned: u64, is_thin: bool) -> PoolReport {
        PoolReport {
            address: PoolAddress::new("h", "b", name).unwrap(),
            total: ByteCount::from_gib(total),
            free: ByteCount::from_gib(free),
            provisioned: ByteCount::from_gib(provisioned),
            reclaiming: ByteCount::ZERO,
            is_thin,
            over_subscription_percent: 200,
        }
    }

    fn gib(gib: u32) -> SizeGib {
        SizeGib::try_from(gib).unwrap()
    }

    #[test]
    fn an_address_prints_and_parses_and_has_three_parts() {
        let address: PoolAddress = "node1@lvm#cinder-volumes".parse().unwrap();
        assert_eq!(address.to_string(), "node1@lvm#cinder-volumes");
        assert_eq!(address.service(), "node1@lvm");
        for bad in [
            "", "a", "a@b", "a#b", "@b#c", "a@#c", "a@b#", "a@b@c#d", "a@b#c#d",
        ] {
            assert!(bad.parse::<PoolAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_thick_pool_takes_what_is_free_and_a_thin_one_what_it_may_promise() {
        let thick = [pool("thick", 10, 4, 6, false)];
        assert!(choose(&thick, gib(4)).is_ok());
        let error = choose(&thick, gib(5)).unwrap_err();
        assert_eq!((error.most, error.pool_count), (ByteCount::from_gib(4), 1));
        let thin = [pool("thin", 10, 10, 15, true)];
        assert!(choose(&thin, gib(5)).is_ok());
        assert!(choose(&thin, gib(6)).is_err());
    }

    #[test]
    fn a_refusal_says_what_is_still_being_cleared() {
        let mut pools = [pool("a", 10, 1, 2, false), pool("b", 10, 2, 8, false)];
        let text = choose(&pools, gib(5)).unwrap_err().to_string();
        assert!(
            text.ends_with("; delete volumes, or add room to a pool"),
            "{text}"
        );
        pools[0].reclaiming = ByteCount::from_gib(7);
        let text = choose(&pools, gib(5)).unwrap_err().to_string();
        let wanted = "; 7GiB of deleted volumes are still being cleared: try again shortly";
        assert!(text.ends_with(wanted), "{text}");
        let text = choose(&pools, gib(50)).unwrap_err().to_string();
        let wanted = "7GiB of deleted volumes are still being cleared: delete volumes, or add room to a pool";
        assert!(text.ends_with(wanted), "{text}");
    }

    #[test]
    fn the_pool_with_most_room_is_taken_and_no_pool_has_none() {
        let pools = [
            pool("small", 10, 4, 6, false),
            pool("large", 10, 9, 1, false),
        ];
        assert_eq!(choose(&pools, gib(1)).unwrap().address.pool(), "large");
        assert_eq!(choose(&[], gib(1)).unwrap_err().most, ByteCount::ZERO);
    }
}

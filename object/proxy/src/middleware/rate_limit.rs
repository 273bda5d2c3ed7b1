//! How fast may be written: requests above a rate wait for their turn, and those that would wait too long are refused.
//!
//! Each proxy counts by itself, in memory: with several, the rates add up.

use crate::fault::Fault;
use crate::proxy::Asking;
use core::time::Duration;
use http::request::Parts as Head;
use http::{HeaderValue, Method, StatusCode, header};
use hyper::ext::ReasonPhrase;
use onggi_common_service::config::{RateLimit, RatePoint};
use onggi_common_service::http::{Body, Response, full};
use onggi_object_model::{AccountName, ContainerPath, ObjectPath, Resource};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Where an account's own rate is kept: a number, `WHITELIST` or `BLACKLIST`.
pub(crate) const ACCOUNT_WRITES: &str = "x-account-sysmeta-global-write-ratelimit";
/// How long who is blacklisted waits for the refusal.
const BLACKLIST_SLEEP: Duration = Duration::from_secs(1);
/// How much of the time in which nothing was asked may be made up for at once.
const BUFFER: Duration = Duration::from_secs(5);
/// The slowest rate: less is as good as none.
const RATE_MIN: f64 = 0.001;
/// Accounts and containers counted at a time. When there are more that are busy, the others are not slowed down.
const KEYS_MAX: usize = 10_000;

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// Containers made and deleted in an account.
    Containers(AccountName),
    /// All writes of an account.
    Account(AccountName),
    Objects(ContainerPath),
    Listings(ContainerPath),
}

/// A request would wait for longer than any may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TooLong;

/// When each counted thing is next free.
#[derive(Debug)]
struct Meter {
    free_at: Mutex<HashMap<Key, Duration>>,
    sleep_max: Duration,
}

impl Meter {
    /// Takes a turn: how long to wait for it.
    fn turn(&self, key: Key, rate: f64, now: Duration) -> Result<Duration, TooLong> {
        let Ok(each) = Duration::try_from_secs_f64(1.0 / rate.max(RATE_MIN)) else {
            return Ok(Duration::ZERO);
        };
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        if free_at.len() >= KEYS_MAX && !free_at.contains_key(&key) {
            free_at.retain(|_, at| *at + BUFFER > now);
            if free_at.len() >= KEYS_MAX {
                return Ok(Duration::ZERO);
            }
        }
        let known = free_at.get(&key).copied();
        let mine = known.filter(|at| *at + BUFFER >= now).unwrap_or(now);
        let wait = mine.saturating_sub(now);
        if wait >= self.sleep_max {
            return Err(TooLong);
        }
        free_at.insert(key, mine + each);
        Ok(wait)
    }
}

/// The rate for a container of this size; `None` for any rate.
fn rate_at(points: &[RatePoint], objects: u64) -> Option<f64> {
    let after = points.partition_point(|point| point.objects <= objects);
    let before = points.get(after.checked_sub(1)?)?;
    let Some(next) = points.get(after) else {
        return Some(before.rate);
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate needs no more digits than f64 has"
    )]
    let share = (objects - before.objects) as f64 / (next.objects - before.objects) as f64;
    Some(before.rate + (next.rate - before.rate) * share)
}

/// What an operator allows.
#[derive(Debug)]
pub(crate) struct RateLimits {
    allowed: RateLimit,
    meter: Meter,
}

impl RateLimits {
    pub(crate) fn new(mut allowed: RateLimit) -> Self {
        for points in [&mut allowed.containers, &mut allowed.listings] {
            points.sort_by_key(|point| point.objects);
            points.dedup_by_key(|point| point.objects);
        }
        let sleep_max = Duration::from_secs(allowed.max_sleep_seconds.into());
        Self {
            allowed,
            meter: Meter {
                free_at: Mutex::default(),
                sleep_max,
            },
        }
    }

    /// What `/info` says.
    pub(crate) fn capabilities(&self) -> serde_json::Value {
        let points = |points: &[RatePoint]| -> Vec<serde_json::Value> {
            let point = |point: &RatePoint| serde_json::json!([point.objects, point.rate]);
            points.iter().map(point).collect()
        };
        serde_json::json!({
            "account_ratelimit": self.allowed.account,
            "max_sleep_time_seconds": self.allowed.max_sleep_seconds,
            "container_ratelimits": points(&self.allowed.containers),
            "container_listing_ratelimits": points(&self.allowed.listings),
        })
    }
}

fn refused(code: u16, reason: &'static [u8], words: &'static str) -> Response {
    let mut response = Response::new(full(words));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let reason = ReasonPhrase::from_static(reason);
    response.extensions_mut().insert(reason);
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("text/html; charset=UTF-8");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(words.len()));
    response
}

impl Asking {
    /// Waits for a request's turn; an answer when it has none.
    pub(crate) async fn throttled(
        &self,
        method: &Method,
        resource: &Resource,
    ) -> Result<Option<Response>, Fault> {
        let Some(limits) = &self.core.filters.rate_limits else {
            return Ok(None);
        };
        // Who sets the limits can take them away again.
        if self.manages(resource) {
            return Ok(None);
        }
        let account = self.core.account_info(resource.account()).await?;
        let own = account.metadata.get(ACCOUNT_WRITES).unwrap_or_default();
        match own {
            "WHITELIST" => return Ok(None),
            "BLACKLIST" => {
                tokio::time::sleep(BLACKLIST_SLEEP).await;
                let words = "Your account has been blacklisted";
                return Ok(Some(refused(497, b"Blacklisted", words)));
            }
            _ => {}
        }
        let own = own.parse().ok().filter(|rate| *rate > 0.0);
        for (key, rate) in self.rates(limits, method, resource, own).await? {
            let now = self.core.cluster.clock.monotonic();
            match limits.meter.turn(key, rate, now) {
                Ok(wait) if wait.is_zero() => {}
                Ok(wait) => tokio::time::sleep(wait).await,
                Err(TooLong) => {
                    tracing::warn!(%method, account = %resource.account(), "answered 498: too many requests");
                    return Ok(Some(refused(498, b"Rate Limited", "Slow down")));
                }
            }
        }
        Ok(None)
    }

    /// One object's request among many of one request: it waits for its turn like any other.
    pub(crate) async fn object_in_turn(
        &self,
        path: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let resource = Resource::Object(path.clone());
        if let Some(refused) = self.throttled(&head.method, &resource).await? {
            return Ok(refused);
        }
        Box::pin(self.object(path, head, body)).await
    }

    /// What a request counts for, and the rate of each.
    async fn rates(
        &self,
        limits: &RateLimits,
        method: &Method,
        resource: &Resource,
        own: Option<f64>,
    ) -> Result<Vec<(Key, f64)>, Fault> {
        let mut rates = Vec::new();
        let makes = matches!(*method, Method::PUT | Method::DELETE);
        let writes = makes || *method == Method::POST || method.as_str() == "COPY";
        let by_size = match resource {
            Resource::Container(path) if makes => {
                let rate = limits.allowed.account;
                if rate > 0.0 {
                    rates.push((Key::Containers(path.account.clone()), rate));
                }
                None
            }
            Resource::Container(path) if *method == Method::GET => Some((
                path.clone(),
                Key::Listings(path.clone()),
                &limits.allowed.listings,
            )),
            Resource::Object(path) if writes => {
                let path = path.container_path();
                Some((path.clone(), Key::Objects(path), &limits.allowed.containers))
            }
            Resource::Account(_) | Resource::Container(_) | Resource::Object(_) => None,
        };
        if let Some((path, key, points)) = by_size.filter(|(_, _, points)| !points.is_empty()) {
            let objects = match self.core.container_info(&path).await? {
                Some(info) => info.object_count,
                None => 0,
            };
            if let Some(rate) = rate_at(points, objects).filter(|rate| *rate > 0.0) {
                rates.push((key, rate));
            }
        }
        if let Some(rate) = own.filter(|_| writes) {
            rates.push((Key::Account(resource.account().clone()), rate));
        }
        Ok(rates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn meter() -> Meter {
        Meter {
            free_at: Mutex::default(),
            sleep_max: 10 * SECOND,
        }
    }

    fn key(name: &str) -> Key {
        Key::Account(name.parse().unwrap())
    }

    #[test]
    fn a_rate_lies_on_the_line_between_its_points() {
        let point = |objects, rate| RatePoint { objects, rate };
        let points = [point(100, 50.0), point(200, 10.0)];
        let at = |objects| rate_at(&points, objects);
        assert_eq!(at(99), None);
        assert_eq!(at(100), Some(50.0));
        assert_eq!(at(150), Some(30.0));
        assert_eq!((at(200), at(u64::MAX)), (Some(10.0), Some(10.0)));
        assert_eq!(rate_at(&[], 5), None);
    }

    #[test]
    fn requests_above_the_rate_wait_one_behind_the_other_until_it_takes_too_long() {
        let meter = meter();
        let now = 100 * SECOND;
        let waits: Vec<_> = (0..12).map(|_| meter.turn(key("a"), 1.0, now)).collect();
        let expected = (0..10).map(|at| Ok(at * SECOND)).chain([Err(TooLong); 2]);
        assert_eq!(waits, expected.collect::<Vec<_>>());
        assert_eq!(meter.turn(key("b"), 1.0, now), Ok(Duration::ZERO));
        // Who was refused has taken no turn.
        assert_eq!(meter.turn(key("a"), 1.0, now + SECOND), Ok(9 * SECOND));
    }

    #[test]
    fn idle_time_is_made_up_for_within_the_buffer_and_not_beyond() {
        let turns = |idle: Duration| {
            let meter = meter();
            assert_eq!(meter.turn(key("a"), 1.0, 100 * SECOND), Ok(Duration::ZERO));
            let now = 101 * SECOND + idle;
            let turn = |_: &usize| meter.turn(key("a"), 1.0, now) == Ok(Duration::ZERO);
            (0..20).take_while(turn).count()
        };
        assert_eq!(turns(3 * SECOND), 4);
        assert_eq!(turns(5 * SECOND), 6);
        assert_eq!(turns(60 * SECOND), 1);
    }

    #[test]
    fn what_is_counted_has_a_bound() {
        let meter = meter();
        for at in 0..KEYS_MAX + 10 {
            let turn = meter.turn(key(&format!("a{at}")), 1.0, 100 * SECOND);
            assert_eq!(turn, Ok(Duration::ZERO));
        }
        assert_eq!(meter.free_at.lock().unwrap().len(), KEYS_MAX);
        assert_eq!(
            meter.turn(key("new"), 1.0, 200 * SECOND),
            Ok(Duration::ZERO)
        );
        assert_eq!(meter.free_at.lock().unwrap().len(), 1);
    }
}

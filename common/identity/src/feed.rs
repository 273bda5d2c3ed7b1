//! The revocation feed: how processes without the store learn what was revoked.
//!
//! They ask `GET /onggi/revocations?instance=I&count=N` with `x-onggi-feed: KEY TIME NONCE MAC`, the MAC over
//! `request`, time, nonce and target. The answer is an [`Update`] as JSON with `x-onggi-feed: KEY MAC`, the MAC over
//! `answer`, the request's nonce and the body: nobody without the cluster's keys can read the list, or feign an empty one.

use crate::keys::{KeyId, KeyRing, Keys, Purpose};
use crate::revocation::{Revocations, Update};
use crate::verifier::Verifier;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use core::time::Duration;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use onggi_common_host::{Clock, Entropy};
use onggi_common_service::Drain;
use onggi_common_units::UtcTime;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Where the feed is.
pub const PATH: &str = "/onggi/revocations";
/// The header that carries the proof of both sides.
pub const HEADER: &str = "x-onggi-feed";
/// How often a copy is brought up to date.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// The longest pause after failures.
pub const INTERVAL_MAX: Duration = Duration::from_secs(8);
/// How long one request may take.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// How far the clocks of two machines may differ.
const SKEW_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What the asking side signs.
fn request_parts<'a>(time: &'a str, nonce: &'a str, target: &'a str) -> [&'a [u8]; 6] {
    [
        b"request\0",
        time.as_bytes(),
        b"\0",
        nonce.as_bytes(),
        b"\0",
        target.as_bytes(),
    ]
}

/// The answering side.
pub(crate) struct FeedSource {
    keys: Keys,
}

impl FeedSource {
    pub(crate) fn new(ring: &KeyRing) -> Self {
        Self {
            keys: ring.derive(Purpose::Feed),
        }
    }

    /// The answer's header and body; `None` when the request carries no proof.
    pub(crate) fn answer(
        &self,
        target: &str,
        proof: &str,
        revocations: &Revocations,
        now: UtcTime,
    ) -> Option<(String, Vec<u8>)> {
        let mut fields = proof.split(' ');
        let key = self.keys.find(KeyId::parse(fields.next()?)?)?;
        let (time, nonce) = (fields.next()?, fields.next()?);
        let mac = URL_SAFE_NO_PAD.decode(fields.next()?).ok()?;
        if !key.is_mac_of(&mac, &request_parts(time, nonce, target)) {
            return None;
        }
        let asked_at = UtcTime::from_micros(time.parse().ok()?);
        if asked_at.since(now).max(now.since(asked_at)) > SKEW_MAX {
            return None;
        }
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let field = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map_or("", |(_, value)| value)
        };
        let update =
            revocations.update_since(field("instance"), field("count").parse().unwrap_or(0));
        let body = serde_json::to_vec(&update).ok()?;
        let mac = key.mac(&[b"answer\0", nonce.as_bytes(), b"\0", &body]);
        Some((
            format!("{} {}", key.id(), URL_SAFE_NO_PAD.encode(mac)),
            body,
        ))
    }
}

/// Why the list could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The address is none.
    #[error("{url:?} is not an address like http://127.0.0.1:5000")]
    Address {
        /// What was configured.
        url: String,
    },
    /// Nobody there, or the connection broke.
    #[error("asking the identity service at {authority}: {source}")]
    Connection {
        /// Where.
        authority: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the identity service at {authority} did not answer within {REQUEST_TIME_MAX:?}")]
    Slow {
        /// Where.
        authority: String,
    },
    /// It refuses us: another key ring, or a clock far off.
    #[error(
        "the identity service answered {status}: compare the key ring files and the clocks of both machines"
    )]
    Refused {
        /// What it answered.
        status: http::StatusCode,
    },
    /// The answer is not from our identity service.
    #[error("the answer is not signed with this cluster's key ring")]
    Unsigned,
    /// The answer is no list.
    #[error("the answer is not a revocation list: {source}")]
    Malformed {
        /// Why.
        source: serde_json::Error,
    },
}

/// Keeps a [`Verifier`]'s revocations up to date.
pub struct RevocationFeed {
    authority: String,
    keys: Keys,
    revocations: Arc<Revocations>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

impl RevocationFeed {
    /// A feed from the identity service at `identity_url` (`http://127.0.0.1:5000`) into `verifier`.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn new(
        identity_url: &str,
        ring: &KeyRing,
        verifier: &Verifier,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, FeedError> {
        let uri = identity_url.parse::<http::Uri>().ok();
        let uri = uri.filter(|uri| uri.scheme_str() == Some("http"));
        let authority = uri.as_ref().and_then(http::Uri::authority);
        let Some(authority) = authority else {
            return Err(FeedError::Address {
                url: identity_url.to_owned(),
            });
        };
        let with_port = match authority.port_u16() {
            Some(_) => authority.to_string(),
            None => format!("{authority}:80"),
        };
        Ok(Self {
            authority: with_port,
            keys: ring.derive(Purpose::Feed),
            revocations: Arc::clone(verifier.revocations()),
            clock,
            entropy,
        })
    }

    /// Pulls until the drain begins. While the service is unreachable the last list serves on.
    pub async fn run(self, drain: Drain) {
        let mut failures = 0u32;
        loop {
            let pulled = tokio::select! {
                pulled = self.pull() => pulled,
                () = drain.requested() => return,
            };
            match pulled {
                Ok(()) if failures > 0 => {
                    tracing::info!("the revocation list is up to date again");
                    failures = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(%error, "the revocation list cannot be updated; the last one serves on");
                    }
                    failures = failures.saturating_add(1);
                }
            }
            let pause = self.pause(failures);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = drain.requested() => return,
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        // Before the first list nobody can log in: ask often.
        if !self.revocations.is_known() {
            return INTERVAL / 10;
        }
        INTERVAL
            .saturating_mul(1 << failures.min(8))
            .min(if failures == 0 {
                INTERVAL
            } else {
                INTERVAL_MAX
            })
    }

    /// Brings the list up to date once.
    ///
    /// # Errors
    /// When the service cannot be reached or its answer is not believed.
    pub async fn pull(&self) -> Result<(), FeedError> {
        let update = tokio::time::timeout(REQUEST_TIME_MAX, self.ask()).await;
        let Ok(update) = update else {
            return Err(FeedError::Slow {
                authority: self.authority.clone(),
            });
        };
        self.revocations.apply(update?, self.clock.now());
        Ok(())
    }

    fn broken<E: Into<Box<dyn std::error::Error + Send + Sync>>>(&self, source: E) -> FeedError {
        FeedError::Connection {
            authority: self.authority.clone(),
            source: source.into(),
        }
    }

    async fn ask(&self) -> Result<Update, FeedError> {
        let (instance, count) = self.revocations.position();
        let target = format!("{PATH}?instance={instance}&count={count}");
        let key = self.keys.current();
        let time = self.clock.now().micros().to_string();
        let nonce = self.entropy.hex_id().to_string();
        let mac = URL_SAFE_NO_PAD.encode(key.mac(&request_parts(&time, &nonce, &target)));
        let request = http::Request::get(&target)
            .header(http::header::HOST, &self.authority)
            .header(HEADER, format!("{} {time} {nonce} {mac}", key.id()))
            .body(Empty::<Bytes>::new())
            .map_err(|source| self.broken(source))?;
        let stream = TcpStream::connect(&self.authority)
            .await
            .map_err(|e| self.broken(e))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.broken(e))?;
        let connection = tokio::spawn(connection);
        let answer = sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(e));
        let read = match answer {
            Ok(answer) => self.read(answer, &nonce).await,
            Err(error) => Err(error),
        };
        connection.abort();
        read
    }

    async fn read(
        &self,
        answer: http::Response<hyper::body::Incoming>,
        nonce: &str,
    ) -> Result<Update, FeedError> {
        if answer.status() != http::StatusCode::OK {
            return Err(FeedError::Refused {
                status: answer.status(),
            });
        }
        let proof = answer
            .headers()
            .get(HEADER)
            .and_then(|value| value.to_str().ok());
        let proof = proof.map(str::to_owned).unwrap_or_default();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|e| self.broken(e))?.to_bytes();
        let is_signed = proof.split_once(' ').is_some_and(|(id, mac)| {
            let key = KeyId::parse(id).and_then(|id| self.keys.find(id));
            let mac = URL_SAFE_NO_PAD.decode(mac).unwrap_or_default();
            key.is_some_and(|key| {
                key.is_mac_of(&mac, &[b"answer\0", nonce.as_bytes(), b"\0", &body])
            })
        });
        if !is_signed {
            return Err(FeedError::Unsigned);
        }
        serde_json::from_slice(&body).map_err(|source| FeedError::Malformed { source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Key;
    use onggi_common_host::SystemEntropy;

    fn proof(key: &Key, time: u64, target: &str) -> String {
        let time = time.to_string();
        let mac = URL_SAFE_NO_PAD.encode(key.mac(&request_parts(&time, "n", target)));
        format!("{} {time} n {mac}", key.id())
    }

    #[test]
    fn only_who_has_the_keys_gets_the_list_and_only_for_what_was_signed() {
        let ring = KeyRing::generate(&SystemEntropy);
        let source = FeedSource::new(&ring);
        let list = Revocations::own("run".to_owned(), Vec::new());
        let now = UtcTime::from_seconds(1_000_000);
        let ask = |target: &str, proof: &str| source.answer(target, proof, &list, now);
        let keys = ring.derive(Purpose::Feed);
        let good = proof(keys.current(), now.micros(), PATH);
        assert!(ask(PATH, &good).is_some());
        assert!(
            ask("/onggi/revocations?count=7", &good).is_none(),
            "another target"
        );
        let other_purpose = ring.derive(Purpose::Tokens);
        assert!(ask(PATH, &proof(other_purpose.current(), now.micros(), PATH)).is_none());
        assert!(
            ask(
                PATH,
                &proof(keys.current(), now.micros() - 61_000_000, PATH)
            )
            .is_none(),
            "old"
        );
        for bad in ["", " ", "x y z w", &good[..good.len() - 1]] {
            assert!(ask(PATH, bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_refused() {
        let ring = KeyRing::generate(&SystemEntropy);
        for url in ["", "127.0.0.1", "https://127.0.0.1:5000", "/x"] {
            let clock: Arc<dyn Clock> = Arc::new(onggi_common_host::SystemClock::new());
            let verifier = Verifier::new(&ring, Arc::clone(&clock));
            let feed = RevocationFeed::new(url, &ring, &verifier, clock, Arc::new(SystemEntropy));
            assert!(feed.is_err(), "{url}");
        }
    }
}

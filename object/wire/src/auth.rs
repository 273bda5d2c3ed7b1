//! Who may speak to a storage port: holders of the cluster's key ring, each message once.
//!
//! A request carries `x-onggi-authorization: key=…,time=…,session=…,count=…,length=…,body=…,mac=…`. The MAC is
//! HMAC-SHA256 over every one of these and over method, authority, path with query and head. `body` is the BLAKE3 hash
//! of a body sent whole, or `tail`: a streamed body ends with a trailer that names its root, proven by a MAC bound to
//! this request ([`Pending::verify_tail`]).
//!
//! A message counts once: each sender process draws a random session and numbers its requests; a verifier keeps one
//! window of numbers per session, so that its memory is bounded by senders and not by requests. Messages older than
//! the allowed skew are refused whatever their session.

use crate::head::{from_hex, to_hex};
use crate::link::{LinkKeys, NONCE_BYTES, PROOF_BYTES};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use hmac::{Hmac, KeyInit, Mac};
use onggi_common_units::UtcTime;
use sha2::Sha256;
use std::collections::HashMap;
use subtle::ConstantTimeEq;

type HmacSha256 = Hmac<Sha256>;

/// How far a sender's clock may be from ours.
pub const SKEW_MAX: Duration = Duration::from_secs(60);
/// Sender processes remembered at a time.
pub const SESSIONS_MAX: usize = 4_096;
/// Requests of one sender that may be overtaken by later ones.
pub const WINDOW: u64 = 16_384;
/// Keys a ring may hold.
pub const KEYS_MAX: usize = 8;

const WINDOW_WORDS: usize = 256;

#[derive(Clone)]
struct Key {
    id: [u8; 4],
    secret: [u8; 32],
}

/// The keys storage ports accept, the first one signing. They are derived from the cluster's key ring, so that a
/// message of this protocol proves nothing in another one.
#[derive(Clone)]
pub struct ClusterKeys(Vec<Key>);

impl core::fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "ClusterKeys({} keys)", self.0.len())
    }
}

/// A key ring without keys, or with too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key ring holds 1 to {KEYS_MAX} keys, this one {count}")]
pub struct KeysError {
    /// How many were given.
    pub count: usize,
}

impl ClusterKeys {
    /// Derives the keys from the ring's secrets, newest first.
    ///
    /// # Errors
    /// When there is no secret, or there are too many.
    pub fn derive<S: AsRef<[u8]>>(secrets: &[S]) -> Result<Self, KeysError> {
        if secrets.is_empty() || secrets.len() > KEYS_MAX {
            return Err(KeysError {
                count: secrets.len(),
            });
        }
        let derive = |secret: &S| {
            let secret = blake3::derive_key("onggi storage wire key 1", secret.as_ref());
            let [a, b, c, d, ..] = blake3::derive_key("onggi storage wire key id 1", &secret);
            Key {
                id: [a, b, c, d],
                secret,
            }
        };
        Ok(Self(secrets.iter().map(derive).collect()))
    }

    fn find(&self, id: [u8; 4]) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }
}

/// How a request's body is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyProof {
    /// The body's BLAKE3 hash. A request without a body has the hash of no bytes.
    Hash([u8; 32]),
    /// A trailer after the body.
    Tail,
}

impl BodyProof {
    /// The proof of a body in memory.
    #[must_use]
    pub fn of(body: &[u8]) -> Self {
        Self::Hash(*blake3::hash(body).as_bytes())
    }

    fn text(self) -> String {
        match self {
            Self::Hash(hash) => to_hex(&hash),
            Self::Tail => "tail".to_owned(),
        }
    }
}

/// The parts of a request that a signature covers.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The method.
    pub method: &'a str,
    /// The node it goes to, as in the `Host` header.
    pub authority: &'a str,
    /// The path with the query.
    pub path: &'a str,
    /// The head's bytes; empty when there is none.
    pub head: &'a [u8],
    /// The body's length, or `None` when it is sent in chunks.
    pub length: Option<u64>,
    /// How the body is proven.
    pub body: BodyProof,
}

/// Signs a process's requests.
#[derive(Debug)]
pub struct Signer {
    keys: ClusterKeys,
    session: [u8; 16],
    count: AtomicU64,
}

/// A signed request: the header to send, and what signs its tail.
#[derive(Debug)]
pub struct Signature {
    /// The value of the authorization header.
    pub header: String,
    tail: TailKey,
}

#[derive(Clone)]
struct TailKey {
    secret: [u8; 32],
    mac: [u8; 32],
}

impl core::fmt::Debug for TailKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TailKey")
    }
}

impl TailKey {
    fn link_proof(&self, nonce: &[u8; NONCE_BYTES]) -> [u8; PROOF_BYTES] {
        mac(&self.secret, &[b"onggi-wire-1 link\n", &self.mac, nonce])
    }

    fn link_keys(&self, nonce: &[u8; NONCE_BYTES]) -> LinkKeys {
        let material = [self.secret.as_slice(), &self.mac, nonce].concat();
        LinkKeys {
            to_node: blake3::derive_key("onggi link to node 1", &material),
            to_caller: blake3::derive_key("onggi link to caller 1", &material),
        }
    }

    fn proof(&self, tail: &[u8]) -> [u8; 32] {
        mac(&self.secret, &[b"onggi-wire-1 tail\n", &self.mac, tail])
    }
}

impl Signer {
    /// A signer of a process that drew this random session.
    #[must_use]
    pub const fn new(keys: ClusterKeys, session: [u8; 16]) -> Self {
        Self {
            keys,
            session,
            count: AtomicU64::new(1),
        }
    }

    /// Signs one request.
    ///
    /// # Panics
    /// Never: a key ring is not empty.
    #[must_use]
    pub fn sign(&self, request: &Signed<'_>, now: UtcTime) -> Signature {
        let key = self
            .keys
            .0
            .first()
            .expect("a key ring has at least one key");
        let claim = Claim {
            key: key.id,
            time: now,
            session: self.session,
            count: self.count.fetch_add(1, Ordering::Relaxed),
            length: request.length,
            body: request.body,
        };
        let mac = claim.mac(&key.secret, request);
        let header = format!("{},mac={}", claim.text(), to_hex(&mac));
        Signature {
            header,
            tail: TailKey {
                secret: key.secret,
                mac,
            },
        }
    }
}

impl Signature {
    /// The keys of a link that this request began and a node answered with `nonce`, when its proof fits.
    #[must_use]
    pub fn link_keys(
        &self,
        nonce: &[u8; NONCE_BYTES],
        proof: &[u8; PROOF_BYTES],
    ) -> Option<LinkKeys> {
        bool::from(self.tail.link_proof(nonce).ct_eq(proof)).then(|| self.tail.link_keys(nonce))
    }

    /// The proof of the tail that ends this request's streamed body.
    #[must_use]
    pub fn prove_tail(&self, tail: &[u8]) -> String {
        to_hex(&self.tail.proof(tail))
    }
}

fn mac(secret: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = HmacSha256::new_from_slice(secret).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    key: [u8; 4],
    time: UtcTime,
    session: [u8; 16],
    count: u64,
    length: Option<u64>,
    body: BodyProof,
}

impl Claim {
    fn text(&self) -> String {
        let length = self
            .length
            .map_or_else(|| "-".to_owned(), |length| length.to_string());
        format!(
            "key={},time={},session={},count={},length={length},body={}",
            to_hex(&self.key),
            self.time.micros(),
            to_hex(&self.session),
            self.count,
            self.body.text()
        )
    }

    fn mac(&self, secret: &[u8; 32], request: &Signed<'_>) -> [u8; 32] {
        let line = format!(
            "onggi-wire-1\n{}\n{}\n{}\n{}\n",
            request.method,
            request.authority,
            request.path,
            self.text()
        );
        mac(secret, &[line.as_bytes(), request.head])
    }

    fn parse(text: &str) -> Option<(Self, [u8; 32])> {
        let mut parts = text.split(',');
        let mut take = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let number = |digits: &str| -> Option<u64> {
            // One text per value: no sign, no leading zero.
            let plain = digits.bytes().all(|b| b.is_ascii_digit())
                && (digits.len() == 1 || !digits.starts_with('0'));
            if plain { digits.parse().ok() } else { None }
        };
        let key = from_hex(take("key")?)?;
        let time = UtcTime::from_micros(number(take("time")?)?);
        let session = from_hex(take("session")?)?;
        let count = number(take("count")?)?;
        let length = match take("length")? {
            "-" => None,
            digits => Some(number(digits)?),
        };
        let body = match take("body")? {
            "tail" => BodyProof::Tail,
            hash => BodyProof::Hash(from_hex(hash)?),
        };
        let mac = from_hex(take("mac")?)?;
        if parts.next().is_some() {
            return None;
        }
        Some((
            Self {
                key,
                time,
                session,
                count,
                length,
                body,
            },
            mac,
        ))
    }
}

/// Why a request is not taken. It goes to the log, never to the sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No signature, or none of this version.
    #[error("no signature of this version")]
    Unsigned,
    /// Signed with a key this ring does not hold.
    #[error("signed with an unknown key")]
    UnknownKey,
    /// The signature does not fit the request.
    #[error("the signature does not fit")]
    Forged,
    /// The sender's clock is too far away.
    #[error("signed {skew:?} away from this node's clock")]
    Skewed {
        /// How far.
        skew: Duration,
    },
    /// Addressed to another node.
    #[error("addressed to another node")]
    Misaddressed,
    /// Seen before, or overtaken by too many later ones.
    #[error("seen before")]
    Replayed,
    /// More senders than are remembered.
    #[error("more than {SESSIONS_MAX} senders within the allowed skew")]
    TooManySessions,
    /// The body is not what was signed.
    #[error("the body is not what was signed")]
    WrongBody,
}

#[derive(Debug)]
struct Window {
    newest: u64,
    seen: Box<[u64; WINDOW_WORDS]>,
    last: UtcTime,
}

impl Window {
    fn new(now: UtcTime) -> Self {
        Self {
            newest: 0,
            seen: Box::new([0; WINDOW_WORDS]),
            last: now,
        }
    }

    fn bit(count: u64) -> (usize, u64) {
        let position = count % WINDOW;
        (
            usize::try_from(position / 64).unwrap_or(0),
            1 << (position % 64),
        )
    }

    /// Marks a number as seen; false when it was, or is too old to tell.
    fn take(&mut self, count: u64) -> bool {
        if count > self.newest {
            if count - self.newest >= WINDOW {
                self.seen.fill(0);
            } else {
                for passed in self.newest + 1..=count {
                    let (word, bit) = Self::bit(passed);
                    self.seen[word] &= !bit;
                }
            }
            self.newest = count;
        } else if self.newest - count >= WINDOW {
            return false;
        }
        let (word, bit) = Self::bit(count);
        let fresh = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        fresh
    }
}

/// Judges requests that reach a node.
#[derive(Debug)]
pub struct Verifier {
    keys: ClusterKeys,
    authorities: Vec<String>,
    sessions: HashMap<[u8; 16], Window>,
}

/// A request whose head was accepted; its body still has to be proven.
#[derive(Debug)]
#[must_use = "the body is not proven yet"]
pub struct Pending {
    body: BodyProof,
    tail: TailKey,
}

impl Verifier {
    /// A verifier for a node reached under these authorities (`host:port`).
    #[must_use]
    pub fn new(keys: ClusterKeys, authorities: Vec<String>) -> Self {
        Self {
            keys,
            authorities,
            sessions: HashMap::new(),
        }
    }

    /// Judges a request's head by its authorization header.
    ///
    /// # Errors
    /// When the request is not to be taken.
    pub fn verify(
        &mut self,
        header: Option<&str>,
        request: &SignedHead<'_>,
        now: UtcTime,
    ) -> Result<Pending, Refusal> {
        let (claim, given) = header.and_then(Claim::parse).ok_or(Refusal::Unsigned)?;
        let key = self.keys.find(claim.key).ok_or(Refusal::UnknownKey)?;
        let signed = Signed {
            method: request.method,
            authority: request.authority,
            path: request.path,
            head: request.head,
            length: claim.length,
            body: claim.body,
        };
        let expected = claim.mac(&key.secret, &signed);
        if !bool::from(expected.ct_eq(&given)) || claim.length != request.length {
            return Err(Refusal::Forged);
        }
        if !self
            .authorities
            .iter()
            .any(|known| known == request.authority)
        {
            return Err(Refusal::Misaddressed);
        }
        let skew = now.since(claim.time).max(claim.time.since(now));
        if skew > SKEW_MAX {
            return Err(Refusal::Skewed { skew });
        }
        let tail = TailKey {
            secret: key.secret,
            mac: expected,
        };
        self.remember(claim.session, claim.count, now)?;
        Ok(Pending {
            body: claim.body,
            tail,
        })
    }

    fn remember(&mut self, session: [u8; 16], count: u64, now: UtcTime) -> Result<(), Refusal> {
        if !self.sessions.contains_key(&session) {
            if self.sessions.len() >= SESSIONS_MAX {
                // A session silent for twice the skew has no message left that would pass the clock.
                self.sessions
                    .retain(|_, window| now.since(window.last) <= SKEW_MAX * 2);
            }
            if self.sessions.len() >= SESSIONS_MAX {
                return Err(Refusal::TooManySessions);
            }
        }
        let window = self
            .sessions
            .entry(session)
            .or_insert_with(|| Window::new(now));
        window.last = window.last.max(now);
        if window.take(count) {
            Ok(())
        } else {
            Err(Refusal::Replayed)
        }
    }
}

/// The parts of a received request that its signature must fit.
#[derive(Debug, Clone, Copy)]
pub struct SignedHead<'a> {
    /// The method.
    pub method: &'a str,
    /// The `Host` header.
    pub authority: &'a str,
    /// The path with the query.
    pub path: &'a str,
    /// The head's bytes; empty when there is none.
    pub head: &'a [u8],
    /// The `Content-Length`, or `None` when the body comes in chunks.
    pub length: Option<u64>,
}

impl Pending {
    /// The proof and the keys of a link that this request begins, with random bytes of this node.
    #[must_use]
    pub fn link_keys(&self, nonce: &[u8; NONCE_BYTES]) -> ([u8; PROOF_BYTES], LinkKeys) {
        (self.tail.link_proof(nonce), self.tail.link_keys(nonce))
    }

    /// Whether the body ends with a tail.
    #[must_use]
    pub fn has_tail(&self) -> bool {
        self.body == BodyProof::Tail
    }

    /// Judges a body that was read whole.
    ///
    /// # Errors
    /// When it is not what was signed.
    pub fn verify_body(self, body: &[u8]) -> Result<(), Refusal> {
        if self.body == BodyProof::of(body) {
            Ok(())
        } else {
            Err(Refusal::WrongBody)
        }
    }

    /// Judges the tail of a streamed body. The caller then compares the root it names with the bytes that came.
    ///
    /// # Errors
    /// When the tail is not what was signed.
    pub fn verify_tail(self, tail: &[u8], proof: &str) -> Result<(), Refusal> {
        let given: [u8; 32] = from_hex(proof).ok_or(Refusal::WrongBody)?;
        let fits = self.has_tail() && bool::from(self.tail.proof(tail).ct_eq(&given));
        if fits {
            Ok(())
        } else {
            Err(Refusal::WrongBody)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: UtcTime = UtcTime::from_seconds(1_800_000_000);

    fn keys(secrets: &[&str]) -> ClusterKeys {
        ClusterKeys::derive(secrets).unwrap()
    }

    fn request<'a>() -> Signed<'a> {
        Signed {
            method: "PUT",
            authority: "127.0.0.1:6200",
            path: "/1/sdb1/object",
            head: br#"{"policy":0}"#,
            length: Some(3),
            body: BodyProof::of(b"jar"),
        }
    }

    fn head<'a>(signed: &Signed<'a>) -> SignedHead<'a> {
        SignedHead {
            method: signed.method,
            authority: signed.authority,
            path: signed.path,
            head: signed.head,
            length: signed.length,
        }
    }

    fn verifier(secrets: &[&str]) -> Verifier {
        Verifier::new(keys(secrets), vec!["127.0.0.1:6200".to_owned()])
    }

    #[test]
    fn a_signed_request_is_taken_once() {
        let signer = Signer::new(keys(&["one"]), [1; 16]);
        let signature = signer.sign(&request(), NOW);
        let mut verifier = verifier(&["one"]);
        let pending = verifier
            .verify(Some(&signature.header), &head(&request()), NOW)
            .unwrap();
        assert_eq!(pending.verify_body(b"jar"), Ok(()));
        let again = verifier.verify(Some(&signature.header), &head(&request()), NOW);
        assert_eq!(again.unwrap_err(), Refusal::Replayed);
    }

    #[test]
    fn a_rotated_ring_still_takes_the_older_key() {
        let signature = Signer::new(keys(&["old"]), [1; 16]).sign(&request(), NOW);
        let mut rotated = verifier(&["new", "old"]);
        assert!(
            rotated
                .verify(Some(&signature.header), &head(&request()), NOW)
                .is_ok()
        );
        let mut gone = verifier(&["new"]);
        let refused = gone.verify(Some(&signature.header), &head(&request()), NOW);
        assert_eq!(refused.unwrap_err(), Refusal::UnknownKey);
    }

    #[test]
    fn every_signed_part_matters() {
        let signature = Signer::new(keys(&["one"]), [1; 16]).sign(&request(), NOW);
        let good = head(&request());
        for bad in [
            SignedHead {
                method: "DELETE",
                ..good
            },
            SignedHead {
                authority: "127.0.0.2:6200",
                ..good
            },
            SignedHead {
                path: "/1/sdb2/object",
                ..good
            },
            SignedHead {
                head: b"{}",
                ..good
            },
            SignedHead {
                length: None,
                ..good
            },
        ] {
            let refused = verifier(&["one"]).verify(Some(&signature.header), &bad, NOW);
            assert_eq!(refused.unwrap_err(), Refusal::Forged, "{bad:?}");
        }
        for (from, to) in [
            ("count=1", "count=2"),
            ("length=3", "length=03"),
            ("mac=", "mac=00"),
        ] {
            let header = signature.header.replace(from, to);
            assert!(
                verifier(&["one"])
                    .verify(Some(&header), &good, NOW)
                    .is_err(),
                "{header}"
            );
        }
    }

    #[test]
    fn a_request_for_another_node_or_another_time_is_refused() {
        let signer = Signer::new(keys(&["one"]), [1; 16]);
        let other = Signed {
            authority: "127.0.0.2:6200",
            ..request()
        };
        let signature = signer.sign(&other, NOW);
        let refused = verifier(&["one"]).verify(Some(&signature.header), &head(&other), NOW);
        assert_eq!(refused.unwrap_err(), Refusal::Misaddressed);
        for then in [
            UtcTime::from_seconds(1_799_999_939),
            UtcTime::from_seconds(1_800_000_061),
        ] {
            let signature = signer.sign(&request(), then);
            let refused =
                verifier(&["one"]).verify(Some(&signature.header), &head(&request()), NOW);
            assert!(
                matches!(refused, Err(Refusal::Skewed { .. })),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn another_body_or_tail_is_refused() {
        let signer = Signer::new(keys(&["one"]), [1; 16]);
        let mut verifier = verifier(&["one"]);
        let signature = signer.sign(&request(), NOW);
        let pending = verifier
            .verify(Some(&signature.header), &head(&request()), NOW)
            .unwrap();
        assert_eq!(pending.verify_body(b"jug"), Err(Refusal::WrongBody));

        let streamed = Signed {
            length: None,
            body: BodyProof::Tail,
            ..request()
        };
        let one = signer.sign(&streamed, NOW);
        let two = signer.sign(&streamed, NOW);
        let mut pending = || {
            verifier
                .verify(Some(&one.header), &head(&streamed), NOW)
                .unwrap()
        };
        assert_eq!(
            pending().verify_tail(b"tail", &one.prove_tail(b"tail")),
            Ok(())
        );
        let mut verifier = self::verifier(&["one"]);
        let pending = verifier
            .verify(Some(&one.header), &head(&streamed), NOW)
            .unwrap();
        // The proof of another request's tail, or of another tail, does not fit.
        assert_eq!(
            pending.verify_tail(b"tail", &two.prove_tail(b"tail")),
            Err(Refusal::WrongBody)
        );
        let mut verifier = self::verifier(&["one"]);
        let pending = verifier
            .verify(Some(&one.header), &head(&streamed), NOW)
            .unwrap();
        assert_eq!(
            pending.verify_tail(b"liat", &one.prove_tail(b"tail")),
            Err(Refusal::WrongBody)
        );
    }

    #[test]
    fn requests_may_overtake_each_other_within_the_window() {
        let mut window = Window::new(NOW);
        assert!(window.take(5) && window.take(3) && window.take(4));
        assert!(!window.take(3) && !window.take(5));
        assert!(window.take(WINDOW + 5));
        assert!(!window.take(5) && window.take(6) && !window.take(6));
        assert!(window.take(WINDOW * 9) && window.take(WINDOW * 9 - 1));
    }

    #[test]
    fn senders_are_bounded_and_silent_ones_forgotten() {
        let mut verifier = verifier(&["one"]);
        let session = |number: u32| {
            let mut session = [0; 16];
            session[..4].copy_from_slice(&number.to_be_bytes());
            session
        };
        let senders = u32::try_from(SESSIONS_MAX).unwrap();
        for number in 0..senders {
            verifier.remember(session(number), 1, NOW).unwrap();
        }
        assert_eq!(
            verifier.remember(session(senders), 1, NOW),
            Err(Refusal::TooManySessions)
        );
        let later = NOW.saturating_add(SKEW_MAX * 3);
        assert_eq!(verifier.remember(session(senders), 1, later), Ok(()));
    }

    proptest! {
        #[test]
        fn garbage_is_refused(header in ".{0,200}") {
            let refused = verifier(&["one"]).verify(Some(&header), &head(&request()), NOW);
            prop_assert!(refused.is_err());
        }
    }
}

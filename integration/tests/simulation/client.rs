//! Clients: each with a proxy of its own, one request at a time.

use crate::cluster::{CONTAINER, Cluster, QUORUM, body_of, lock};
use crate::history::{History, Kind, Outcome};
use crate::nemesis::UNLUCKY;
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use http::{Method, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, BodyError, Handler as _, Request, collect, empty, full};
use onggi_common_sim::Random;
use onggi_common_units::Timestamp;
use onggi_object_device::{Location, StoredObject};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// After so long a client goes away without an answer.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long before a request its nodes must have been well for it to count as undisturbed: what was on its way then is
/// over, and a proxy that left a node alone asks it again.
const CALM_BEFORE: Duration = Duration::from_secs(4);
/// The longest object.
const BYTES_MAX: usize = 64 << 20;

/// An answer, its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    /// `None` when it broke off.
    pub(crate) body: Option<Bytes>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What a container says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) lines: Vec<(String, String, u64)>,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
}

/// A body that comes in pieces, with pauses.
struct Pieces {
    rest: VecDeque<Bytes>,
    pause: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        let next = Instant::now() + self.pause;
        self.sleep.as_mut().reset(next);
        Poll::Ready(self.rest.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn in_pieces(bytes: &Bytes, pause: Duration) -> Body {
    let rest = bytes.chunks(48 << 10).map(Bytes::copy_from_slice).collect();
    let sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
    Pieces { rest, pause, sleep }.boxed_unsync()
}

/// One client.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) index: usize,
    pub(crate) history: Arc<Mutex<History>>,
}

impl Client {
    pub(crate) fn request(&self, method: Method, target: &str) -> http::request::Builder {
        let uri = format!("/v1/{}/{target}", crate::cluster::ACCOUNT);
        let request = http::Request::builder().method(method).uri(uri);
        request
            .header("x-auth-token", &self.cluster.token)
            .header("host", "front")
    }

    /// Sends a request and hears its whole answer; `None` when that took too long.
    pub(crate) async fn ask(&self, request: Request, patience: Duration) -> Option<Answer> {
        let proxy = Arc::clone(&self.cluster.fronts[self.index].proxy);
        let answering = async move {
            let (parts, body) = proxy.handle(request).await.into_parts();
            let body = collect(body, BYTES_MAX).await.ok();
            Answer {
                status: parts.status,
                headers: parts.headers,
                body,
            }
        };
        tokio::time::timeout(patience, answering).await.ok()
    }

    pub(crate) async fn make_container(&self) -> StatusCode {
        let request = self
            .request(Method::PUT, CONTAINER)
            .header("content-length", "0");
        let answer = self.ask(request.body(empty()).unwrap(), PATIENCE).await;
        answer.map_or(StatusCode::REQUEST_TIMEOUT, |answer| answer.status)
    }

    fn note(&self, what: core::fmt::Arguments<'_>) {
        self.cluster
            .world
            .note(format_args!("client {}: {what}", self.index));
    }

    /// Writes an object; its id, and what the client was told.
    pub(crate) async fn put(
        &self,
        name: &str,
        kind: Kind,
        length: usize,
        extra: Extra<'_>,
    ) -> (u64, Outcome) {
        let id = lock(&self.history).begin(name, kind);
        let bytes = body_of(id, length);
        let target = format!("{CONTAINER}/{name}");
        let mut request = self
            .request(Method::PUT, &target)
            .header("content-length", bytes.len())
            .header("content-type", "text/plain")
            .header("x-object-meta-op", id.to_string());
        if kind == Kind::PutNew {
            request = request.header("if-none-match", "*");
        }
        if let Some(etag) = extra.etag {
            request = request.header("if-match", etag);
        }
        let body = match extra.pause {
            Some(pause) => in_pieces(&bytes, pause),
            None => full(bytes),
        };
        self.note(format_args!("{id} {kind:?} {name}, {length} bytes"));
        let answer = self.ask(request.body(body).unwrap(), extra.patience).await;
        // Each attempt is stamped above the one before: the last one is what was acknowledged.
        let stamp = {
            let mut stamps = lock(&self.cluster.stamps);
            let host = self.cluster.fronts[self.index].host;
            stamps.streams.remove(&(host, name.to_owned()));
            stamps.puts.get(&id.to_string()).copied()
        };
        let outcome = match (answer.map(|answer| answer.status), stamp) {
            (Some(StatusCode::CREATED), Some(at)) => Outcome::Done { at },
            (Some(StatusCode::PRECONDITION_FAILED), _) => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        let is_there = |row: &StoredObject, at: Timestamp| {
            row.row.data_timestamp > at || (row.row.data_timestamp == at && row.row.body.is_some())
        };
        self.end(id, name, outcome, is_there);
        (id, outcome)
    }

    /// Judges an acknowledgement at the moment it is given.
    fn end(
        &self,
        id: u64,
        name: &str,
        outcome: Outcome,
        is_there: impl Fn(&StoredObject, Timestamp) -> bool,
    ) {
        self.note(format_args!("{id} {outcome:?}"));
        let Outcome::Done { at } = outcome else {
            return lock(&self.history).end(id, outcome, false);
        };
        let kind = lock(&self.history).get(id).map(|write| write.kind);
        // A POST brings no bytes: it is kept where the row is, also when the bytes there were found damaged before it came
        // and have not healed yet.
        let needs_bytes = kind != Some(Kind::Post);
        let mut holders = self
            .cluster
            .row_holders(name, needs_bytes, |row| is_there(row, at));
        // What rotted after the node had answered, and was found before the client heard of it, had been there.
        let has_rotted = |row: &StoredObject| {
            row.row.data_timestamp == at && row.location == Location::Quarantined
        };
        if !holders.contains(&UNLUCKY) {
            let rotten = self.cluster.row_holders(name, false, has_rotted);
            holders.extend(rotten.into_iter().filter(|index| *index == UNLUCKY));
        }
        let primaries = self.cluster.primaries(name);
        let visible = primaries
            .iter()
            .filter(|index| holders.contains(index))
            .count();
        // By now a later PUT may have replaced what a deletion has found.
        let is_deleted = lock(&self.cluster.stamps).deleted_above(name, at) >= QUORUM;
        let mut history = lock(&self.history);
        let begun = history
            .get(id)
            .map_or_else(Instant::now, |write| write.begun);
        if holders.len() < QUORUM {
            history.violate(format!(
                "O1: {id} of {name} was acknowledged and is for good on nodes {holders:?} only"
            ));
        }
        let calm = self.cluster.is_calm(self.index, name, begun - CALM_BEFORE);
        let hidden = history.seen_by_all(name, begun).filter(|(_, other, seen)| {
            // A deletion that finds a later one has nothing to do.
            let is_needless =
                kind == Some(Kind::Delete) && (is_deleted || other.kind == Kind::Delete);
            *seen >= at && !is_needless
        });
        let hidden = hidden.map(|(id, ..)| id);
        if let Some(seen) = hidden.filter(|_| calm && kind != Some(Kind::Post)) {
            history.violate(format!(
                "O2: {id} of {name} was acknowledged under {at}, not above {seen} before it"
            ));
        }
        history.end(id, outcome, visible >= QUORUM);
    }

    /// The stamp a change without one in its answer was sent under: this client has only one under way.
    fn sent_at(&self, name: &str) -> Option<Timestamp> {
        let host = self.cluster.fronts[self.index].host;
        lock(&self.cluster.stamps)
            .changes
            .get(&(host, name.to_owned()))
            .copied()
    }

    pub(crate) async fn delete(&self, name: &str, patience: Duration) -> Outcome {
        let id = lock(&self.history).begin(name, Kind::Delete);
        self.note(format_args!("{id} Delete {name}"));
        let request = self.request(Method::DELETE, &format!("{CONTAINER}/{name}"));
        let answer = self.ask(request.body(empty()).unwrap(), patience).await;
        // A 404 has left a tombstone as well.
        let is_done = |answer: &Answer| {
            matches!(
                answer.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_FOUND
            )
        };
        let at = answer.filter(is_done).and_then(|_| self.sent_at(name));
        let outcome = at.map_or(Outcome::Unknown, |at| Outcome::Done { at });
        self.end(id, name, outcome, |row, at| row.row.data_timestamp >= at);
        outcome
    }

    pub(crate) async fn post(&self, name: &str) -> Outcome {
        let id = lock(&self.history).begin(name, Kind::Post);
        self.note(format_args!("{id} Post {name}"));
        let request = self
            .request(Method::POST, &format!("{CONTAINER}/{name}"))
            .header("x-object-meta-op", id.to_string());
        let answer = self.ask(request.body(empty()).unwrap(), PATIENCE).await;
        let outcome = match answer.map(|answer| answer.status) {
            Some(StatusCode::ACCEPTED) => self
                .sent_at(name)
                .map_or(Outcome::Unknown, |at| Outcome::Done { at }),
            _ => Outcome::Unknown,
        };
        let is_there = |row: &StoredObject, at: Timestamp| {
            row.row.metadata_timestamp >= at || row.row.data_timestamp > at
        };
        self.end(id, name, outcome, is_there);
        outcome
    }

    /// Reads an object and judges what came; the write whose bytes these are, and their ETag.
    pub(crate) async fn get(&self, name: &str) -> Option<(u64, String)> {
        let begun = Instant::now();
        let request = self.request(Method::GET, &format!("{CONTAINER}/{name}"));
        let answer = self.ask(request.body(empty()).unwrap(), PATIENCE).await?;
        let calm = self.cluster.is_calm(self.index, name, begun - CALM_BEFORE);
        match answer.status {
            StatusCode::OK => {
                // A body that broke off said so: nobody takes it for whole.
                let body = answer.body.as_ref()?;
                let id = body.split(|byte| *byte == b' ').next();
                let id: u64 = core::str::from_utf8(id?).ok()?.parse().ok()?;
                self.note(format_args!("read {name}: {id}, calm {calm}"));
                let length: usize = answer.header("content-length")?.parse().ok()?;
                let mut history = lock(&self.history);
                if *body != body_of(id, length) {
                    history.violate(format!("O4: {name} was read with bytes that nobody wrote"));
                }
                let about = answer
                    .header("x-object-meta-op")
                    .and_then(|id| id.parse::<u64>().ok());
                // A PUT's metadata comes and goes with its bytes.
                let is_own = |about: u64| {
                    let write = history.get(about).filter(|write| write.name == name);
                    write.is_some_and(|write| !write.is_put() || about == id)
                };
                if !about.is_some_and(is_own) {
                    history.violate(format!(
                        "O3: {name} was read with bytes of {id} and metadata of {about:?}"
                    ));
                }
                history.on_found(name, id, begun, calm, &lock(&self.cluster.stamps));
                Some((id, answer.header("etag")?.to_owned()))
            }
            StatusCode::NOT_FOUND => {
                self.note(format_args!("read {name}: not found, calm {calm}"));
                lock(&self.history).on_missing(name, begun, calm);
                None
            }
            status => {
                self.note(format_args!("read {name}: {status}"));
                None
            }
        }
    }

    /// The container's listing: name, ETag and length of each object, and the totals it says.
    pub(crate) async fn list(&self) -> Option<Listed> {
        let target = format!("{CONTAINER}?format=json");
        let request = self.request(Method::GET, &target).body(empty()).unwrap();
        let answer = self.ask(request, PATIENCE).await?;
        let total = |name: &str| answer.header(name)?.parse().ok();
        let objects = total("x-container-object-count")?;
        let bytes = total("x-container-bytes-used")?;
        let body = answer.body.as_ref()?;
        let lines = match serde_json::from_slice::<serde_json::Value>(body) {
            Ok(lines) => lines,
            Err(_) if body.is_empty() => serde_json::json!([]),
            Err(_) => return None,
        };
        let line = |line: &serde_json::Value| {
            let text = |name: &str| line[name].as_str().map(str::to_owned);
            Some((text("name")?, text("hash")?, line["bytes"].as_u64()?))
        };
        let lines = lines.as_array()?.iter().map(line).collect::<Option<_>>()?;
        Some(Listed {
            lines,
            objects,
            bytes,
        })
    }

    /// Does so many things that the seed chooses.
    pub(crate) async fn work(self, count: usize) {
        let mut random = self.cluster.world.fork();
        for _ in 0..count {
            let pause = random.span(&(Duration::ZERO..Duration::from_millis(900)));
            tokio::time::sleep(pause).await;
            self.step(&mut random).await;
        }
    }

    async fn step(&self, random: &mut Random) {
        let name = format!("k{}", random.index(3));
        let length = match random.within(0..10) {
            0..=5 => random.within(10..2_000),
            6 | 7 => random.within(2_000..60_000),
            _ => random.within(70_000..200_000),
        };
        let length = usize::try_from(length).unwrap();
        let mut extra = Extra::default();
        if random.per_mille(60) {
            extra.patience = random.span(&(Duration::from_millis(1)..Duration::from_millis(400)));
        }
        if random.per_mille(400) {
            extra.pause = Some(random.span(&(Duration::ZERO..Duration::from_millis(150))));
        }
        match random.within(0..100) {
            0..=29 => {
                self.put(&name, Kind::Put, length, extra).await;
            }
            30..=39 => {
                self.delete(&name, extra.patience).await;
            }
            40..=47 => {
                self.post(&name).await;
            }
            48..=53 => {
                self.put("once", Kind::PutNew, length, extra).await;
            }
            54..=58 => {
                self.put(&name, Kind::PutNew, length, extra).await;
            }
            59..=69 => self.replace("chain", length, extra).await,
            70..=73 => {
                self.get("once").await;
            }
            74..=76 => {
                self.list().await;
            }
            _ => {
                self.get(&name).await;
            }
        }
    }

    /// Puts a new version over the one that is read, or the first one.
    pub(crate) async fn replace(&self, name: &str, length: usize, extra: Extra<'_>) {
        match self.get(name).await {
            Some((read, etag)) => {
                let etag = Some(etag.as_str());
                let extra = Extra { etag, ..extra };
                self.put(name, Kind::PutOver { read }, length, extra).await;
            }
            None => {
                self.put(name, Kind::PutNew, length, extra).await;
            }
        }
    }
}

/// How a PUT is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extra<'a> {
    pub(crate) etag: Option<&'a str>,
    /// Between pieces of the body; `None` for all at once.
    pub(crate) pause: Option<Duration>,
    pub(crate) patience: Duration,
}

impl Default for Extra<'_> {
    fn default() -> Self {
        Self {
            etag: None,
            pause: None,
            patience: PATIENCE,
        }
    }
}

/// The objects clients use.
pub(crate) const NAMES: [&str; 5] = ["k0", "k1", "k2", "once", "chain"];

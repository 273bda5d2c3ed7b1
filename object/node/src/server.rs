//! The listener's handler: who asks, what for, and which device.

use crate::disks::{Disk, Disks};
use crate::holds::Holds;
use crate::options::Options;
use crate::progress::ASKERS_MAX;
use crate::respond::{self, Early};
use crate::rings::Rings;
use crate::upload::Received;
use bytes::Bytes;
use http::{Method, StatusCode};
use onggi_common_host::Clock;
use onggi_common_service::Drain;
use onggi_common_service::http::{Handler, Limits, Peer, Request, Response};
use onggi_common_units::Timestamp;
use onggi_object_client::{Limiter, Nodes};
use onggi_object_ring::HashSecrets;
use onggi_object_wire::auth::{Pending, SignedHead};
use onggi_object_wire::{Refusal, Resource, Target, Verifier, head, link};
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// How far ahead of this node's clock a write may be stamped.
pub const AHEAD_MAX: core::time::Duration = core::time::Duration::from_secs(60);

/// A node: what its handlers and daemons share.
pub struct Node {
    pub(crate) address: String,
    pub(crate) disks: Disks,
    pub(crate) rings: Arc<Rings>,
    pub(crate) hash: HashSecrets,
    pub(crate) nodes: Nodes,
    pub(crate) clock: Arc<dyn Clock>,
    /// How many whole days a tombstone stays at least.
    pub(crate) reclaim_age_days: u16,
    /// Which nodes are left alone.
    pub(crate) limiter: Arc<Limiter>,
    /// Keys that conditional writes are about to change.
    pub(crate) holds: Holds,
    /// Places for those who ask how the node is.
    pub(crate) askers: Arc<Semaphore>,
    verifier: Mutex<Verifier>,
}

impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Node {
    pub(crate) fn new(
        options: &Options,
        disks: Disks,
        rings: Arc<Rings>,
        nodes: Nodes,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let verifier = Verifier::new(options.keys.clone(), vec![options.address.clone()]);
        Self {
            address: options.address.clone(),
            disks,
            rings,
            hash: options.hash.clone(),
            nodes,
            clock,
            reclaim_age_days: options.reclaim_age_days,
            limiter: Arc::new(Limiter::default()),
            holds: Holds::default(),
            askers: Arc::new(Semaphore::new(ASKERS_MAX)),
            verifier: Mutex::new(verifier),
        }
    }

    /// The moment as a write's stamp.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_utc(self.clock.now())
    }

    /// Whether a stamp is so far ahead that taking it would hide what honest clocks write later.
    pub(crate) fn is_ahead(&self, at: Timestamp) -> bool {
        at.to_utc() > self.clock.now().saturating_add(AHEAD_MAX)
    }

    /// Judges the authorization of a request of any kind.
    pub(crate) fn judge(
        &self,
        authorization: Option<&str>,
        signed: &SignedHead<'_>,
    ) -> Result<Pending, Refusal> {
        let mut verifier = self.verifier.lock().unwrap_or_else(PoisonError::into_inner);
        verifier.verify(authorization, signed, self.clock.now())
    }

    fn verify(&self, request: &Request) -> Result<Pending, Refusal> {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let length = if headers.contains_key(http::header::TRANSFER_ENCODING) {
            None
        } else {
            match text("content-length") {
                None => Some(0),
                Some(digits) => Some(digits.parse().ok().ok_or(Refusal::Forged)?),
            }
        };
        let path = request
            .uri()
            .path_and_query()
            .map_or("", |path| path.as_str());
        let signed = SignedHead {
            method: request.method().as_str(),
            authority: text("host").unwrap_or_default(),
            path,
            head: headers
                .get(head::HEAD)
                .map_or(&[], |value| value.as_bytes()),
            length,
        };
        self.judge(text(head::AUTHORIZATION), &signed)
    }
}

/// A request whose head was accepted.
pub(crate) struct Call<'a> {
    pub(crate) node: &'a Node,
    pub(crate) disk: Disk,
    pub(crate) body: Received,
    /// The longest body that can be answered, if there is such.
    pub(crate) answer_max: Option<u64>,
    head: Option<Bytes>,
}

impl Call<'_> {
    /// The head as its type.
    pub(crate) fn head<T: DeserializeOwned>(&self) -> Result<T, Early> {
        head::decode(self.head.as_deref()).map_err(|error| Early::new(respond::bad_request(&error)))
    }
}

fn refuse(request: &Request, refusal: Refusal) -> Response {
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    tracing::warn!(?peer, %refusal, "refused a request");
    let mut response = respond::status(StatusCode::FORBIDDEN);
    let close = http::HeaderValue::from_static("close");
    response
        .headers_mut()
        .insert(http::header::CONNECTION, close);
    response
}

impl Handler for Node {
    async fn handle(&self, request: Request) -> Response {
        if request.method() == Method::GET
            && let Some(told) = self.told_to_anybody(request.uri().path()).await
        {
            return told;
        }
        let pending = match self.verify(&request) {
            Ok(pending) => pending,
            Err(refusal) => return refuse(&request, refusal),
        };
        let target: Target = match request.uri().path().parse() {
            Ok(target) => target,
            Err(error) => return respond::bad_request(&error),
        };
        let (mut parts, body) = request.into_parts();
        let head = parts.headers.remove(head::HEAD);
        let head = head.map(|value| head::from_text(value.as_bytes()).unwrap_or_default());
        let asked = Asked {
            method: parts.method,
            device: target.device.as_str(),
            resource: target.resource,
            head: head.map(Bytes::from),
            body: Received::signed(body, pending),
            answer_max: None,
        };
        respond::over_http(self.take(asked).await)
    }

    fn preface(&self) -> Option<&'static [u8]> {
        Some(link::PREFACE)
    }

    async fn take_stream(self: Arc<Self>, stream: TcpStream, limits: Limits, drain: Drain) {
        self.serve_link(stream, limits.header_time_max, drain).await;
    }
}

/// A request, however it came.
pub(crate) struct Asked<'a> {
    pub(crate) method: Method,
    pub(crate) device: &'a str,
    pub(crate) resource: Resource,
    pub(crate) head: Option<Bytes>,
    pub(crate) body: Received,
    /// The longest body that can be answered, if there is such.
    pub(crate) answer_max: Option<u64>,
}

impl Node {
    /// Carries out a request of somebody who has shown to be of the cluster.
    pub(crate) async fn take(&self, asked: Asked<'_>) -> Response {
        let Some(disk) = self.disks.get(asked.device).cloned() else {
            return respond::status(StatusCode::INSUFFICIENT_STORAGE);
        };
        let call = Call {
            node: self,
            disk,
            body: asked.body,
            head: asked.head,
            answer_max: asked.answer_max,
        };
        call.dispatch(&asked.method, asked.resource).await
    }
}

impl Call<'_> {
    async fn dispatch_object(self, method: &Method, resource: Resource) -> Response {
        let done = match (resource, method) {
            (Resource::Object, &Method::PUT) => self.put_object().await,
            (Resource::Object, &Method::GET) => self.get_object(true).await,
            (Resource::Object, &Method::HEAD) => self.get_object(false).await,
            (Resource::Object, &Method::POST) => self.post_object().await,
            (Resource::Object, &Method::DELETE) => self.delete_object().await,
            (Resource::Reservation, &Method::PUT) => self.reserve_object().await,
            (Resource::Reservation, &Method::DELETE) => self.release_object().await,
            (resource, method) => Err(respond::bad_request(&format_args!(
                "{method} of {resource:?}"
            ))),
        };
        done.unwrap_or_else(|refused| refused)
    }

    async fn dispatch(self, method: &Method, resource: Resource) -> Response {
        let done = match (resource, method) {
            (Resource::Object | Resource::Reservation, method) => {
                return self.dispatch_object(method, resource).await;
            }
            (Resource::Container, &Method::PUT) => self.put_container().await,
            (Resource::Container, &Method::POST) => self.post_container().await,
            (Resource::Container, &Method::DELETE) => self.delete_container().await,
            (Resource::Container, &Method::HEAD) => self.head_container().await,
            (Resource::Container, &Method::GET) => self.list_container().await,
            (Resource::ContainerRows, &Method::POST) => self.object_records().await,
            (Resource::Account, &Method::PUT) => self.put_account().await,
            (Resource::Account, &Method::POST) => self.post_account().await,
            (Resource::Account, &Method::DELETE) => self.delete_account().await,
            (Resource::Account, &Method::HEAD) => self.head_account().await,
            (Resource::Account, &Method::GET) => self.list_account().await,
            (Resource::AccountRows, &Method::POST) => self.container_records().await,
            (Resource::Expiry, &Method::POST) => self.newer_than_due().await,
            (Resource::Digests, &Method::POST) => self.digests().await,
            (Resource::Wants, &Method::POST) => self.wants().await,
            (Resource::Rows, &Method::POST) => self.rows().await,
            (Resource::Body, &Method::PUT) => self.pushed_body().await,
            (Resource::Roster, &Method::POST) => self.roster().await,
            (Resource::RosterRuns, &Method::POST) => self.roster_runs().await,
            (resource, method) => Err(respond::bad_request(&format_args!(
                "{method} of {resource:?}"
            ))),
        };
        done.unwrap_or_else(|refused| refused)
    }
}

//! What stands between the network and a node: it looks on, and in controls it lies as a broken node would.

use crate::cluster::lock;
use crate::stamps::Stamps;
use http::{Method, StatusCode};
use onggi_common_service::http::{Handler, Request, Response, collect, empty, full};
use onggi_common_sim::{Host, World};
use onggi_common_units::Timestamp;
use onggi_object_model::ObjectPath;
use onggi_object_node::Node;
use onggi_object_wire::head;
use onggi_object_wire::object::{Commit, Delete, Post, Put, Release, Reserve, Written};
use onggi_object_wire::replication::encode_units;
use onggi_object_wire::{Resource, Target};
use serde::de::DeserializeOwned;
use std::sync::{Arc, Mutex};

/// A deliberate fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lies {
    /// None: the system as it is.
    None,
    /// Disks say that they have synced and have not.
    ForgetSyncs,
    /// Node 0 says 201 to small PUTs and keeps nothing.
    KeepNothing,
    /// Nodes say that they have taken rows pushed to them, and have not: handoffs are dropped too early.
    DropPushes,
    /// Nodes say that partitions are equal that are not: tombstones are reclaimed although a primary has the object.
    AgreeAlways,
    /// Nodes let tombstones go on the day after.
    ReclaimEarly,
    /// Node 1 gives out bytes with one of them changed.
    ServeRot,
}

/// A node's handler for the connections of one host.
pub(crate) struct Listening {
    pub(crate) node: Arc<Node>,
    pub(crate) from: Host,
    pub(crate) index: usize,
    pub(crate) lies: Lies,
    pub(crate) stamps: Arc<Mutex<Stamps>>,
    pub(crate) world: Arc<World>,
}

fn decoded<T: DeserializeOwned>(request: &Request) -> Option<T> {
    let value = request.headers().get(head::HEAD)?;
    let bytes = head::from_text(value.as_bytes())?;
    head::decode(Some(&bytes)).ok()
}

fn bare(code: StatusCode) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = code;
    response
}

/// What a request is about, for the trace.
fn told(resource: Resource, request: &Request) -> Option<String> {
    let method = request.method();
    match (resource, method) {
        (Resource::Reservation, &Method::PUT) => decoded::<Reserve>(request).map(|reserve| {
            let (name, at) = (reserve.which.path.object, reserve.timestamp);
            let Commit { token, expected } = reserve.commit;
            format!("RESERVE {name} {at} {token} {expected:?}")
        }),
        (Resource::Reservation, _) => decoded::<Release>(request)
            .map(|release| format!("RELEASE {} {}", release.which.path.object, release.token)),
        (Resource::Object, &Method::DELETE) => decoded::<Delete>(request)
            .map(|delete| format!("DELETE {} {}", delete.which.path.object, delete.timestamp)),
        (Resource::Object, &Method::POST) => decoded::<Post>(request)
            .map(|post| format!("POST {} {}", post.which.path.object, post.timestamp)),
        (Resource::Object, &Method::PUT) => decoded::<Put>(request).map(|put| {
            let id = put.metadata.get("x-object-meta-op").unwrap_or_default();
            format!("PUT {} {} {id}", put.which.path.object, put.timestamp)
        }),
        _ => None,
    }
}

impl Listening {
    fn look(&self, resource: Resource, request: &Request) {
        let mut stamps = lock(&self.stamps);
        if resource == Resource::Reservation {
            if let Some(reserve) = decoded::<Reserve>(request) {
                // A streamed PUT is stamped anew in its tail, with what it has reserved.
                let stream = (self.from, reserve.which.path.object.to_string());
                let id = stamps.streams.get(&stream);
                if let Some(id) = id.cloned() {
                    stamps.note_id(id, reserve.timestamp);
                }
            }
            return;
        }
        let mut note = |path: &ObjectPath, at: Timestamp| {
            let change = (self.from, path.object.to_string());
            let known = stamps.changes.entry(change).or_insert(at);
            *known = at.max(*known);
        };
        match *request.method() {
            Method::DELETE => {
                if let Some(delete) = decoded::<Delete>(request) {
                    note(&delete.which.path, delete.timestamp);
                }
            }
            Method::POST => {
                if let Some(post) = decoded::<Post>(request) {
                    note(&post.which.path, post.timestamp);
                }
            }
            Method::PUT => {
                let put = decoded::<Put>(request);
                let id = |put: &Put| put.metadata.get("x-object-meta-op").map(str::to_owned);
                if let Some((put, id)) = put.and_then(|put| id(&put).map(|id| (put, id))) {
                    if put.commit.is_some() && put.tail.is_none() {
                        let stream = (self.from, put.which.path.object.to_string());
                        stamps.streams.insert(stream, id.clone());
                    }
                    stamps.note_id(id, put.timestamp);
                }
            }
            _ => {}
        }
    }

    async fn lie(&self, resource: Resource, request: Request) -> Response {
        match (self.lies, resource) {
            (Lies::DropPushes, Resource::Rows) | (Lies::AgreeAlways, Resource::Digests) => {
                drop(collect(request.into_body(), usize::MAX).await);
                Response::new(full(encode_units(&[])))
            }
            (Lies::KeepNothing, Resource::Object)
                if self.index == 0 && *request.method() == Method::PUT =>
            {
                drop(collect(request.into_body(), usize::MAX).await);
                let mut response = bare(StatusCode::CREATED);
                let said = head::encode(&Written::default()).unwrap();
                response
                    .headers_mut()
                    .insert(head::HEAD, head::to_text(&said).try_into().unwrap());
                response
            }
            (Lies::ServeRot, Resource::Object)
                if self.index == 1 && *request.method() == Method::GET =>
            {
                let response = self.node.handle(request).await;
                if !response.status().is_success() {
                    return response;
                }
                let (parts, body) = response.into_parts();
                let mut bytes = collect(body, usize::MAX).await.unwrap().to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                Response::from_parts(parts, full(bytes))
            }
            _ => self.node.handle(request).await,
        }
    }
}

impl Handler for Listening {
    async fn handle(&self, request: Request) -> Response {
        let target: Option<Target> = request.uri().path().parse().ok();
        let resource = target.map(|target| target.resource);
        if let Some(resource @ (Resource::Object | Resource::Reservation)) = resource {
            self.look(resource, &request);
        }
        let told = resource.and_then(|resource| told(resource, &request));
        if let Some(told) = &told {
            self.world
                .note(format_args!("node {} gets {told}", self.index));
        }
        let response = match resource {
            Some(resource) if self.lies != Lies::None => self.lie(resource, request).await,
            _ => self.node.handle(request).await,
        };
        if let Some(told) = &told {
            let (status, said) = (
                response.status().as_u16(),
                response.headers().get(head::HEAD),
            );
            let said = said.and_then(|said| said.to_str().ok()).unwrap_or_default();
            self.world.note(format_args!(
                "node {} answers {status} {said} to {told}",
                self.index
            ));
        }
        response
    }
}

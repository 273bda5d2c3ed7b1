//! Tests of the nodes module.

use super::*;
use crate::call::{Answer, AnswerFuture};
use crate::http_client::HttpClient;
use core::time::Duration;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use onggi_common_host::{SystemClock, SystemEntropy};
use onggi_common_units::Timestamp;
use onggi_object_model::{Etag, Metadata, ObjectPath, PolicyIndex};
use onggi_object_wire::auth::SignedHead;
use onggi_object_wire::object::{Tail, Which, Written};
use onggi_object_wire::{ClusterKeys, Root, Verifier, head};
use std::convert::Infallible;
use std::sync::Mutex;
use tokio::net::TcpListener;

const fn is_send<T: Send>(_: &T) {}

fn put(length: Option<u64>, tail: Option<Tail>) -> Put {
    let path = ObjectPath {
        account: "a".parse().unwrap(),
        container: "c".parse().unwrap(),
        object: "o\u{7f} 한".parse().unwrap(),
    };
    Put {
        which: Which::whole(PolicyIndex::default(), path),
        timestamp: Timestamp::ZERO,
        content_type: "text/plain".to_owned(),
        metadata: Metadata::default(),
        system: Metadata::default(),
        length,
        commit: None,
        listing: Vec::new(),
        tail,
    }
}

fn tail(bytes: &[u8]) -> Tail {
    Tail {
        length: bytes.len() as u64,
        etag: Etag::EMPTY,
        root: Root::of(bytes),
        system: Metadata::default(),
        settled: None,
    }
}

fn keys() -> ClusterKeys {
    ClusterKeys::derive(&["ring"]).unwrap()
}

/// A node of a few lines: it verifies each request and its body, and says what came.
struct Stub {
    verifier: Mutex<Verifier>,
    bodies: Mutex<Vec<Vec<u8>>>,
    connections: Mutex<usize>,
}

impl Stub {
    async fn answer(&self, request: http::Request<Incoming>) -> http::Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let text = |name: &str| {
            parts
                .headers
                .get(name)
                .and_then(|value| value.to_str().ok())
        };
        let is_chunked = parts.headers.contains_key("transfer-encoding");
        let length = text("content-length").map_or(0, |digits| digits.parse().unwrap());
        let signed = SignedHead {
            method: parts.method.as_str(),
            authority: text("host").unwrap(),
            path: parts.uri.path(),
            head: parts.headers.get(head::HEAD).unwrap().as_bytes(),
            length: (!is_chunked).then_some(length),
        };
        let now = onggi_common_host::Clock::now(&SystemClock::new());
        let verified =
            self.verifier
                .lock()
                .unwrap()
                .verify(text(head::AUTHORIZATION), &signed, now);
        let pending = verified.expect("the client signs what it sends");
        let Ok(collected) = body.collect().await else {
            return response(500, None);
        };
        let trailers = collected.trailers().cloned();
        let bytes = collected.to_bytes().to_vec();
        if pending.has_tail() {
            let trailers = trailers.expect("a streamed body has a tail");
            let tail = trailers.get(head::TAIL).unwrap().as_bytes();
            let proof = trailers.get(head::TAIL_PROOF).unwrap().to_str().unwrap();
            pending
                .verify_tail(tail, proof)
                .expect("the client proves the tail");
        } else {
            pending
                .verify_body(&bytes)
                .expect("the client signs the body");
        }
        self.bodies.lock().unwrap().push(bytes);
        response(201, Some(head::encode(&Written::default()).unwrap()))
    }
}

fn response(status: u16, head: Option<Vec<u8>>) -> http::Response<Full<Bytes>> {
    let mut builder = http::Response::builder().status(status);
    if let Some(head) = head {
        builder = builder.header(head::HEAD, head::to_text(&head));
    }
    builder.body(Full::new(Bytes::new())).unwrap()
}

async fn stub() -> (Arc<Stub>, Place) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let verifier = Mutex::new(Verifier::new(keys(), vec![address.clone()]));
    let stub = Arc::new(Stub {
        verifier,
        bodies: Mutex::default(),
        connections: Mutex::default(),
    });
    let shared = Arc::clone(&stub);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            *shared.connections.lock().unwrap() += 1;
            let shared = Arc::clone(&shared);
            let service = hyper::service::service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    (
        stub,
        Place {
            address,
            device: "d1".parse().unwrap(),
        },
    )
}

fn nodes() -> Nodes {
    let timeouts = Timeouts {
        answer: Duration::from_secs(5),
        ..Timeouts::default()
    };
    let clock = Arc::new(SystemClock::new());
    Nodes::new(
        Arc::new(HttpClient::new(keys(), clock, &SystemEntropy, timeouts)),
        timeouts,
    )
}

#[tokio::test]
async fn a_small_put_is_signed_whole_and_its_connection_is_used_again() {
    let (stub, place) = stub().await;
    let nodes = nodes();
    for body in [&b""[..], b"jar", b"jug"] {
        let put = put(Some(body.len() as u64), Some(tail(body)));
        let answer = nodes
            .put_object(&place, &put, Bytes::from_static(body))
            .await
            .unwrap();
        assert!(answer.is_stored());
    }
    assert_eq!(*stub.bodies.lock().unwrap(), [&b""[..], b"jar", b"jug"]);
    assert_eq!(*stub.connections.lock().unwrap(), 1);
}

#[tokio::test]
async fn a_streamed_put_ends_with_a_proven_tail() {
    let (stub, place) = stub().await;
    let stream = nodes()
        .stream(&place, Resource::Object, &put(None, None))
        .unwrap();
    let piece = Bytes::from(vec![7; 100_000]);
    for _ in 0..20 {
        stream.send(piece.clone()).await.unwrap();
    }
    let answer = stream.finish(&tail(&[7; 2_000_000])).await.unwrap();
    assert!(answer.is_stored());
    assert_eq!(stub.bodies.lock().unwrap()[0].len(), 2_000_000);
}

#[tokio::test]
async fn a_put_given_up_never_looks_whole() {
    let (stub, place) = stub().await;
    let nodes = nodes();
    let stream = nodes
        .stream(&place, Resource::Object, &put(None, None))
        .unwrap();
    stream.send(Bytes::from_static(b"half")).await.unwrap();
    drop(stream);
    let put = put(Some(3), Some(tail(b"jar")));
    nodes
        .put_object(&place, &put, Bytes::from_static(b"jar"))
        .await
        .unwrap();
    assert_eq!(*stub.bodies.lock().unwrap(), [b"jar"]);
}

#[tokio::test]
async fn nobody_there_and_nobody_answering_are_told_apart() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap().to_string();
    let place = Place {
        address,
        device: "d1".parse().unwrap(),
    };
    let timeouts = Timeouts {
        answer: Duration::from_millis(50),
        ..Timeouts::default()
    };
    let clock = Arc::new(SystemClock::new());
    let client = HttpClient::new(keys(), clock, &SystemEntropy, timeouts);
    let nodes = Nodes::new(Arc::new(client), timeouts);
    let put = put(Some(0), Some(tail(b"")));
    // It listens, so that a connection is made, and never accepts it.
    let silent = nodes.put_object(&place, &put, Bytes::new()).await;
    assert!(
        matches!(silent, Err(CallError::TimedOut { .. })),
        "{silent:?}"
    );
    drop(gone);
    let absent = nodes.put_object(&place, &put, Bytes::new()).await;
    assert!(
        matches!(
            absent,
            Err(CallError::Connect { .. } | CallError::Broken { .. })
        ),
        "{absent:?}"
    );
}

struct Never;

impl NodeClient for Never {
    fn call<'a>(&'a self, _: &'a Place, _: Call) -> AnswerFuture<'a> {
        Box::pin(core::future::pending::<Result<Answer, CallError>>())
    }
}

#[tokio::test]
async fn every_call_can_move_between_threads() {
    let nodes = Nodes::new(Arc::new(Never), Timeouts::default());
    let place = Place {
        address: "x".to_owned(),
        device: "d1".parse().unwrap(),
    };
    let put = put(None, None);
    is_send(&nodes.put_object(&place, &put, Bytes::new()));
    let get = Get {
        which: put.which.clone(),
        range: None,
        version: None,
    };
    is_send(&nodes.get_object(&place, &get));
    is_send(&nodes.head_object(&place, &get));
    let (timestamp, listing) = (put.timestamp, Vec::new());
    let delete = Delete {
        which: put.which.clone(),
        timestamp,
        listing: listing.clone(),
        commit: None,
    };
    is_send(&nodes.delete_object(&place, &delete));
    let (content_type, metadata) = (None, Metadata::default());
    let post = Post {
        which: put.which.clone(),
        timestamp,
        content_type,
        metadata,
        listing,
    };
    is_send(&nodes.post_object(&place, &post));
    let path = put.which.path.container_path();
    let head = container::Head { path: path.clone() };
    is_send(&nodes.head_container(&place, &head));
    let delete = container::Delete {
        path: path.clone(),
        timestamp,
        account: Vec::new(),
    };
    is_send(&nodes.delete_container(&place, &delete));
    let query = onggi_object_model::ListingQuery::page(1);
    is_send(&nodes.list_container(&place, &container::List { path, query }));
    is_send(
        &nodes
            .stream(&place, Resource::Body, &head)
            .unwrap()
            .finish(&tail(b"")),
    );
}

//! Nodes called over HTTP/1.1: connections kept, requests signed.

use crate::call::{
    Answer, AnswerFuture, Body, BodyError, Call, CallBody, CallError, NodeClient, Piece,
};
use crate::connect::{Connect, Tcp};
use crate::pool::{Connection, Pool, Returning};
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use onggi_common_host::{Clock, Entropy};
use onggi_object_wire::auth::{BodyProof, Signature, Signed};
use onggi_object_wire::{ClusterKeys, Place, Signer, Target, head};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until a connection is made.
    pub connect: Duration,
    /// Until an answer's head comes after the request was sent.
    pub answer: Duration,
    /// Without a byte of a body, in either direction.
    pub body_idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            answer: Duration::from_secs(10),
            body_idle: Duration::from_secs(30),
        }
    }
}

/// Calls nodes over HTTP.
pub struct HttpClient {
    signer: Arc<Signer>,
    clock: Arc<dyn Clock>,
    timeouts: Timeouts,
    connect: Arc<dyn Connect>,
    pools: Mutex<HashMap<String, Arc<Pool>>>,
}

impl core::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("HttpClient")
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}

impl HttpClient {
    /// A client that signs with the cluster's keys.
    #[must_use]
    pub fn new(
        keys: ClusterKeys,
        clock: Arc<dyn Clock>,
        entropy: &dyn Entropy,
        timeouts: Timeouts,
    ) -> Self {
        let signer = Arc::new(Signer::new(keys, entropy.bytes()));
        Self {
            signer,
            clock,
            timeouts,
            connect: Arc::new(Tcp),
            pools: Mutex::new(HashMap::new()),
        }
    }

    /// What signs its requests: one numbering for the whole process.
    pub(crate) fn signer(&self) -> Arc<Signer> {
        Arc::clone(&self.signer)
    }

    /// The same with connections of another kind.
    #[must_use]
    pub fn with_connections(mut self, connect: Arc<dyn Connect>) -> Self {
        self.connect = connect;
        self
    }

    /// The time limits.
    #[must_use]
    pub const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    fn pool(&self, address: &str) -> Arc<Pool> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get(address) {
            return Arc::clone(pool);
        }
        let pool = Arc::new(Pool::new(address.to_owned(), Arc::clone(&self.connect)));
        pools.insert(address.to_owned(), Arc::clone(&pool));
        pool
    }

    fn request(&self, place: &Place, call: Call) -> Result<Request<Body>, CallError> {
        let path = Target {
            device: place.device.clone(),
            resource: call.resource,
        }
        .to_string();
        let (length, body) = match &call.body {
            CallBody::None => (Some(0), BodyProof::of(&[])),
            CallBody::Whole(bytes) => (Some(bytes.len() as u64), BodyProof::of(bytes)),
            CallBody::Stream { .. } => (None, BodyProof::Tail),
        };
        let head = head::to_text(&call.head);
        let signed = Signed {
            method: call.method.as_str(),
            authority: &place.address,
            path: &path,
            head: head.as_bytes(),
            length,
            body,
        };
        let signature = self.signer.sign(&signed, self.clock.now());
        let mut request = Request::builder()
            .method(call.method)
            .uri(path)
            .header(http::header::HOST, &place.address)
            .header(head::AUTHORIZATION, &signature.header)
            .header(head::HEAD, head);
        if matches!(call.body, CallBody::Stream { .. }) {
            // hyper sends only the trailers this header announces.
            request = request.header(http::header::TRAILER, ANNOUNCED_TRAILERS);
        }
        let body = match call.body {
            CallBody::None => Empty::new()
                .map_err(|never: Infallible| match never {})
                .boxed_unsync(),
            CallBody::Whole(bytes) => Full::new(bytes)
                .map_err(|never: Infallible| match never {})
                .boxed_unsync(),
            CallBody::Stream { pieces, .. } => Streamed {
                pieces,
                signature,
                is_finished: false,
            }
            .boxed_unsync(),
        };
        request
            .body(body)
            .map_err(|source| CallError::Request { source })
    }

    async fn send(&self, place: &Place, call: Call) -> Result<Answer, CallError> {
        let is_stream = matches!(call.body, CallBody::Stream { .. });
        let limit = call.answer_within.unwrap_or(self.timeouts.answer);
        let request = self.request(place, call)?;
        let pool = self.pool(&place.address);
        let exchange = self.exchange(&pool, place, request);
        let (response, connection) = if is_stream {
            // Its answer comes after the last piece, whose time the sender of the pieces decides.
            exchange.await?
        } else {
            let late = || CallError::TimedOut {
                address: place.address.clone(),
                limit,
            };
            tokio::time::timeout(limit, exchange)
                .await
                .ok()
                .ok_or_else(late)??
        };
        Ok(self.answer(response, pool, connection))
    }

    async fn exchange(
        &self,
        pool: &Arc<Pool>,
        place: &Place,
        request: Request<Body>,
    ) -> Result<(Response<Incoming>, Connection), CallError> {
        let mut connection = pool.take(self.timeouts.connect).await?;
        match connection.sender.try_send_request(request).await {
            Ok(response) => Ok((response, connection)),
            Err(mut failed) => {
                let broken = |source| CallError::Broken {
                    address: place.address.clone(),
                    source,
                };
                let Some(request) = failed.take_message() else {
                    return Err(broken(failed.into_error()));
                };
                if !connection.is_reused {
                    return Err(broken(failed.into_error()));
                }
                // The node closed a kept connection before the request was on it: it was never seen, so send it again.
                let mut connection = pool.renew(connection, self.timeouts.connect).await?;
                let sent = connection.sender.send_request(request).await;
                Ok((sent.map_err(broken)?, connection))
            }
        }
    }

    fn answer(
        &self,
        response: Response<Incoming>,
        pool: Arc<Pool>,
        connection: Connection,
    ) -> Answer {
        let (parts, incoming) = response.into_parts();
        let head = parts.headers.get(head::HEAD);
        // One that is no head is one of no type.
        let head = head.map(|value| head::from_text(value.as_bytes()).unwrap_or_default().into());
        let body = Returning::new(incoming, pool, connection, self.timeouts.body_idle);
        Answer {
            status: parts.status,
            head,
            body: body.boxed_unsync(),
        }
    }
}

/// The trailers of a streamed body, as the `Trailer` header announces them.
const ANNOUNCED_TRAILERS: &str = "x-onggi-tail, x-onggi-tail-proof";

impl NodeClient for HttpClient {
    fn call<'a>(&'a self, place: &'a Place, call: Call) -> AnswerFuture<'a> {
        Box::pin(self.send(place, call))
    }
}

/// A streamed body on its way: pieces, then the tail and its proof as trailers.
struct Streamed {
    pieces: mpsc::Receiver<Piece>,
    signature: Signature,
    is_finished: bool,
}

impl Streamed {
    fn trailers(&self, tail: &[u8]) -> Result<HeaderMap, BodyError> {
        let tail = head::to_text(tail);
        let proof = self.signature.prove_tail(tail.as_bytes());
        let mut trailers = HeaderMap::new();
        trailers.insert(head::TAIL, HeaderValue::try_from(tail)?);
        trailers.insert(head::TAIL_PROOF, HeaderValue::try_from(proof)?);
        Ok(trailers)
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.is_finished {
            return Poll::Ready(None);
        }
        let frame = match self.pieces.poll_recv(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Piece::Bytes(bytes))) => Ok(Frame::data(bytes)),
            Poll::Ready(Some(Piece::Finish { tail, .. })) => {
                self.is_finished = true;
                self.trailers(&tail).map(Frame::trailers)
            }
            Poll::Ready(None) => Err(Box::new(CallError::GivenUp).into()),
        };
        Poll::Ready(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_trailers_are_those_sent() {
        let names: Vec<&str> = ANNOUNCED_TRAILERS.split(", ").collect();
        assert_eq!(names, [head::TAIL, head::TAIL_PROOF]);
    }
}

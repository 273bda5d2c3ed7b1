//! One request to a node and its answer, without types of their own: what travels.

use bytes::{Bytes, BytesMut};
use core::future::Future;
use core::pin::Pin;
use core::time::Duration;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use onggi_object_wire::body::BodyHash;
use onggi_object_wire::head::{self, HeadError};
use onggi_object_wire::{Place, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Why a body could not be read to its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// An answer's body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
/// What a call resolves to.
pub type AnswerFuture<'a> = Pin<Box<dyn Future<Output = Result<Answer, CallError>> + Send + 'a>>;

/// What calls storage nodes: over HTTP, in this process, or in a simulated world.
pub trait NodeClient: Send + Sync + 'static {
    /// Sends one request to a device's node and waits for the head of its answer.
    fn call<'a>(&'a self, place: &'a Place, call: Call) -> AnswerFuture<'a>;
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// What it is about.
    pub resource: Resource,
    /// The head, encoded.
    pub head: Vec<u8>,
    /// The body.
    pub body: CallBody,
    /// How long to wait for the answer's head, if not as long as the client's default.
    pub answer_within: Option<Duration>,
}

impl Call {
    /// A request without a body.
    ///
    /// # Errors
    /// When the head is too long to send.
    pub fn new<H: Serialize>(
        method: Method,
        resource: Resource,
        head: &H,
    ) -> Result<Self, CallError> {
        let head = head::encode(head).map_err(|source| CallError::Head { source })?;
        Ok(Self {
            method,
            resource,
            head,
            body: CallBody::None,
            answer_within: None,
        })
    }

    /// The same with a body.
    #[must_use]
    pub fn with_body(mut self, body: CallBody) -> Self {
        self.body = body;
        self
    }
}

/// A request's body.
#[derive(Debug)]
pub enum CallBody {
    /// None.
    None,
    /// All of it in memory, proven by a hash in the signature.
    Whole(Bytes),
    /// Pieces as they come, proven by the tail that must end them.
    Stream {
        /// The pieces.
        pieces: mpsc::Receiver<Piece>,
        /// Whether their sender hashes them and says at the end what came of it: a node in the same process need not.
        is_hashed: bool,
    },
}

/// A piece of a streamed body.
#[derive(Debug)]
pub enum Piece {
    /// Some bytes.
    Bytes(Bytes),
    /// The end. A stream that ends without it was given up, and the node forgets it.
    Finish {
        /// The tail, encoded.
        tail: Vec<u8>,
        /// The hashes of the bytes, where they were promised. They do not leave the process.
        hash: Option<Arc<BodyHash>>,
    },
}

/// What a node answered.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The head, still encoded, if there is one.
    pub head: Option<Bytes>,
    /// The body.
    pub body: Body,
}

impl core::fmt::Debug for Answer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Answer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// The head as its type.
    ///
    /// # Errors
    /// When there is none, or it is something else.
    pub fn head<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        head::decode(self.head.as_deref()).map_err(|source| CallError::Head { source })
    }

    /// The whole body, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// When it is longer, or breaks off.
    pub async fn bytes(self, bytes_max: usize) -> Result<Bytes, CallError> {
        let mut body = self.body;
        let mut whole = BytesMut::new();
        let mut only = Bytes::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|source| CallError::Body { source })?;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            if whole.len() + only.len() + bytes.len() > bytes_max {
                let detail = format!("its body is longer than {bytes_max} bytes");
                return Err(CallError::Malformed { detail });
            }
            // Most bodies are one piece, which needs no copy.
            if whole.is_empty() && only.is_empty() {
                only = bytes;
            } else {
                whole.extend_from_slice(&core::mem::take(&mut only));
                whole.extend_from_slice(&bytes);
            }
        }
        Ok(if whole.is_empty() {
            only
        } else {
            whole.freeze()
        })
    }
}

/// A call that brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens there, or not in time.
    #[error("connecting to {address}: {source}")]
    Connect {
        /// The node.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke before an answer came.
    #[error("talking to {address}: {source}")]
    Broken {
        /// The node.
        address: String,
        /// Why.
        source: hyper::Error,
    },
    /// A link broke before an answer came.
    #[error("the link to {address} broke")]
    Lost {
        /// The node.
        address: String,
    },
    /// No answer in time.
    #[error("{address} did not answer within {limit:?}")]
    TimedOut {
        /// The node.
        address: String,
        /// The limit.
        limit: Duration,
    },
    /// All connections to the node are busy, and none became free in time.
    #[error("all connections to {address} are busy")]
    Busy {
        /// The node.
        address: String,
    },
    /// The answer's body broke off.
    #[error("the answer broke off: {source}")]
    Body {
        /// Why.
        source: BodyError,
    },
    /// A head that cannot be sent or read.
    #[error(transparent)]
    Head {
        /// Why.
        source: HeadError,
    },
    /// A body that is not what the protocol says.
    #[error("the answer is malformed: {detail}")]
    Malformed {
        /// What is wrong with it.
        detail: String,
    },
    /// An address or header that cannot be part of a request.
    #[error("the request cannot be made: {source}")]
    Request {
        /// Why.
        source: http::Error,
    },
    /// A streamed body was given up by its sender.
    #[error("the request was given up")]
    GivenUp,
}

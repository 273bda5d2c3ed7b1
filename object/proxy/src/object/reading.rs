//! An object's bytes from one node after another, and the body they make.

use crate::cluster::{Member, Replicas};
use crate::fault::Fault;
use crate::middleware::encryption::decrypt;
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, BodyError};
use onggi_common_units::Timestamp;
use onggi_object_client::{GetAnswer, Nodes};
use onggi_object_encryption::BodyCipher;
use onggi_object_model::ByteRange;
use onggi_object_wire::Place;
use onggi_object_wire::object::{Get, Wanted, Which};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pieces of a body on their way to a client.
const PIECES_MAX: usize = 4;
/// How long a node may pause within a body before another one goes on.
const PIECE_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of one version, from one node after another.
pub(super) struct Reading {
    pub(super) nodes: Nodes,
    pub(super) which: Which,
    pub(super) version: Timestamp,
    pub(super) position: u64,
    pub(super) end: u64,
    pub(super) current: Option<onggi_object_client::Body>,
    pub(super) sources: Sources,
    /// Whether a node had another version, or none: what is read may have been replaced meanwhile.
    pub(super) is_replaced: bool,
    /// What decrypts the bytes, when they are encrypted; it stands where the reading stands.
    pub(super) cipher: Option<BodyCipher>,
}

/// Where the bytes may be, best first.
pub(super) struct Sources {
    reachable: std::vec::IntoIter<Member>,
    replicas: Replicas,
    handoffs: Option<std::vec::IntoIter<Member>>,
}

impl Sources {
    /// These, then the stand-ins.
    pub(super) fn new(reachable: Vec<Member>, replicas: Replicas) -> Self {
        Self {
            reachable: reachable.into_iter(),
            replicas,
            handoffs: None,
        }
    }
}

impl Iterator for Sources {
    type Item = Arc<Place>;

    fn next(&mut self) -> Option<Arc<Place>> {
        let next = self.reachable.next().or_else(|| {
            let replicas = &self.replicas;
            let handoffs = || replicas.handoffs().into_iter();
            self.handoffs.get_or_insert_with(handoffs).next()
        });
        next.map(|member| member.place)
    }
}

impl Reading {
    /// All bytes, of a body that is short.
    pub(super) async fn whole(&mut self) -> Result<Bytes, Fault> {
        let first = self.next().await?.unwrap_or_default();
        if self.position >= self.end {
            return Ok(first);
        }
        let mut whole = first.to_vec();
        while let Some(piece) = self.next().await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole.into())
    }

    /// The next bytes; `None` at the end. 503 when nobody has them any more.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let bytes = self.next_stored().await?;
        Ok(match &mut self.cipher {
            None => bytes,
            Some(cipher) => bytes.map(|bytes| decrypt(cipher, bytes)),
        })
    }

    /// The same as they are stored.
    pub(super) async fn next_stored(&mut self) -> Result<Option<Bytes>, Fault> {
        while self.position < self.end {
            if self.current.is_none() {
                self.open_next().await?;
            }
            let Some(body) = &mut self.current else {
                continue;
            };
            let frame = tokio::time::timeout(PIECE_WITHIN, body.frame()).await;
            let bytes = match frame {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => {
                    tracing::info!(%error, "a storage node broke off in mid-body; another one goes on");
                    self.current = None;
                    continue;
                }
                // Ended early, or stalled.
                Ok(None) | Err(_) => {
                    self.current = None;
                    continue;
                }
            };
            if bytes.is_empty() {
                continue;
            }
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if length > self.end - self.position {
                // More than was asked for is not what was asked for.
                self.current = None;
                continue;
            }
            self.position += length;
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    async fn open_next(&mut self) -> Result<(), Fault> {
        let range = ByteRange::new(self.position, self.end);
        let get = Get {
            which: self.which.clone(),
            range: range.map(Wanted::Exact),
            version: Some(self.version),
        };
        for place in self.sources.by_ref() {
            match self.nodes.get_object(&place, &get).await {
                Ok(GetAnswer::Found { body, .. }) => {
                    self.current = Some(body);
                    return Ok(());
                }
                Ok(answer) => {
                    self.is_replaced |=
                        matches!(answer, GetAnswer::OtherVersion | GetAnswer::Missing { .. });
                    tracing::debug!(device = %place, ?answer, "cannot go on from here");
                }
                Err(error) => tracing::debug!(device = %place, %error, "cannot go on from here"),
            }
        }
        Err(Fault::Unavailable)
    }

    /// Sends everything on until the end, or until nobody listens.
    pub(super) async fn pump(mut self, first: Bytes, sender: mpsc::Sender<Result<Bytes, Fault>>) {
        let mut piece = Ok(Some(first));
        loop {
            let (message, is_last) = match piece {
                Ok(Some(bytes)) => (Ok(bytes), false),
                Ok(None) => return,
                Err(fault) => (Err(fault), true),
            };
            if sender.send(message).await.is_err() || is_last {
                return;
            }
            piece = self.next().await;
        }
    }
}

/// A body whose pieces another task finds.
struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, Fault>>,
    left: u64,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.pieces.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(bytes))) => {
                self.left = self
                    .left
                    .saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            // The connection breaks: the client must not take part of a body for the whole.
            Poll::Ready(Some(Err(fault))) => Poll::Ready(Some(Err(Box::new(fault)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that a task writes through the returned sender; `length` bytes in all.
pub(crate) fn piped(length: u64) -> (Body, mpsc::Sender<Result<Bytes, Fault>>) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let body = Pieces {
        pieces,
        left: length,
    };
    (body.boxed_unsync(), sender)
}

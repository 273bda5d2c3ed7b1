//! A PUT whose bytes are sent as they come.

use crate::answer::WriteAnswer;
use crate::call::{Answer, CallError, Piece};
use bytes::Bytes;
use core::time::Duration;
use onggi_object_wire::body::BodyHash;
use onggi_object_wire::head;
use onggi_object_wire::object::Tail;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Pieces on their way to one node; more wait with their sender.
pub(crate) const PIECES_MAX: usize = 4;

/// A PUT whose bytes its sender hashes: a node in the same process does not hash them once more.
#[derive(Debug)]
pub struct HashedPut(pub(crate) PutStream);

impl HashedPut {
    /// As [`PutStream::send`].
    ///
    /// # Errors
    /// As there.
    pub async fn send(&self, bytes: Bytes) -> Result<(), CallError> {
        self.0.send(bytes).await
    }

    /// As [`PutStream::finish`], with the hashes of all that was sent.
    ///
    /// # Errors
    /// As there.
    pub async fn finish(self, tail: &Tail, hash: Arc<BodyHash>) -> Result<WriteAnswer, CallError> {
        self.0.end(tail, Some(hash)).await
    }

    /// As [`PutStream::answer`].
    ///
    /// # Errors
    /// As there.
    pub async fn answer(self) -> Result<WriteAnswer, CallError> {
        self.0.answer().await
    }
}

/// A PUT under way. Dropping it gives the PUT up: the node keeps nothing of it.
#[derive(Debug)]
pub struct PutStream {
    pub(crate) pieces: mpsc::Sender<Piece>,
    pub(crate) answer: JoinHandle<Result<Answer, CallError>>,
    pub(crate) address: String,
    pub(crate) idle_max: Duration,
    pub(crate) answer_max: Duration,
}

impl PutStream {
    /// Sends some bytes. Waits while the node is behind.
    ///
    /// # Errors
    /// When the node takes no more: it may have answered early; [`PutStream::answer`] tells.
    pub async fn send(&self, bytes: Bytes) -> Result<(), CallError> {
        self.piece(Piece::Bytes(bytes)).await
    }

    async fn piece(&self, piece: Piece) -> Result<(), CallError> {
        let sent = tokio::time::timeout(self.idle_max, self.pieces.send(piece)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_gone)) => Err(CallError::GivenUp),
            Err(_elapsed) => Err(CallError::TimedOut {
                address: self.address.clone(),
                limit: self.idle_max,
            }),
        }
    }

    /// Ends the body and waits for the answer.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn finish(self, tail: &Tail) -> Result<WriteAnswer, CallError> {
        self.end(tail, None).await
    }

    async fn end(self, tail: &Tail, hash: Option<Arc<BodyHash>>) -> Result<WriteAnswer, CallError> {
        let tail = head::encode(tail).map_err(|source| CallError::Head { source })?;
        match self.piece(Piece::Finish { tail, hash }).await {
            // A node that takes no more has answered early, or is gone: either way its answer says it best.
            Ok(()) | Err(CallError::GivenUp) => self.answer().await,
            Err(error) => Err(error),
        }
    }

    /// Waits for the answer without sending anything more: after [`PutStream::send`] failed.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn answer(self) -> Result<WriteAnswer, CallError> {
        let Self {
            pieces,
            mut answer,
            address,
            answer_max,
            ..
        } = self;
        let waited = tokio::time::timeout(answer_max, &mut answer).await;
        drop(pieces);
        match waited {
            Ok(Ok(answer)) => WriteAnswer::from_answer(answer?).await,
            Ok(Err(_cancelled)) => Err(CallError::GivenUp),
            Err(_elapsed) => {
                answer.abort();
                Err(CallError::TimedOut {
                    address,
                    limit: answer_max,
                })
            }
        }
    }
}

//! Connections to one node: a bounded number, kept for the next request when their answer was read to its end.

use crate::call::{Body, BodyError, CallError};
use crate::connect::Connect;
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections open to one node at a time.
pub(crate) const CONNECTIONS_MAX: usize = 256;
/// Connections kept open without a request.
pub(crate) const IDLE_MAX: usize = 32;
/// The longest header block of an answer.
const ANSWER_HEAD_BYTES_MAX: usize = 128 << 10;

/// All connections to one node.
#[derive(Debug)]
pub(crate) struct Pool {
    address: String,
    connect: Arc<dyn Connect>,
    idle: Mutex<Vec<SendRequest<Body>>>,
    slots: Arc<Semaphore>,
}

/// A connection in use.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Body>,
    pub(crate) is_reused: bool,
    slot: OwnedSemaphorePermit,
}

impl Pool {
    pub(crate) fn new(address: String, connect: Arc<dyn Connect>) -> Self {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self {
            address,
            connect,
            idle: Mutex::new(Vec::new()),
            slots,
        }
    }

    fn pop_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(sender) = idle.pop() {
            if sender.is_ready() && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn put_back(&self, sender: SendRequest<Body>) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(sender);
        }
    }

    /// A connection, kept or new.
    pub(crate) async fn take(&self, within: Duration) -> Result<Connection, CallError> {
        let slot = Arc::clone(&self.slots).acquire_owned();
        let busy = || CallError::Busy {
            address: self.address.clone(),
        };
        let slot = tokio::time::timeout(within, slot)
            .await
            .ok()
            .ok_or_else(busy)?;
        let slot = slot.ok().ok_or_else(busy)?;
        if let Some(sender) = self.pop_idle() {
            return Ok(Connection {
                sender,
                is_reused: true,
                slot,
            });
        }
        let sender = self.connect(within).await?;
        Ok(Connection {
            sender,
            is_reused: false,
            slot,
        })
    }

    /// Another connection in place of one that turned out to be closed.
    pub(crate) async fn renew(
        &self,
        old: Connection,
        within: Duration,
    ) -> Result<Connection, CallError> {
        let sender = self.connect(within).await?;
        Ok(Connection {
            sender,
            is_reused: false,
            slot: old.slot,
        })
    }

    async fn connect(&self, within: Duration) -> Result<SendRequest<Body>, CallError> {
        let failed = |source| CallError::Connect {
            address: self.address.clone(),
            source,
        };
        let stream = tokio::time::timeout(within, self.connect.connect(&self.address)).await;
        let late = |_elapsed| failed(io::ErrorKind::TimedOut.into());
        let stream = stream.map_err(late)?.map_err(failed)?;
        let handshake = http1::Builder::new()
            .max_buf_size(ANSWER_HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let broken = |source| CallError::Broken {
            address: self.address.clone(),
            source,
        };
        let (sender, connection) = handshake.map_err(broken)?;
        let address = self.address.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, %address, "a connection to a node ended");
            }
        });
        Ok(sender)
    }
}

/// An answer's body that gives its connection back when it was read to its end.
pub(crate) struct Returning {
    inner: Incoming,
    idle_max: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
    home: Option<(Arc<Pool>, Connection)>,
}

/// A node left its answer without a byte for too long.
#[derive(Debug, thiserror::Error)]
#[error("no byte of the answer came for {idle_max:?}")]
struct Stalled {
    idle_max: Duration,
}

impl Returning {
    pub(crate) fn new(
        inner: Incoming,
        pool: Arc<Pool>,
        connection: Connection,
        idle_max: Duration,
    ) -> Self {
        let sleep = Box::pin(tokio::time::sleep(idle_max));
        let mut body = Self {
            inner,
            idle_max,
            sleep,
            home: Some((pool, connection)),
        };
        if body.inner.is_end_stream() {
            body.go_home();
        }
        body
    }

    fn go_home(&mut self) {
        let Some((pool, mut connection)) = self.home.take() else {
            return;
        };
        if connection.sender.is_ready() {
            pool.put_back(connection.sender);
            return;
        }
        // hyper needs a moment after the last byte to be ready for the next request.
        tokio::spawn(async move {
            if connection.sender.ready().await.is_ok() {
                pool.put_back(connection.sender);
            }
            drop(connection.slot);
        });
    }
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(None) => {
                self.go_home();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                let next = tokio::time::Instant::now() + self.idle_max;
                self.sleep.as_mut().reset(next);
                if self.inner.is_end_stream() {
                    self.go_home();
                }
                Poll::Ready(Some(frame.map_err(Into::into)))
            }
            Poll::Pending => match self.sleep.as_mut().poll(context) {
                Poll::Ready(()) => {
                    let idle_max = self.idle_max;
                    Poll::Ready(Some(Err(Box::new(Stalled { idle_max }))))
                }
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

//! A body that is made while it is read: what one request's body holds becomes the bodies of others.

use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, BodyError};
use tokio::sync::mpsc;

/// The end that bytes are put into. Dropped, the body is over.
pub(crate) struct Feed(mpsc::Sender<Result<Bytes, BodyError>>);

/// The reader does not want the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unwanted;

impl Feed {
    /// Waits until the reader has taken what was put in before.
    pub(crate) async fn send(&self, bytes: Bytes) -> Result<(), Unwanted> {
        let sent = self.0.send(Ok(bytes)).await;
        sent.map_err(|_closed| Unwanted)
    }

    /// Breaks the body off: its reader gives up what it began.
    pub(crate) async fn fail(self, error: BodyError) {
        // Who no longer reads needs not be told.
        drop(self.0.send(Err(error)).await);
    }
}

struct Fed(mpsc::Receiver<Result<Bytes, BodyError>>);

impl HttpBody for Fed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0
            .poll_recv(context)
            .map(|item| item.map(|item| item.map(Frame::data)))
    }
}

/// A body and the end to feed it by. One piece waits between them.
pub(crate) fn feed() -> (Feed, Body) {
    let (sender, receiver) = mpsc::channel(1);
    (Feed(sender), Fed(receiver).boxed_unsync())
}

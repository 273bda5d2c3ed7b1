//! Answers: a status, perhaps a head, perhaps a body.

use crate::disks::DiskError;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use onggi_common_service::http::{Response, empty, full};
use onggi_object_wire::head;
use serde::Serialize;

/// Marks an answer whose body is longer than the asker can take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TooLong;

/// An answer's head, encoded.
#[derive(Debug, Clone)]
pub(crate) struct Head(pub(crate) Bytes);

/// The answer as HTTP has it, with its head in a line.
pub(crate) fn over_http(mut response: Response) -> Response {
    let Some(Head(bytes)) = response.extensions_mut().remove::<Head>() else {
        return response;
    };
    match HeaderValue::try_from(head::to_text(&bytes)) {
        Ok(value) => {
            response.headers_mut().insert(head::HEAD, value);
            response
        }
        Err(error) => {
            tracing::error!(%error, "an answer's head cannot be sent");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// The answer to who cannot take as long a body.
pub(crate) fn too_long() -> Response {
    let mut response = status(StatusCode::PAYLOAD_TOO_LARGE);
    response.extensions_mut().insert(TooLong);
    response
}

/// An answer without anything.
pub(crate) fn status(status: StatusCode) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

/// An answer with a head.
pub(crate) fn with_head<T: Serialize>(code: StatusCode, head: &T) -> Response {
    let mut response = status(code);
    match head::encode(head) {
        Ok(bytes) => {
            response.extensions_mut().insert(Head(bytes.into()));
            response
        }
        Err(error) => {
            tracing::error!(%error, "an answer's head cannot be sent");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

/// An answer with a body.
pub(crate) fn with_body(code: StatusCode, bytes: Vec<u8>) -> Response {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    response
}

/// A request that is not what the protocol says.
pub(crate) fn bad_request(detail: &dyn core::fmt::Display) -> Response {
    tracing::warn!(%detail, "refused a malformed request");
    status(StatusCode::BAD_REQUEST)
}

/// A device that could not do it.
pub(crate) fn disk_error(operation: &str, error: &DiskError) -> Response {
    if error.is_full() {
        tracing::warn!(operation, %error, "no space");
        return status(StatusCode::INSUFFICIENT_STORAGE);
    }
    tracing::error!(operation, %error, "a device failed");
    status(StatusCode::INTERNAL_SERVER_ERROR)
}

/// An answer that ends a request early.
#[derive(Debug)]
pub(crate) struct Early(Box<Response>);

impl Early {
    pub(crate) fn new(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl From<Early> for Response {
    fn from(early: Early) -> Self {
        *early.0
    }
}

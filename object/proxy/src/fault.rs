//! Answers that are no success, in the words Swift's clients know.

use http::{HeaderName, HeaderValue, StatusCode, header};
use onggi_common_service::http::{Response, empty, full};
use onggi_object_model::metadata::value_bytes;
use onggi_object_model::path::encode_rest;

/// Why a request is not answered as it wished.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// 400, with what is wrong; Swift's page when nothing is said.
    #[error("{0}")]
    BadRequest(String),
    /// 400, with what is wrong with the name of a container or an account, which Swift says on a page of HTML.
    #[error("{0}")]
    BadContainerName(String),
    /// 401: who asks is not known.
    #[error("no valid token")]
    Unauthorized {
        /// The account that was asked for.
        realm: String,
    },
    /// 401: a signed URL that is none.
    #[error("401 Unauthorized: Temp URL invalid\n")]
    InvalidTempUrl {
        /// The account that was asked for.
        realm: String,
    },
    /// 401: a signature of another cluster that does not hold.
    #[error("X-Container-Sync-Auth header not valid; contact cluster operator for support.")]
    InvalidSyncAuth {
        /// The account that was asked for.
        realm: String,
    },
    /// 403: who asks may not.
    #[error("not allowed")]
    Forbidden,
    /// 403: the account that is to be made was deleted, and is not gone yet.
    #[error("Recently deleted")]
    RecentlyDeleted,
    /// 404.
    #[error("not found")]
    NotFound,
    /// 410: the account was deleted.
    #[error("gone")]
    Gone,
    /// 405, with what is allowed.
    #[error("method not allowed")]
    MethodNotAllowed(&'static str),
    /// 406.
    #[error("none of the formats is accepted")]
    NotAcceptable,
    /// 408.
    #[error("the body came too slowly")]
    RequestTimeout,
    /// 409.
    #[error("{0}")]
    Conflict(String),
    /// 411.
    #[error("Missing Content-Length header.")]
    LengthRequired,
    /// 412, with what is wrong.
    #[error("{0}")]
    PreconditionFailed(String),
    /// 413.
    #[error("the body is too large")]
    TooLarge,
    /// 413, of a quota.
    #[error("Upload exceeds quota.")]
    OverQuota,
    /// 414.
    #[error("the URL is too long")]
    UriTooLong,
    /// 416.
    #[error("the range is outside the object")]
    RangeNotSatisfiable {
        /// How many bytes there are.
        length: u64,
    },
    /// 422.
    #[error("the bytes are not what the ETag says")]
    Unprocessable,
    /// 499: the client went away, or sent less than it announced.
    #[error("the client ended the request early")]
    ClientDisconnect,
    /// 500: what is stored is encrypted, and does not open.
    #[error(
        "The object is encrypted and cannot be decrypted: its root secret is not there, or what is stored was changed. The log of the server says which."
    )]
    Undecryptable,
    /// 501.
    #[error("{0}")]
    NotImplemented(String),
    /// 503.
    #[error("too few storage nodes answer")]
    Unavailable,
}

impl Fault {
    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::BadContainerName(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized { .. }
            | Self::InvalidTempUrl { .. }
            | Self::InvalidSyncAuth { .. } => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::RecentlyDeleted => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Gone => StatusCode::GONE,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::LengthRequired => StatusCode::LENGTH_REQUIRED,
            Self::PreconditionFailed(_) => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge | Self::OverQuota => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UriTooLong => StatusCode::URI_TOO_LONG,
            Self::RangeNotSatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Unprocessable => StatusCode::UNPROCESSABLE_ENTITY,
            Self::ClientDisconnect => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Undecryptable => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Swift's title and sentence for a status, where it has them.
    fn page(&self) -> Option<(&'static str, &'static str)> {
        Some(match self {
            Self::Unauthorized { .. } => (
                "Unauthorized",
                "This server could not verify that you are authorized to access the document you requested.",
            ),
            Self::Forbidden => ("Forbidden", "Access was denied to this resource."),
            Self::NotFound => ("Not Found", "The resource could not be found."),
            Self::MethodNotAllowed(_) => (
                "Method Not Allowed",
                "The method is not allowed for this resource.",
            ),
            Self::Gone => ("Gone", "This resource is no longer available."),
            Self::RequestTimeout => (
                "Request Timeout",
                "The server has waited too long for the request to be sent by the client.",
            ),
            Self::NotAcceptable => (
                "Not Acceptable",
                "The resource is not available in a format acceptable to your browser.",
            ),
            Self::BadRequest(text) if text.is_empty() => (
                "Bad Request",
                "The server could not comply with the request since it is either malformed or otherwise incorrect.",
            ),
            Self::PreconditionFailed(text) if text.is_empty() => (
                "Precondition Failed",
                "A precondition for this request was not met.",
            ),
            Self::TooLarge => (
                "Request Entity Too Large",
                "The body of your request was too large for this server.",
            ),
            Self::RangeNotSatisfiable { .. } => (
                "Requested Range Not Satisfiable",
                "The Range requested is not available.",
            ),
            Self::Unprocessable => (
                "Unprocessable Entity",
                "Unable to process the contained instructions",
            ),
            Self::ClientDisconnect => (
                "Client Disconnect",
                "The client was disconnected during request.",
            ),
            Self::Unavailable => (
                "Service Unavailable",
                "The server is currently unavailable. Please try again at a later time.",
            ),
            Self::Conflict(text) if text.is_empty() => (
                "Conflict",
                "There was a conflict when trying to complete your request.",
            ),
            Self::BadRequest(_)
            | Self::RecentlyDeleted
            | Self::BadContainerName(_)
            | Self::Conflict(_)
            | Self::LengthRequired
            | Self::PreconditionFailed(_)
            | Self::OverQuota
            | Self::InvalidTempUrl { .. }
            | Self::UriTooLong
            | Self::Undecryptable
            | Self::InvalidSyncAuth { .. }
            | Self::NotImplemented(_) => return None,
        })
    }

    /// Turns an answer into this one; the headers that say what it was about stay.
    pub(crate) fn put_in(&self, response: &mut Response, is_head: bool) {
        let (parts, body) = self.response(is_head).into_parts();
        *response.status_mut() = parts.status;
        response.headers_mut().extend(parts.headers);
        *response.body_mut() = body;
    }

    /// The answer; a HEAD's has no body.
    pub(crate) fn response(&self, is_head: bool) -> Response {
        let (text, kind) = match self.page() {
            Some((title, sentence)) => (
                format!("<html><h1>{title}</h1><p>{sentence}</p></html>"),
                "text/html; charset=UTF-8",
            ),
            None => {
                let text = self.to_string();
                // Swift's pages are HTML; a text with a client's own words in it must not become one.
                let is_plain = text.contains(['<', '>', '&', '"', '\''])
                    || matches!(
                        self,
                        Self::InvalidSyncAuth { .. } | Self::BadRequest(_) | Self::LengthRequired
                    );
                let kind = if is_plain {
                    "text/plain; charset=UTF-8"
                } else {
                    "text/html; charset=UTF-8"
                };
                (text, kind)
            }
        };
        let shown = if is_head { 0 } else { text.len() };
        let mut response = Response::new(if is_head { empty() } else { full(text) });
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(shown));
        match self {
            Self::Unauthorized { realm } | Self::InvalidTempUrl { realm } => {
                let realm = encode_rest(realm);
                set(
                    headers,
                    header::WWW_AUTHENTICATE,
                    &format!("Swift realm=\"{realm}\""),
                );
            }
            Self::InvalidSyncAuth { realm } => {
                let challenge = format!("SwiftContainerSync realm=\"{}\"", encode_rest(realm));
                set(headers, header::WWW_AUTHENTICATE, &challenge);
            }
            Self::MethodNotAllowed(allowed) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::RangeNotSatisfiable { length } => {
                set(headers, header::CONTENT_RANGE, &format!("bytes */{length}"));
            }
            Self::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::RequestTimeout | Self::ClientDisconnect => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Self::BadRequest(_)
            | Self::BadContainerName(_)
            | Self::Forbidden
            | Self::RecentlyDeleted
            | Self::NotFound
            | Self::Gone
            | Self::NotAcceptable
            | Self::Conflict(_)
            | Self::LengthRequired
            | Self::PreconditionFailed(_)
            | Self::TooLarge
            | Self::OverQuota
            | Self::UriTooLong
            | Self::Unprocessable
            | Self::Undecryptable
            | Self::NotImplemented(_) => {}
        }
        response
    }
}

/// Sets a header to a text. What no header can hold is left out.
pub(crate) fn set(headers: &mut http::HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_bytes(&value_bytes(value)) {
        headers.insert(name, value);
    }
}

/// Sets a header whose name is stored data.
pub(crate) fn set_named(headers: &mut http::HeaderMap, name: &str, value: &str) {
    if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
        set(headers, name, value);
    }
}

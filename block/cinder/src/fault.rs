//! Faults: what the volume API answers instead of success, `{"<kind>": {"code": N, "message": "…"}}`.

use serde_json::{Value, json};

/// What kind of fault it is: the key of the answer's object, and the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// 400: the request makes no sense here.
    BadRequest,
    /// 401: nobody known is asking.
    Unauthorized,
    /// 403: the caller may not.
    Forbidden,
    /// 404: there is no such thing, or it is another project's.
    ItemNotFound,
    /// 405: the path does not know the method.
    BadMethod,
    /// 406: no such microversion.
    NotAcceptable,
    /// 409: something else stands in the way.
    ConflictingRequest,
    /// 413: a quota or a size limit is reached.
    OverLimit,
    /// 415: the body is no JSON document.
    BadMediaType,
    /// 500: the service failed.
    ComputeFault,
    /// 501: the operation exists in the API and not in this service.
    NotImplemented,
    /// 503: a part of the service is out of reach.
    ServiceUnavailable,
}

impl FaultKind {
    /// The HTTP status.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::ItemNotFound => 404,
            Self::BadMethod => 405,
            Self::NotAcceptable => 406,
            Self::ConflictingRequest => 409,
            Self::OverLimit => 413,
            Self::BadMediaType => 415,
            Self::ComputeFault => 500,
            Self::NotImplemented => 501,
            Self::ServiceUnavailable => 503,
        }
    }

    const fn key(self) -> &'static str {
        match self {
            Self::BadRequest => "badRequest",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::ItemNotFound => "itemNotFound",
            Self::BadMethod => "badMethod",
            Self::NotAcceptable | Self::ComputeFault => "computeFault",
            Self::ConflictingRequest => "conflictingRequest",
            Self::OverLimit => "overLimit",
            Self::BadMediaType => "badMediaType",
            Self::NotImplemented => "notImplemented",
            Self::ServiceUnavailable => "serviceUnavailable",
        }
    }
}

/// A fault: its kind and what people read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    kind: FaultKind,
    message: String,
}

impl Fault {
    /// A fault of this kind.
    #[must_use]
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// 400 with this message.
    #[must_use]
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(FaultKind::BadRequest, message)
    }

    /// 400 about a volume in a state that does not allow what was asked.
    #[must_use]
    pub fn invalid_volume(reason: impl core::fmt::Display) -> Self {
        Self::bad_request(format!("Invalid volume: {reason}"))
    }

    /// 400 about a value.
    #[must_use]
    pub fn invalid_input(reason: impl core::fmt::Display) -> Self {
        Self::bad_request(format!("Invalid input received: {reason}"))
    }

    /// 404: `Volume x could not be found.`
    #[must_use]
    pub fn not_found(noun: &str, id: &str) -> Self {
        let id: String = id.chars().take(64).collect();
        Self::new(
            FaultKind::ItemNotFound,
            format!("{noun} {id} could not be found."),
        )
    }

    /// 501: an operation of the API that this service does not have.
    #[must_use]
    pub fn not_implemented(operation: &str) -> Self {
        let message = format!("This service cannot {operation} yet.");
        Self::new(FaultKind::NotImplemented, message)
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The HTTP status.
    #[must_use]
    pub const fn code(&self) -> u16 {
        self.kind.code()
    }

    /// What people read.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The answer's body.
    #[must_use]
    pub fn body(&self) -> Value {
        let mut fault = json!({"code": self.code(), "message": self.message});
        if let (FaultKind::OverLimit, Some(fields)) = (self.kind, fault.as_object_mut()) {
            // Clients that retry read it; a quota does not free itself by waiting.
            fields.insert("retryAfter".to_owned(), json!("0"));
        }
        json!({self.kind.key(): fault})
    }

    /// The message inside a fault's body, whatever its kind: what a client shows.
    #[must_use]
    pub fn message_of(body: &Value) -> Option<&str> {
        body.as_object()?
            .values()
            .find_map(|fault| fault.get("message")?.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_names_kind_code_and_message() {
        let body = Fault::not_found("Volume", "x").body();
        assert_eq!(
            body,
            json!({"itemNotFound": {"code": 404, "message": "Volume x could not be found."}})
        );
        assert_eq!(
            Fault::message_of(&body),
            Some("Volume x could not be found.")
        );
        assert_eq!(Fault::message_of(&json!([1])), None);
    }

    #[test]
    fn a_quota_fault_says_when_to_retry() {
        let body = Fault::new(FaultKind::OverLimit, "full").body();
        assert_eq!(
            body,
            json!({"overLimit": {"code": 413, "message": "full", "retryAfter": "0"}})
        );
    }

    #[test]
    fn a_version_fault_is_a_compute_fault_with_406() {
        let body = Fault::new(FaultKind::NotAcceptable, "no").body();
        assert_eq!(
            body,
            json!({"computeFault": {"code": 406, "message": "no"}})
        );
    }
}

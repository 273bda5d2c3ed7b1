//! What went wrong, as Keystone says it.

use crate::directory::DirectoryError;
use crate::json::JsonError;
use crate::password::PasswordError;
use http::StatusCode;
use serde_json::{Value, json};

/// Characters of an id or name a message repeats.
const ECHO_CHARS_MAX: usize = 64;

/// A request that was not carried out.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No token, a wrong one, or wrong credentials: always the same words.
    Unauthorized,
    /// The caller may not.
    Forbidden { action: &'static str },
    /// It would break a rule nobody may break.
    Immutable { what: String },
    /// There is no such thing.
    NotFound { kind: &'static str, id: String },
    /// There is no such grant.
    NoGrant {
        role: String,
        user: String,
        target: String,
    },
    /// There is no such path.
    NoSuchPath,
    /// The path does not take this method.
    MethodNotAllowed,
    /// Something else of that name is there, or changed meanwhile.
    Conflict { message: String },
    /// The request is malformed.
    BadRequest { message: String },
    /// The body is too long.
    TooLarge,
    /// Too much to do.
    Busy,
    /// Our own failure; it is logged where it becomes a fault.
    Internal,
}

impl Fault {
    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::BadRequest {
            message: message.into(),
        }
    }

    pub(crate) fn not_found(kind: &'static str, id: &str) -> Self {
        Self::NotFound { kind, id: cut(id) }
    }

    pub(crate) fn conflict(kind: &str, name: &str) -> Self {
        let name = cut(name);
        Self::Conflict {
            message: format!(
                "Conflict occurred attempting to store {kind} - Duplicate entry found with name {name}."
            ),
        }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } | Self::Immutable { .. } => StatusCode::FORBIDDEN,
            Self::NotFound { .. } | Self::NoGrant { .. } | Self::NoSuchPath => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict { .. } => StatusCode::CONFLICT,
            Self::BadRequest { .. } => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Unauthorized => "The request you have made requires authentication.".to_owned(),
            Self::Forbidden { action } => {
                format!("You are not authorized to perform the requested action: {action}.")
            }
            Self::Immutable { what } => {
                format!("You are not authorized to perform the requested action: {what}.")
            }
            Self::NotFound { kind, id } => format!("Could not find {kind}: {id}."),
            Self::NoGrant { role, user, target } => format!(
                "Could not find role assignment with role: {role}, user or group: {user}, project, domain, or system: {target}."
            ),
            Self::NoSuchPath => "The requested URL was not found on the server. If you entered the URL manually please check your spelling and try again.".to_owned(),
            Self::MethodNotAllowed => "The method is not allowed for the requested URL.".to_owned(),
            Self::Conflict { message } | Self::BadRequest { message } => message.clone(),
            Self::TooLarge => "Request is too large.".to_owned(),
            Self::Busy => "Too many logins at a time. Try again.".to_owned(),
            Self::Internal => "An unexpected error prevented the server from fulfilling your request.".to_owned(),
        }
    }

    /// Keystone's error body.
    pub(crate) fn body(&self) -> Value {
        let status = self.status();
        let title = match self {
            Self::Conflict { .. } => "Conflict",
            Self::TooLarge => "Request Entity Too Large",
            _ => status.canonical_reason().unwrap_or("Error"),
        };
        json!({"error": {"code": status.as_u16(), "message": self.message(), "title": title}})
    }
}

fn cut(text: &str) -> String {
    text.chars().take(ECHO_CHARS_MAX).collect()
}

impl From<DirectoryError> for Fault {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::Duplicate { kind } => Self::Conflict {
                message: format!(
                    "Conflict occurred attempting to store {kind} - Duplicate entry found."
                ),
            },
            DirectoryError::Changed { kind } => Self::Conflict {
                message: format!("The {kind} was changed by another request. Try again."),
            },
            DirectoryError::Read(_) | DirectoryError::Write(_) | DirectoryError::Store(_) => {
                tracing::error!(%error, "the identity store failed");
                Self::Internal
            }
        }
    }
}

impl From<JsonError> for Fault {
    fn from(error: JsonError) -> Self {
        Self::bad(format!(
            "{error} The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error."
        ))
    }
}

impl From<PasswordError> for Fault {
    fn from(error: PasswordError) -> Self {
        Self::bad(format!("Invalid input for field 'password': {error}."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_keystones_shape() {
        let unauthorized = r#"{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}"#;
        assert_eq!(Fault::Unauthorized.body().to_string(), unauthorized);
        let missing = Fault::not_found("user", &"x".repeat(5_000))
            .body()
            .to_string();
        assert!(
            missing.len() < 300 && missing.contains("Could not find user: xxx"),
            "{missing}"
        );
        assert_eq!(Fault::NoSuchPath.status(), 404);
    }
}

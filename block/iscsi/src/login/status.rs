//! Login status codes (RFC 7143 §11.13.5).

/// Class and detail of a login response, and what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LoginStatus {
    pub(crate) class: u8,
    pub(crate) detail: u8,
    pub(crate) why: &'static str,
}

const fn status(class: u8, detail: u8, why: &'static str) -> LoginStatus {
    LoginStatus { class, detail, why }
}

pub(crate) const SUCCESS: LoginStatus = status(0, 0, "success");
pub(crate) const MOVED_TEMPORARILY: LoginStatus = status(1, 1, "target moved temporarily");
pub(crate) const MOVED_PERMANENTLY: LoginStatus = status(1, 2, "target moved permanently");
pub(crate) const INITIATOR_ERROR: LoginStatus = status(2, 0, "initiator error");
pub(crate) const AUTHENTICATION_FAILURE: LoginStatus = status(2, 1, "authentication failure");
pub(crate) const AUTHORIZATION_FAILURE: LoginStatus = status(2, 2, "authorization failure");
pub(crate) const NOT_FOUND: LoginStatus = status(2, 3, "target not found");
pub(crate) const UNSUPPORTED_VERSION: LoginStatus = status(2, 5, "unsupported version");
pub(crate) const MISSING_PARAMETER: LoginStatus = status(2, 7, "missing parameter");
pub(crate) const SESSION_TYPE: LoginStatus = status(2, 9, "session type not supported");
pub(crate) const NO_SESSION: LoginStatus = status(2, 0x0a, "session does not exist");
pub(crate) const INVALID_REQUEST: LoginStatus = status(2, 0x0b, "invalid request during login");
pub(crate) const UNAVAILABLE: LoginStatus = status(3, 1, "service unavailable");
pub(crate) const OUT_OF_RESOURCES: LoginStatus = status(3, 2, "out of resources");

/// What a status says, for people.
pub(crate) const fn describe(class: u8, detail: u8) -> &'static str {
    match (class, detail) {
        (0, _) => "success",
        (1, 1) => "target moved temporarily",
        (1, 2) => "target moved permanently",
        (2, 1) => "authentication failure",
        (2, 2) => "authorization failure",
        (2, 3) => "target not found",
        (2, 4) => "target removed",
        (2, 5) => "unsupported version",
        (2, 6) => "too many connections",
        (2, 7) => "missing parameter",
        (2, 8) => "cannot include the connection in the session",
        (2, 9) => "session type not supported",
        (2, 0x0a) => "session does not exist",
        (2, 0x0b) => "invalid request during login",
        (2, _) => "initiator error",
        (3, 1) => "service unavailable",
        (3, 2) => "out of resources",
        (3, _) => "target error",
        _ => "unknown status",
    }
}

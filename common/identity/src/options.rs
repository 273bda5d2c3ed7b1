//! What an operator decides about identity.

use core::time::Duration;
use onggi_common_units::Secret;

/// The region every endpoint made at first start belongs to.
pub const REGION: &str = "RegionOne";
/// How long a token serves.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);
/// What an account's name begins with.
pub const RESELLER_PREFIX: &str = "AUTH_";

/// What the name of an account begins with that a service keeps for a user.
pub const SERVICE_PREFIX: &str = "SERVICE_";

/// A user of v1 authentication who lives in the configuration, as tempauth's do.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct V1User {
    /// The account without its prefix: `test` for `AUTH_test`.
    pub account: String,
    /// The user within the account.
    pub user: String,
    /// The password.
    pub key: Secret,
    /// `.admin`, `.reseller_admin`, or groups that access lists name.
    #[serde(default)]
    pub groups: Vec<String>,
}

impl V1User {
    /// `account:user`, as `X-Auth-User` names them.
    #[must_use]
    pub fn login(&self) -> String {
        format!("{}:{}", self.account, self.user)
    }
}

/// What an operator decides about identity.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where clients reach this service: `http://127.0.0.1:5000`. No path, no slash at the end.
    pub identity_url: String,
    /// Where clients reach the volume service: `http://127.0.0.1:8776`.
    pub volume_url: String,
    /// Where clients reach the object service: `http://127.0.0.1:8080`.
    pub object_url: String,
    /// Whether v1 logins always get `object_url`; otherwise a client that came by another host name keeps that name.
    pub is_object_url_fixed: bool,
    /// The region of the catalogue.
    pub region: String,
    /// How long a token serves.
    pub token_lifetime: Duration,
    /// Users of v1 authentication beside those in the store.
    pub v1_users: Vec<V1User>,
    /// Make a project and a user `demo` at first start.
    pub make_demo: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            identity_url: "http://127.0.0.1:5000".to_owned(),
            volume_url: "http://127.0.0.1:8776".to_owned(),
            object_url: "http://127.0.0.1:8080".to_owned(),
            is_object_url_fixed: false,
            region: REGION.to_owned(),
            token_lifetime: TOKEN_LIFETIME,
            v1_users: Vec::new(),
            make_demo: true,
        }
    }
}

//! Who is calling: Keystone v3 and v1 authentication, tokens, roles and the service catalogue.
//!
//! [`Identity`] owns users, projects, roles and grants in the control store and answers the identity listener.
//! [`Verifier`] tells any process who a token belongs to, without asking: tokens are signed with the cluster's
//! [`keys::KeyRing`], and what was revoked since comes through a [`feed::RevocationFeed`].
#![forbid(unsafe_code)]

pub mod bootstrap;
mod call;
pub mod caller;
mod directory;
mod fault;
pub mod feed;
mod identity;
mod json;
pub mod keys;
pub mod options;
mod password;
mod realm;
pub mod revocation;
pub mod token;
mod v1;
mod v3;
pub mod verifier;

pub use bootstrap::{Bootstrap, BootstrapError, Credentials};
pub use caller::{Caller, DEFAULT_DOMAIN};
pub use feed::{FeedError, RevocationFeed};
pub use identity::{BODY_BYTES_MAX, HASHES_MAX, Identity, OpenError};
pub use keys::KeyRing;
pub use options::{Options, V1User};
pub use realm::TOKEN_LIFETIME_MAX;
pub use verifier::{Verifier, VerifyError};

#[cfg(test)]
mod tests;

//! Requests about one account, and their answers.
//!
//! | method | head | body | answers |
//! |---|---|---|---|
//! | PUT | [`Put`] | | 201 (made), 202 (was there), 403 (deleted, and not gone yet) |
//! | POST | [`Post`] | | 204, 404 |
//! | DELETE | [`Delete`] | | 204, 404, 409 (made later) |
//! | HEAD | [`Head`] | | 204, 404 |
//! | GET | [`List`] | | 200, 404; the body is a `Listing<AccountEntry>` in JSON |
//! | POST `rows` | [`Rows`] | records ([`crate::rows`]) | 202, 404 |
//!
//! HEAD, GET and a 404 of a deleted account carry an `AccountInfo` as head. A deleted account takes records of containers: its
//! reaper has to know of them.

use onggi_common_units::Timestamp;
use onggi_object_model::{AccountName, ListingQuery, StampedMetadata};

/// Makes an account, or changes its metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Which.
    pub account: AccountName,
    /// When.
    pub timestamp: Timestamp,
    /// Metadata that changes.
    pub metadata: StampedMetadata,
}

/// Changes an account's metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Post {
    /// Which.
    pub account: AccountName,
    /// What changes.
    pub metadata: StampedMetadata,
}

/// Deletes an account.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Which.
    pub account: AccountName,
    /// When.
    pub timestamp: Timestamp,
}

/// Asks for an account's totals and metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Which.
    pub account: AccountName,
}

/// Lists an account.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Which.
    pub account: AccountName,
    /// Which of its containers.
    pub query: ListingQuery,
}

/// Tells an account about its containers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Which.
    pub account: AccountName,
    /// The last day (since 1970) of whose deletions the sender has surely heard. The receiver does not begin with a
    /// record that is older than what it has reclaimed since then.
    pub known: u16,
}

//! Requests about one container, and their answers.
//!
//! | method | head | body | answers |
//! |---|---|---|---|
//! | PUT | [`Put`] | | 201 (made), 202 (was there), 409 (other policy, or deleted later) |
//! | POST | [`Post`] | | 204, 404 |
//! | DELETE | [`Delete`] | | 204, 404, 409 (not empty, or made later) |
//! | HEAD | [`Head`] | | 204, 404 |
//! | GET | [`List`] | | 200, 404; the body is a `Listing<ObjectEntry>` in JSON |
//! | POST `rows` | [`Rows`] | records ([`crate::rows`]) | 202, 404 |
//!
//! PUT, HEAD, GET and a 404 of a deleted container carry a `ContainerInfo` as head.

use crate::target::Place;
use onggi_common_units::Timestamp;
use onggi_object_model::{ContainerPath, ListingQuery, PolicyIndex, StampedMetadata};

/// Object records in one message.
pub const ROWS_MAX: usize = 10_000;
/// Bytes of a message with records.
pub const ROWS_BYTES_MAX: usize = 16 << 20;

/// Makes a container, or changes its metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Which.
    pub path: ContainerPath,
    /// When.
    pub timestamp: Timestamp,
    /// The policy asked for: 409 when it is there with another one.
    pub policy: Option<PolicyIndex>,
    /// The policy of a new container that asks for none.
    pub default_policy: PolicyIndex,
    /// Metadata that changes.
    pub metadata: StampedMetadata,
    /// The account devices this node tells about it.
    pub account: Vec<Place>,
}

/// Changes a container's metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Post {
    /// Which.
    pub path: ContainerPath,
    /// What changes.
    pub metadata: StampedMetadata,
}

/// Deletes a container that lists nothing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Which.
    pub path: ContainerPath,
    /// When.
    pub timestamp: Timestamp,
    /// The account devices this node tells about it.
    pub account: Vec<Place>,
}

/// Asks for a container's totals and metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Which.
    pub path: ContainerPath,
}

/// Lists a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Which.
    pub path: ContainerPath,
    /// Which of its objects.
    pub query: ListingQuery,
}

/// Tells a container about its objects.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// Which.
    pub path: ContainerPath,
    /// The policy the objects are under.
    pub policy: PolicyIndex,
    /// The last day (since 1970) of whose deletions the sender has surely heard. The receiver does not begin with a
    /// record that is older than what it has reclaimed since then.
    pub known: u16,
}

/// What a write did: 201, 202, 204.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The account devices that have the record. The node goes on telling the others.
    pub listed: Vec<Place>,
}

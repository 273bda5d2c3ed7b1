//! Requests about one object, and their answers.
//!
//! | method | head | answers |
//! |---|---|---|
//! | PUT | [`Put`], bytes follow | 201, 409 (newer there), 410 (the reservation does not hold), 412 (not as the commit expects), 422 (bytes are not what the tail says), 423, 507 |
//! | GET, HEAD | [`Get`] | 200, 206, 404 ([`Missing`]), 409 (another version), 416, 503 (bytes damaged) |
//! | POST | [`Post`] | 202, 404, 409 |
//! | DELETE | [`Delete`] | 204, 404 (a tombstone was left all the same, or a newer one is there), 409, 410, 412 |
//!
//! Writes also answer 423 when the key is reserved for a conditional write with a higher stamp.
//!
//! A conditional PUT or DELETE first reserves the key on the primaries (`object/reservation`):
//!
//! | method | head | answers |
//! |---|---|---|
//! | PUT | [`Reserve`] | 201, 409 (stamp above this; writes without a condition wait meanwhile), 412 (not as expected), 423 (another has it), 507 |
//! | DELETE | [`Release`] | 204 |
//!
//! Any request: 400 (malformed), 403 (not signed), 507 (device not there).

use crate::body::Root;
use crate::target::Place;
use onggi_common_units::{HexId, Timestamp};
use onggi_object_model::{ByteRange, Etag, Metadata, ObjectInfo, ObjectPath, PolicyIndex};

/// The fragment byte of a whole copy. Erasure-coded fragments are numbered from zero.
pub const WHOLE: u8 = 0xff;
/// The longest body that may be sent whole, under a hash in the head.
pub const BUFFERED_BYTES_MAX: usize = 64 << 10;

/// Which object, under which policy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// The policy of its container.
    pub policy: PolicyIndex,
    /// The fragment, when the policy has fragments.
    pub fragment: Option<u8>,
    /// Its name.
    pub path: ObjectPath,
}

impl Which {
    /// A whole copy of an object.
    #[must_use]
    pub const fn whole(policy: PolicyIndex, path: ObjectPath) -> Self {
        Self {
            policy,
            fragment: None,
            path,
        }
    }

    /// The fragment's byte in keys.
    #[must_use]
    pub fn fragment_byte(&self) -> u8 {
        self.fragment.unwrap_or(WHOLE)
    }
}

/// Stores an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// Which.
    pub which: Which,
    /// When.
    pub timestamp: Timestamp,
    /// What its bytes are said to be.
    pub content_type: String,
    /// Its metadata.
    pub metadata: Metadata,
    /// What the system keeps with the bytes.
    pub system: Metadata,
    /// How many bytes will come, when the sender knows: space is looked for before the first.
    pub length: Option<u64>,
    /// The second phase of a conditional PUT.
    pub commit: Option<Commit>,
    /// The container devices this node tells about it.
    pub listing: Vec<Place>,
    /// The end of a body that is sent whole; a streamed body has it in its trailer.
    pub tail: Option<Tail>,
}

/// What a conditional write expects, and whose reservation it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Names the write.
    pub token: HexId,
    /// When the bytes were put that it replaces or deletes; `None`: nothing may be there.
    pub expected: Option<Timestamp>,
}

/// Reserves an object's key for a conditional PUT or DELETE.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserve {
    /// Which.
    pub which: Which,
    /// The stamp the write will have.
    pub timestamp: Timestamp,
    /// For whom, and what it expects.
    pub commit: Commit,
}

/// Gives a reservation up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Which.
    pub which: Which,
    /// Whose.
    pub token: HexId,
}

/// What is known once a body ends: the trailer of a streamed one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tail {
    /// How many bytes there were.
    pub length: u64,
    /// Their MD5, or what a proxy that encrypts puts in its place; nodes only keep it.
    pub etag: Etag,
    /// The root of their chunks' hashes, which the node compares with its own.
    pub root: Root,
    /// What the system keeps with the bytes and knows only at their end.
    pub system: Metadata,
    /// What a streamed conditional PUT settled on after its head had gone.
    pub settled: Option<Settled>,
}

/// The stamp and the condition of a streamed conditional PUT, which reserves the key when its bytes are there; those of
/// its head do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settled {
    /// When.
    pub timestamp: Timestamp,
    /// Whose reservation, and what is expected.
    pub commit: Commit,
}

impl Tail {
    /// All that the system keeps with the bytes, of the head's part.
    #[must_use]
    pub fn complete(&self, mut system: Metadata) -> Metadata {
        for (name, value) in self.system.iter() {
            system.insert(name, value);
        }
        system
    }
}

/// Reads an object, or what is known about it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// Which.
    pub which: Which,
    /// Which bytes.
    pub range: Option<Wanted>,
    /// Only when its bytes were put then; 409 otherwise. For going on with another replica in mid-body.
    pub version: Option<Timestamp>,
}

/// Which bytes of an object are wanted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// What a `Range` header says. A malformed one means everything.
    Header(String),
    /// These bytes.
    Exact(ByteRange),
}

/// Changes an object's metadata.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Post {
    /// Which.
    pub which: Which,
    /// When.
    pub timestamp: Timestamp,
    /// The new content type, if it changes.
    pub content_type: Option<String>,
    /// The new metadata; the old is gone.
    pub metadata: Metadata,
    /// The container devices this node tells about it.
    pub listing: Vec<Place>,
}

/// Deletes an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// Which.
    pub which: Which,
    /// When.
    pub timestamp: Timestamp,
    /// The second phase of a conditional DELETE.
    pub commit: Option<Commit>,
    /// The container devices this node tells about it.
    pub listing: Vec<Place>,
}

/// An object that was found: 200, 206 and 416.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// What readers see.
    pub info: ObjectInfo,
    /// What the system keeps with the bytes.
    pub system: Metadata,
    /// The root of the whole body.
    pub root: Root,
    /// The ranges whose bytes follow one after another, for 206.
    pub ranges: Vec<ByteRange>,
}

/// An object that is not there: 404.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Missing {
    /// When it was deleted, if the device remembers.
    pub tombstone: Option<Timestamp>,
}

/// What a write did: 201, 202, 204, and 404 to a DELETE.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The container devices that have the listing row. The node goes on telling the others.
    pub listed: Vec<Place>,
}

/// A write that was refused: 409, 412, 423.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// The newest timestamp of the row that is there.
    pub newest: Timestamp,
}

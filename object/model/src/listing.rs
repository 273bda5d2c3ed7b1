//! Listings: what is asked ([`ListingQuery`]), how a sorted table is walked, and how the answer is written.

mod query;
mod render;

pub(crate) use query::pairs;
pub use query::{ListingFormat, ListingQuery, ListingQueryError, Visit, past_prefix};
pub use render::{Line, Named, escape_xml};

use crate::etag::Etag;
use crate::metadata::Metadata;
use crate::name::{ContainerName, ObjectName};
use crate::policy::PolicyIndex;
use onggi_common_units::Timestamp;

/// What a container knows about one of its objects: a row of its listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ObjectRecord {
    /// The object.
    pub name: ObjectName,
    /// When its bytes were put or it was deleted.
    pub data_timestamp: Timestamp,
    /// When its content type was last set.
    pub content_type_timestamp: Timestamp,
    /// When its metadata was last set.
    pub metadata_timestamp: Timestamp,
    /// Whether it was deleted: then the row is a tombstone and in no listing.
    pub deleted: bool,
    /// Bytes in it.
    pub length: u64,
    /// Their MD5.
    pub etag: Etag,
    /// What they are said to be.
    pub content_type: String,
    /// What else its line says, set with its bytes: see [`crate::listing::annotation`].
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub annotations: Metadata,
}

impl ObjectRecord {
    /// The newest of its timestamps: what a listing shows as the time of the last change.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.data_timestamp
            .max(self.content_type_timestamp)
            .max(self.metadata_timestamp)
    }
}

/// What an account knows about one of its containers: a row of its listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ContainerRecord {
    /// The container.
    pub name: ContainerName,
    /// When it was made.
    pub put_timestamp: Timestamp,
    /// When it was deleted last.
    pub delete_timestamp: Timestamp,
    /// Objects in it.
    pub object_count: u64,
    /// Bytes of those.
    pub bytes_used: u64,
    /// How they are kept; `None` in records of a time when accounts were not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyIndex>,
}

impl ContainerRecord {
    /// Whether the container is there, and not deleted since.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.put_timestamp > self.delete_timestamp
    }
}

/// An object in a container's listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ObjectEntry {
    /// Its name.
    pub name: String,
    /// The MD5 of its bytes.
    pub hash: Etag,
    /// How many bytes it has.
    pub bytes: u64,
    /// What they are said to be.
    pub content_type: String,
    /// When it was last changed.
    pub last_modified: Timestamp,
    /// What else the line says: see [`crate::listing::annotation`].
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub annotations: Metadata,
}

/// Names of what a line of a container's listing may say beside the usual. An object's system metadata of the name
/// `x-object-sysmeta-listing-NAME` becomes the annotation `NAME`.
pub mod annotation {
    /// How long the content is, where the object's own bytes only say where it is.
    pub const BYTES: &str = "bytes";
    /// The entity tag of that content.
    pub const HASH: &str = "hash";
    /// The entity tag of a static large object as its readers get it.
    pub const SLO_ETAG: &str = "slo_etag";
    /// Where a symlink leads: the path of a request.
    pub const SYMLINK_PATH: &str = "symlink_path";
    /// The entity tag a static symlink demands of its target.
    pub const SYMLINK_ETAG: &str = "symlink_etag";
    /// How long that target is.
    pub const SYMLINK_BYTES: &str = "symlink_bytes";
    /// The version that the current one of a versioned object is.
    pub const VERSION: &str = "version";
    /// Marks the line of an object that is a link to its current version.
    pub const VERSION_SYMLINK: &str = "version_symlink";
    /// The id of a version, in a listing of versions.
    pub const VERSION_ID: &str = "version_id";
    /// Whether a version is the current one, in a listing of versions: `true` or `false`.
    pub const IS_LATEST: &str = "is_latest";
    /// Begins the names of the system metadata that annotations are made from.
    pub const SYSTEM_PREFIX: &str = "x-object-sysmeta-listing-";
}

/// A container in an account's listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AccountEntry {
    /// Its name.
    pub name: String,
    /// Objects in it.
    pub count: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// When it was made.
    pub last_modified: Timestamp,
    /// How its objects are kept, where the account was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyIndex>,
}

/// The same with its policy's name: what a listing shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountLine {
    /// The container.
    pub entry: AccountEntry,
    /// The name of its policy, where that is known.
    pub storage_policy: Option<String>,
}

/// A line of a listing: what was asked for, or the common beginning of several.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListingEntry<T> {
    /// One of the things listed.
    Item(T),
    /// A beginning that ends with the delimiter.
    Subdir(String),
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listing<T> {
    /// The lines in order.
    pub entries: Vec<ListingEntry<T>>,
}

impl<T> Listing<T> {
    /// The same page with each thing made into another.
    pub fn map<U>(self, mut change: impl FnMut(T) -> U) -> Listing<U> {
        let entries = self.entries.into_iter().map(|entry| match entry {
            ListingEntry::Item(item) => ListingEntry::Item(change(item)),
            ListingEntry::Subdir(name) => ListingEntry::Subdir(name),
        });
        Listing {
            entries: entries.collect(),
        }
    }
}

impl<T> Default for Listing<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;

//! What is known about an account, a container or an object as a whole.

use crate::etag::Etag;
use crate::metadata::{Metadata, StampedMetadata};
use crate::policy::PolicyIndex;
use onggi_common_units::Timestamp;

/// An account's totals and metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct AccountInfo {
    /// When it was made.
    pub put_timestamp: Timestamp,
    /// When it was deleted; zero if it never was.
    #[serde(default)]
    pub delete_timestamp: Timestamp,
    /// Containers in it.
    pub container_count: u64,
    /// Objects in those.
    pub object_count: u64,
    /// Bytes of those.
    pub bytes_used: u64,
    /// Its metadata.
    pub metadata: StampedMetadata,
}

impl AccountInfo {
    /// Whether it was deleted, and not made again since. One that was never made is not deleted.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        self.delete_timestamp > Timestamp::ZERO && self.delete_timestamp >= self.put_timestamp
    }
}

/// A container's totals and metadata.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ContainerInfo {
    /// When it was made.
    pub put_timestamp: Timestamp,
    /// When it was deleted last; it exists while this is older than `put_timestamp`.
    pub delete_timestamp: Timestamp,
    /// Objects in it.
    pub object_count: u64,
    /// Bytes of those.
    pub bytes_used: u64,
    /// How its objects are kept.
    pub policy: PolicyIndex,
    /// When that was chosen; zero in what builds before this say, whose containers were made at `put_timestamp` at the latest.
    #[serde(default)]
    pub policy_timestamp: Timestamp,
    /// Its metadata, ACLs among it.
    pub metadata: StampedMetadata,
    /// A digest of the records the totals count. `None` when replicas were merged that have not heard the same: then the
    /// totals may be wrong.
    #[serde(default)]
    pub records: Option<u64>,
}

impl ContainerInfo {
    /// When the policy was chosen, as far as is known.
    #[must_use]
    pub fn chosen(&self) -> Timestamp {
        if self.policy_timestamp > Timestamp::ZERO {
            self.policy_timestamp
        } else {
            self.put_timestamp
        }
    }

    /// Whether the container is there, and not deleted since.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.put_timestamp > self.delete_timestamp
    }
}

/// An object as its readers see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ObjectInfo {
    /// When its bytes were put.
    pub data_timestamp: Timestamp,
    /// When its content type was set: by the PUT, or by a later POST.
    pub content_type_timestamp: Timestamp,
    /// When its metadata was set: by the PUT, or by a later POST.
    pub metadata_timestamp: Timestamp,
    /// Bytes in it.
    pub length: u64,
    /// Their MD5.
    pub etag: Etag,
    /// What they are said to be.
    pub content_type: String,
    /// Its metadata.
    pub metadata: Metadata,
}

impl ObjectInfo {
    /// The newest of its three timestamps: what `X-Timestamp` and `Last-Modified` show.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        self.data_timestamp
            .max(self.content_type_timestamp)
            .max(self.metadata_timestamp)
    }
}

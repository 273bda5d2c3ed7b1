//! Swift's nouns and rules: names, metadata, ranges, preconditions, listings, ACLs.
//!
//! Whatever comes from outside is parsed here once, into types that need no further check. Nothing here reads a
//! socket, a file or a clock.
#![forbid(unsafe_code)]

pub mod acl;
pub mod etag;
#[cfg(test)]
mod hostile;
pub mod info;
pub mod limits;
pub mod listing;
pub mod manifest;
pub mod metadata;
pub mod multipart;
pub mod name;
pub mod path;
pub mod policy;
pub mod precondition;
pub mod range;
pub mod tar;

pub use acl::{AccessControl, Visitor};
pub use etag::{Etag, EtagError};
pub use info::{AccountInfo, ContainerInfo, ObjectInfo};
pub use listing::{
    AccountEntry, AccountLine, ContainerRecord, Listing, ListingEntry, ListingFormat, ListingQuery,
    ListingQueryError, ObjectEntry, ObjectRecord, Visit,
};
pub use metadata::{Metadata, MetadataError, MetadataKind, StampedMetadata, StampedValue};
pub use name::{AccountName, ContainerName, NameError, ObjectName};
pub use path::{ContainerPath, ObjectPath, PathError, Resource};
pub use policy::{Policy, PolicyIndex};
pub use precondition::{Precondition, Verdict};
pub use range::{ByteRange, RangeHeader, Selection};

//! The contract between proxy and nodes and between nodes.
//!
//! Every request is one HTTP/1.1 message to `/2/<device>/<resource>` ([`target`]). What is asked stands in one header,
//! the *head* (typed in [`object`], [`container`], [`account`]); the body carries an object's bytes, a page of a listing ([`pages`]),
//! or rows, these two in the binary form of [`codec`]. Answers have a status and, where there is something to say, a head as well.
//! Each request is signed ([`auth`]); a storage port answers nobody else. What is small and frequent travels in frames on
//! one connection instead, with the same resources, heads and bodies ([`link`]).
//!
//! The `2` of the path is the version of this contract. A node refuses what it does not know.
#![forbid(unsafe_code)]

pub mod account;
pub mod auth;
pub mod body;
pub mod codec;
pub mod container;
pub mod digest;
pub mod expiry;
pub mod head;
pub mod link;
pub mod merge;
pub mod object;
pub mod pages;
pub mod realms;
pub mod replication;
pub mod row;
pub mod rows;
pub mod target;

pub use auth::{ClusterKeys, Refusal, Signer, Verifier};
pub use body::{ChunkHasher, Root};
pub use digest::{Digest, Slot};
pub use head::HeadError;
pub use realms::Realms;
pub use row::{Body, ObjectRow};
pub use target::{DeviceName, Place, Resource, Target};

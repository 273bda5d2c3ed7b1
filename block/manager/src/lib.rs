//! Carries volume plans out durably, with undo, and resumes them after a crash.
//!
//! [`Manager`] is the one owner of the volume catalogue. What changes a pool or the target is a plan
//! (`onggi-block-volume`), journaled in the same transaction as the state it starts from; only `executor` carries plans
//! out. After a crash at any step every plan in the journal is carried on or taken back, so that nothing stays
//! `creating` or `deleting`.
//!
//! - **B4** states change only by compare-and-set: each transaction names the revision of the rows it has read.
//! - **B6** pool and catalogue agree, or [`Manager::reconcile`] reports the difference.
#![forbid(unsafe_code)]

mod attachments;
mod catalog;
mod detail;
mod error;
mod executor;
mod keeper;
mod locks;
mod manager;
mod options;
mod reconcile;
mod seal;
mod service;
mod volumes;

#[cfg(test)]
mod tests;

pub use catalog::CatalogError;
pub use detail::{AttachmentDetail, ConnectionInfo, PoolStatus, ServiceStatus, VolumeDetail};
pub use error::{AttachmentError, StartError, VolumeError};
pub use manager::Manager;
pub use options::{Backend, FailPoint, Options};
pub use reconcile::Differences;
pub use seal::SealError;

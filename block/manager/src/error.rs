//! What can go wrong, by what is asked.

use crate::catalog::CatalogError;
use crate::seal::SealError;
use onggi_block_volume::placement::NoPool;
use onggi_block_volume::{
    AttachmentId, AttachmentState, PoolAddressError, QuotaExceeded, SizeGib, TransitionError,
    VolumeId, VolumeState,
};

/// A manager that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The catalogue cannot be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The key of the secrets is missing or another one.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The host, a backend or a pool has a name that cannot be part of an address.
    #[error(transparent)]
    Address(#[from] PoolAddressError),
    /// The machine gives no thread.
    #[error("starting a thread: {source}")]
    Thread {
        /// Why.
        source: std::io::Error,
    },
}

/// Something asked of a volume that is not done.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// There is no such volume, or the caller may not see it.
    #[error("there is no volume {id}")]
    NotFound {
        /// The volume.
        id: VolumeId,
    },
    /// Its state forbids it.
    #[error("volume: {0}")]
    Transition(#[from] TransitionError<VolumeState>),
    /// It has attachments.
    #[error("volume {id} has {count} attachments: detach it first")]
    Attached {
        /// The volume.
        id: VolumeId,
        /// How many.
        count: usize,
    },
    /// The project would have more than it may.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// No pool has room for it.
    #[error(transparent)]
    NoPool(#[from] NoPool),
    /// No pool says how much room it has.
    #[error("no pool can be read: {reason}")]
    PoolUnreadable {
        /// What the last one says.
        reason: String,
    },
    /// There is no such volume type.
    #[error("there is no volume type {name:?}")]
    UnknownType {
        /// Its name or id.
        name: String,
    },
    /// There is no such availability zone.
    #[error("there is no availability zone {name:?}")]
    UnknownZone {
        /// Its name.
        name: String,
    },
    /// A volume cannot become smaller, or stay as it is and be called grown.
    #[error("a volume of {from:?} cannot be extended to {to:?}: the new size must be larger")]
    Shrink {
        /// What it is.
        from: SizeGib,
        /// What was asked for.
        to: SizeGib,
    },
    /// An earlier operation on it is not finished: it waits for the target or the pool.
    #[error("volume {id} is busy: {operation} is not finished ({reason})")]
    Busy {
        /// The volume.
        id: VolumeId,
        /// What is being done.
        operation: &'static str,
        /// What it waits for.
        reason: String,
    },
    /// The catalogue cannot answer.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// Something asked of an attachment that is not done.
#[derive(Debug, thiserror::Error)]
pub enum AttachmentError {
    /// There is no such attachment, or the caller may not see it.
    #[error("there is no attachment {id}")]
    NotFound {
        /// The attachment.
        id: AttachmentId,
    },
    /// Its volume forbids it.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Its state forbids it.
    #[error("attachment: {0}")]
    Transition(#[from] TransitionError<AttachmentState>),
    /// The volume could not be exported. Everything is as it was before.
    #[error("volume {volume} cannot be exported: {reason}")]
    Connection {
        /// The volume.
        volume: VolumeId,
        /// Why.
        reason: String,
    },
    /// It was begun and goes on by itself once what it waits for is back.
    #[error("attachment {id} is being changed and waits: {reason}")]
    Pending {
        /// The attachment.
        id: AttachmentId,
        /// What it waits for.
        reason: String,
    },
    /// Its secret cannot be read.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl From<CatalogError> for AttachmentError {
    fn from(error: CatalogError) -> Self {
        Self::Volume(VolumeError::Catalog(error))
    }
}

//! The life of volumes and attachments: states, quotas, placement, plans with undo.
//!
//! Everything here is data and decisions; the manager stores the data and carries the plans out.
//!
//! **B4** states change only by the methods of [`VolumeState`] and [`AttachmentState`], each naming the states it starts
//! from; the manager stores the result only if the row has not changed meanwhile.
#![forbid(unsafe_code)]

pub mod attachment;
pub mod connector;
pub mod id;
pub mod placement;
pub mod plan;
pub mod quota;
pub mod state;
mod time;
pub mod volume;
pub mod volume_type;

pub use attachment::{AccessMode, Attachment, NewAttachment};
pub use connector::{Connector, ConnectorError};
pub use id::{AttachmentId, Owner, OwnerError, PlanId, ProjectId, Scope, UserId, VolumeId};
pub use placement::{NoPool, PoolAddress, PoolAddressError, PoolReport};
pub use plan::{Journal, Operation, Plan, Step};
pub use quota::{QuotaExceeded, QuotaLimits, QuotaResource, QuotaUsage};
pub use state::{AttachmentState, TransitionError, VolumeState};
pub use volume::{Fault, NewVolume, SizeGib, Volume, VolumeChange};
pub use volume_type::VolumeType;

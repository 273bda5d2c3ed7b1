//! An attachment: one instance's or host's claim on a volume.

use crate::connector::Connector;
use crate::id::{AttachmentId, ProjectId, UserId, VolumeId};
use crate::state::AttachmentState;
use onggi_common_units::{UtcTime, Uuid};
use serde::{Deserialize, Serialize};

/// How an attachment may use the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AccessMode {
    /// Reading and writing.
    #[serde(rename = "rw")]
    ReadWrite,
    /// Reading.
    #[serde(rename = "ro")]
    ReadOnly,
}

impl AccessMode {
    /// Cinder's name of it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadWrite => "rw",
            Self::ReadOnly => "ro",
        }
    }
}

/// An attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Its id.
    pub id: AttachmentId,
    /// The volume.
    pub volume: VolumeId,
    /// The project the volume belongs to.
    pub project: ProjectId,
    /// The user who asked for it.
    pub user: UserId,
    /// The instance it is for; none when a host itself attaches.
    pub instance: Option<Uuid>,
    /// How it may use the volume.
    pub mode: AccessMode,
    /// Its state.
    pub state: AttachmentState,
    /// Who connects, once that is known.
    pub connector: Option<Connector>,
    /// When it was asked for.
    #[serde(with = "crate::time")]
    pub created_at: UtcTime,
    /// When it last changed.
    #[serde(with = "crate::time::option")]
    pub updated_at: Option<UtcTime>,
    /// When its connector was let in.
    #[serde(with = "crate::time::option")]
    pub attached_at: Option<UtcTime>,
}

impl Attachment {
    /// The host that connects.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.connector.as_ref()?.host.as_deref()
    }

    /// Where it is seen there, as far as told: `/dev/vdb`.
    #[must_use]
    pub fn mountpoint(&self) -> Option<&str> {
        self.connector.as_ref()?.mountpoint.as_deref()
    }
}

/// An attachment that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAttachment {
    /// The volume.
    pub volume: VolumeId,
    /// The instance it is for; none when a host itself attaches.
    pub instance: Option<Uuid>,
    /// How it may use the volume.
    pub mode: AccessMode,
    /// Who connects, to be let in at once.
    pub connector: Option<Connector>,
}

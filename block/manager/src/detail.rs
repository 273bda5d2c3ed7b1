//! What callers are shown.

use onggi_block_pool::PoolKind;
use onggi_block_volume::{
    AccessMode, Attachment, AttachmentId, PoolAddress, PoolReport, Volume, VolumeId,
};
use onggi_common_units::{ByteCount, Secret, UtcTime};
use std::net::SocketAddr;

/// A volume with its attachments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDetail {
    /// The volume.
    pub volume: Volume,
    /// Its attachments, oldest first.
    pub attachments: Vec<Attachment>,
}

/// An attachment with what its connector needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentDetail {
    /// The attachment.
    pub attachment: Attachment,
    /// How to connect; none before a connector is let in.
    pub connection: Option<ConnectionInfo>,
}

/// How to connect to a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The volume.
    pub volume: VolumeId,
    /// The attachment.
    pub attachment: AttachmentId,
    /// Where the target listens; the first is as good as the others.
    pub portals: Vec<SocketAddr>,
    /// The target's iSCSI name.
    pub iqn: String,
    /// The logical unit number.
    pub lun: u16,
    /// The CHAP user, this attachment's own.
    pub chap_user: String,
    /// The CHAP secret, this attachment's own.
    pub chap_secret: Secret,
    /// How the volume may be used.
    pub mode: AccessMode,
    /// Whether the connector wants every portal.
    pub multipath: bool,
}

/// A pool as it is.
#[derive(Debug, Clone)]
pub struct PoolStatus {
    /// Where it is.
    pub address: PoolAddress,
    /// How it keeps its volumes.
    pub kind: PoolKind,
    /// Its room, or why it cannot be read.
    pub report: Result<PoolReport, String>,
    /// The sizes of the catalogue's volumes in it.
    pub allocated: ByteCount,
    /// How many of the catalogue's volumes are in it.
    pub volume_count: usize,
    /// When this was measured.
    pub measured_at: UtcTime,
}

/// A service as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceStatus {
    /// Its name, as Cinder calls it.
    pub binary: &'static str,
    /// Where it runs.
    pub host: String,
    /// Its availability zone.
    pub zone: String,
    /// Whether it works.
    pub is_up: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// When this was measured.
    pub updated_at: UtcTime,
}

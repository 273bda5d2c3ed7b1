//! What is needed to reach a LUN.

use onggi_common_units::{Secret, Uuid};

/// A CHAP user and its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChapCredentials {
    /// The user.
    pub user: String,
    /// Its secret.
    pub secret: Secret,
}

/// Where a volume is served and how to prove that one may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionSpec {
    /// The volume: it names the attachment's files and is the disk's serial number in a guest.
    pub volume: Uuid,
    /// The attachment.
    pub attachment: Uuid,
    /// `address:port` of each portal (IPv6 in brackets); tried in order.
    pub portals: Vec<String>,
    /// The target's name.
    pub iqn: String,
    /// The logical unit's number.
    pub lun: u16,
    /// The initiator's own name.
    pub initiator_name: String,
    /// What the initiator proves itself with.
    pub chap: Option<ChapCredentials>,
    /// What the target must prove itself with.
    pub mutual_chap: Option<ChapCredentials>,
    /// Whether nothing may be written.
    pub is_read_only: bool,
}

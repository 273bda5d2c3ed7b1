//! Export specs: which volume is a LUN of which target, and who may reach it.
//!
//! This is the contract with the control plane. The specs are plain data; the target checks them when it takes them.

use onggi_block_medium::MediumSpec;
use onggi_common_units::{ByteCount, Secret, Uuid};
use serde::{Deserialize, Serialize, Serializer};
use std::net::SocketAddr;

/// A volume as a logical unit of a target of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportSpec {
    /// The target's iSCSI name; there is one export under each name.
    pub iqn: String,
    /// The logical unit number, at most 16,383.
    pub lun: u16,
    /// The volume: its serial number, and what its world-wide names are made of.
    pub volume: Uuid,
    /// Where its bytes are.
    pub medium: MediumSpec,
    /// The block length initiators see: 512 or 4,096.
    pub block_size: u32,
    /// Whether writing is refused.
    pub read_only: bool,
    /// Who may log in: nobody when this is empty.
    pub access: Vec<Access>,
}

/// One attachment's way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// The attachment this access belongs to: what it is granted and revoked by.
    pub attachment: Uuid,
    /// The one initiator name that may use it; absent, any name may.
    pub initiator: Option<String>,
    /// How the initiator proves itself; absent, its name is enough.
    pub chap: Option<ChapPair>,
    /// How the target proves itself to the initiator, if that asks.
    pub mutual: Option<ChapPair>,
}

/// A CHAP user and secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChapPair {
    /// The user name.
    pub user: String,
    /// The secret, 12 bytes or more.
    #[serde(serialize_with = "expose")]
    pub secret: Secret,
}

// Secrets leave only over the control socket, which its owner alone can open, and into the sealed export file.
fn expose<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose())
}

/// An export as the target reports it: without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportStatus {
    /// The target's iSCSI name.
    pub iqn: String,
    /// The logical unit number.
    pub lun: u16,
    /// The volume.
    pub volume: Uuid,
    /// Its size.
    pub size: ByteCount,
    /// Whether writing is refused.
    pub read_only: bool,
    /// The attachments that have access.
    pub attachments: Vec<Uuid>,
    /// How many sessions use it.
    pub sessions: usize,
    /// Why it is not being served: absent when it is.
    pub trouble: Option<String>,
}

/// A session that is logged in to a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The target's iSCSI name.
    pub iqn: String,
    /// The initiator's name.
    pub initiator: String,
    /// The attachment whose access it used.
    pub attachment: Uuid,
    /// Where it comes from.
    pub peer: SocketAddr,
    /// The portal it came to.
    pub portal: SocketAddr,
}

/// Where the target listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalStatus {
    /// The address, with the port that was really taken.
    pub address: SocketAddr,
    /// Its portal group tag.
    pub group: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_comes_back_from_its_json_with_its_secret_and_does_not_print_it() {
        let text = "{\"iqn\":\"iqn.2026-11.org.onggi:v\",\"lun\":1,\
            \"volume\":\"00000000-0000-4000-8000-000000000001\",\
            \"medium\":{\"path\":\"/v\",\"kind\":\"file\",\"extents\":[{\"volume_offset\":0,\"medium_offset\":0,\
            \"length\":512}],\"fence\":null},\"block_size\":512,\"read_only\":false,\"access\":[{\
            \"attachment\":\"00000000-0000-4000-8000-000000000002\",\"initiator\":null,\
            \"chap\":{\"user\":\"u\",\"secret\":\"twelve-bytes-or-more\"},\"mutual\":null}]}";
        let spec: ExportSpec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        assert!(!format!("{spec:?}").contains("twelve"));
        let unknown = text.replace("\"lun\":1", "\"lun\":1,\"luns\":2");
        assert!(serde_json::from_str::<ExportSpec>(&unknown).is_err());
    }
}

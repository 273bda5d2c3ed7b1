//! What must be opened, and how, to reach a volume's bytes.

use crate::extent_map::ExtentMap;
use onggi_common_units::ByteCount;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What kind of thing the path of a medium names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediumKind {
    /// A regular file: discarded ranges are punched out of it.
    File,
    /// A block device: discarded ranges are handed to it.
    Device,
}

/// Ties an extent map to the state of the volume group it was read from.
///
/// `seqno` grows with every change of the group, also with those that do not touch this volume. So a differing number
/// alone does not make a map stale: it says that the volume must be looked up again by `volume_uuid`, and only when
/// that volume is gone or its extents differ is the medium fenced.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The volume group's name.
    pub group: String,
    /// LVM's own id of the volume group: a group made again under the same name is another one.
    pub group_uuid: String,
    /// LVM's own id of the logical volume: a volume made again under the same name is another one.
    pub volume_uuid: String,
    /// The group's sequence number at which the map was last seen to hold.
    pub seqno: u64,
}

/// Everything the target needs to open a volume's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediumSpec {
    /// The file or device; absolute.
    pub path: PathBuf,
    /// What the path names.
    pub kind: MediumKind,
    /// Where on it the volume's bytes are.
    pub extents: ExtentMap,
    /// The state of the volume group the map was read from; absent where nobody else can move the bytes.
    pub fence: Option<Fence>,
}

impl MediumSpec {
    /// The volume's size: exactly what the extents cover.
    #[must_use]
    pub const fn size(&self) -> ByteCount {
        self.extents.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_stays_as_it_is_and_comes_back_equal() {
        let spec = MediumSpec {
            path: PathBuf::from("/var/lib/onggi/block/pool.img"),
            kind: MediumKind::File,
            extents: ExtentMap::linear(ByteCount::from_mib(4)).unwrap(),
            fence: Some(Fence {
                group: "cinder-volumes".to_owned(),
                group_uuid: "g".to_owned(),
                volume_uuid: "v".to_owned(),
                seqno: 7,
            }),
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            text,
            "{\"path\":\"/var/lib/onggi/block/pool.img\",\"kind\":\"file\",\"extents\":[{\"volume_offset\":0,\
             \"medium_offset\":0,\"length\":4194304}],\"fence\":{\"group\":\"cinder-volumes\",\"group_uuid\":\"g\",\
             \"volume_uuid\":\"v\",\"seqno\":7}}"
        );
        assert_eq!(serde_json::from_str::<MediumSpec>(&text).unwrap(), spec);
        assert_eq!(spec.size(), ByteCount::from_mib(4));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        let text = "{\"path\":\"/x\",\"kind\":\"file\",\"extents\":[{\"volume_offset\":0,\"medium_offset\":0,\
                    \"length\":512}],\"fence\":null,\"offset\":1}";
        assert!(
            serde_json::from_str::<MediumSpec>(text)
                .unwrap_err()
                .to_string()
                .contains("offset")
        );
    }
}

//! A volume as the catalogue knows it.

use crate::id::{Owner, ProjectId, UserId, VolumeId};
use crate::placement::PoolAddress;
use crate::state::VolumeState;
use onggi_common_units::{ByteCount, UtcTime};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest size in GiB that Cinder's clients can write.
pub const SIZE_GIB_MAX: u32 = 0x7fff_ffff;

/// A volume's size in GiB: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct SizeGib(u32);

/// A number that is no size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a volume cannot have {gib} GiB: 1 to {SIZE_GIB_MAX} are possible")]
pub struct SizeError {
    /// The number.
    pub gib: u32,
}

impl SizeGib {
    /// The number of GiB.
    #[must_use]
    pub const fn gib(self) -> u32 {
        self.0
    }

    /// The number of bytes.
    #[must_use]
    pub fn bytes(self) -> ByteCount {
        ByteCount::from_gib(u64::from(self.0))
    }
}

impl TryFrom<u32> for SizeGib {
    type Error = SizeError;

    fn try_from(gib: u32) -> Result<Self, Self::Error> {
        if (1..=SIZE_GIB_MAX).contains(&gib) {
            Ok(Self(gib))
        } else {
            Err(SizeError { gib })
        }
    }
}

impl From<SizeGib> for u32 {
    fn from(size: SizeGib) -> Self {
        size.0
    }
}

/// Why a volume is in an error state, in words for its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What was being done: `create`, `delete`, `extend`.
    pub operation: String,
    /// What went wrong.
    pub message: String,
    /// When.
    #[serde(with = "crate::time")]
    pub at: UtcTime,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// The project it belongs to.
    pub project: ProjectId,
    /// The user who made it.
    pub user: UserId,
    /// Its name; several volumes may have the same.
    pub name: Option<String>,
    /// What its user says about it.
    pub description: Option<String>,
    /// Its size.
    pub size: SizeGib,
    /// Its state.
    pub state: VolumeState,
    /// The pool that holds it.
    pub pool: PoolAddress,
    /// The availability zone it is in.
    pub availability_zone: String,
    /// The name of its type.
    pub volume_type: String,
    /// What its user has noted on it.
    pub metadata: BTreeMap<String, String>,
    /// Whether a machine can start from it.
    pub bootable: bool,
    /// Whether several may attach it at a time.
    pub multiattach: bool,
    /// Whether the target may still export it: set before it is, cleared once it no longer does.
    pub exported: bool,
    /// Why it is in an error state, or what last went wrong.
    pub fault: Option<Fault>,
    /// When it was asked for.
    #[serde(with = "crate::time")]
    pub created_at: UtcTime,
    /// When it last changed.
    #[serde(with = "crate::time::option")]
    pub updated_at: Option<UtcTime>,
}

/// A volume that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its size.
    pub size: SizeGib,
    /// Its name.
    pub name: Option<String>,
    /// What its user says about it.
    pub description: Option<String>,
    /// The availability zone it must be in.
    pub availability_zone: Option<String>,
    /// The name or id of its type.
    pub volume_type: Option<String>,
    /// What its user notes on it.
    pub metadata: BTreeMap<String, String>,
}

impl NewVolume {
    /// A volume of this size and otherwise as usual.
    #[must_use]
    pub const fn new(size: SizeGib) -> Self {
        Self {
            size,
            name: None,
            description: None,
            availability_zone: None,
            volume_type: None,
            metadata: BTreeMap::new(),
        }
    }
}

/// Where a new volume goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its pool.
    pub pool: PoolAddress,
    /// Its availability zone.
    pub availability_zone: String,
    /// The name of its type.
    pub volume_type: String,
}

impl Volume {
    /// The volume at its beginning.
    #[must_use]
    pub fn creating(
        id: VolumeId,
        owner: &Owner,
        new: NewVolume,
        placed: Placed,
        now: UtcTime,
    ) -> Self {
        Self {
            id,
            project: owner.project.clone(),
            user: owner.user.clone(),
            name: new.name,
            description: new.description,
            size: new.size,
            state: VolumeState::Creating,
            pool: placed.pool,
            availability_zone: placed.availability_zone,
            volume_type: placed.volume_type,
            metadata: new.metadata,
            bootable: false,
            multiattach: false,
            exported: false,
            fault: None,
            created_at: now,
            updated_at: None,
        }
    }
}

/// A change of what a volume's user says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeChange {
    /// Its name, description and notes; `None` leaves one as it is, `Some(None)` removes it.
    Describe {
        /// Its name.
        name: Option<Option<String>>,
        /// Its description.
        description: Option<Option<String>>,
        /// All its notes.
        metadata: Option<BTreeMap<String, String>>,
    },
    /// Adds these notes, or changes them.
    MergeMetadata(BTreeMap<String, String>),
    /// Removes one note; a missing one is fine here (whether it was there can be seen before).
    RemoveMetadata(String),
    /// Says whether a machine can start from it.
    Bootable(bool),
}

impl VolumeChange {
    /// Changes the volume.
    pub fn apply(self, volume: &mut Volume, now: UtcTime) {
        match self {
            Self::Describe {
                name,
                description,
                metadata,
            } => {
                volume.name = name.unwrap_or(volume.name.take());
                volume.description = description.unwrap_or(volume.description.take());
                if let Some(metadata) = metadata {
                    volume.metadata = metadata;
                }
            }
            Self::MergeMetadata(notes) => volume.metadata.extend(notes),
            Self::RemoveMetadata(key) => {
                volume.metadata.remove(&key);
            }
            Self::Bootable(bootable) => volume.bootable = bootable,
        }
        volume.updated_at = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_at_least_one_gib() {
        assert_eq!(SizeGib::try_from(0), Err(SizeError { gib: 0 }));
        assert!(SizeGib::try_from(SIZE_GIB_MAX + 1).is_err());
        assert_eq!(
            SizeGib::try_from(2).unwrap().bytes(),
            ByteCount::from_gib(2)
        );
    }

    #[test]
    fn a_change_touches_only_what_it_names() {
        let owner = Owner {
            project: "p".parse().unwrap(),
            user: "u".parse().unwrap(),
        };
        let mut new = NewVolume::new(SizeGib::try_from(1).unwrap());
        new.name = Some("jar".to_owned());
        new.metadata = [("a".to_owned(), "1".to_owned())].into();
        let placed = Placed {
            pool: "h@b#p".parse().unwrap(),
            availability_zone: "nova".to_owned(),
            volume_type: "t".to_owned(),
        };
        let id = VolumeId(onggi_common_units::Uuid::from_random([7; 16]));
        let mut volume = Volume::creating(id, &owner, new, placed, UtcTime::EPOCH);
        let now = UtcTime::from_seconds(9);
        let texts = VolumeChange::Describe {
            name: None,
            description: Some(Some("d".to_owned())),
            metadata: None,
        };
        texts.apply(&mut volume, now);
        VolumeChange::MergeMetadata([("b".to_owned(), "2".to_owned())].into())
            .apply(&mut volume, now);
        VolumeChange::RemoveMetadata("a".to_owned()).apply(&mut volume, now);
        assert_eq!(volume.name.as_deref(), Some("jar"));
        assert_eq!(volume.description.as_deref(), Some("d"));
        assert_eq!(volume.metadata, [("b".to_owned(), "2".to_owned())].into());
        assert_eq!(volume.updated_at, Some(now));
    }
}

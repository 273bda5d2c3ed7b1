//! Pool, target and catalogue side by side.

use crate::catalog::CatalogError;
use crate::manager::{Inner, Manager};
use onggi_block_target::ExportStatus;
use onggi_block_volume::{PoolAddress, VolumeId, VolumeState};
use onggi_common_units::{ByteCount, Uuid};
use std::collections::{BTreeMap, BTreeSet};

/// What every target of ours is called by before the volume's id.
const IQN_PREFIX: &str = "iqn.2010-10.org.openstack:volume-";

/// Where pools and catalogue do not agree (B6). Volumes with a plan in the journal are left out: theirs is not settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// The catalogue has them, their pool does not.
    pub missing: Vec<(PoolAddress, VolumeId)>,
    /// A pool has them, the catalogue does not: `onggi` made them and lost the row, or an earlier catalogue had it.
    pub unknown: Vec<(PoolAddress, Uuid)>,
    /// They are smaller in their pool than the catalogue says.
    pub short: Vec<(PoolAddress, VolumeId, ByteCount)>,
    /// Their making or growing in the pool was cut short.
    pub incomplete: Vec<(PoolAddress, Uuid)>,
    /// Pools that cannot be read, and why.
    pub unreadable: Vec<(PoolAddress, String)>,
}

impl Differences {
    /// Whether pools and catalogue agree.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.missing.is_empty()
            && self.unknown.is_empty()
            && self.short.is_empty()
            && self.incomplete.is_empty()
            && self.unreadable.is_empty()
    }
}

impl Manager {
    /// Compares every pool with the catalogue (B6). Nothing is changed.
    ///
    /// # Errors
    /// When the catalogue cannot answer.
    pub fn reconcile(&self) -> Result<Differences, CatalogError> {
        self.inner.differences()
    }
}

impl Inner {
    fn differences(&self) -> Result<Differences, CatalogError> {
        let mut differences = Differences::default();
        for place in &self.places {
            // The pool is read between two looks at the catalogue, so that what came or went meanwhile is in one of them.
            let before = self.settled_volumes(&place.address)?;
            let stored = place.pool.list();
            let after = self.settled_volumes(&place.address)?;
            let busy: BTreeSet<Uuid> = self
                .catalog
                .plans()?
                .iter()
                .map(|journal| journal.plan.volume.0)
                .collect();
            let listed = match stored {
                Ok(stored) => stored,
                Err(error) => {
                    differences
                        .unreadable
                        .push((place.address.clone(), error.to_string()));
                    continue;
                }
            };
            let stored: BTreeMap<Uuid, _> = listed
                .into_iter()
                .map(|stored| (stored.id, stored))
                .collect();
            for (id, size) in before
                .iter()
                .filter(|(id, _)| after.contains_key(id) && !busy.contains(id))
            {
                match stored.get(id) {
                    None => differences
                        .missing
                        .push((place.address.clone(), VolumeId(*id))),
                    Some(found) if !found.is_complete => {
                        differences.incomplete.push((place.address.clone(), *id));
                    }
                    Some(found) if found.size < *size => {
                        differences
                            .short
                            .push((place.address.clone(), VolumeId(*id), found.size));
                    }
                    Some(_) => {}
                }
            }
            for id in stored.keys().filter(|id| !busy.contains(id)) {
                if self.catalog.volume(VolumeId(*id))?.is_none() {
                    differences.unknown.push((place.address.clone(), *id));
                }
            }
        }
        Ok(differences)
    }

    /// The sizes of the catalogue's volumes in a pool that must be there.
    fn settled_volumes(
        &self,
        address: &PoolAddress,
    ) -> Result<BTreeMap<Uuid, ByteCount>, CatalogError> {
        let here = self.catalog.volumes()?.into_iter().filter(|volume| {
            volume.pool.backend() == address.backend()
                && volume.pool.pool() == address.pool()
                && is_stored(volume.state)
        });
        Ok(here
            .map(|volume| (volume.id.0, volume.size.bytes()))
            .collect())
    }

    /// Says in the log where pools and catalogue do not agree.
    pub(crate) fn report_differences(&self) {
        match self.differences() {
            Ok(differences) if differences.is_empty() => {}
            Ok(differences) => {
                tracing::warn!(
                    ?differences,
                    "pools and catalogue do not agree: look into each volume named"
                );
            }
            Err(error) => tracing::warn!(%error, "pools and catalogue cannot be compared"),
        }
    }

    /// Makes the target export what the catalogue says and nothing else. False when it must be tried again.
    pub(crate) fn tell_target(&self) -> bool {
        match self.try_tell_target() {
            Ok(is_told) => is_told,
            Err(error) => {
                tracing::warn!(%error, "the target cannot be told what to export");
                false
            }
        }
    }

    fn try_tell_target(&self) -> Result<bool, CatalogError> {
        let Ok(exports) = self.target.exports() else {
            return Ok(false);
        };
        let mut volumes: BTreeSet<VolumeId> = exports
            .iter()
            .filter(|export| is_ours(export))
            .map(|export| VolumeId(export.volume))
            .collect();
        let with_access = self
            .catalog
            .attachments()?
            .into_iter()
            .filter(|row| row.attachment.state.has_access());
        volumes.extend(with_access.map(|row| row.attachment.volume));
        let mut is_told = true;
        for volume in volumes {
            if let Err(failure) = self.publish(volume) {
                let reason = failure.reason;
                tracing::warn!(%volume, reason, "the export of a volume cannot be brought up to date");
                is_told &= !failure.is_passing;
            }
        }
        Ok(is_told)
    }
}

fn is_ours(export: &ExportStatus) -> bool {
    export.iqn.strip_prefix(IQN_PREFIX) == Some(export.volume.to_string().as_str())
}

/// Whether a volume in this state must be in its pool.
const fn is_stored(state: VolumeState) -> bool {
    match state {
        VolumeState::Available
        | VolumeState::Reserved
        | VolumeState::Attaching
        | VolumeState::InUse
        | VolumeState::Detaching
        | VolumeState::Extending
        | VolumeState::ErrorExtending
        | VolumeState::Maintenance => true,
        VolumeState::Creating
        | VolumeState::Deleting
        | VolumeState::Error
        | VolumeState::ErrorDeleting => false,
    }
}

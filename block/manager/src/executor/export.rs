//! What the target is told: the export of a volume, with everyone who has access to it.

use super::{catalog_failure, pool_failure, target_failure};
use crate::catalog::{AttachmentRow, CatalogError};
use crate::manager::Inner;
use crate::seal::SealError;
use onggi_block_medium::MediumSpec;
use onggi_block_pool::PoolError;
use onggi_block_target::{Access, ChapPair, ExportSpec};
use onggi_block_volume::plan::StepFailure;
use onggi_block_volume::{AccessMode, PoolAddress, VolumeId};
use onggi_common_meta::control::Versioned;
use onggi_common_units::Secret;
use std::sync::PoisonError;

/// Each volume is the only unit of its target.
pub(crate) const LUN: u16 = 0;
/// The block length initiators see.
const BLOCK_BYTES: u32 = 512;

impl Inner {
    /// Exports a volume to every attachment that has access.
    pub(super) fn export(&self, pool: &PoolAddress, volume: VolumeId) -> Result<(), StepFailure> {
        let rows = self
            .catalog
            .attachments_of(volume)
            .map_err(|error| catalog_failure(&error))?;
        // Asked first: when the target is not there, nothing has been done.
        self.learn_portals()?;
        let medium = self
            .pool_of(pool)?
            .open(volume.0)
            .map_err(|error| StepFailure {
                may_have_acted: false,
                ..pool_failure(&error)
            })?;
        let with_access = || {
            rows.iter()
                .map(|row| &row.record)
                .filter(|row| row.attachment.state.has_access())
        };
        let access = with_access()
            .map(|row| self.access(row))
            .collect::<Result<Vec<_>, SealError>>();
        let spec = ExportSpec {
            iqn: volume.iqn(),
            lun: LUN,
            volume: volume.0,
            medium,
            block_size: BLOCK_BYTES,
            read_only: with_access().all(|row| row.attachment.mode == AccessMode::ReadOnly),
            access: access.map_err(|error| StepFailure {
                reason: error.to_string(),
                may_have_acted: false,
                is_passing: false,
            })?,
        };
        self.target
            .put_export(&spec)
            .map_err(|error| target_failure(&error))?;
        self.note_served(volume, Some(spec.medium));
        Ok(())
    }

    /// Takes a volume from the target.
    pub(super) fn unexport(&self, volume: VolumeId) -> Result<(), StepFailure> {
        super::unless_not_found(self.target.remove_export(&volume.iqn()))?;
        self.note_served(volume, None);
        Ok(())
    }

    /// Remembers the map a volume is served by.
    pub(super) fn note_served(&self, volume: VolumeId, medium: Option<MediumSpec>) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        match medium {
            Some(medium) => drop(served.insert(volume, medium)),
            None => drop(served.remove(&volume)),
        }
    }

    /// Looks whether the maps volumes are served by still hold, where someone else could move the bytes (with LVM's own
    /// commands), and has the target refuse I/O on those whose do not.
    pub(crate) fn verify_served(&self) {
        let served = self
            .served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (volume, medium) in served
            .into_iter()
            .filter(|(_, medium)| medium.fence.is_some())
        {
            let _held = self.locks.hold(volume);
            let is_current = || {
                let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
                served.get(&volume) == Some(&medium)
            };
            let Ok(Some(row)) = self.catalog.volume(volume) else {
                continue;
            };
            let Some(pool) = self.pool(&row.record.0.pool).filter(|_| is_current()) else {
                continue;
            };
            if let Err(PoolError::Fenced { reason, .. }) = pool.verify(volume.0, &medium) {
                self.fence(volume, &reason);
            }
        }
    }

    fn fence(&self, volume: VolumeId, reason: &str) {
        tracing::error!(
            %volume,
            reason,
            "a volume in use was changed by someone else: its I/O is refused; detach it and look at its pool"
        );
        match self.target.fence(&volume.iqn()) {
            Ok(()) => self.note_served(volume, None),
            Err(error) => tracing::warn!(%volume, %error, "the target did not fence a volume"),
        }
    }

    fn access(&self, row: &AttachmentRow) -> Result<Access, SealError> {
        let chap = self
            .chap(row)?
            .map(|(user, secret)| ChapPair { user, secret });
        let initiator = row
            .attachment
            .connector
            .as_ref()
            .map(|connector| connector.initiator.clone());
        Ok(Access {
            attachment: row.attachment.id.0,
            initiator,
            chap,
            mutual: None,
        })
    }

    /// An attachment's CHAP user and secret.
    pub(crate) fn chap(&self, row: &AttachmentRow) -> Result<Option<(String, Secret)>, SealError> {
        let Some(chap) = &row.chap else {
            return Ok(None);
        };
        let secret = self
            .seal
            .open_sealed(row.attachment.id.0.as_bytes(), &chap.secret)?;
        Ok(Some((chap.user.clone(), secret)))
    }

    /// Makes the target's export of a volume what the catalogue says. For start and repair; plans have their own steps.
    pub(crate) fn publish(&self, volume: VolumeId) -> Result<(), StepFailure> {
        let _held = self.locks.hold(volume);
        let failed = |error: CatalogError| catalog_failure(&error);
        if self.catalog.plan_of(volume).map_err(failed)?.is_some() {
            // Its plan says what to do next.
            return Ok(());
        }
        let row = self.catalog.volume(volume).map_err(failed)?;
        let rows = self.catalog.attachments_of(volume).map_err(failed)?;
        match row {
            Some(Versioned { record, .. }) if super::has_access(&rows, None) => {
                self.export(&record.0.pool, volume)
            }
            Some(_) | None => self.unexport(volume),
        }
    }
}

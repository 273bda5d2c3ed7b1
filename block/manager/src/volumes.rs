//! What is asked of volumes.

use crate::catalog::{CatalogError, VolumeRow};
use crate::detail::VolumeDetail;
use crate::error::VolumeError;
use crate::executor::RunEnd;
use crate::locks::Held;
use crate::manager::{Inner, Manager};
use onggi_block_volume::placement::choose;
use onggi_block_volume::volume::Placed;
use onggi_block_volume::{
    Attachment, Journal, NewVolume, Owner, Plan, PlanId, PoolReport, Scope, SizeGib, Volume,
    VolumeChange, VolumeId, VolumeType,
};
use onggi_common_meta::control::Versioned;
use std::collections::BTreeMap;

/// How often a change is tried again when another was first.
const ATTEMPTS_MAX: usize = 8;

impl Manager {
    /// Makes a volume. It is `creating` when this returns and `available` soon after; a project over its quota, and a
    /// size no pool has room for, are refused at once, so that nothing has to be cleaned up.
    ///
    /// # Errors
    /// See [`VolumeError`].
    pub fn create_volume(&self, owner: &Owner, new: NewVolume) -> Result<Volume, VolumeError> {
        let inner = &self.inner;
        let placed = inner.place(&new)?;
        let id = VolumeId(inner.entropy.uuid());
        let size = new.size;
        let volume = Volume::creating(id, owner, new, placed, inner.clock.now());
        let plan = Plan::create(PlanId(inner.entropy.uuid()), id, volume.pool.clone(), size);
        let journal = Journal::new(plan);
        retry_conflicts(|| {
            let (usage, revision) = inner.catalog.usage(&owner.project)?;
            usage.check_new(&inner.limits, size)?;
            let edit = inner.catalog.edit().guard_usage(&owner.project, revision);
            inner
                .catalog
                .commit(&edit.add_volume(&volume).begin_plan(&journal))?;
            Ok(())
        })?;
        inner.point("create", "journaled");
        inner.queue.push(id);
        Ok(volume)
    }

    /// The volumes in scope, newest first.
    ///
    /// # Errors
    /// When the catalogue cannot answer.
    pub fn volumes(&self, scope: &Scope) -> Result<Vec<VolumeDetail>, VolumeError> {
        let mut attachments: BTreeMap<VolumeId, Vec<Attachment>> = BTreeMap::new();
        for row in self.inner.catalog.attachments()? {
            attachments
                .entry(row.attachment.volume)
                .or_default()
                .push(row.attachment);
        }
        let volumes = self.inner.catalog.volumes()?.into_iter();
        let mut details: Vec<VolumeDetail> = volumes
            .filter(|volume| scope.covers(&volume.project))
            .map(|volume| {
                let mut attachments = attachments.remove(&volume.id).unwrap_or_default();
                attachments.sort_by_key(|attachment| (attachment.created_at, attachment.id));
                VolumeDetail {
                    volume,
                    attachments,
                }
            })
            .collect();
        details
            .sort_by_key(|detail| core::cmp::Reverse((detail.volume.created_at, detail.volume.id)));
        Ok(details)
    }

    /// One volume.
    ///
    /// # Errors
    /// `NotFound`, and when the catalogue cannot answer.
    pub fn volume(&self, scope: &Scope, id: VolumeId) -> Result<VolumeDetail, VolumeError> {
        let row = self.inner.volume_in(scope, id)?;
        let rows = self.inner.catalog.attachments_of(id)?;
        let attachments = rows.into_iter().map(|row| row.record.attachment).collect();
        Ok(VolumeDetail {
            volume: row.record.0,
            attachments,
        })
    }

    /// Changes what its user says about a volume.
    ///
    /// # Errors
    /// `NotFound`, and when the catalogue cannot answer.
    pub fn change_volume(
        &self,
        scope: &Scope,
        id: VolumeId,
        change: VolumeChange,
    ) -> Result<Volume, VolumeError> {
        let inner = &self.inner;
        let _held = inner.locks.hold(id);
        let Versioned {
            record: VolumeRow(mut volume),
            revision,
        } = inner.volume_in(scope, id)?;
        let name = volume.name.clone();
        change.apply(&mut volume, inner.clock.now());
        inner
            .catalog
            .commit(&inner.catalog.edit().set_volume(&volume, revision))?;
        if volume.name != name {
            inner.relabel(&volume);
        }
        Ok(volume)
    }

    /// Removes a volume. It is `deleting` when this returns and gone soon after.
    ///
    /// # Errors
    /// `Attached` or `Transition` when it is in use, and see [`VolumeError`].
    pub fn delete_volume(&self, scope: &Scope, id: VolumeId) -> Result<(), VolumeError> {
        let inner = &self.inner;
        let held = inner.locks.hold(id);
        inner.volume_in(scope, id)?;
        inner.finish_earlier(&held, id)?;
        let Versioned {
            record: VolumeRow(mut volume),
            revision,
        } = inner.volume_in(scope, id)?;
        volume.state = volume.state.begin_delete()?;
        let count = inner.catalog.attachments_of(id)?.len();
        if count > 0 {
            return Err(VolumeError::Attached { id, count });
        }
        volume.updated_at = Some(inner.clock.now());
        let plan_id = PlanId(inner.entropy.uuid());
        let plan = Plan::delete(plan_id, id, volume.pool.clone(), volume.exported);
        let edit = inner.catalog.edit().set_volume(&volume, revision);
        inner
            .catalog
            .commit(&edit.begin_plan(&Journal::new(plan)))?;
        inner.point("delete", "journaled");
        inner.queue.push(id);
        Ok(())
    }

    /// Grows a volume, attached or not. It is `extending` when this returns.
    ///
    /// # Errors
    /// `Shrink` unless the size is larger, and see [`VolumeError`].
    pub fn extend_volume(
        &self,
        scope: &Scope,
        id: VolumeId,
        size: SizeGib,
    ) -> Result<(), VolumeError> {
        let inner = &self.inner;
        let held = inner.locks.hold(id);
        inner.volume_in(scope, id)?;
        inner.finish_earlier(&held, id)?;
        let Versioned {
            record: VolumeRow(mut volume),
            revision,
        } = inner.volume_in(scope, id)?;
        let from = volume.state;
        volume.state = from.begin_extend()?;
        if size <= volume.size {
            return Err(VolumeError::Shrink {
                from: volume.size,
                to: size,
            });
        }
        inner.check_growth(&volume, size)?;
        volume.updated_at = Some(inner.clock.now());
        let plan_id = PlanId(inner.entropy.uuid());
        let pool = volume.pool.clone();
        let journal = Journal::new(Plan::extend(
            plan_id,
            id,
            pool,
            (from, volume.exported),
            size,
        ));
        retry_conflicts(|| {
            let (usage, usage_revision) = inner.catalog.usage(&volume.project)?;
            usage.check_growth(&inner.limits, volume.size, size)?;
            let edit = inner
                .catalog
                .edit()
                .guard_usage(&volume.project, usage_revision);
            let edit = edit.set_usage(&volume, size).set_volume(&volume, revision);
            inner.catalog.commit(&edit.begin_plan(&journal))?;
            Ok(())
        })?;
        inner.point("extend", "journaled");
        inner.queue.push(id);
        Ok(())
    }
}

/// Tries again when someone else changed the same rows first, which needs a fresh look each time.
fn retry_conflicts(
    mut attempt: impl FnMut() -> Result<(), VolumeError>,
) -> Result<(), VolumeError> {
    for _ in 1..ATTEMPTS_MAX {
        match attempt() {
            Err(VolumeError::Catalog(CatalogError::Conflict)) => {}
            outcome => return outcome,
        }
    }
    attempt()
}

impl Inner {
    /// A volume, if the caller may see it.
    pub(crate) fn volume_in(
        &self,
        scope: &Scope,
        id: VolumeId,
    ) -> Result<Versioned<VolumeRow>, VolumeError> {
        let row = self
            .catalog
            .volume(id)?
            .filter(|row| scope.covers(&row.record.0.project));
        row.ok_or(VolumeError::NotFound { id })
    }

    /// Carries out what an earlier operation left waiting, so that the next can begin.
    pub(crate) fn finish_earlier(&self, held: &Held<'_>, id: VolumeId) -> Result<(), VolumeError> {
        let Some(plan) = self.catalog.plan_of(id)? else {
            return Ok(());
        };
        match self.run_plan_held(held, id)? {
            Some(RunEnd::Later { reason }) => {
                let operation = plan.record.0.plan.operation.name();
                Err(VolumeError::Busy {
                    id,
                    operation,
                    reason,
                })
            }
            Some(RunEnd::Settled(_)) | None => Ok(()),
        }
    }

    /// Where a new volume goes.
    fn place(&self, new: &NewVolume) -> Result<Placed, VolumeError> {
        let volume_type = VolumeType::default_type();
        if let Some(name) = new
            .volume_type
            .as_ref()
            .filter(|name| !volume_type.is_named(name))
        {
            return Err(VolumeError::UnknownType { name: name.clone() });
        }
        if let Some(name) = new
            .availability_zone
            .as_ref()
            .filter(|name| **name != self.availability_zone)
        {
            return Err(VolumeError::UnknownZone { name: name.clone() });
        }
        let mut trouble = None;
        let mut reports = Vec::new();
        for place in &self.places {
            match self.report(place) {
                Ok(report) => reports.push(report),
                Err(reason) => {
                    tracing::warn!(pool = %place.address, reason, "a pool cannot be read");
                    trouble = Some(reason);
                }
            }
        }
        match (choose(&reports, new.size), trouble) {
            (Ok(report), _) => Ok(Placed {
                pool: report.address.clone(),
                availability_zone: self.availability_zone.clone(),
                volume_type: volume_type.name,
            }),
            (Err(_), Some(reason)) if reports.is_empty() => {
                Err(VolumeError::PoolUnreadable { reason })
            }
            (Err(no_pool), _) => Err(no_pool.into()),
        }
    }

    /// Whether a volume's pool has room for its growth.
    fn check_growth(&self, volume: &Volume, size: SizeGib) -> Result<(), VolumeError> {
        let place = self.places.iter().find(|place| {
            place.address.backend() == volume.pool.backend()
                && place.address.pool() == volume.pool.pool()
        });
        let unreadable = || format!("pool {} is not configured here", volume.pool);
        let report: PoolReport = place
            .ok_or_else(unreadable)
            .and_then(|place| self.report(place))
            .map_err(|reason| VolumeError::PoolUnreadable { reason })?;
        let more = SizeGib::try_from(size.gib() - volume.size.gib()).unwrap_or(size);
        choose(core::slice::from_ref(&report), more)?;
        Ok(())
    }

    /// Tells the pool a volume's new name. The catalogue has it; the pool's copy is for people and rebuilding.
    fn relabel(&self, volume: &Volume) {
        if let Some(pool) = self.pool(&volume.pool)
            && let Err(error) = pool.label(volume.id.0, &crate::executor::labels_of(volume))
        {
            tracing::warn!(volume = %volume.id, %error, "the pool does not take the volume's new name");
        }
    }
}

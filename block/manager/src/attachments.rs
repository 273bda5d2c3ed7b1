//! What is asked of attachments.
//!
//! Reserve, connect, complete, delete: Cinder's attachment flow. Connecting and deleting talk to the target and are plans;
//! they are carried out before the call returns, because the caller needs the answer.

use crate::catalog::{AttachmentRow, ChapRow, VolumeRow};
use crate::detail::{AttachmentDetail, ConnectionInfo};
use crate::error::AttachmentError;
use crate::executor::{LUN, RunEnd};
use crate::locks::Held;
use crate::manager::{Inner, Manager};
use crate::seal::SealError;
use onggi_block_volume::plan::Outcome;
use onggi_block_volume::{
    Attachment, AttachmentId, AttachmentState, Connector, Journal, NewAttachment, Plan, PlanId,
    Scope, UserId, VolumeId,
};
use onggi_common_meta::control::Versioned;
use onggi_common_units::Secret;

/// Cinder's lengths. A CHAP secret has 12 to 16 bytes in every initiator.
const CHAP_USER_CHARACTERS: usize = 20;
const CHAP_SECRET_CHARACTERS: usize = 16;

impl Manager {
    /// Keeps a volume for an attachment, and lets its connector in when it is named.
    ///
    /// # Errors
    /// When the volume's state forbids it; with a connector see [`Self::attachment_update`]. Then nothing is kept.
    pub fn attachment_create(
        &self,
        scope: &Scope,
        user: &UserId,
        new: NewAttachment,
    ) -> Result<AttachmentDetail, AttachmentError> {
        let inner = &self.inner;
        let held = inner.locks.hold(new.volume);
        inner.volume_in(scope, new.volume)?;
        inner.finish_earlier(&held, new.volume)?;
        let connector = new.connector.clone();
        let reserved = inner.reserve(scope, user, new)?;
        let Some(connector) = connector else {
            return Ok(AttachmentDetail {
                attachment: reserved.attachment,
                connection: None,
            });
        };
        let (volume, id) = (reserved.attachment.volume, reserved.attachment.id);
        match inner.connect(&held, volume, id, connector) {
            Err(error @ AttachmentError::Connection { .. }) => {
                // The caller has never heard of it.
                inner.disconnect(&held, volume, id)?;
                Err(error)
            }
            outcome => outcome,
        }
    }

    /// Lets an attachment's connector in, and says how to connect. Again with the same connector says the same again.
    ///
    /// # Errors
    /// `Connection` when the volume cannot be exported, for example because the target does not run; then the attachment
    /// is reserved, as before.
    pub fn attachment_update(
        &self,
        scope: &Scope,
        id: AttachmentId,
        connector: Connector,
    ) -> Result<AttachmentDetail, AttachmentError> {
        let inner = &self.inner;
        let volume = inner.volume_of(scope, id)?;
        let held = inner.locks.hold(volume);
        inner.finish_earlier(&held, volume)?;
        inner.connect(&held, volume, id, connector)
    }

    /// Notes that the connector is connected.
    ///
    /// # Errors
    /// When no connector was let in, or the volume's state forbids it.
    pub fn attachment_complete(
        &self,
        scope: &Scope,
        id: AttachmentId,
    ) -> Result<(), AttachmentError> {
        let inner = &self.inner;
        let id_of_volume = inner.volume_of(scope, id)?;
        let held = inner.locks.hold(id_of_volume);
        inner.finish_earlier(&held, id_of_volume)?;
        let (mut row, revision) = inner.attachment_row(id_of_volume, id)?;
        let Versioned {
            record: VolumeRow(mut volume),
            revision: volume_revision,
        } = inner.volume_in(scope, id_of_volume)?;
        row.attachment.state = row.attachment.state.finish_attach()?;
        volume.state = volume
            .state
            .finish_attach()
            .map_err(crate::VolumeError::from)?;
        let now = Some(inner.clock.now());
        (row.attachment.updated_at, volume.updated_at) = (now, now);
        let edit = inner.catalog.edit().set_attachment(&row, revision);
        inner
            .catalog
            .commit(&edit.set_volume(&volume, volume_revision))?;
        Ok(())
    }

    /// Takes an attachment away: its sessions are cut, and its secret is worth nothing, when this returns. Says which
    /// attachments its volume still has.
    ///
    /// # Errors
    /// `Pending` when the target cannot be reached: it then happens as soon as it can.
    pub fn attachment_delete(
        &self,
        scope: &Scope,
        id: AttachmentId,
    ) -> Result<Vec<Attachment>, AttachmentError> {
        let inner = &self.inner;
        let volume = inner.volume_of(scope, id)?;
        let held = inner.locks.hold(volume);
        inner.finish_earlier(&held, volume)?;
        // What was left waiting may have been this very detachment.
        if inner.catalog.volume_of(id)?.is_some() {
            inner.disconnect(&held, volume, id)?;
        }
        let rows = inner.catalog.attachments_of(volume)?;
        Ok(rows.into_iter().map(|row| row.record.attachment).collect())
    }

    /// One attachment.
    ///
    /// # Errors
    /// `NotFound`, and when the catalogue or its secret cannot be read.
    pub fn attachment(
        &self,
        scope: &Scope,
        id: AttachmentId,
    ) -> Result<AttachmentDetail, AttachmentError> {
        let volume = self.inner.volume_of(scope, id)?;
        let (row, _) = self.inner.attachment_row(volume, id)?;
        Ok(self.inner.attachment_detail(row)?)
    }

    /// The attachments in scope, newest first.
    ///
    /// # Errors
    /// When the catalogue or a secret cannot be read.
    pub fn attachments(&self, scope: &Scope) -> Result<Vec<AttachmentDetail>, AttachmentError> {
        let mut rows = self.inner.catalog.attachments()?;
        rows.retain(|row| scope.covers(&row.attachment.project));
        rows.sort_by_key(|row| core::cmp::Reverse((row.attachment.created_at, row.attachment.id)));
        let details = rows
            .into_iter()
            .map(|row| self.inner.attachment_detail(row));
        Ok(details.collect::<Result<_, SealError>>()?)
    }
}

impl Inner {
    /// The volume of an attachment, if the caller may see it.
    fn volume_of(&self, scope: &Scope, id: AttachmentId) -> Result<VolumeId, AttachmentError> {
        let not_found = || AttachmentError::NotFound { id };
        let volume = self.catalog.volume_of(id)?.ok_or_else(not_found)?;
        self.volume_in(scope, volume).map_err(|error| match error {
            crate::VolumeError::NotFound { .. } => not_found(),
            other => other.into(),
        })?;
        Ok(volume)
    }

    fn attachment_row(
        &self,
        volume: VolumeId,
        id: AttachmentId,
    ) -> Result<(AttachmentRow, onggi_common_meta::control::Revision), AttachmentError> {
        let rows = self.catalog.attachments_of(volume)?.into_iter();
        rows.map(|row| (row.record, row.revision))
            .find(|(row, _)| row.attachment.id == id)
            .ok_or(AttachmentError::NotFound { id })
    }

    fn attachment_detail(&self, row: AttachmentRow) -> Result<AttachmentDetail, SealError> {
        let connection = match self.chap(&row)? {
            Some((chap_user, chap_secret)) if row.attachment.state.has_access() => {
                Some(ConnectionInfo {
                    volume: row.attachment.volume,
                    attachment: row.attachment.id,
                    portals: row.portals,
                    iqn: row.attachment.volume.iqn(),
                    lun: LUN,
                    chap_user,
                    chap_secret,
                    mode: row.attachment.mode,
                    multipath: row
                        .attachment
                        .connector
                        .as_ref()
                        .is_some_and(|c| c.multipath),
                })
            }
            Some(_) | None => None,
        };
        Ok(AttachmentDetail {
            attachment: row.attachment,
            connection,
        })
    }

    fn reserve(
        &self,
        scope: &Scope,
        user: &UserId,
        new: NewAttachment,
    ) -> Result<AttachmentRow, AttachmentError> {
        let Versioned {
            record: VolumeRow(mut volume),
            revision,
        } = self.volume_in(scope, new.volume)?;
        let is_shareable = volume.multiattach;
        volume.state = volume
            .state
            .reserve(is_shareable)
            .map_err(crate::VolumeError::from)?;
        let now = self.clock.now();
        volume.updated_at = Some(now);
        let attachment = Attachment {
            id: AttachmentId(self.entropy.uuid()),
            volume: volume.id,
            project: volume.project.clone(),
            user: user.clone(),
            instance: new.instance,
            mode: new.mode,
            state: AttachmentState::Reserved,
            connector: None,
            created_at: now,
            updated_at: None,
            attached_at: None,
        };
        let row = AttachmentRow {
            attachment,
            chap: None,
            portals: Vec::new(),
        };
        let edit = self
            .catalog
            .edit()
            .set_volume(&volume, revision)
            .add_attachment(&row);
        self.catalog.commit(&edit)?;
        Ok(row)
    }

    fn connect(
        &self,
        held: &Held<'_>,
        volume_id: VolumeId,
        id: AttachmentId,
        connector: Connector,
    ) -> Result<AttachmentDetail, AttachmentError> {
        let (mut row, revision) = self.attachment_row(volume_id, id)?;
        let Versioned {
            record: VolumeRow(mut volume),
            revision: volume_revision,
        } = self.volume_in(&Scope::All, volume_id)?;
        row.attachment.state = row.attachment.state.begin_attach()?;
        volume.state = volume
            .state
            .begin_attach()
            .map_err(crate::VolumeError::from)?;
        let is_same = row
            .attachment
            .connector
            .as_ref()
            .is_some_and(|old| old.initiator == connector.initiator);
        if !is_same || row.chap.is_none() {
            row.chap = Some(self.new_chap(id));
        }
        row.attachment.connector = Some(connector);
        volume.exported = true;
        let now = Some(self.clock.now());
        (row.attachment.updated_at, volume.updated_at) = (now, now);
        let plan_id = PlanId(self.entropy.uuid());
        let plan = Plan::connect(plan_id, volume_id, volume.pool.clone(), id);
        let edit = self.catalog.edit().set_volume(&volume, volume_revision);
        let edit = edit
            .set_attachment(&row, revision)
            .begin_plan(&Journal::new(plan));
        self.catalog.commit(&edit)?;
        self.point("attach", "journaled");
        match self.run_plan_held(held, volume_id)? {
            Some(RunEnd::Settled(Outcome::Done)) | None => {
                let (row, _) = self.attachment_row(volume_id, id)?;
                Ok(self.attachment_detail(row)?)
            }
            Some(RunEnd::Settled(Outcome::Failed { reason })) => Err(AttachmentError::Connection {
                volume: volume_id,
                reason,
            }),
            Some(RunEnd::Later { reason }) => Err(AttachmentError::Pending { id, reason }),
        }
    }

    fn new_chap(&self, id: AttachmentId) -> ChapRow {
        let secret = Secret::new(self.entropy.alphanumeric(CHAP_SECRET_CHARACTERS));
        ChapRow {
            user: self.entropy.alphanumeric(CHAP_USER_CHARACTERS),
            secret: self
                .seal
                .seal(id.0.as_bytes(), &secret, self.entropy.as_ref()),
        }
    }

    fn disconnect(
        &self,
        held: &Held<'_>,
        volume_id: VolumeId,
        id: AttachmentId,
    ) -> Result<(), AttachmentError> {
        let (mut row, revision) = self.attachment_row(volume_id, id)?;
        let Versioned {
            record: VolumeRow(mut volume),
            revision: volume_revision,
        } = self.volume_in(&Scope::All, volume_id)?;
        let had_access = row.chap.is_some();
        row.attachment.state = AttachmentState::Detaching;
        volume.state = volume
            .state
            .begin_detach()
            .map_err(crate::VolumeError::from)?;
        let now = Some(self.clock.now());
        (row.attachment.updated_at, volume.updated_at) = (now, now);
        let plan = Plan::disconnect(PlanId(self.entropy.uuid()), volume_id, id, had_access);
        let edit = self.catalog.edit().set_volume(&volume, volume_revision);
        let edit = edit
            .set_attachment(&row, revision)
            .begin_plan(&Journal::new(plan));
        self.catalog.commit(&edit)?;
        self.point("detach", "journaled");
        match self.run_plan_held(held, volume_id)? {
            Some(RunEnd::Settled(_)) | None => Ok(()),
            Some(RunEnd::Later { reason }) => Err(AttachmentError::Pending { id, reason }),
        }
    }
}

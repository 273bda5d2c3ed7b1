//! The only code that carries plans out.
//!
//! The journal row is there before the first step and goes in the same transaction that stores the end. Between steps the
//! journal is brought up to date; a step that was carried out and not noted is carried out again, which changes nothing.

use crate::catalog::{AttachmentRow, CatalogError, Edit, PlanRow, VolumeRow};
use crate::locks::Held;
use crate::manager::Inner;
use onggi_block_pool::{Labels, Pool, PoolError};
use onggi_block_target::{ClientError, RefusalCode};
use onggi_block_volume::plan::{Next, Outcome, StepFailure, Verdict};
use onggi_block_volume::{
    AttachmentId, AttachmentState, Fault, Journal, Operation, PoolAddress, SizeGib, Step, Volume,
    VolumeId, VolumeState,
};
use onggi_common_meta::control::Versioned;
use std::sync::{Arc, PoisonError};

mod export;

pub(crate) use export::LUN;

/// What became of a plan.
#[derive(Debug)]
pub(crate) enum RunEnd {
    /// It has ended.
    Settled(Outcome),
    /// It waits in the journal.
    Later {
        /// For what.
        reason: String,
    },
}

/// Rows of one volume as they were read.
struct Rows {
    volume: Versioned<VolumeRow>,
    attachments: Vec<Versioned<AttachmentRow>>,
}

impl Inner {
    /// Carries a volume's plan out, if it has one.
    pub(crate) fn run_plan(&self, volume: VolumeId) {
        let held = self.locks.hold(volume);
        match self.run_plan_held(&held, volume) {
            Ok(Some(RunEnd::Later { reason })) => {
                tracing::warn!(%volume, reason, "a plan waits and is tried again");
            }
            Ok(Some(RunEnd::Settled(_)) | None) => {}
            Err(error) => {
                tracing::error!(%volume, %error, "a plan cannot be carried on: it goes on at the next start");
            }
        }
    }

    /// The same for one who works on the volume already.
    pub(crate) fn run_plan_held(
        &self,
        held: &Held<'_>,
        volume: VolumeId,
    ) -> Result<Option<RunEnd>, CatalogError> {
        let Some(plan) = self.catalog.plan_of(volume)? else {
            return Ok(None);
        };
        let end = self.carry_out(held, plan)?;
        if matches!(end, RunEnd::Later { .. }) {
            self.queue.push_later(volume);
        }
        Ok(Some(end))
    }

    fn carry_out(
        &self,
        _held: &Held<'_>,
        plan: Versioned<PlanRow>,
    ) -> Result<RunEnd, CatalogError> {
        let Versioned {
            record: PlanRow(mut journal),
            mut revision,
        } = plan;
        let operation = journal.plan.operation.name();
        loop {
            let step = match journal.next() {
                Next::Carry(step) => step,
                Next::Settle(outcome) => {
                    self.point(operation, "settle:before");
                    self.settle(&journal, revision, &outcome)?;
                    self.point(operation, "settle:after");
                    return Ok(RunEnd::Settled(outcome));
                }
            };
            self.point(operation, &format!("{}:before", step.name()));
            match self.carry(&step) {
                Ok(()) => {
                    self.point(operation, &format!("{}:after", step.name()));
                    journal.advance();
                }
                Err(failure) => {
                    let (volume, step) = (journal.plan.volume, step.name());
                    let reason = failure.reason.clone();
                    tracing::warn!(%volume, operation, step, reason, "a step failed");
                    if journal.fail(failure) == Verdict::Later {
                        return Ok(RunEnd::Later { reason });
                    }
                }
            }
            let edit = self.catalog.edit().set_plan(&journal, revision);
            revision = self.catalog.commit(&edit)?;
            self.point(operation, "noted");
        }
    }

    fn carry(&self, step: &Step) -> Result<(), StepFailure> {
        match step {
            Step::Allocate { pool, volume, size } => {
                let labels = self.labels(*volume)?;
                let created = self.pool_of(pool)?.create(volume.0, size.bytes(), &labels);
                created.map_err(|error| pool_failure(&error))
            }
            Step::Release { pool, volume } => self
                .pool_of(pool)?
                .remove(volume.0)
                .map_err(|error| pool_failure(&error)),
            Step::Grow { pool, volume, size } => {
                let grown = self.pool_of(pool)?.extend(volume.0, size.bytes());
                grown.map_err(|error| pool_failure(&error))
            }
            Step::Resize { pool, volume } => {
                let medium = self
                    .pool_of(pool)?
                    .open(volume.0)
                    .map_err(|error| pool_failure(&error))?;
                unless_not_found(self.target.resize(&volume.iqn(), &medium))?;
                self.note_served(*volume, Some(medium));
                Ok(())
            }
            Step::Export {
                pool,
                volume,
                attachment: _,
            } => self.export(pool, *volume),
            Step::Withdraw { volume, attachment } => self.withdraw(*volume, *attachment),
            Step::Unexport { volume } => self.unexport(*volume),
        }
    }

    pub(crate) fn pool_of(&self, address: &PoolAddress) -> Result<&Arc<dyn Pool>, StepFailure> {
        self.pool(address).ok_or_else(|| StepFailure {
            reason: format!("pool {address} is not configured here"),
            may_have_acted: false,
            is_passing: false,
        })
    }

    fn labels(&self, volume: VolumeId) -> Result<Labels, StepFailure> {
        let row = self
            .catalog
            .volume(volume)
            .map_err(|error| catalog_failure(&error))?;
        Ok(row.map(|row| labels_of(&row.record.0)).unwrap_or_default())
    }

    /// Takes an attachment's access away, and the export when nobody else has any.
    fn withdraw(&self, volume: VolumeId, attachment: AttachmentId) -> Result<(), StepFailure> {
        let rows = self
            .catalog
            .attachments_of(volume)
            .map_err(|error| catalog_failure(&error))?;
        if has_access(&rows, Some(attachment)) {
            return unless_not_found(self.target.revoke(&volume.iqn(), attachment.0));
        }
        self.unexport(volume)
    }

    /// Stores the end of a plan.
    fn settle(
        &self,
        journal: &Journal,
        revision: onggi_common_meta::control::Revision,
        outcome: &Outcome,
    ) -> Result<(), CatalogError> {
        let volume = journal.plan.volume;
        let edit = self.catalog.edit().end_plan(volume, revision);
        let Some(row) = self.catalog.volume(volume)? else {
            self.catalog.commit(&edit)?;
            return Ok(());
        };
        let rows = Rows {
            volume: row,
            attachments: self.catalog.attachments_of(volume)?,
        };
        let edit = match &journal.plan.operation {
            Operation::Create => self.settle_create(edit, rows, outcome),
            Operation::Delete => self.settle_delete(edit, rows, outcome),
            Operation::Extend { from, size } => {
                self.settle_extend(edit, rows, (*from, *size), outcome)
            }
            Operation::Connect { attachment } => {
                self.settle_connect(edit, rows, *attachment, outcome)
            }
            Operation::Disconnect { attachment } => self.settle_disconnect(edit, rows, *attachment),
        };
        self.catalog.commit(&edit)?;
        Ok(())
    }

    /// A volume that the pool still shows smaller than asked for is as it was: only the fault remembers the attempt.
    fn settle_extend(
        &self,
        edit: Edit,
        rows: Rows,
        (from, size): (VolumeState, SizeGib),
        outcome: &Outcome,
    ) -> Edit {
        let (mut volume, revision) = (rows.volume.record.0, rows.volume.revision);
        let attachments = rows.attachments.iter().map(|row| &row.record.attachment);
        let settled = from.settle_extended(attachments.map(|attachment| attachment.state));
        match outcome {
            Outcome::Done => {
                volume.state = settled;
                volume.size = size;
                volume.fault = None;
            }
            Outcome::Failed { reason } => {
                volume.state = if self.is_smaller(&volume, size) {
                    settled
                } else {
                    VolumeState::ErrorExtending
                };
                volume.fault = Some(self.fault("extend", reason));
            }
        }
        volume.updated_at = Some(self.clock.now());
        let size = volume.size;
        edit.set_usage(&volume, size).set_volume(&volume, revision)
    }

    /// Whether the pool still shows a volume smaller than this. False when it cannot be told.
    fn is_smaller(&self, volume: &Volume, size: SizeGib) -> bool {
        let Some(pool) = self.pool(&volume.pool) else {
            return false;
        };
        match pool.open(volume.id.0) {
            Ok(medium) => medium.size() >= volume.size.bytes() && medium.size() < size.bytes(),
            Err(error) => {
                tracing::warn!(volume = %volume.id, %error, "the size of a volume that did not grow cannot be told");
                false
            }
        }
    }

    fn settle_create(&self, edit: Edit, rows: Rows, outcome: &Outcome) -> Edit {
        let (mut volume, revision) = (rows.volume.record.0, rows.volume.revision);
        match outcome {
            Outcome::Done => volume.state = VolumeState::Available,
            Outcome::Failed { reason } => {
                volume.state = VolumeState::Error;
                volume.fault = Some(self.fault("create", reason));
            }
        }
        volume.updated_at = Some(self.clock.now());
        edit.set_volume(&volume, revision)
    }

    fn settle_delete(&self, edit: Edit, rows: Rows, outcome: &Outcome) -> Edit {
        let (mut volume, revision) = (rows.volume.record.0, rows.volume.revision);
        match outcome {
            Outcome::Done => edit.remove_volume(&volume, revision),
            Outcome::Failed { reason } => {
                volume.state = VolumeState::ErrorDeleting;
                volume.fault = Some(self.fault("delete", reason));
                volume.updated_at = Some(self.clock.now());
                edit.set_volume(&volume, revision)
            }
        }
    }

    fn settle_connect(
        &self,
        edit: Edit,
        rows: Rows,
        attachment: AttachmentId,
        outcome: &Outcome,
    ) -> Edit {
        let (mut volume, revision) = (rows.volume.record.0, rows.volume.revision);
        let now = self.clock.now();
        let mut states = Vec::new();
        let mut edit = edit;
        for Versioned {
            record: mut row,
            revision,
        } in rows.attachments.iter().cloned()
        {
            if row.attachment.id == attachment {
                match outcome {
                    Outcome::Done => {
                        row.portals = self.portals();
                        row.attachment.attached_at = Some(now);
                    }
                    Outcome::Failed { .. } => {
                        row.attachment.state = AttachmentState::Reserved;
                        row.attachment.connector = None;
                        row.chap = None;
                    }
                }
                row.attachment.updated_at = Some(now);
                edit = edit.set_attachment(&row, revision);
            }
            states.push(row.attachment.state);
        }
        volume.exported = states.iter().any(|state| state.has_access());
        volume.state = volume.state.settle(states);
        volume.updated_at = Some(now);
        edit.set_volume(&volume, revision)
    }

    fn settle_disconnect(&self, edit: Edit, rows: Rows, attachment: AttachmentId) -> Edit {
        let (mut volume, revision) = (rows.volume.record.0, rows.volume.revision);
        let mut edit = edit;
        let mut states = Vec::new();
        for row in &rows.attachments {
            if row.record.attachment.id == attachment {
                edit = edit.remove_attachment(&row.record.attachment, row.revision);
            } else {
                states.push(row.record.attachment.state);
            }
        }
        volume.exported = states.iter().any(|state| state.has_access());
        volume.state = volume.state.settle(states);
        volume.updated_at = Some(self.clock.now());
        edit.set_volume(&volume, revision)
    }

    fn fault(&self, operation: &str, message: &str) -> Fault {
        let (operation, message) = (operation.to_owned(), message.to_owned());
        Fault {
            operation,
            message,
            at: self.clock.now(),
        }
    }

    /// Remembers where the target listens.
    fn learn_portals(&self) -> Result<(), StepFailure> {
        let portals = self.target.portals().map_err(|error| StepFailure {
            // Asking changes nothing.
            may_have_acted: false,
            ..target_failure(&error)
        })?;
        *self.portals.lock().unwrap_or_else(PoisonError::into_inner) =
            portals.into_iter().map(|portal| portal.address).collect();
        Ok(())
    }
}

/// What the pool keeps with a volume.
pub(crate) fn labels_of(volume: &Volume) -> Labels {
    Labels {
        name: volume.name.clone().unwrap_or_default(),
        project: volume.project.to_string(),
    }
}

/// Whether an attachment other than this one has access.
pub(crate) fn has_access(rows: &[Versioned<AttachmentRow>], but: Option<AttachmentId>) -> bool {
    rows.iter()
        .map(|row| &row.record.attachment)
        .any(|attachment| Some(attachment.id) != but && attachment.state.has_access())
}

fn pool_failure(error: &PoolError) -> StepFailure {
    StepFailure {
        reason: error.to_string(),
        may_have_acted: true,
        is_passing: error.is_passing(),
    }
}

pub(crate) fn catalog_failure(error: &CatalogError) -> StepFailure {
    StepFailure {
        reason: error.to_string(),
        may_have_acted: false,
        is_passing: true,
    }
}

fn target_failure(error: &ClientError) -> StepFailure {
    let (may_have_acted, is_passing) = match error {
        ClientError::Unreachable { .. } => (false, true),
        ClientError::Unknown { .. } => (true, true),
        ClientError::Nonsense { .. } => (true, false),
        ClientError::Refused { code, .. } => match code {
            RefusalCode::Busy | RefusalCode::Internal => (true, true),
            RefusalCode::Invalid
            | RefusalCode::NotFound
            | RefusalCode::Conflict
            | RefusalCode::Medium => (true, false),
        },
    };
    StepFailure {
        reason: error.to_string(),
        may_have_acted,
        is_passing,
    }
}

/// What is not there need not be taken away.
fn unless_not_found(result: Result<(), ClientError>) -> Result<(), StepFailure> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        result => result.map_err(|error| target_failure(&error)),
    }
}

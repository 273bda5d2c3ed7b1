//! The catalogue: volumes, attachments and plans as rows of the control store.
//!
//! | table | key | row |
//! |---|---|---|
//! | `volumes` | volume id | [`VolumeRow`] |
//! | `project_volumes` | project, 0x00, volume id | [`UsageRow`]: what quotas are counted from |
//! | `attachments` | volume id, attachment id | [`AttachmentRow`] |
//! | `attachment_volumes` | attachment id | volume id |
//! | `plans` | volume id | [`PlanRow`]: at most one for each volume |
//! | `block_seal` | `check` | [`SealRow`]: tells a wrong key from the right one |

use crate::seal::Sealed;
use onggi_block_volume::{
    Attachment, AttachmentId, Journal, ProjectId, QuotaUsage, SizeGib, Volume, VolumeId,
};
use onggi_common_host::Entropy;
use onggi_common_meta::control::{
    RecordError, Revision, Store, Transaction, TxnError, TxnId, Versioned, get_record, scan_records,
};
use onggi_common_meta::table::{PayloadError, Record, encode, from_json, to_json};
use onggi_common_meta::{KeyRange, StoreError, TableName};
use onggi_common_units::Uuid;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;

const VOLUMES: TableName = TableName::new("volumes");
const PROJECT_VOLUMES: TableName = TableName::new("project_volumes");
const ATTACHMENTS: TableName = TableName::new("attachments");
const ATTACHMENT_VOLUMES: TableName = TableName::new("attachment_volumes");
const PLANS: TableName = TableName::new("plans");
const SEAL: TableName = TableName::new("block_seal");
const SEAL_KEY: &[u8] = b"check";

/// A catalogue that cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Someone else changed the same rows first. Nothing was written.
    #[error("the catalogue was changed at the same time: try again")]
    Conflict,
    /// The store did not carry a change out, or may not have.
    #[error("the catalogue cannot be written: {source}")]
    Write {
        /// Why.
        source: TxnError,
    },
    /// The store cannot be read, or a row of it cannot be understood.
    #[error("the catalogue cannot be read: {0}")]
    Read(#[from] RecordError),
}

impl From<StoreError> for CatalogError {
    fn from(error: StoreError) -> Self {
        Self::Read(error.into())
    }
}

macro_rules! json_record {
    ($($type:ty = $name:literal),* $(,)?) => {$(
        impl Record for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = 1;

            fn encode_payload(&self, payload: &mut Vec<u8>) {
                to_json(self, payload);
            }

            fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
                if version != Self::VERSION {
                    return Ok(None);
                }
                from_json(payload).map(Some)
            }
        }
    )*};
}

/// A volume's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct VolumeRow(pub(crate) Volume);

/// What a volume uses of its project's quota.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct UsageRow {
    size: SizeGib,
}

/// An attachment's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttachmentRow {
    pub(crate) attachment: Attachment,
    /// How its connector proves itself: there while it has access.
    pub(crate) chap: Option<ChapRow>,
    /// Where its connector was sent.
    pub(crate) portals: Vec<SocketAddr>,
}

/// One attachment's CHAP user and secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChapRow {
    pub(crate) user: String,
    pub(crate) secret: Sealed,
}

/// A plan's row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct PlanRow(pub(crate) Journal);

/// A known text under the key in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SealRow(pub(crate) Sealed);

json_record! {
    VolumeRow = "volume",
    UsageRow = "volume usage",
    AttachmentRow = "attachment",
    PlanRow = "plan",
    SealRow = "seal check",
}

/// The catalogue.
pub(crate) struct Catalog {
    store: Arc<dyn Store>,
    entropy: Arc<dyn Entropy>,
}

fn volume_key(volume: VolumeId) -> Vec<u8> {
    volume.0.as_bytes().to_vec()
}

fn usage_prefix(project: &ProjectId) -> Vec<u8> {
    let mut key = project.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

fn usage_key(volume: &Volume) -> Vec<u8> {
    let mut key = usage_prefix(&volume.project);
    key.extend_from_slice(volume.id.0.as_bytes());
    key
}

fn attachment_key(attachment: &Attachment) -> Vec<u8> {
    let mut key = volume_key(attachment.volume);
    key.extend_from_slice(attachment.id.0.as_bytes());
    key
}

impl Catalog {
    pub(crate) fn new(store: Arc<dyn Store>, entropy: Arc<dyn Entropy>) -> Self {
        Self { store, entropy }
    }

    pub(crate) fn volume(
        &self,
        id: VolumeId,
    ) -> Result<Option<Versioned<VolumeRow>>, CatalogError> {
        Ok(get_record(self.store.as_ref(), VOLUMES, &volume_key(id))?)
    }

    pub(crate) fn volumes(&self) -> Result<Vec<Volume>, CatalogError> {
        let (rows, _) = scan_records::<VolumeRow>(self.store.as_ref(), VOLUMES, &KeyRange::all())?;
        Ok(rows.into_iter().map(|row| row.record.0).collect())
    }

    /// The attachments of one volume, oldest first.
    pub(crate) fn attachments_of(
        &self,
        volume: VolumeId,
    ) -> Result<Vec<Versioned<AttachmentRow>>, CatalogError> {
        let range = KeyRange::prefix(volume_key(volume));
        let (mut rows, _) =
            scan_records::<AttachmentRow>(self.store.as_ref(), ATTACHMENTS, &range)?;
        rows.sort_by_key(|row| (row.record.attachment.created_at, row.record.attachment.id));
        Ok(rows)
    }

    pub(crate) fn attachments(&self) -> Result<Vec<AttachmentRow>, CatalogError> {
        let range = KeyRange::all();
        let (rows, _) = scan_records::<AttachmentRow>(self.store.as_ref(), ATTACHMENTS, &range)?;
        Ok(rows.into_iter().map(|row| row.record).collect())
    }

    /// The volume an attachment is of.
    pub(crate) fn volume_of(
        &self,
        attachment: AttachmentId,
    ) -> Result<Option<VolumeId>, CatalogError> {
        let row = self
            .store
            .get(ATTACHMENT_VOLUMES, attachment.0.as_bytes())?;
        Ok(row
            .and_then(|row| row.value.try_into().ok())
            .map(|id| VolumeId(Uuid::from_bytes(id))))
    }

    pub(crate) fn plan_of(
        &self,
        volume: VolumeId,
    ) -> Result<Option<Versioned<PlanRow>>, CatalogError> {
        Ok(get_record(self.store.as_ref(), PLANS, &volume_key(volume))?)
    }

    pub(crate) fn plans(&self) -> Result<Vec<Journal>, CatalogError> {
        let (rows, _) = scan_records::<PlanRow>(self.store.as_ref(), PLANS, &KeyRange::all())?;
        Ok(rows.into_iter().map(|row| row.record.0).collect())
    }

    /// What a project uses, and the revision at which it does.
    pub(crate) fn usage(
        &self,
        project: &ProjectId,
    ) -> Result<(QuotaUsage, Revision), CatalogError> {
        let range = KeyRange::prefix(usage_prefix(project));
        let (rows, revision) =
            scan_records::<UsageRow>(self.store.as_ref(), PROJECT_VOLUMES, &range)?;
        Ok((
            QuotaUsage::of(rows.into_iter().map(|row| row.record.size)),
            revision,
        ))
    }

    pub(crate) fn seal_check(&self) -> Result<Option<SealRow>, CatalogError> {
        let row = get_record::<SealRow>(self.store.as_ref(), SEAL, SEAL_KEY)?;
        Ok(row.map(|row| row.record))
    }

    /// A change with no writes yet.
    pub(crate) fn edit(&self) -> Edit {
        Edit(Transaction::new(TxnId(self.entropy.uuid())))
    }

    pub(crate) fn commit(&self, edit: &Edit) -> Result<Revision, CatalogError> {
        self.store.commit(&edit.0).map_err(|error| match error {
            TxnError::Conflict { .. } => CatalogError::Conflict,
            source @ (TxnError::Refused(_) | TxnError::Unknown { .. } | TxnError::Store(_)) => {
                CatalogError::Write { source }
            }
        })
    }
}

/// A change of the catalogue: all of it happens, or nothing.
pub(crate) struct Edit(Transaction);

impl Edit {
    /// Adds a volume, and what it uses of its quota.
    pub(crate) fn add_volume(self, volume: &Volume) -> Self {
        let key = volume_key(volume.id);
        let usage = encode(&UsageRow { size: volume.size });
        Self(
            self.0
                .absent(VOLUMES, key.clone())
                .put(VOLUMES, key, encode(&VolumeRow(volume.clone())))
                .put(PROJECT_VOLUMES, usage_key(volume), usage),
        )
    }

    /// Only if the project uses no more than at this revision.
    pub(crate) fn guard_usage(self, project: &ProjectId, revision: Revision) -> Self {
        let range = KeyRange::prefix(usage_prefix(project));
        Self(self.0.none_newer(PROJECT_VOLUMES, range, revision))
    }

    /// Changes a volume, read at this revision.
    pub(crate) fn set_volume(self, volume: &Volume, revision: Revision) -> Self {
        let key = volume_key(volume.id);
        let row = encode(&VolumeRow(volume.clone()));
        Self(
            self.0
                .at(VOLUMES, key.clone(), revision)
                .put(VOLUMES, key, row),
        )
    }

    /// Changes what a volume uses of its quota.
    pub(crate) fn set_usage(self, volume: &Volume, size: SizeGib) -> Self {
        Self(self.0.put(
            PROJECT_VOLUMES,
            usage_key(volume),
            encode(&UsageRow { size }),
        ))
    }

    /// Removes a volume, read at this revision.
    pub(crate) fn remove_volume(self, volume: &Volume, revision: Revision) -> Self {
        let key = volume_key(volume.id);
        Self(
            self.0
                .at(VOLUMES, key.clone(), revision)
                .delete(VOLUMES, key)
                .delete(PROJECT_VOLUMES, usage_key(volume)),
        )
    }

    /// Adds an attachment.
    pub(crate) fn add_attachment(self, row: &AttachmentRow) -> Self {
        let key = attachment_key(&row.attachment);
        let (id, volume) = (row.attachment.id, row.attachment.volume);
        Self(
            self.0
                .absent(ATTACHMENTS, key.clone())
                .put(ATTACHMENTS, key, encode(row))
                .put(ATTACHMENT_VOLUMES, *id.0.as_bytes(), volume_key(volume)),
        )
    }

    /// Changes an attachment, read at this revision.
    pub(crate) fn set_attachment(self, row: &AttachmentRow, revision: Revision) -> Self {
        let key = attachment_key(&row.attachment);
        Self(
            self.0
                .at(ATTACHMENTS, key.clone(), revision)
                .put(ATTACHMENTS, key, encode(row)),
        )
    }

    /// Removes an attachment, read at this revision.
    pub(crate) fn remove_attachment(self, attachment: &Attachment, revision: Revision) -> Self {
        let key = attachment_key(attachment);
        Self(
            self.0
                .at(ATTACHMENTS, key.clone(), revision)
                .delete(ATTACHMENTS, key)
                .delete(ATTACHMENT_VOLUMES, *attachment.id.0.as_bytes()),
        )
    }

    /// Journals a plan: the volume must have none.
    pub(crate) fn begin_plan(self, journal: &Journal) -> Self {
        let key = volume_key(journal.plan.volume);
        let row = encode(&PlanRow(journal.clone()));
        Self(self.0.absent(PLANS, key.clone()).put(PLANS, key, row))
    }

    /// Notes how far a plan has come.
    pub(crate) fn set_plan(self, journal: &Journal, revision: Revision) -> Self {
        let key = volume_key(journal.plan.volume);
        let row = encode(&PlanRow(journal.clone()));
        Self(self.0.at(PLANS, key.clone(), revision).put(PLANS, key, row))
    }

    /// Ends a plan.
    pub(crate) fn end_plan(self, volume: VolumeId, revision: Revision) -> Self {
        let key = volume_key(volume);
        Self(self.0.at(PLANS, key.clone(), revision).delete(PLANS, key))
    }

    /// Keeps the known text under the key in use.
    pub(crate) fn set_seal_check(self, row: &SealRow) -> Self {
        Self(
            self.0
                .absent(SEAL, SEAL_KEY)
                .put(SEAL, SEAL_KEY, encode(row)),
        )
    }
}

#[cfg(test)]
mod tests;

//! Objects: reading their rows, and merging new ones in.

use crate::commit::{Change, Committed};
use crate::device::Device;
use crate::digests::{self, Part};
use crate::error::DeviceError;
use crate::expiry::{self, Due};
use crate::key::{ObjectKey, unit_range};
use crate::large;
use crate::pending::{PendingObject, Tell};
use crate::plan::plan;
use crate::reservation::Commit;
use crate::stored::{Location, ReadFrom, StoredObject};
use crate::tables::{BODY, OBJECT};
use crate::upload::Finished;
use core::ops::ControlFlow;
use onggi_common_meta::local::{Batch, Durability, Order};
use onggi_common_meta::table;
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_model::Metadata;
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::merge::Taken;
use onggi_object_wire::replication::{KeySum, Scope};
use onggi_object_wire::{ObjectRow, Slot};

/// A row that comes in.
#[derive(Debug)]
pub struct NewRow {
    /// The row.
    pub row: ObjectRow,
    /// Its bytes; needed when they win over what is there.
    pub body: Option<Finished>,
}

impl NewRow {
    /// Whether its bytes go to a file, which takes a sync of its own.
    #[must_use]
    pub fn has_file(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.large.is_some())
    }
}

/// How a row is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merge {
    /// What it has to do with reservations.
    pub guard: Guard,
    /// Change nothing unless an object is there and the new row's metadata is newer: a POST.
    pub if_present: bool,
    /// Change nothing unless the object still is this one, whose date has come.
    pub only_due: Option<Due>,
    /// Whom the container's devices hear it from; nobody for what they know already.
    pub tell: Option<Tell>,
}

/// What a merge has to do with reservations of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guard {
    /// Nothing: a copy of what other devices have already.
    #[default]
    None,
    /// A write without a condition: it must be stamped above a reservation that holds, so that the conditional PUT,
    /// should it come to its end, never hides it.
    Above {
        /// The moment, by this node's clock.
        now: UtcTime,
    },
    /// The second phase of a conditional PUT: its reservation must hold, and the object be as it expects.
    Commit {
        /// Which.
        commit: Commit,
        /// The moment, by this node's clock.
        now: UtcTime,
    },
}

/// What a merge did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    /// Some of the new row was taken, and is on stable storage.
    Changed {
        /// Whether an object was there before.
        was_there: bool,
        /// What was taken.
        taken: Taken,
        /// The row as it is now.
        row: Box<ObjectRow>,
    },
    /// The row that is there is as new or newer.
    Unchanged {
        /// Its newest timestamp.
        newest: Timestamp,
        /// Whether it is a deletion.
        is_deletion: bool,
    },
    /// A commit, and the object is not as it expects.
    Present {
        /// Its newest timestamp.
        newest: Timestamp,
    },
    /// The key is reserved for a conditional PUT with this stamp, and the write is not above it.
    Reserved {
        /// The stamp of that one.
        stamp: Timestamp,
    },
    /// A commit whose reservation does not hold here.
    Lapsed,
    /// `if_present`, and no object is there; `only_due`, and another one is.
    Absent,
}

/// A row whose bytes are on the device or in memory, ready to be merged.
#[derive(Debug)]
pub struct Prepared {
    row: ObjectRow,
    file_name: Option<String>,
    small: Option<Vec<u8>>,
}

impl Prepared {
    pub(crate) fn file_name(&self) -> Option<&str> {
        self.file_name.as_deref()
    }

    /// Whether it gives no space back in the end.
    pub(crate) const fn has_body(&self) -> bool {
        self.file_name.is_some() || self.small.is_some()
    }

    /// The bytes it has in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.small.as_ref().map_or(0, Vec::len)
    }
}

/// A merge that is in a batch, and what is left to do when that is written.
pub(crate) struct StagedObject {
    pub(crate) merged: Merged,
    /// `None` when there is nothing to write.
    pub(crate) digests: Option<digests::Change>,
    /// What the container has to be told, if `tell` says so: it is for the caller to see to it in the same batch.
    pub(crate) news: Option<PendingObject>,
    /// The file the old row named, if it does so no more.
    pub(crate) left_file: Option<String>,
}

impl StagedObject {
    const fn nothing(merged: Merged) -> Self {
        Self {
            merged,
            digests: None,
            news: None,
            left_file: None,
        }
    }
}

impl Device {
    /// An object's row, if there is one.
    ///
    /// # Errors
    /// When the store cannot answer, or the row is damaged.
    pub fn get_object(&self, key: &ObjectKey) -> Result<Option<StoredObject>, DeviceError> {
        let bytes = self.reader().get(OBJECT, &key.bytes())?;
        Ok(bytes.map(|bytes| table::decode(&bytes)).transpose()?)
    }

    /// The same from where it may be read; `None` when it would have to be read from elsewhere.
    ///
    /// # Errors
    /// When the store cannot answer, or the row is damaged.
    pub fn get_object_from(
        &self,
        key: &ObjectKey,
        from: ReadFrom,
    ) -> Result<Option<Option<StoredObject>>, DeviceError> {
        if from == ReadFrom::Disk {
            return self.get_object(key).map(Some);
        }
        let Some(bytes) = self.reader().get_cached(OBJECT, &key.bytes())? else {
            return Ok(None);
        };
        Ok(Some(bytes.map(|bytes| table::decode(&bytes)).transpose()?))
    }

    /// Merges a row in, group by group (O2). What was taken is on stable storage when this returns (O1).
    ///
    /// # Errors
    /// When there is no space, bytes are needed and did not come, or the store or the machine refuses.
    pub fn merge_object(
        &self,
        key: &ObjectKey,
        new: NewRow,
        how: Merge,
    ) -> Result<Merged, DeviceError> {
        let prepared = Box::new(self.prepare_object(key, new)?);
        let change = Change::Object {
            key: *key,
            prepared,
            how,
        };
        let outcome = self.commit(vec![change]).pop().transpose()?;
        let Some(Committed::Object { merged, .. }) = outcome else {
            unreachable!("a change is answered in its kind");
        };
        Ok(merged)
    }

    /// Makes a row ready to be merged: a large body is made durable, which takes long and is nobody else's business.
    /// What is prepared is to be committed: until then its file counts as being written. Without a file this does not
    /// touch the disk.
    ///
    /// # Errors
    /// When the machine refuses.
    pub fn prepare_object(&self, key: &ObjectKey, new: NewRow) -> Result<Prepared, DeviceError> {
        let NewRow { row, body } = new;
        let (file_name, small) = self.store_body(key, &row, body)?;
        Ok(Prepared {
            row,
            file_name,
            small,
        })
    }

    /// Merges the row of a body file that is there already. True when the row names the file now.
    pub(crate) fn adopt_file(
        &self,
        key: &ObjectKey,
        new: NewRow,
        name: &str,
        how: Merge,
    ) -> Result<bool, DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        let prepared = Prepared {
            row: new.row,
            file_name: Some(name.to_owned()),
            small: None,
        };
        let mut batch = Batch::new();
        let staged = self.stage_object(key, prepared, how, &mut batch)?;
        if let Some(news) = &staged.news {
            news.stage(&mut batch);
        }
        if let Some(change) = staged.digests {
            self.store().write(&batch, Durability::Synced)?;
            self.digest_table().keep(change);
        }
        if let Some(left) = staged.left_file {
            large::remove(self.directory(), &left)?;
        }
        Ok(matches!(staged.merged, Merged::Changed { taken, .. } if taken.data))
    }

    /// Writes a large body's file, or hands a small one on.
    fn store_body(
        &self,
        key: &ObjectKey,
        row: &ObjectRow,
        body: Option<Finished>,
    ) -> Result<(Option<String>, Option<Vec<u8>>), DeviceError> {
        let Some(body) = body else {
            return Ok((None, None));
        };
        debug_assert_eq!(
            body.key, *key,
            "a body is merged under the key it was begun with"
        );
        let Some(incoming) = body.large else {
            return Ok((None, Some(body.small)));
        };
        let trailer = large::trailer(key, row, &body.hash);
        self.with_in_flight(|names| names.insert(body.file_name.clone()));
        if let Err(error) = incoming.finish(self.directory(), &body.file_name, &trailer) {
            self.with_in_flight(|names| names.remove(&body.file_name));
            return Err(error);
        }
        Ok((Some(body.file_name), None))
    }

    /// Puts into the batch what merging a row in makes of the key. The caller holds its stripe, and writes.
    pub(crate) fn stage_object(
        &self,
        key: &ObjectKey,
        prepared: Prepared,
        how: Merge,
        batch: &mut Batch,
    ) -> Result<StagedObject, DeviceError> {
        let Prepared {
            row,
            file_name,
            small,
        } = prepared;
        let old = self.get_object(key)?;
        let was_there = old.as_ref().is_some_and(|old| old.row.body.is_some());
        let newest = old.as_ref().map_or(Timestamp::ZERO, |old| old.row.newest());
        if let Some(refused) = self.judge_guard(key, &row, old.as_ref(), how.guard) {
            return Ok(StagedObject::nothing(refused));
        }
        if how.if_present && !was_there {
            return Ok(StagedObject::nothing(Merged::Absent));
        }
        // Proxies whose clocks are behind both stamp right above what they have seen: whoever comes second is told.
        let is_of_one_moment = |old: &StoredObject| {
            old.row.data_timestamp == row.data_timestamp
                || old.row.metadata_timestamp == row.metadata_timestamp
        };
        if how.guard != Guard::None && old.as_ref().is_some_and(is_of_one_moment) {
            let is_deletion = !was_there;
            let unchanged = Merged::Unchanged {
                newest,
                is_deletion,
            };
            return Ok(StagedObject::nothing(unchanged));
        }
        let is_meant = |due: Due| old.as_ref().is_some_and(|old| due.is_of(old));
        if how.only_due.is_some_and(|due| !is_meant(due)) {
            return Ok(StagedObject::nothing(Merged::Absent));
        }
        // The trace of what was deleted long ago is not taken up again.
        if old.is_none() && row.body.is_none() && self.is_settled(key, &row) {
            return Ok(StagedObject::nothing(unchanged(row.newest(), true)));
        }
        let Some(plan) = plan(
            old.as_ref(),
            row,
            file_name.as_deref(),
            small,
            how.if_present,
        )?
        else {
            return Ok(StagedObject::nothing(unchanged(newest, !was_there)));
        };
        let news = how
            .tell
            .map(|tell| PendingObject::of(key, &plan.next.row, how, tell.since));
        batch.put(OBJECT, key.bytes(), table::encode(&plan.next));
        if let Some(small) = plan.small {
            batch.put(BODY, key.bytes(), small);
        } else if plan.drop_small {
            batch.delete(BODY, key.bytes());
        }
        let digests = self.stage_digest(key, old.as_ref(), Some(&plan.next), batch);
        let row = Box::new(plan.next.row);
        Ok(StagedObject {
            merged: Merged::Changed {
                was_there,
                taken: plan.taken,
                row,
            },
            digests: Some(digests),
            news,
            left_file: plan.left_file,
        })
    }

    /// Why reservations forbid a merge, if they do. The caller holds the key's stripe.
    fn judge_guard(
        &self,
        key: &ObjectKey,
        row: &ObjectRow,
        old: Option<&StoredObject>,
        guard: Guard,
    ) -> Option<Merged> {
        match guard {
            Guard::None => None,
            Guard::Above { now } => {
                let held = self.reservations().get(key)?;
                let is_below = now < held.expires && row.newest() <= held.stamp;
                is_below.then_some(Merged::Reserved { stamp: held.stamp })
            }
            Guard::Commit { commit, now } => {
                // No other write has its stamp: this one was sent twice, or another node has committed it and pushes it.
                let is_this = |old: &&StoredObject| old.row.data_timestamp == row.data_timestamp;
                if let Some(old) = old.filter(is_this) {
                    return Some(unchanged(old.row.newest(), old.row.body.is_none()));
                }
                let holds = self.reservations().get(key).is_some_and(|held| {
                    held.token == commit.token && held.stamp == row.newest() && now < held.expires
                });
                if !holds {
                    return Some(Merged::Lapsed);
                }
                let newest = old.map_or(Timestamp::ZERO, |old| old.row.newest());
                // The object was as expected when the key was reserved; what has been put since comes after this change. A
                // POST that came since changes no bytes.
                let is_after = |old: &&StoredObject| old.row.data_timestamp > row.data_timestamp;
                if let Some(old) = old.filter(is_after) {
                    return Some(unchanged(newest, old.row.body.is_none()));
                }
                let is_met = commit.is_met(old.map(|old| &old.row), now);
                (!is_met).then_some(Merged::Present { newest })
            }
        }
    }

    pub(crate) fn write_with_digest(
        &self,
        key: &ObjectKey,
        old: Option<&StoredObject>,
        new: Option<&StoredObject>,
        mut batch: Batch,
    ) -> Result<(), DeviceError> {
        let change = self.stage_digest(key, old, new, &mut batch);
        self.store().write(&batch, Durability::Synced)?;
        self.digest_table().keep(change);
        Ok(())
    }

    /// Puts into the batch what follows from a changed row: its slot's digest, and its date of deletion.
    fn stage_digest(
        &self,
        key: &ObjectKey,
        old: Option<&StoredObject>,
        new: Option<&StoredObject>,
        batch: &mut Batch,
    ) -> digests::Change {
        let part = |stored: &StoredObject| Part {
            day: stored.day(),
            digest: stored.digest(key),
        };
        let scope = Scope::Objects(key.policy);
        let table = self.digest_table();
        let change = table.stage(batch, scope, key.slot(), old.map(part), new.map(part));
        expiry::stage(batch, key, old, new);
        change
    }

    /// Moves a damaged body away and marks its row, if the row still is the one that was read.
    pub(crate) fn quarantine(
        &self,
        key: &ObjectKey,
        seen: &StoredObject,
        detail: &str,
    ) -> Result<(), DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        let Some(old) = self
            .get_object(key)?
            .filter(|old| old.location == seen.location)
        else {
            return Ok(());
        };
        if old.row.body != seen.row.body {
            return Ok(());
        }
        tracing::error!(key = key.text(), path = %old.row.path, detail, "a body is damaged and quarantined");
        let marked = StoredObject {
            row: old.row.clone(),
            location: Location::Quarantined,
        };
        let mut batch = Batch::new();
        batch.put(OBJECT, key.bytes(), table::encode(&marked));
        if old.location == Location::Inline {
            batch.delete(BODY, key.bytes());
        }
        self.write_with_digest(key, Some(&old), Some(&marked), batch)?;
        match &old.location {
            Location::File(name) => large::quarantine(self.directory(), name),
            Location::Inline | Location::Nowhere | Location::Quarantined => Ok(()),
        }
    }

    /// Drops a handoff's copy, if it still is the row whose digest every primary has (O5).
    ///
    /// # Errors
    /// When the store or the machine refuses.
    pub fn drop_object(
        &self,
        sum: &KeySum,
        policy: onggi_object_model::PolicyIndex,
    ) -> Result<bool, DeviceError> {
        let hash = onggi_object_ring::PathHash::new(sum.hash);
        let key = ObjectKey {
            policy,
            hash,
            fragment: sum.fragment,
        };
        let file = {
            let _guard = self.stripes().lock(key.slot());
            let Some(old) = self
                .get_object(&key)?
                .filter(|old| old.digest(&key) == sum.digest)
            else {
                return Ok(false);
            };
            self.forget_horizon(Scope::Objects(policy), hash.as_bytes())?;
            let mut batch = Batch::new();
            batch.delete(OBJECT, key.bytes());
            batch.delete(BODY, key.bytes());
            self.write_with_digest(&key, Some(&old), None, batch)?;
            match old.location {
                Location::File(name) => Some(name),
                Location::Inline | Location::Nowhere | Location::Quarantined => None,
            }
        };
        if let Some(name) = file {
            large::remove(self.directory(), &name)?;
        }
        Ok(true)
    }

    /// The rows of a slot, as comparisons send them.
    ///
    /// # Errors
    /// When the store cannot answer, or a row is damaged.
    pub fn object_keys(
        &self,
        policy: onggi_object_model::PolicyIndex,
        slot: Slot,
    ) -> Result<Vec<KeySum>, DeviceError> {
        let horizon = self.horizons().get(Scope::Objects(policy), slot);
        let mut keys = Vec::new();
        self.visit_objects(policy, slot, &mut |key, stored| {
            keys.push(KeySum {
                hash: *key.hash.as_bytes(),
                fragment: key.fragment,
                digest: stored.digest(key),
                timestamps: stored.timestamps(),
                horizon: horizon.at(key.hash.as_bytes()),
            });
        })?;
        Ok(keys)
    }

    /// Shows every row of a slot.
    ///
    /// # Errors
    /// When the store cannot answer, or a row is damaged.
    pub fn visit_objects(
        &self,
        policy: onggi_object_model::PolicyIndex,
        slot: Slot,
        visitor: &mut dyn FnMut(&ObjectKey, &StoredObject),
    ) -> Result<(), DeviceError> {
        let range = unit_range(Scope::Objects(policy), slot.number(), SLOT_BITS);
        let mut failed = None;
        self.reader()
            .visit(OBJECT, &range, Order::Ascending, &mut |key, value| {
                let Some(key) = ObjectKey::from_bytes(key) else {
                    return ControlFlow::Continue(());
                };
                match table::decode::<StoredObject>(value) {
                    Ok(stored) => {
                        visitor(&key, &stored);
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            })?;
        failed.map_or(Ok(()), |error| Err(error.into()))
    }
}

const fn unchanged(newest: Timestamp, is_deletion: bool) -> Merged {
    Merged::Unchanged {
        newest,
        is_deletion,
    }
}

/// The row of a POST: only its metadata, and perhaps its content type, are newer than anything.
#[must_use]
pub fn post_row(
    path: onggi_object_model::ObjectPath,
    at: Timestamp,
    content_type: Option<String>,
    metadata: Metadata,
) -> ObjectRow {
    let content_type_timestamp = if content_type.is_some() {
        at
    } else {
        Timestamp::ZERO
    };
    ObjectRow {
        path,
        data_timestamp: Timestamp::ZERO,
        body: None,
        content_type_timestamp,
        content_type: content_type.unwrap_or_default(),
        metadata_timestamp: at,
        metadata,
    }
}

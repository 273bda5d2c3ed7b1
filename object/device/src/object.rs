//! Objects: reading their rows, and merging new ones in.

use crate::device::Device;
use crate::digests::Part;
use crate::error::DeviceError;
use crate::expiry::{self, Due};
use crate::key::{ObjectKey, unit_range};
use crate::large;
use crate::pending::PendingObject;
use crate::reservation::Commit;
use crate::stored::{Location, StoredObject};
use crate::tables::{BODY, OBJECT, RESERVATION};
use crate::upload::{Finished, Upload};
use core::ops::ControlFlow;
use onggi_common_meta::local::{Batch, Durability, Order};
use onggi_common_meta::table;
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_model::Metadata;
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::merge::{self, Taken};
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

/// How a row is merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merge {
    /// What it has to do with reservations.
    pub guard: Guard,
    /// Change nothing unless an object is there and the new row's metadata is newer: a POST.
    pub if_present: bool,
    /// Change nothing unless the object still is this one, whose date has come.
    pub only_due: Option<Due>,
    /// Remember in the same batch that the container has to be told.
    pub tell_container: bool,
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

/// What is to be written, and what is left to do afterwards.
struct Plan {
    next: StoredObject,
    taken: Taken,
    /// The small body to write with the row.
    small: Option<Vec<u8>>,
    /// The file the old row named, if it does so no more.
    left_file: Option<String>,
    /// Whether the old row's small body has to go.
    drop_small: bool,
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

    /// Begins to take a body.
    ///
    /// # Errors
    /// When there is no space for so many bytes beside the reserve.
    pub fn begin_upload(&self, key: ObjectKey, length: Option<u64>) -> Result<Upload, DeviceError> {
        Upload::begin(self, key, length)
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
        let needed = crate::space::BATCH_BYTES;
        if new.row.body.is_some() && !how.if_present {
            self.space().check(needed)?;
        } else {
            self.space().check_small(needed)?;
        }
        let NewRow { row, body } = new;
        // A large body is made durable before the lock is taken: it takes long, and is nobody else's business.
        let (file_name, small) = self.store_body(key, &row, body)?;
        let outcome = {
            let _guard = self.stripes().lock(key.slot());
            let outcome = self.merge_locked(key, row, file_name.as_deref(), small, how);
            if let Some(name) = &file_name {
                self.with_in_flight(|names| names.remove(name));
            }
            outcome
        };
        let is_kept = matches!(&outcome, Ok((Merged::Changed { taken, .. }, _)) if taken.data);
        if let Some(name) = file_name.filter(|_| !is_kept && outcome.is_ok()) {
            large::remove(self.directory(), &name)?;
        }
        let (merged, left_file) = outcome?;
        if let Some(name) = left_file {
            large::remove(self.directory(), &name)?;
        }
        Ok(merged)
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
        let (merged, left) = self.merge_locked(key, new.row, Some(name), None, how)?;
        if let Some(left) = left {
            large::remove(self.directory(), &left)?;
        }
        Ok(matches!(merged, Merged::Changed { taken, .. } if taken.data))
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

    fn merge_locked(
        &self,
        key: &ObjectKey,
        row: ObjectRow,
        file_name: Option<&str>,
        small: Option<Vec<u8>>,
        how: Merge,
    ) -> Result<(Merged, Option<String>), DeviceError> {
        let old = self.get_object(key)?;
        let was_there = old.as_ref().is_some_and(|old| old.row.body.is_some());
        let newest = old.as_ref().map_or(Timestamp::ZERO, |old| old.row.newest());
        if let Some(refused) = self.judge_guard(key, &row, old.as_ref(), how.guard) {
            return Ok((refused, None));
        }
        if how.if_present && !was_there {
            return Ok((Merged::Absent, None));
        }
        let is_meant = |due: Due| old.as_ref().is_some_and(|old| due.is_of(old));
        if how.only_due.is_some_and(|due| !is_meant(due)) {
            return Ok((Merged::Absent, None));
        }
        // The trace of what was deleted long ago is not taken up again.
        if old.is_none() && row.body.is_none() && self.is_settled(key, &row) {
            return Ok((unchanged(row.newest(), true), None));
        }
        let Some(plan) = plan(old.as_ref(), row, file_name, small, how.if_present)? else {
            return Ok((unchanged(newest, !was_there), None));
        };
        let mut batch = Batch::new();
        batch.put(OBJECT, key.bytes(), table::encode(&plan.next));
        if let Some(small) = plan.small {
            batch.put(BODY, key.bytes(), small);
        } else if plan.drop_small {
            batch.delete(BODY, key.bytes());
        }
        if how.tell_container {
            let container = plan.next.row.path.container_path();
            let mut record = plan.next.row.record();
            if let Some(due) = how.only_due {
                // The line's deletion is as old as the date, not as the bytes.
                let date = Timestamp::from_utc(UtcTime::from_seconds(due.delete_at));
                record.metadata_timestamp = record.metadata_timestamp.max(date);
            }
            PendingObject {
                key: *key,
                container,
                record,
            }
            .stage(&mut batch);
        }
        let is_commit = matches!(how.guard, Guard::Commit { .. });
        if is_commit {
            batch.delete(RESERVATION, key.bytes());
        }
        self.write_with_digest(key, old.as_ref(), Some(&plan.next), batch)?;
        if is_commit {
            self.reservations().forget(key);
        }
        let row = Box::new(plan.next.row);
        Ok((
            Merged::Changed {
                was_there,
                taken: plan.taken,
                row,
            },
            plan.left_file,
        ))
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
                let holds = self.reservations().get(key).is_some_and(|held| {
                    held.token == commit.token && held.stamp == row.newest() && now < held.expires
                });
                if !holds {
                    return Some(Merged::Lapsed);
                }
                let newest = old.map_or(Timestamp::ZERO, |old| old.row.newest());
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
        let part = |stored: &StoredObject| Part {
            day: stored.day(),
            digest: stored.digest(key),
        };
        let scope = Scope::Objects(key.policy);
        let table = self.digest_table();
        let change = table.stage(&mut batch, scope, key.slot(), old.map(part), new.map(part));
        expiry::stage(&mut batch, key, old, new);
        self.store().write(&batch, Durability::Synced)?;
        table.keep(change);
        Ok(())
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
        let horizon = self.horizon(Scope::Objects(policy), slot);
        let mut keys = Vec::new();
        self.visit_objects(policy, slot, &mut |key, stored| {
            keys.push(KeySum {
                hash: *key.hash.as_bytes(),
                fragment: key.fragment,
                digest: stored.digest(key),
                timestamps: stored.timestamps(),
                horizon,
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

/// What merging a row into the old one makes of it; `None` when nothing changes.
fn plan(
    old: Option<&StoredObject>,
    row: ObjectRow,
    file_name: Option<&str>,
    small: Option<Vec<u8>>,
    is_post: bool,
) -> Result<Option<Plan>, DeviceError> {
    let Some(old) = old else {
        let taken = Taken {
            data: true,
            content_type: true,
            metadata: true,
        };
        let location = new_location(&row, file_name, small.is_some())?;
        let next = StoredObject { row, location };
        return Ok(Some(Plan {
            next,
            taken,
            small,
            left_file: None,
            drop_small: false,
        }));
    };
    let mut merged = old.row.clone();
    let mut taken = merge::object_rows(&mut merged, &row);
    // A quarantined copy takes the same bytes again: that is how it heals.
    let heals = old.location == Location::Quarantined
        && row.body.is_some()
        && row.body == merged.body
        && (file_name.is_some() || small.is_some());
    taken.data |= heals;
    if !taken.any() || (is_post && !taken.metadata) {
        return Ok(None);
    }
    if !taken.data {
        let next = StoredObject {
            row: merged,
            location: old.location.clone(),
        };
        let (left_file, drop_small) = (None, false);
        return Ok(Some(Plan {
            next,
            taken,
            small: None,
            left_file,
            drop_small,
        }));
    }
    let location = new_location(&merged, file_name, small.is_some())?;
    let left_file = match &old.location {
        Location::File(name) => Some(name.clone()),
        Location::Inline | Location::Nowhere | Location::Quarantined => None,
    };
    let drop_small = old.location == Location::Inline;
    let next = StoredObject {
        row: merged,
        location,
    };
    Ok(Some(Plan {
        next,
        taken,
        small,
        left_file,
        drop_small,
    }))
}

fn new_location(
    row: &ObjectRow,
    file_name: Option<&str>,
    is_small: bool,
) -> Result<Location, DeviceError> {
    match (&row.body, file_name) {
        (None, _) => Ok(Location::Nowhere),
        (Some(_), Some(name)) => Ok(Location::File(name.to_owned())),
        (Some(_), None) if is_small => Ok(Location::Inline),
        (Some(body), None) => Err(DeviceError::BodyMissing {
            length: body.length,
        }),
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

//! Reclaim in containers and accounts ([`crate::reclaim`] says the rule): the records of what was deleted, and containers
//! and accounts that were deleted themselves.
//!
//! A roster counts the traces of each day apart ([`RosterRow::traces`](crate::RosterRow)), and so do the digests of its slot;
//! so replicas that let go of a day at different times hold the same in between. A deleted roster leaves as a whole, with
//! its change log and sync points. One that still has a record of something that is there stays, and so does one whose
//! account has not been told yet.

use crate::device::Device;
use crate::error::{DeviceError, io_at};
use crate::format::QUARANTINE;
use crate::horizons::{Cover, Horizon};
use crate::key::{RosterKey, RosterKind, horizon_key};
use crate::pending;
use crate::roster::{decode_record, is_settled, roster_digest};
use crate::tables::{CHANGE, HORIZON, RECORD};
use core::ops::ControlFlow;
use onggi_common_host::durable;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Order};
use onggi_object_model::ObjectRecord;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::replication::KeySum;
use onggi_object_wire::rows::Record;
use onggi_object_wire::{Digest, Slot};
use std::io::{BufWriter, Write as _};

/// Records looked at while a roster is locked; then others get their turn.
const RECORDS_AT_ONCE: usize = 10_000;

impl Device {
    /// Raises the horizon of a slot, or of a part of it, and lets go of the traces it settles in containers or accounts; how
    /// many. The caller has seen that every primary holds the same.
    ///
    /// # Errors
    /// When the store refuses, or a row is damaged.
    pub fn reclaim_rosters(
        &self,
        kind: RosterKind,
        part: &(Slot, Cover),
        horizon: u16,
    ) -> Result<u64, DeviceError> {
        let scope = kind.scope();
        if self.is_settled_to(scope, part, horizon) {
            return Ok(0);
        }
        let (slot, cover) = part;
        let mut count = 0;
        if self.digest_table().has_settled(scope, *slot, horizon) {
            let mut sums = self.roster_keys(kind, *slot, horizon)?;
            sums.retain(|sum| cover.has(&sum.hash));
            for sum in sums {
                let key = RosterKey {
                    kind,
                    hash: onggi_object_ring::PathHash::new(sum.hash),
                };
                count += match kind {
                    RosterKind::Container => self.reclaim_roster::<ObjectRecord>(&key, horizon),
                    RosterKind::Account => self.reclaim_roster::<CountedContainer>(&key, horizon),
                }?;
            }
        }
        let _guard = self.stripes().lock(*slot);
        let horizon = Horizon {
            day: horizon,
            cover: cover.clone(),
        };
        let mut batch = Batch::new();
        batch.put(HORIZON, horizon_key(scope, *slot), horizon.encode());
        // Comes after what was let go of; when a power cut takes it back, it is raised again.
        self.store().write(&batch, Durability::Lazy)?;
        self.horizons().keep(scope, *slot, horizon);
        Ok(count)
    }

    fn reclaim_roster<R: Record>(&self, key: &RosterKey, horizon: u16) -> Result<u64, DeviceError> {
        {
            let _guard = self.stripes().lock(key.slot());
            let Some(row) = self.roster(key)? else {
                return Ok(0);
            };
            if row.trace_day().is_some_and(|day| day <= horizon) {
                if pending::is_roster_pending(self, key)? {
                    return Ok(0);
                }
                self.remove_roster(key, &row, Durability::Lazy)?;
                return Ok(1);
            }
            if row.traces.range(..=horizon).next().is_none() {
                return Ok(0);
            }
        }
        let whole = KeyRange::prefix(key.record_prefix());
        let mut count = 0;
        let mut rest = Some(whole.clone());
        while let Some(range) = rest {
            let (gone, last) = self.reclaim_records::<R>(key, &range, horizon)?;
            count += gone;
            rest = last.map(|last| whole.resume_after(&last));
        }
        Ok(count)
    }

    /// Lets go of settled traces among the next records of a range; how many, and where to go on.
    fn reclaim_records<R: Record>(
        &self,
        key: &RosterKey,
        range: &KeyRange,
        horizon: u16,
    ) -> Result<(u64, Option<Vec<u8>>), DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        let Some(before) = self.roster(key)? else {
            return Ok((0, None));
        };
        let mut after = before.clone();
        let mut batch = Batch::new();
        let (mut seen, mut count, mut last, mut failed) = (0, 0, None, None);
        self.reader()
            .visit(RECORD, range, Order::Ascending, &mut |stored_key, value| {
                match decode_record::<R>(value) {
                    Ok((record, sequence)) if is_settled(&record, horizon) => {
                        batch.delete(RECORD, stored_key);
                        batch.delete(CHANGE, key.change(sequence));
                        after.count(&record, false);
                        count += 1;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                seen += 1;
                if seen < RECORDS_AT_ONCE {
                    return ControlFlow::Continue(());
                }
                last = Some(stored_key.to_vec());
                ControlFlow::Break(())
            })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if count > 0 {
            self.write_roster(key, Some(&before), &after, batch, Durability::Lazy)?;
        }
        Ok((count, last))
    }

    /// Whether a container or account that this device does not have, and a peer has, may have been deleted and reclaimed.
    #[must_use]
    pub fn is_stale_roster(&self, kind: RosterKind, sum: &KeySum) -> bool {
        let horizon = self.horizon(kind.scope(), &sum.hash);
        let [_, _, newest] = sum.timestamps;
        let is_old = sum.horizon < horizon && crate::roster_row::trace_day(newest) <= horizon;
        is_old || self.aside().has(kind.scope(), sum)
    }

    /// Whether a peer's container or account is the trace of a deletion that is settled here.
    #[must_use]
    pub fn is_settled_roster(&self, kind: RosterKind, sum: &KeySum) -> bool {
        let horizon = self.horizon(kind.scope(), &sum.hash);
        let [_, deleted, _] = sum.timestamps;
        deleted > onggi_common_units::Timestamp::ZERO
            && crate::roster_row::trace_day(deleted) <= horizon
    }

    /// Takes a container or account out of service that may have been deleted long ago, if it still has this digest above
    /// the horizon. What it listed is written to `quarantine/`, a line for each record, for people to look at. True when
    /// it was there.
    ///
    /// # Errors
    /// When the store or the machine refuses.
    pub fn set_roster_aside(
        &self,
        key: &RosterKey,
        digest: Digest,
        horizon: u16,
    ) -> Result<bool, DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        let row = self.roster(key)?;
        let Some(row) = row.filter(|row| roster_digest(key, row, horizon) == digest) else {
            return Ok(false);
        };
        match key.kind {
            RosterKind::Container => self.write_lines::<ObjectRecord>(key)?,
            RosterKind::Account => self.write_lines::<CountedContainer>(key)?,
        }
        self.remove_roster(key, &row, Durability::Synced)?;
        self.aside()
            .keep(key.kind.scope(), *key.hash.as_bytes(), digest);
        tracing::warn!(account = %row.account, container = ?row.container, "a container or account that its primaries may have deleted long ago is set aside in quarantine/");
        Ok(true)
    }

    fn write_lines<R: Record>(&self, key: &RosterKey) -> Result<(), DeviceError> {
        let name = onggi_object_wire::head::to_hex(&key.bytes());
        let folder = self.directory().join(QUARANTINE);
        let path = folder.join(format!("{name}.{}.records", self.unique()));
        let failed = |source| io_at("writing", &path)(source);
        let mut file = BufWriter::new(std::fs::File::create(&path).map_err(failed)?);
        let mut wrong = None;
        self.visit_records::<R>(key, None, None, &mut |record| {
            if record.is_live() && wrong.is_none() {
                wrong = writeln!(file, "{record:?}").err();
            }
        })?;
        wrong.map_or(Ok(()), |error| Err(failed(error)))?;
        let file = file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        durable::sync_dir(&folder).map_err(|error| io_at("syncing", &error.path)(error.source))
    }

    /// Lets go of records that a peer has called stale, if they are as they were sent; how many.
    ///
    /// # Errors
    /// When the store refuses, or a row is damaged.
    pub fn drop_stale_records<R: Record>(
        &self,
        key: &RosterKey,
        records: &[R],
    ) -> Result<u64, DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        let Some(before) = self.roster(key)? else {
            return Ok(0);
        };
        let mut after = before.clone();
        let mut batch = Batch::new();
        let mut count = 0;
        for record in records {
            let stored_key = key.record(record.name());
            let Some(bytes) = self.reader().get(RECORD, &stored_key)? else {
                continue;
            };
            let (found, sequence) = decode_record::<R>(&bytes)?;
            if found != *record {
                continue;
            }
            batch.delete(RECORD, stored_key);
            batch.delete(CHANGE, key.change(sequence));
            after.count(record, false);
            count += 1;
            tracing::warn!(account = %before.account, container = ?before.container, ?record, "a record that peers may have deleted long ago is let go");
        }
        if count > 0 {
            self.write_roster(key, Some(&before), &after, batch, Durability::Synced)?;
        }
        Ok(count)
    }
}

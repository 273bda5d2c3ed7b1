//! Containers and accounts: their rows, records, change logs and sync points.
//!
//! A record is stored with the sequence number of its last change; the change log holds one entry per record, under that
//! number. So what a peer lacks since its sync point is one range of the log.

use crate::container_sync;
use crate::device::{Device, snapshot};
use crate::digests::{self, Part};
use crate::error::DeviceError;
use crate::key::{RosterKey, RosterKind};
use crate::misplaced;
use crate::pending;
use crate::recent::Taken;
use crate::roster_row::{RosterRow, trace_day};
use crate::tables::{CHANGE, RECORD, ROSTER, SYNC};
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Limit, Order};
use onggi_common_meta::table;
use onggi_common_units::Timestamp;
use onggi_object_model::PolicyIndex;
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::replication::{KeySum, Run};
use onggi_object_wire::rows::Record;
use onggi_object_wire::{Digest, Slot};

/// What a change of a roster did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The row as it was, if there was one.
    pub before: Option<RosterRow>,
    /// The row as it is now.
    pub after: RosterRow,
}

impl Changed {
    /// Whether it was there before.
    #[must_use]
    pub fn was_there(&self) -> bool {
        self.before.as_ref().is_some_and(RosterRow::exists)
    }
}

/// What a change decides to do.
pub enum Decision {
    /// Write the row as it was changed.
    Write,
    /// Leave everything as it is.
    Leave,
}

pub(crate) fn encode_record<R: Record>(record: &R, sequence: u64) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u64(sequence);
    record.encode(&mut writer);
    writer.finish()
}

pub(crate) fn decode_record<R: Record>(bytes: &[u8]) -> Result<(R, u64), CodecError> {
    let mut reader = Reader::new(bytes);
    let sequence = reader.u64(R::NAME)?;
    let record = R::decode(&mut reader)?;
    reader.end(R::NAME)?;
    Ok((record, sequence))
}

/// A roster's digest as comparisons of rows send it, without traces of days up to the horizon.
pub(crate) fn roster_digest(key: &RosterKey, row: &RosterRow, horizon: u16) -> Digest {
    let mut writer = Writer::new();
    writer.raw(&key.bytes());
    writer.u128(row.digest_above(horizon).value());
    Digest::of(&writer.finish())
}

/// What a roster adds to the digests of its slot: itself with what is listed in it, and the traces of each day. Those of a
/// roster that is a trace itself leave with it, if not before.
pub(crate) fn parts(key: &RosterKey, row: &RosterRow) -> Vec<Part> {
    let of = |day: u16, sum: Digest| {
        let mut writer = Writer::new();
        writer.raw(&key.bytes());
        writer.u16(day);
        writer.u128(sum.value());
        Digest::of(&writer.finish())
    };
    let own = row.trace_day();
    let mut parts = vec![Part {
        day: own.unwrap_or(0),
        digest: of(0, row.live_digest()),
    }];
    parts.extend(row.traces.iter().map(|(day, sum)| Part {
        day: own.map_or(*day, |own| own.min(*day)),
        digest: of(*day, *sum),
    }));
    parts
}

/// Records that come in, as [`Device::merge_news`] takes them.
#[derive(Debug)]
pub(crate) struct News<'a, R> {
    pub(crate) theirs: Option<&'a RosterRow>,
    pub(crate) records: &'a [R],
    pub(crate) known: u16,
    /// The policy the objects are under, of news from objects.
    pub(crate) policy: Option<PolicyIndex>,
}

/// What became of news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The roster as it is now.
    pub row: RosterRow,
    /// The places, among the records that came, of those that were not taken up because they may be of what was deleted
    /// and reclaimed meanwhile.
    pub stale: Vec<usize>,
}

impl Device {
    /// The row of a container or account, if there is one; also of a deleted one.
    ///
    /// # Errors
    /// When the store cannot answer, or the row is damaged.
    pub fn roster(&self, key: &RosterKey) -> Result<Option<RosterRow>, DeviceError> {
        let bytes = self.reader().get(ROSTER, &key.bytes())?;
        Ok(bytes.map(|bytes| table::decode(&bytes)).transpose()?)
    }

    /// Changes the row of a container or account in one step. `change` gets the row as it is (`blank` when there is
    /// none) and decides. A container that was changed has its account told.
    ///
    /// # Errors
    /// When there is no space, or the store refuses.
    pub fn change_roster(
        &self,
        key: &RosterKey,
        blank: RosterRow,
        change: impl FnOnce(&mut RosterRow) -> Decision,
    ) -> Result<Changed, DeviceError> {
        self.space().check_small(crate::space::BATCH_BYTES)?;
        let _guard = self.stripes().lock(key.slot());
        let before = self.roster(key)?;
        let mut after = before.clone().unwrap_or(blank);
        match change(&mut after) {
            Decision::Leave => Ok(Changed {
                after: before.clone().unwrap_or(after),
                before,
            }),
            Decision::Write => {
                let (old, batch) = (before.as_ref(), Batch::new());
                self.write_roster(key, old, &after, batch, Durability::Synced)?;
                Ok(Changed { before, after })
            }
        }
    }

    pub(crate) fn write_roster(
        &self,
        key: &RosterKey,
        before: Option<&RosterRow>,
        after: &RosterRow,
        mut batch: Batch,
        durability: Durability,
    ) -> Result<(), DeviceError> {
        let change = self.stage_roster(key, before, after, &mut batch);
        self.store().write(&batch, durability)?;
        self.digest_table().keep(change);
        Ok(())
    }

    fn stage_roster(
        &self,
        key: &RosterKey,
        before: Option<&RosterRow>,
        after: &RosterRow,
        batch: &mut Batch,
    ) -> digests::Change {
        batch.put(ROSTER, key.bytes(), table::encode(after));
        if key.kind == RosterKind::Container && before.map(RosterRow::told) != Some(after.told()) {
            pending::stage_roster(batch, key);
        }
        container_sync::stage(batch, key, before, after);
        let old = before.map(|row| parts(key, row)).unwrap_or_default();
        let scope = key.kind.scope();
        self.digest_table()
            .stage(batch, scope, key.slot(), old, parts(key, after))
    }

    /// Merges records into a roster, all of them in one batch, and the row of a peer's copy if there is one. `None` when
    /// there is no such roster and no row to begin it with.
    ///
    /// # Errors
    /// When there is no space, or the store refuses.
    pub fn merge_records<R: Record>(
        &self,
        key: &RosterKey,
        theirs: Option<&RosterRow>,
        records: &[R],
    ) -> Result<Option<RosterRow>, DeviceError> {
        let told = self.merge_news(key, theirs, records, u16::MAX)?;
        Ok(told.map(|told| told.row))
    }

    /// The same for news of somebody who has surely heard of every deletion up to the day `known` (since 1970), and perhaps
    /// not of later ones. Records that are not here are not taken up when they are traces of deletions that are settled,
    /// or older than the roster's horizon with that ahead of `known`: then they may be of what was deleted and reclaimed
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Device::merge_records`].
    pub fn merge_news<R: Record>(
        &self,
        key: &RosterKey,
        theirs: Option<&RosterRow>,
        records: &[R],
        known: u16,
    ) -> Result<Option<Told>, DeviceError> {
        self.space().check_small(crate::space::BATCH_BYTES)?;
        let _guard = self.stripes().lock(key.slot());
        let mut batch = Batch::new();
        let news = News {
            theirs,
            records,
            known,
            policy: None,
        };
        let (told, change) = self.stage_records(key, news, &mut batch)?;
        if !batch.is_empty() {
            self.store().write(&batch, Durability::Synced)?;
        }
        if let Some(change) = change {
            self.digest_table().keep(change);
        }
        Ok(told)
    }

    /// Puts into the batch what merging records makes of a roster; nothing when it changes nothing. The caller holds the
    /// roster's stripe, and writes.
    pub(crate) fn stage_records<R: Record>(
        &self,
        key: &RosterKey,
        news: News<'_, R>,
        batch: &mut Batch,
    ) -> Result<(Option<Told>, Option<digests::Change>), DeviceError> {
        let (theirs, records) = (news.theirs, news.records);
        let before = self.roster(key)?;
        let horizon = self.horizon(key.kind.scope(), key.hash.as_bytes());
        let is_settled = |row: &RosterRow| row.trace_day().is_some_and(|day| day <= horizon);
        let is_trace = theirs.is_some_and(is_settled) && !records.iter().any(R::is_live);
        if before.is_none() && is_trace {
            return Ok((None, None));
        }
        let Some(mut row) = before.clone().or_else(|| {
            theirs.map(|theirs| RosterRow::new(theirs.account.clone(), theirs.container.clone()))
        }) else {
            return Ok((None, None));
        };
        if theirs.is_none() && !is_told(key.kind, &row, records) {
            return Ok((None, None));
        }
        let mut is_changed = before.is_none();
        if let Some(theirs) = theirs {
            is_changed |= row.merge(theirs);
        }
        let mut merger = Merger {
            device: self,
            key,
            row: &mut row,
            batch,
            horizon,
            known: news.known,
            stale: Vec::new(),
            taken: Taken::new(*key),
        };
        for record in one_per_name(records) {
            is_changed |= merger.merge(record)?;
        }
        let (names, taken) = (merger.stale, merger.taken);
        misplaced::stage(batch, key, before.as_ref(), &row, &news);
        let change = is_changed.then(|| {
            let change = self.stage_roster(key, before.as_ref(), &row, batch);
            change.with_taken(taken)
        });
        let is_stale = |(index, record): (usize, &R)| {
            let is_named = names.iter().any(|name| name == record.name());
            is_named.then_some(index)
        };
        let stale = if names.is_empty() {
            Vec::new()
        } else {
            records.iter().enumerate().filter_map(is_stale).collect()
        };
        Ok((Some(Told { row, stale }), change))
    }

    /// One record of a roster.
    ///
    /// # Errors
    /// When the store cannot answer, or the record is damaged.
    pub fn record<R: Record>(&self, key: &RosterKey, name: &str) -> Result<Option<R>, DeviceError> {
        let bytes = self.reader().get(RECORD, &key.record(name))?;
        let record = bytes.map(|bytes| decode_record(&bytes)).transpose()?;
        Ok(record.map(|(record, _)| record))
    }

    /// The next records changed after a sequence number, at most so many, and the number of the last of them.
    ///
    /// # Errors
    /// When the store cannot answer, or a record is damaged.
    pub fn changes<R: Record>(
        &self,
        key: &RosterKey,
        after: u64,
        limit: usize,
    ) -> Result<(Vec<R>, u64), DeviceError> {
        let view = snapshot(self);
        let range = KeyRange::prefix(key.bytes()).resume_after(&key.change(after));
        let page = view.scan(CHANGE, &range, Order::Ascending, Limit::rows(limit))?;
        let mut last = after;
        let mut records = Vec::with_capacity(page.rows.len());
        for entry in &page.rows {
            let malformed = CodecError::Malformed {
                what: "a change log's entry",
            };
            let name = core::str::from_utf8(&entry.value)
                .ok()
                .ok_or_else(|| malformed.clone())?;
            if let Some(bytes) = view.get(RECORD, &key.record(name))? {
                records.push(decode_record(&bytes)?.0);
            }
            let sequence = entry.key.last_chunk::<8>().copied().ok_or(malformed)?;
            last = u64::from_be_bytes(sequence);
        }
        Ok((records, last))
    }

    /// How far of the change log a peer is known to have.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub fn sync_point(&self, key: &RosterKey, peer: &[u8; 16]) -> Result<u64, DeviceError> {
        let bytes = self.reader().get(SYNC, &key.sync(peer))?;
        let point = bytes
            .as_deref()
            .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        Ok(point.map_or(0, u64::from_be_bytes))
    }

    /// Remembers how far of the change log a peer has. Forgetting it only costs work.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn set_sync_point(
        &self,
        key: &RosterKey,
        peer: &[u8; 16],
        sequence: u64,
    ) -> Result<(), DeviceError> {
        let mut batch = Batch::new();
        batch.put(SYNC, key.sync(peer), sequence.to_be_bytes());
        Ok(self.store().write(&batch, Durability::Lazy)?)
    }

    /// The rosters of a slot, as comparisons send them, without traces of days up to the horizon in their digests.
    ///
    /// # Errors
    /// When the store cannot answer, or a row is damaged.
    pub fn roster_keys(
        &self,
        kind: RosterKind,
        slot: Slot,
        horizon: u16,
    ) -> Result<Vec<KeySum>, DeviceError> {
        let own_horizon = self.horizons().get(kind.scope(), slot);
        let mut keys = Vec::new();
        self.visit_rosters(kind, slot, &mut |key, row| {
            keys.push(KeySum {
                hash: *key.hash.as_bytes(),
                fragment: onggi_object_wire::object::WHOLE,
                digest: roster_digest(key, row, horizon),
                timestamps: [
                    row.put_timestamp,
                    row.trace_day()
                        .map_or(Timestamp::ZERO, |_| row.delete_timestamp),
                    row.newest(),
                ],
                horizon: own_horizon.at(key.hash.as_bytes()),
            });
        })?;
        Ok(keys)
    }

    /// The digests of a roster's records in runs of at most so many, without traces of days up to the horizon.
    ///
    /// # Errors
    /// When the store cannot answer, or a record is damaged.
    pub fn record_runs<R: Record>(
        &self,
        key: &RosterKey,
        run_length: usize,
        horizon: u16,
    ) -> Result<Vec<Run>, DeviceError> {
        let mut runs = Vec::new();
        let mut sum = Digest::EMPTY;
        let mut count = 0;
        self.visit_records::<R>(key, None, None, &mut |record| {
            if !is_settled(record, horizon) {
                sum += record.digest();
            }
            count += 1;
            if count == run_length {
                runs.push(Run {
                    last: Some(record.name().to_owned()),
                    digest: sum,
                });
                (sum, count) = (Digest::EMPTY, 0);
            }
        })?;
        runs.push(Run {
            last: None,
            digest: sum,
        });
        Ok(runs)
    }

    /// The digest of the records after a name, up to and with another, without traces of days up to the horizon.
    ///
    /// # Errors
    /// When the store cannot answer, or a record is damaged.
    pub fn run_digest<R: Record>(
        &self,
        key: &RosterKey,
        after: Option<&str>,
        last: Option<&str>,
        horizon: u16,
    ) -> Result<Digest, DeviceError> {
        let mut sum = Digest::EMPTY;
        self.visit_records::<R>(key, after, last, &mut |record| {
            if !is_settled(record, horizon) {
                sum += record.digest();
            }
        })?;
        Ok(sum)
    }

    /// Shows the records after a name, up to and with another.
    ///
    /// # Errors
    /// When the store cannot answer, or a record is damaged.
    pub fn visit_records<R: Record>(
        &self,
        key: &RosterKey,
        after: Option<&str>,
        last: Option<&str>,
        visitor: &mut dyn FnMut(&R),
    ) -> Result<(), DeviceError> {
        let all = KeyRange::prefix(key.record_prefix());
        let from = after.map_or_else(|| all.clone(), |name| all.resume_after(&key.record(name)));
        let mut failed = None;
        let prefix_bytes = key.record_prefix().len();
        self.reader()
            .visit(RECORD, &from, Order::Ascending, &mut |stored_key, value| {
                if last.is_some_and(|last| stored_key.get(prefix_bytes..) > Some(last.as_bytes())) {
                    return ControlFlow::Break(());
                }
                match decode_record::<R>(value) {
                    Ok((record, _)) => {
                        visitor(&record);
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

    /// Drops a handoff's copy of a roster, if it still has this digest, which every primary has (O5).
    ///
    /// # Errors
    /// When the store refuses.
    pub fn drop_roster(&self, key: &RosterKey, digest: Digest) -> Result<bool, DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        let Some(row) = self
            .roster(key)?
            .filter(|row| roster_digest(key, row, 0) == digest)
        else {
            return Ok(false);
        };
        self.forget_horizon(key.kind.scope(), key.hash.as_bytes())?;
        self.remove_roster(key, &row, Durability::Synced)?;
        Ok(true)
    }

    /// Takes a roster away with all that belongs to it. The caller holds its stripe.
    pub(crate) fn remove_roster(
        &self,
        key: &RosterKey,
        row: &RosterRow,
        durability: Durability,
    ) -> Result<(), DeviceError> {
        let mut batch = Batch::new();
        batch.delete(ROSTER, key.bytes());
        for table in [RECORD, CHANGE, SYNC] {
            batch.delete_range(table, KeyRange::prefix(key.bytes()));
        }
        container_sync::stage_drop(&mut batch, key);
        let digests = self.digest_table();
        let (scope, nothing) = (key.kind.scope(), Vec::new());
        let change = digests.stage(&mut batch, scope, key.slot(), parts(key, row), nothing);
        self.store().write(&batch, durability)?;
        digests.recent().forget(key);
        digests.keep(change);
        Ok(())
    }
}

/// Whether a container or account takes news. A deleted container is not there for those who put objects, but hears that
/// what it may still have is gone. A deleted account hears of every container, so that its reaper does.
fn is_told<R: Record>(kind: RosterKind, row: &RosterRow, records: &[R]) -> bool {
    row.exists()
        || match kind {
            RosterKind::Account => row.is_deleted(),
            RosterKind::Container => row.is_deleted() && !records.iter().any(R::is_live),
        }
}

/// Whether a record is the trace of a deletion up to the horizon.
pub(crate) fn is_settled<R: Record>(record: &R, horizon: u16) -> bool {
    !record.is_live() && trace_day(record.newest()) <= horizon
}

/// The records with those of one name merged, so that a batch writes each once.
fn one_per_name<R: Record>(records: &[R]) -> Vec<R> {
    let mut sorted: Vec<R> = records.to_vec();
    sorted.sort_by(|a, b| a.name().cmp(b.name()));
    let mut unique: Vec<R> = Vec::with_capacity(sorted.len());
    for record in sorted {
        match unique.last_mut() {
            Some(last) if last.name() == record.name() => {
                last.merge(&record);
            }
            Some(_) | None => unique.push(record),
        }
    }
    unique
}

/// Merges records into a row's totals and a batch.
struct Merger<'a> {
    device: &'a Device,
    key: &'a RosterKey,
    row: &'a mut RosterRow,
    batch: &'a mut Batch,
    /// The last day whose traces are settled here, and the last of whose deletions the sender has heard.
    horizon: u16,
    known: u16,
    /// Names of records that were not taken up because they may be of what was reclaimed.
    stale: Vec<String>,
    taken: Taken,
}

impl Merger<'_> {
    fn merge<R: Record>(&mut self, record: R) -> Result<bool, DeviceError> {
        let stored_key = self.key.record(record.name());
        let old = self.device.reader().get(RECORD, &stored_key)?;
        let old: Option<(R, u64)> = old.map(|bytes| decode_record(&bytes)).transpose()?;
        if old.is_none() && trace_day(record.newest()) <= self.horizon {
            let is_stale = record.is_live() && self.known < self.horizon;
            if is_stale {
                self.stale.push(record.name().to_owned());
            }
            if is_stale || !record.is_live() {
                return Ok(false);
            }
        }
        let mut merged = old
            .as_ref()
            .map_or_else(|| record.clone(), |(old, _)| old.clone());
        if old.is_some() && !merged.merge(&record) {
            return Ok(false);
        }
        let mut added = Digest::EMPTY;
        if let Some((old, sequence)) = &old {
            added -= self.row.count(old, false);
            self.batch.delete(CHANGE, self.key.change(*sequence));
        }
        added += self.row.count(&merged, true);
        let sequence = self.row.next_sequence;
        self.taken.note(merged.newest(), added, sequence);
        self.row.next_sequence = sequence.saturating_add(1);
        self.batch
            .put(CHANGE, self.key.change(sequence), merged.name().as_bytes());
        self.batch
            .put(RECORD, stored_key, encode_record(&merged, sequence));
        Ok(true)
    }
}

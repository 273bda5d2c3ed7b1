//! Reclaim: how tombstones leave, a whole day at a time, and no deletion comes back (O6).
//!
//! A slot's *horizon* is the last day whose tombstones are settled there. A device raises it, and lets these tombstones go
//! in the same batch, only when every primary of the partition was seen to hold the same objects. From then on an object
//! older than the horizon that this device does not have, and that comes from a device whose horizon is behind, was either
//! deleted in the meantime or never arrived; it is not taken up. The sender sets its copy aside, in `quarantine/`, where
//! nothing is lost and nothing is served. A stand-in that drops a copy, because the primaries hold it, forgets its horizon:
//! should it be a primary again, what it lacks is no sign of a deletion.

use crate::device::Device;
use crate::error::DeviceError;
use crate::format::QUARANTINE;
use crate::key::{ObjectKey, horizon_key, parse_horizon_key};
use crate::large::{self, Incoming};
use crate::stored::{Location, StoredObject, day_of, trace_day};
use crate::stripes::Stripes;
use crate::tables::{BODY, HORIZON, OBJECT};
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Order, Store};
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_model::PolicyIndex;
use onggi_object_wire::body::BodyHash;
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::replication::{KeySum, Scope};
use onggi_object_wire::{ChunkHasher, Digest, ObjectRow, Slot};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Rows that are remembered after they were set aside.
const ASIDE_MAX: usize = 10_000;
/// The row that says when the device was alive last.
const ALIVE: &[u8] = b"alive";

/// The horizons of a device's slots, as its table has them: by scope a day for each slot.
#[derive(Debug)]
pub(crate) struct Horizons(Mutex<BTreeMap<Scope, Vec<u16>>>);

fn place_of(slot: Slot) -> usize {
    usize::try_from(slot.number()).unwrap_or(usize::MAX)
}

fn set(days: &mut BTreeMap<Scope, Vec<u16>>, scope: Scope, slot: Slot, day: u16) {
    let days = days.entry(scope).or_insert_with(|| vec![0; 1 << SLOT_BITS]);
    if let Some(known) = days.get_mut(place_of(slot)) {
        *known = day;
    }
}

impl Horizons {
    pub(crate) fn load(store: &dyn Store) -> Result<Self, DeviceError> {
        let mut days = BTreeMap::new();
        store.visit(
            HORIZON,
            &KeyRange::all(),
            Order::Ascending,
            &mut |key, value| {
                let day = value.try_into().map(u16::from_be_bytes);
                if let (Some((scope, slot)), Ok(day)) = (parse_horizon_key(key), day) {
                    set(&mut days, scope, slot, day);
                }
                ControlFlow::Continue(())
            },
        )?;
        Ok(Self(Mutex::new(days)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Scope, Vec<u16>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn get(&self, scope: Scope, slot: Slot) -> u16 {
        let day = self.with(|days| days.get(&scope)?.get(place_of(slot)).copied());
        day.unwrap_or(0)
    }

    /// The units of so many bits whose first slot is behind.
    fn behind(&self, scope: Scope, bits: u32, horizon: u16) -> Vec<u32> {
        let bits = bits.min(SLOT_BITS);
        let count = 1 << bits;
        self.with(|days| match days.get(&scope) {
            Some(days) => {
                let firsts = days.iter().step_by(1 << (SLOT_BITS - bits));
                let units = (0..count).zip(firsts);
                let behind = units.filter(|(_, day)| **day < horizon);
                behind.map(|(unit, _)| unit).collect()
            }
            None if horizon == 0 => Vec::new(),
            None => (0..count).collect(),
        })
    }

    /// The slot has no horizon any more.
    fn forget(&self, scope: Scope, slot: Slot) {
        self.keep(scope, slot, 0);
    }

    pub(crate) fn keep(&self, scope: Scope, slot: Slot, day: u16) {
        self.with(|days| set(days, scope, slot, day));
    }
}

/// What was set aside lately, by the row's place and digest. Another device that had it from this one must not bring it
/// back: these two could not agree, so neither would have a horizon to refuse it by, and they would give it to each other
/// by turns for ever. A restart forgets it, and it is set aside once more.
#[derive(Debug, Default)]
pub(crate) struct Aside(Mutex<AsideRows>);

type AsideRow = (Scope, [u8; 16], Digest);

#[derive(Debug, Default)]
struct AsideRows {
    known: HashSet<AsideRow>,
    /// In the order in which they came.
    order: VecDeque<AsideRow>,
}

impl Aside {
    pub(crate) fn keep(&self, scope: Scope, hash: [u8; 16], digest: Digest) {
        let row = (scope, hash, digest);
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if rows.known.insert(row) {
            rows.order.push_back(row);
        }
        if rows.order.len() > ASIDE_MAX
            && let Some(oldest) = rows.order.pop_front()
        {
            rows.known.remove(&oldest);
        }
    }

    pub(crate) fn has(&self, scope: Scope, sum: &KeySum) -> bool {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rows.known.contains(&(scope, sum.hash, sum.digest))
    }
}

/// The last day whose tombstones are older than so many whole days at this moment.
#[must_use]
pub fn horizon_at(now: UtcTime, reclaim_age_days: u16) -> u16 {
    // A day counts from its end.
    day_of(now.seconds())
        .saturating_sub(reclaim_age_days)
        .saturating_sub(1)
}

impl Device {
    /// The last day whose tombstones are settled in a slot; 0: none is.
    #[must_use]
    pub fn horizon(&self, scope: Scope, slot: Slot) -> u16 {
        self.horizons().get(scope, slot)
    }

    /// The units of so many bits (at most the slot bits) whose horizon is before this day.
    #[must_use]
    pub fn units_behind(&self, scope: Scope, bits: u32, horizon: u16) -> Vec<u32> {
        self.horizons().behind(scope, bits, horizon)
    }

    /// Forgets a slot's horizon, before something is dropped that others hold: from then on what is not here may well be
    /// there. The caller holds the slot's stripe.
    pub(crate) fn forget_horizon(&self, scope: Scope, slot: Slot) -> Result<(), DeviceError> {
        if self.horizon(scope, slot) == 0 {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete(HORIZON, horizon_key(scope, slot));
        // What is dropped afterwards is not durable before this is.
        self.store().write(&batch, Durability::Lazy)?;
        self.horizons().forget(scope, slot);
        Ok(())
    }

    /// Whether a trace is older than what is settled in its slot.
    pub(crate) fn is_settled(&self, key: &ObjectKey, row: &ObjectRow) -> bool {
        trace_day(row) <= self.horizon(Scope::Objects(key.policy), key.slot())
    }

    /// Whether a row that this device does not have, and a peer has, may be what a reclaimed tombstone deleted.
    #[must_use]
    pub fn is_stale(&self, policy: PolicyIndex, sum: &KeySum) -> bool {
        let horizon = self.horizon(Scope::Objects(policy), Slot::of(&sum.hash));
        let newest = sum.timestamps.into_iter().max().unwrap_or(Timestamp::ZERO);
        let is_old = sum.horizon < horizon && day_of(newest.to_utc().seconds()) <= horizon;
        is_old || self.aside().has(Scope::Objects(policy), sum)
    }

    /// Raises the horizon of those of these slots that have nothing to let go of, many in one write; the others are left to
    /// [`Self::reclaim`] or [`Self::reclaim_rosters`]. The caller has seen that every primary holds the same.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn raise_horizons(
        &self,
        scope: Scope,
        slots: impl IntoIterator<Item = Slot>,
        horizon: u16,
    ) -> Result<Vec<Slot>, DeviceError> {
        let mut by_stripe: BTreeMap<usize, Vec<Slot>> = BTreeMap::new();
        for slot in slots {
            by_stripe
                .entry(Stripes::index(slot))
                .or_default()
                .push(slot);
        }
        let mut left = Vec::new();
        for (stripe, slots) in by_stripe {
            let _guards = self.stripes().lock_all(&BTreeSet::from([stripe]));
            let (mut batch, mut raised) = (Batch::new(), Vec::new());
            for slot in slots {
                if self.horizon(scope, slot) >= horizon {
                    continue;
                }
                if self.digest_table().has_settled(scope, slot, horizon) {
                    left.push(slot);
                    continue;
                }
                batch.put(HORIZON, horizon_key(scope, slot), horizon.to_be_bytes());
                raised.push(slot);
            }
            if raised.is_empty() {
                continue;
            }
            // A horizon that a power cut takes back is raised again.
            self.store().write(&batch, Durability::Lazy)?;
            for slot in raised {
                self.horizons().keep(scope, slot, horizon);
            }
        }
        Ok(left)
    }

    /// Raises a slot's horizon and lets go of the tombstones it settles; how many. The caller has seen that every primary
    /// holds the same objects.
    ///
    /// # Errors
    /// When the store refuses, or a row is damaged.
    pub fn reclaim(
        &self,
        policy: PolicyIndex,
        slot: Slot,
        horizon: u16,
    ) -> Result<u64, DeviceError> {
        let scope = Scope::Objects(policy);
        if self.horizon(scope, slot) >= horizon {
            return Ok(0);
        }
        let _guard = self.stripes().lock(slot);
        let mut batch = Batch::new();
        let mut count = 0;
        if self.digest_table().has_settled(scope, slot, horizon) {
            self.visit_objects(policy, slot, &mut |key, stored| {
                if stored.row.body.is_none() && stored.day() <= horizon {
                    batch.delete(OBJECT, key.bytes());
                    count += 1;
                }
            })?;
        }
        let digests = self.digest_table();
        let change = digests.stage_reclaim(&mut batch, scope, slot, horizon);
        batch.put(HORIZON, horizon_key(scope, slot), horizon.to_be_bytes());
        // A horizon that a power cut takes back with its batch is raised again.
        self.store().write(&batch, Durability::Lazy)?;
        digests.keep(change);
        self.horizons().keep(scope, slot, horizon);
        Ok(count)
    }

    /// Takes an object out of service that may have been deleted long ago, if it still is the row with this digest. Its
    /// bytes and its row stay in `quarantine/`, in the form of a large body's file. True when it was there.
    ///
    /// # Errors
    /// When the store or the machine refuses.
    pub fn set_aside(&self, policy: PolicyIndex, sum: &KeySum) -> Result<bool, DeviceError> {
        let key = ObjectKey {
            policy,
            hash: onggi_object_ring::PathHash::new(sum.hash),
            fragment: sum.fragment,
        };
        let _guard = self.stripes().lock(key.slot());
        let Some(old) = self
            .get_object(&key)?
            .filter(|old| old.digest(&key) == sum.digest && old.row.body.is_some())
        else {
            return Ok(false);
        };
        self.keep_aside(&key, &old)?;
        let mut batch = Batch::new();
        batch.delete(OBJECT, key.bytes());
        batch.delete(BODY, key.bytes());
        self.write_with_digest(&key, Some(&old), None, batch)?;
        self.aside()
            .keep(Scope::Objects(policy), sum.hash, sum.digest);
        tracing::warn!(path = %old.row.path, key = key.text(), "an object that its primaries may have deleted long ago is set aside in quarantine/");
        if let Location::File(name) = &old.location {
            large::remove(self.directory(), name)?;
        }
        Ok(true)
    }

    fn keep_aside(&self, key: &ObjectKey, old: &StoredObject) -> Result<(), DeviceError> {
        match &old.location {
            Location::File(name) => large::link_aside(self.directory(), name),
            Location::Inline => {
                let bytes = self.reader().get(BODY, &key.bytes())?.unwrap_or_default();
                let mut chunks = ChunkHasher::new();
                chunks.update(&bytes);
                let hash: BodyHash = chunks.finish();
                let name = large::file_name(key, &self.unique());
                let length = Some(bytes.len() as u64);
                let mut incoming = Incoming::begin(self.directory(), &name, length, false)?;
                incoming.write(self.directory(), &bytes)?;
                let trailer = large::trailer(key, &old.row, &hash);
                incoming.finish_at(&self.directory().join(QUARANTINE).join(name), &trailer)
            }
            Location::Nowhere | Location::Quarantined => Ok(()),
        }
    }

    /// When the device was marked alive last, if ever.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub fn alive_at(&self) -> Result<Option<UtcTime>, DeviceError> {
        let bytes = self.reader().get(HORIZON, ALIVE)?;
        let micros = bytes.and_then(|bytes| bytes.try_into().ok());
        Ok(micros.map(|micros| UtcTime::from_micros(u64::from_be_bytes(micros))))
    }

    /// Remembers that the device is alive and has compared itself with its peers, and has its store tidied up.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn mark_alive(&self, now: UtcTime) -> Result<(), DeviceError> {
        let mut batch = Batch::new();
        batch.put(HORIZON, ALIVE, now.micros().to_be_bytes());
        self.store().write(&batch, Durability::Lazy)?;
        if let Err(error) = self.store().tend() {
            // What it is about is not lost, only not tidy.
            tracing::warn!(%error, "a device's store is not tidied up");
        }
        Ok(())
    }
}

/// Every slot of a unit of so many bits.
pub fn slots_of(unit: u32, bits: u32) -> impl Iterator<Item = Slot> {
    let width = SLOT_BITS.saturating_sub(bits);
    let first = unit << width;
    (first..first + (1 << width)).filter_map(Slot::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tombstone_outlives_the_age_by_up_to_a_day() {
        let noon = UtcTime::from_seconds(100 * 86_400 + 43_200);
        assert_eq!(horizon_at(noon, 7), 92);
        assert_eq!(horizon_at(UtcTime::from_seconds(5), 7), 0);
    }

    #[test]
    fn a_partition_has_its_slots() {
        let slots: Vec<u32> = slots_of(3, 15).map(Slot::number).collect();
        assert_eq!(slots, [6, 7]);
        assert_eq!(slots_of(0, 0).count(), 1 << 16);
    }
}

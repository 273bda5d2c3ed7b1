//! Reclaim: how tombstones leave, a whole day at a time, and no deletion comes back (O6).
//!
//! A slot's *horizon* is the last day whose tombstones are settled there. A device raises it, and lets these tombstones go
//! in the same batch, only when every primary of the partition was seen to hold the same objects. From then on an object
//! older than the horizon that this device does not have, and that comes from a device whose horizon is behind, was either
//! deleted in the meantime or never arrived; it is not taken up. The sender sets its copy aside, in `quarantine/`, where
//! nothing is lost and nothing is served. A stand-in that drops a copy, because the primaries hold it, forgets its horizon:
//! should it be a primary again, what it lacks is no sign of a deletion.
//!
//! Where partitions are smaller than slots a slot may hold rows of partitions that the device is no primary of. A horizon
//! says which of the slot's partitions it speaks for ([`Cover`]): those of which the device was a primary, all of which it
//! has compared with everybody. Of the others nothing is let go of, and nothing is refused.

use crate::device::Device;
use crate::digests::Part;
use crate::error::DeviceError;
use crate::format::QUARANTINE;
pub use crate::horizons::Cover;
use crate::horizons::Horizon;
use crate::key::{ObjectKey, horizon_key};
use crate::large::{self, Incoming};
use crate::stored::{Location, StoredObject, day_of, trace_day};
use crate::stripes::Stripes;
use crate::tables::{BODY, HORIZON, OBJECT};
use onggi_common_meta::local::{Batch, Durability};
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
    /// The last day whose tombstones are settled where this path hash is; 0: none is.
    #[must_use]
    pub fn horizon(&self, scope: Scope, hash: &[u8; 16]) -> u16 {
        self.horizons().at(scope, hash)
    }

    /// The units of so many bits (at most the slot bits) whose horizon is before this day.
    #[must_use]
    pub fn units_behind(&self, scope: Scope, bits: u32, horizon: u16) -> Vec<u32> {
        self.horizons().behind(scope, bits, horizon)
    }

    /// The slots whose horizon is before this day, whatever part of them it speaks for.
    #[must_use]
    pub fn slots_behind(&self, scope: Scope, horizon: u16) -> Vec<Slot> {
        self.horizons().slots_behind(scope, horizon)
    }

    /// Forgets the horizon at a path hash, before something is dropped there that others hold: from then on what is not here
    /// may well be there. The caller holds the slot's stripe.
    pub(crate) fn forget_horizon(&self, scope: Scope, hash: &[u8; 16]) -> Result<(), DeviceError> {
        if self.horizon(scope, hash) == 0 {
            return Ok(());
        }
        let slot = Slot::of(hash);
        let left = self.horizons().get(scope, slot).without(hash);
        let mut batch = Batch::new();
        if left.day == 0 {
            batch.delete(HORIZON, horizon_key(scope, slot));
        } else {
            batch.put(HORIZON, horizon_key(scope, slot), left.encode());
        }
        // What is dropped afterwards is not durable before this is.
        self.store().write(&batch, Durability::Lazy)?;
        self.horizons().keep(scope, slot, left);
        Ok(())
    }

    /// Whether a horizon of this day for this part of a slot would say nothing new. It is never lowered: what was let go of
    /// would be taken up again.
    pub(crate) fn is_settled_to(&self, scope: Scope, part: &(Slot, Cover), day: u16) -> bool {
        let known = self.horizons().get(scope, part.0);
        let is_same = known.cover == Cover::Whole || known.cover == part.1;
        known.day > day || (known.day == day && is_same)
    }

    /// Whether a trace is older than what is settled in its slot.
    pub(crate) fn is_settled(&self, key: &ObjectKey, row: &ObjectRow) -> bool {
        trace_day(row) <= self.horizon(Scope::Objects(key.policy), key.hash.as_bytes())
    }

    /// Whether a row that this device does not have, and a peer has, may be what a reclaimed tombstone deleted.
    #[must_use]
    pub fn is_stale(&self, policy: PolicyIndex, sum: &KeySum) -> bool {
        let horizon = self.horizon(Scope::Objects(policy), &sum.hash);
        let newest = sum.timestamps.into_iter().max().unwrap_or(Timestamp::ZERO);
        let is_old = sum.horizon < horizon && day_of(newest.to_utc().seconds()) <= horizon;
        is_old || self.aside().has(Scope::Objects(policy), sum)
    }

    /// Raises the horizon of those of these slots, or parts of slots, that have nothing to let go of, many in one write; the
    /// others are left to [`Self::reclaim`] or [`Self::reclaim_rosters`]. The caller has seen that every primary holds the
    /// same.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn raise_horizons(
        &self,
        scope: Scope,
        slots: impl IntoIterator<Item = (Slot, Cover)>,
        day: u16,
    ) -> Result<Vec<(Slot, Cover)>, DeviceError> {
        let mut by_stripe: BTreeMap<usize, Vec<(Slot, Cover)>> = BTreeMap::new();
        for part in slots {
            by_stripe
                .entry(Stripes::index(part.0))
                .or_default()
                .push(part);
        }
        let mut left = Vec::new();
        for (stripe, slots) in by_stripe {
            let _guards = self.stripes().lock_all(&BTreeSet::from([stripe]));
            let (mut batch, mut raised) = (Batch::new(), Vec::new());
            for part in slots {
                if self.is_settled_to(scope, &part, day) {
                    continue;
                }
                if self.digest_table().has_settled(scope, part.0, day) {
                    left.push(part);
                    continue;
                }
                let (slot, cover) = part;
                let horizon = Horizon { day, cover };
                batch.put(HORIZON, horizon_key(scope, slot), horizon.encode());
                raised.push((slot, horizon));
            }
            if raised.is_empty() {
                continue;
            }
            // A horizon that a power cut takes back is raised again.
            self.store().write(&batch, Durability::Lazy)?;
            for (slot, horizon) in raised {
                self.horizons().keep(scope, slot, horizon);
            }
        }
        Ok(left)
    }

    /// Raises the horizon of a slot, or of a part of it, and lets go of the tombstones it settles; how many. The caller has
    /// seen that every primary holds the same objects.
    ///
    /// # Errors
    /// When the store refuses, or a row is damaged.
    pub fn reclaim(
        &self,
        policy: PolicyIndex,
        part: &(Slot, Cover),
        day: u16,
    ) -> Result<u64, DeviceError> {
        let scope = Scope::Objects(policy);
        if self.is_settled_to(scope, part, day) {
            return Ok(0);
        }
        let (slot, cover) = part;
        let _guard = self.stripes().lock(*slot);
        let mut batch = Batch::new();
        let mut gone = Vec::new();
        if self.digest_table().has_settled(scope, *slot, day) {
            self.visit_objects(policy, *slot, &mut |key, stored| {
                let is_meant = stored.day() <= day && cover.has(key.hash.as_bytes());
                if stored.row.body.is_none() && is_meant {
                    batch.delete(OBJECT, key.bytes());
                    gone.push(Part {
                        day: stored.day(),
                        digest: stored.digest(key),
                    });
                }
            })?;
        }
        let count = gone.len() as u64;
        let digests = self.digest_table();
        let change = digests.stage(&mut batch, scope, *slot, gone, []);
        let horizon = Horizon {
            day,
            cover: cover.clone(),
        };
        batch.put(HORIZON, horizon_key(scope, *slot), horizon.encode());
        // A horizon that a power cut takes back with its batch is raised again.
        self.store().write(&batch, Durability::Lazy)?;
        digests.keep(change);
        self.horizons().keep(scope, *slot, horizon);
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
                let mut incoming = Incoming::begin(self.directory(), &name, length)?;
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

/// Every slot of a unit of so many bits: the one it is in, where bits are more than a slot's.
pub fn slots_of(unit: u32, bits: u32) -> impl Iterator<Item = Slot> {
    let width = SLOT_BITS.saturating_sub(bits);
    let first = (u64::from(unit) << width) >> bits.saturating_sub(SLOT_BITS).min(SLOT_BITS);
    let numbers = first..first + (1 << width);
    numbers.filter_map(|number| Slot::new(u32::try_from(number).ok()?))
}

/// Every unit of so many bits (more than a slot's) that a slot has.
pub fn units_of(slot: Slot, bits: u32) -> impl Iterator<Item = u32> {
    let width = bits.saturating_sub(SLOT_BITS).min(SLOT_BITS);
    let first = slot.number() << width;
    (0..1 << width).map(move |index| first + index)
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

    #[test]
    fn a_slot_has_its_partitions() {
        let slot = Slot::new(0xffff).unwrap();
        let units: Vec<u32> = units_of(slot, 18).collect();
        assert_eq!(units, [0x3_fffc, 0x3_fffd, 0x3_fffe, 0x3_ffff]);
        assert!(units.iter().all(|unit| slots_of(*unit, 18).eq([slot])));
        assert_eq!(units_of(slot, 32).last(), Some(u32::MAX));
        assert!(slots_of(u32::MAX, 32).eq([slot]));
        assert!(units_of(slot, 16).eq([0xffff]));
    }
}

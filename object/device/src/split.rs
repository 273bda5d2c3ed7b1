//! Digests of partitions that are smaller than a slot.
//!
//! Digests are kept by slot. What a slot's partitions hold of it is added up from its rows, and remembered for as long as
//! the slot sums up to the same: so what changes is read again, a slot at a time, and nothing else is.

use crate::device::Device;
use crate::digests::Part;
use crate::error::DeviceError;
use crate::key::{RosterKey, RosterKind, unit_range};
use crate::roster::parts;
use crate::roster_row::RosterRow;
use crate::tables::ROSTER;
use core::ops::ControlFlow;
use onggi_common_meta::local::Order;
use onggi_common_meta::table;
use onggi_object_wire::digest::{SLOT_BITS, unit_of};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Digest, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Partitions whose digests a device remembers: 20 bytes each. Those of slots for which there is no room are read in every
/// pass; it is always the same ones, since to let go of the oldest would let go of each before it is asked for again.
pub const SPLIT_UNITS_MAX: usize = 1 << 21;

/// What a slot sums up to: without tombstones of days up to a horizon, and with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SlotSum {
    pub(crate) above: Digest,
    pub(crate) all: Digest,
}

impl SlotSum {
    pub(crate) fn add(&mut self, day: u16, digest: Digest, horizon: u16) {
        self.all += digest;
        if day == 0 || day > horizon {
            self.above += digest;
        }
    }
}

/// The digests of a scope's units.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitDigests {
    /// Of units with rows, without tombstones of days up to the horizon.
    pub digests: BTreeMap<u32, Digest>,
    /// Slots that could not be read: what their units hold is not known.
    pub unread: BTreeSet<Slot>,
}

/// A slot's units, and what they were added up from.
#[derive(Debug)]
struct Split {
    sum: SlotSum,
    units: Box<[(u32, [u8; 16])]>,
}

/// What is remembered of all scopes.
#[derive(Debug, Default)]
pub(crate) struct Splits(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// By scope, for units of so many bits.
    scopes: BTreeMap<Scope, (u32, BTreeMap<Slot, Split>)>,
    /// How many units they are.
    count: usize,
    /// Slots that were read, ever.
    scans: u64,
}

impl Kept {
    /// What is remembered of a slot, if it still sums up to this.
    fn get(&self, place: (Scope, Slot), bits: u32, sum: SlotSum) -> Option<&Split> {
        let (known_bits, slots) = self.scopes.get(&place.0)?;
        let split = slots.get(&place.1).filter(|_| *known_bits == bits)?;
        (split.sum == sum).then_some(split)
    }

    fn keep(&mut self, (scope, slot): (Scope, Slot), bits: u32, split: Split, limit: usize) {
        let known = self.scopes.entry(scope).or_insert((bits, BTreeMap::new()));
        if known.0 != bits {
            let gone: usize = known.1.values().map(|split| split.units.len()).sum();
            self.count = self.count.saturating_sub(gone);
            *known = (bits, BTreeMap::new());
        }
        if let Some(old) = known.1.remove(&slot) {
            self.count = self.count.saturating_sub(old.units.len());
        }
        if self.count + split.units.len() <= limit {
            self.count += split.units.len();
            known.1.insert(slot, split);
        }
    }

    /// Forgets slots that hold nothing any more.
    fn retain(&mut self, scope: Scope, is_there: impl Fn(Slot) -> bool) {
        let Some((_, slots)) = self.scopes.get_mut(&scope) else {
            return;
        };
        let count = &mut self.count;
        slots.retain(|slot, split| {
            let stays = is_there(*slot);
            *count = count.saturating_sub(if stays { 0 } else { split.units.len() });
            stays
        });
    }
}

impl Device {
    /// The digests of a scope by units of so many hash bits, at most 32, without tombstones of days up to the horizon; only
    /// of some slots, if they are named. A unit that holds nothing but such tombstones is there with an empty digest. Where
    /// bits are more than a slot's this reads the rows of slots that have changed.
    #[must_use]
    pub fn unit_digests(
        &self,
        scope: Scope,
        bits: u32,
        horizon: u16,
        only: Option<&BTreeSet<Slot>>,
    ) -> UnitDigests {
        self.unit_digests_within(scope, (bits, horizon), only, SPLIT_UNITS_MAX)
    }

    /// The same, remembering so many.
    pub(crate) fn unit_digests_within(
        &self,
        scope: Scope,
        (bits, horizon): (u32, u16),
        only: Option<&BTreeSet<Slot>>,
        limit: usize,
    ) -> UnitDigests {
        let mut found = UnitDigests::default();
        if bits <= SLOT_BITS && only.is_none() {
            let sums = self.digests_above(scope, bits, horizon).into_iter();
            found.digests = sums.map(|(unit, sum)| (unit, sum.digest)).collect();
            return found;
        }
        let sums = self.digest_table().slot_sums(scope, horizon, only);
        if only.is_none() {
            let there = |slot| sums.contains_key(&slot);
            self.with_splits(|kept| kept.retain(scope, there));
        }
        for (slot, sum) in sums {
            // Whoever asks for the same waits, for one slot at a time, and does not read it as well.
            let read = self.with_splits(|kept| {
                if let Some(split) = kept.get((scope, slot), bits, sum) {
                    found.take(split);
                    return Ok(());
                }
                kept.scans += 1;
                let split = self.split(scope, slot, bits, horizon)?;
                found.take(&split);
                kept.keep((scope, slot), bits, split, limit);
                Ok::<(), DeviceError>(())
            });
            if let Err(error) = read {
                tracing::warn!(?scope, ?slot, %error, "a slot's partitions are not compared");
                found.unread.insert(slot);
            }
        }
        found
    }

    /// How many slots were read to learn what their units hold, since the device was opened.
    #[must_use]
    pub fn split_scans(&self) -> u64 {
        self.with_splits(|kept| kept.scans)
    }

    fn with_splits<T>(&self, act: impl FnOnce(&mut Kept) -> T) -> T {
        act(&mut self
            .splits()
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner))
    }

    /// Adds up a slot's units from its rows.
    fn split(
        &self,
        scope: Scope,
        slot: Slot,
        bits: u32,
        horizon: u16,
    ) -> Result<Split, DeviceError> {
        let mut sum = SlotSum::default();
        let mut units: BTreeMap<u32, Digest> = BTreeMap::new();
        self.visit_parts(scope, slot, &mut |hash, part| {
            let mut own = SlotSum::default();
            own.add(part.day, part.digest, horizon);
            *units.entry(unit_of(hash, bits)).or_default() += own.above;
            sum.above += own.above;
            sum.all += own.all;
        })?;
        let units = units.into_iter();
        let units = units.map(|(unit, digest)| (unit, digest.value().to_be_bytes()));
        let units = units.collect();
        Ok(Split { sum, units })
    }

    /// Shows what each row of a slot adds to its digests.
    fn visit_parts(
        &self,
        scope: Scope,
        slot: Slot,
        visitor: &mut dyn FnMut(&[u8; 16], Part),
    ) -> Result<(), DeviceError> {
        let kind = match scope {
            Scope::Objects(policy) => {
                return self.visit_objects(policy, slot, &mut |key, stored| {
                    let (day, digest) = (stored.day(), stored.digest(key));
                    visitor(key.hash.as_bytes(), Part { day, digest });
                });
            }
            Scope::Containers => RosterKind::Container,
            Scope::Accounts => RosterKind::Account,
        };
        self.visit_rosters(kind, slot, &mut |key, row| {
            for part in parts(key, row) {
                visitor(key.hash.as_bytes(), part);
            }
        })
    }

    /// Shows every container or account of a slot.
    pub(crate) fn visit_rosters(
        &self,
        kind: RosterKind,
        slot: Slot,
        visitor: &mut dyn FnMut(&RosterKey, &RosterRow),
    ) -> Result<(), DeviceError> {
        let range = unit_range(kind.scope(), slot.number(), SLOT_BITS);
        let mut failed = None;
        self.reader()
            .visit(ROSTER, &range, Order::Ascending, &mut |key, value| {
                let Some(key) = RosterKey::from_bytes(key) else {
                    return ControlFlow::Continue(());
                };
                match table::decode::<RosterRow>(value) {
                    Ok(row) => {
                        visitor(&key, &row);
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

impl UnitDigests {
    fn take(&mut self, split: &Split) {
        let units = split.units.iter();
        let digest = |bytes: &[u8; 16]| Digest::from_value(u128::from_be_bytes(*bytes));
        self.digests
            .extend(units.map(|(unit, bytes)| (*unit, digest(bytes))));
    }
}

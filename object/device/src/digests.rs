//! Digests of slots: kept in memory for comparing, and in the same batch as the row for the next start.

use crate::error::{DeviceError, OpenError};
use crate::key::{digest_key, parse_digest_key};
use crate::recent::{Recent, Taken};
use crate::split::SlotSum;
use crate::tables::DIGEST;
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Order, Read, Store};
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::digest::SLOT_BITS;
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Digest, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

const VERSION: u8 = 1;
const WHAT: &str = "a slot's digest";

/// The sum over some rows, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// The digest.
    pub digest: Digest,
    /// How many rows.
    pub count: u64,
}

/// One row's place in the digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) day: u16,
    pub(crate) digest: Digest,
}

/// The digests of everything on a device.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    scopes: Mutex<BTreeMap<Scope, Sums>>,
    recent: Recent,
}

/// The digests of a scope.
#[derive(Debug, Default)]
struct Sums {
    /// By slot and day; what sums up nothing is left out.
    days: BTreeMap<(u32, u16), Sum>,
    /// What was asked for last, kept up to date: every pass asks for the same.
    units: Option<Units>,
}

/// Sums over units of so many bits, without tombstones of days up to the horizon.
#[derive(Debug)]
struct Units {
    bits: u32,
    horizon: u16,
    /// By unit: the sum, and how many rows there are with those left out of it.
    sums: BTreeMap<u32, (Sum, u64)>,
}

impl Units {
    fn of(days: &BTreeMap<(u32, u16), Sum>, bits: u32, horizon: u16) -> Self {
        let mut units = Self {
            bits,
            horizon,
            sums: BTreeMap::new(),
        };
        for ((slot, day), sum) in days {
            units.change(*slot, *day, Sum::default(), *sum);
        }
        units
    }

    /// A slot's day sums up to something else now.
    fn change(&mut self, slot: u32, day: u16, old: Sum, new: Sum) {
        let Some(slot) = Slot::new(slot) else {
            return;
        };
        let unit = slot.unit(self.bits);
        let (sum, rows) = self.sums.entry(unit).or_default();
        *rows = rows.saturating_sub(old.count).saturating_add(new.count);
        if day == 0 || day > self.horizon {
            sum.digest -= old.digest;
            sum.digest += new.digest;
            sum.count = sum
                .count
                .saturating_sub(old.count)
                .saturating_add(new.count);
        }
        if *rows == 0 {
            self.sums.remove(&unit);
        }
    }

    fn sums(&self) -> BTreeMap<u32, Sum> {
        let sums = self.sums.iter();
        sums.map(|(unit, (sum, _))| (*unit, *sum)).collect()
    }
}

impl Sums {
    fn get(&self, slot: Slot, day: u16) -> Sum {
        let sum = self.days.get(&(slot.number(), day));
        sum.copied().unwrap_or_default()
    }

    fn set(&mut self, slot: Slot, day: u16, sum: Sum) {
        let place = (slot.number(), day);
        let old = if sum == Sum::default() {
            self.days.remove(&place)
        } else {
            self.days.insert(place, sum)
        };
        if let Some(units) = &mut self.units {
            units.change(slot.number(), day, old.unwrap_or_default(), sum);
        }
    }

    /// The days a slot has tombstones of, up to the horizon.
    fn settled(&self, slot: Slot, horizon: u16) -> impl Iterator<Item = u16> {
        let range = (slot.number(), 1)..=(slot.number(), horizon.max(1));
        let days = self.days.range(range).map(|((_, day), _)| *day);
        days.filter(move |day| *day <= horizon)
    }
}

/// Digests after a batch: to be kept when the batch is written.
#[derive(Debug)]
#[must_use = "the digests change only when the batch is written"]
pub(crate) struct Change {
    scope: Scope,
    slot: Slot,
    days: Vec<(u16, Sum)>,
    taken: Option<Taken>,
}

impl Change {
    /// With what the batch brings a roster.
    pub(crate) fn with_taken(mut self, taken: Taken) -> Self {
        self.taken = Some(taken);
        self
    }
}

pub(crate) fn encode(sum: Sum) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(VERSION);
    writer.u128(sum.digest.value());
    writer.u64(sum.count);
    writer.finish()
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Sum, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.version(WHAT, VERSION)?;
    let sum = Sum {
        digest: Digest::from_value(reader.u128(WHAT)?),
        count: reader.u64(WHAT)?,
    };
    reader.end(WHAT)?;
    Ok(sum)
}

impl Digests {
    /// Reads all digests of a store.
    pub(crate) fn load(store: &dyn Store) -> Result<Self, OpenError> {
        let mut scopes: BTreeMap<Scope, Sums> = BTreeMap::new();
        let mut failed = None;
        let reader: &dyn Read = store;
        let visited = reader.visit(
            DIGEST,
            &KeyRange::all(),
            Order::Ascending,
            &mut |key, value| {
                let place = parse_digest_key(key).ok_or(CodecError::Malformed { what: WHAT });
                match place.and_then(|place| Ok((place, decode(value)?))) {
                    Ok(((scope, slot, day), sum)) => {
                        scopes.entry(scope).or_default().set(slot, day, sum);
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            },
        );
        visited.map_err(DeviceError::from)?;
        match failed {
            Some(error) => Err(DeviceError::from(error).into()),
            None => Ok(Self {
                scopes: Mutex::new(scopes),
                recent: Recent::default(),
            }),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Scope, Sums>) -> T) -> T {
        act(&mut self.scopes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts into the batch what taking some parts out and others in makes of the slot. The caller holds its stripe.
    pub(crate) fn stage(
        &self,
        batch: &mut Batch,
        scope: Scope,
        slot: Slot,
        old: impl IntoIterator<Item = Part>,
        new: impl IntoIterator<Item = Part>,
    ) -> Change {
        let old: Vec<Part> = old.into_iter().collect();
        let new: Vec<Part> = new.into_iter().collect();
        let mut days: Vec<(u16, Sum)> = Vec::with_capacity(old.len() + new.len());
        self.with(|scopes| {
            let known = scopes.get(&scope);
            for part in old.iter().chain(&new) {
                if days.iter().all(|(day, _)| *day != part.day) {
                    let sum = known.map(|sums| sums.get(slot, part.day));
                    days.push((part.day, sum.unwrap_or_default()));
                }
            }
        });
        let mut change = |part: &Part, act: fn(&mut Sum, Digest)| {
            let found = days.iter_mut().find(|(day, _)| *day == part.day);
            if let Some((_, sum)) = found {
                act(sum, part.digest);
            }
        };
        for part in &old {
            change(part, |sum, digest| {
                sum.digest -= digest;
                sum.count = sum.count.saturating_sub(1);
            });
        }
        for part in &new {
            change(part, |sum, digest| {
                sum.digest += digest;
                sum.count = sum.count.saturating_add(1);
            });
        }
        for (day, sum) in &days {
            let key = digest_key(scope, slot, *day);
            if *sum == Sum::default() {
                batch.delete(DIGEST, key);
            } else {
                batch.put(DIGEST, key, encode(*sum));
            }
        }
        Change {
            scope,
            slot,
            days,
            taken: None,
        }
    }

    /// What rosters took lately.
    pub(crate) const fn recent(&self) -> &Recent {
        &self.recent
    }

    /// The batch is written.
    pub(crate) fn keep(&self, change: Change) {
        if let Some(taken) = change.taken {
            self.recent.keep(taken);
        }
        self.with(|scopes| {
            let sums = scopes.entry(change.scope).or_default();
            for (day, sum) in change.days {
                sums.set(change.slot, day, sum);
            }
        });
    }

    /// The digests of a scope by units of so many bits (at most the slot bits), without tombstones of days up to the
    /// horizon. Units without any rows are left out.
    pub(crate) fn units(&self, scope: Scope, bits: u32, horizon: u16) -> BTreeMap<u32, Sum> {
        self.with(|scopes| {
            let Some(sums) = scopes.get_mut(&scope) else {
                return BTreeMap::new();
            };
            if bits >= SLOT_BITS {
                // Asked for only where something differs, and as large as all of it.
                return Units::of(&sums.days, bits, horizon).sums();
            }
            let kept = sums.units.take();
            let kept = kept.filter(|kept| (kept.bits, kept.horizon) == (bits, horizon));
            let units = sums
                .units
                .insert(kept.unwrap_or_else(|| Units::of(&sums.days, bits, horizon)));
            units.sums()
        })
    }

    /// What the slots with rows sum up to, or those among these.
    pub(crate) fn slot_sums(
        &self,
        scope: Scope,
        horizon: u16,
        only: Option<&BTreeSet<Slot>>,
    ) -> BTreeMap<Slot, SlotSum> {
        let mut sums: BTreeMap<Slot, SlotSum> = BTreeMap::new();
        self.with(|scopes| {
            let Some(known) = scopes.get(&scope) else {
                return;
            };
            let mut add = |slot: u32, day: u16, sum: &Sum| {
                if let Some(slot) = Slot::new(slot) {
                    sums.entry(slot).or_default().add(day, sum.digest, horizon);
                }
            };
            let Some(only) = only else {
                let days = known.days.iter();
                return days.for_each(|((slot, day), sum)| add(*slot, *day, sum));
            };
            for slot in only {
                let days = (slot.number(), 0)..=(slot.number(), u16::MAX);
                for ((slot, day), sum) in known.days.range(days) {
                    add(*slot, *day, sum);
                }
            }
        });
        sums
    }

    /// The slots of a unit of so many bits that hold any rows; where bits are more than a slot's, the one it is in.
    pub(crate) fn slots_in(&self, scope: Scope, unit: u32, bits: u32) -> Vec<Slot> {
        let width = SLOT_BITS.saturating_sub(bits);
        let first = (unit << width) >> bits.saturating_sub(SLOT_BITS).min(SLOT_BITS);
        self.with(|scopes| {
            let days = scopes.get(&scope).into_iter();
            let range = (first, 0)..(first + (1 << width), 0);
            let mut slots: Vec<u32> = days
                .flat_map(|sums| sums.days.range(range.clone()))
                .map(|((slot, _), _)| *slot)
                .collect();
            slots.dedup();
            slots.into_iter().filter_map(Slot::new).collect()
        })
    }

    /// Whether a slot has tombstones of days up to the horizon.
    pub(crate) fn has_settled(&self, scope: Scope, slot: Slot, horizon: u16) -> bool {
        self.with(|scopes| {
            let sums = scopes.get(&scope);
            sums.is_some_and(|sums| sums.settled(slot, horizon).next().is_some())
        })
    }

    /// The scopes that hold anything.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        self.with(|scopes| {
            scopes
                .iter()
                .filter(|(_, sums)| !sums.days.is_empty())
                .map(|(scope, _)| *scope)
                .collect()
        })
    }

    /// How many rows of a scope are there, tombstones apart.
    pub(crate) fn live_count(&self, scope: Scope) -> u64 {
        self.with(|scopes| {
            let sums = scopes.get(&scope).into_iter();
            sums.flat_map(|sums| &sums.days)
                .filter(|((_, day), _)| *day == 0)
                .map(|(_, sum)| sum.count)
                .sum()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCOPE: Scope = Scope::Containers;

    proptest! {
        #[test]
        fn sums_of_units_that_are_kept_are_those_added_up_anew(
            steps in prop::collection::vec((0..64u32, 0..5u16, 0..20u128, any::<bool>()), 1..60),
            horizon in 0..5u16,
        ) {
            let digests = Digests::default();
            let mut rows = Vec::new();
            for (slot, day, value, is_new) in steps {
                // Few slots of many units.
                let slot = Slot::new(slot << 10).unwrap();
                let part = Part { day, digest: Digest::from_value(value) };
                let place = rows.iter().position(|row| *row == (slot, part));
                let (old, new) = match place {
                    Some(place) if !is_new => {
                        rows.swap_remove(place);
                        (Some(part), None)
                    }
                    Some(_) | None => {
                        rows.push((slot, part));
                        (None, Some(part))
                    }
                };
                let change = digests.stage(&mut Batch::new(), SCOPE, slot, old, new);
                digests.keep(change);
                let kept = digests.units(SCOPE, 4, horizon);
                let anew = digests.with(|scopes| Units::of(&scopes[&SCOPE].days, 4, horizon).sums());
                prop_assert_eq!(&kept, &anew);
                let mut plain: BTreeMap<u32, Sum> = BTreeMap::new();
                for (slot, part) in &rows {
                    let sum = plain.entry(slot.unit(4)).or_default();
                    if part.day == 0 || part.day > horizon {
                        sum.digest += part.digest;
                        sum.count += 1;
                    }
                }
                prop_assert_eq!(kept, plain);
                let slots: BTreeSet<u32> =
                    rows.iter().map(|(slot, _)| slot.number()).collect();
                let found: Vec<u32> = (0..16)
                    .flat_map(|unit| digests.slots_in(SCOPE, unit, 4))
                    .map(Slot::number)
                    .collect();
                prop_assert_eq!(found, slots.into_iter().collect::<Vec<_>>());
            }
        }
    }
}

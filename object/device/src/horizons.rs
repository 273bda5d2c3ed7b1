//! The horizons of a device's slots, and which part of a slot each of them speaks for.

use crate::error::DeviceError;
use crate::key::parse_horizon_key;
use crate::tables::HORIZON;
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Order, Store};
use onggi_object_wire::Slot;
use onggi_object_wire::digest::{SLOT_BITS, unit_of};
use onggi_object_wire::replication::Scope;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The part of a slot that a horizon speaks for. Where a slot has several partitions a device is not at home in all of them,
/// and what it lacks of the others is no sign of a deletion.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cover {
    /// All of it.
    #[default]
    Whole,
    /// Some of the units of so many hash bits (more than the slot bits): a bit for each that the slot has.
    Units {
        /// The hash bits that number the units; at most 32.
        bits: u8,
        /// The bits, the first unit's lowest in the first byte.
        units: Box<[u8]>,
    },
}

/// Which byte and which bit a unit has.
fn place_in(bits: u32, unit: u32) -> (usize, u8) {
    let index = unit & ((1 << bits.saturating_sub(SLOT_BITS).min(SLOT_BITS)) - 1);
    let byte = usize::try_from(index / 8).unwrap_or(usize::MAX);
    (byte, 1 << (index % 8))
}

impl Cover {
    /// These units of so many hash bits of a slot; the whole of it where bits are no more than a slot's.
    #[must_use]
    pub fn of(bits: u32, units: impl IntoIterator<Item = u32>) -> Self {
        let width = bits.saturating_sub(SLOT_BITS).min(SLOT_BITS);
        let Some(bits) = u8::try_from(bits).ok().filter(|_| width > 0) else {
            return Self::Whole;
        };
        let all = 1usize << width;
        let mut set = vec![0; all.div_ceil(8)];
        let mut count = 0;
        for unit in units {
            let (byte, bit) = place_in(u32::from(bits), unit);
            if let Some(byte) = set.get_mut(byte).filter(|byte| **byte & bit == 0) {
                *byte |= bit;
                count += 1;
            }
        }
        if count == all {
            return Self::Whole;
        }
        let units = set.into();
        Self::Units { bits, units }
    }

    /// Whether a path hash of the slot is in it.
    #[must_use]
    pub fn has(&self, hash: &[u8; 16]) -> bool {
        let Self::Units { bits, units } = self else {
            return true;
        };
        let bits = u32::from(*bits);
        let (byte, bit) = place_in(bits, unit_of(hash, bits));
        units.get(byte).is_some_and(|byte| byte & bit != 0)
    }

    /// The same without the unit of this path hash; nothing where that is not known.
    fn without(&self, hash: &[u8; 16]) -> Option<Self> {
        let Self::Units { bits, units } = self else {
            return None;
        };
        let mut left = units.clone();
        let (byte, bit) = place_in(u32::from(*bits), unit_of(hash, u32::from(*bits)));
        *left.get_mut(byte)? &= !bit;
        Some(Self::Units {
            bits: *bits,
            units: left,
        })
    }
}

/// How far a slot's traces are settled.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Horizon {
    /// The last day; 0 for none.
    pub(crate) day: u16,
    /// Of what.
    pub(crate) cover: Cover,
}

impl Horizon {
    /// The last day whose traces are settled at a path hash of the slot; 0: none is.
    pub(crate) fn at(&self, hash: &[u8; 16]) -> u16 {
        if self.cover.has(hash) { self.day } else { 0 }
    }

    /// What is left of it when the copy of this path hash is dropped.
    pub(crate) fn without(&self, hash: &[u8; 16]) -> Self {
        let cover = self.cover.without(hash);
        cover.map_or_else(Self::default, |cover| Self {
            day: self.day,
            cover,
        })
    }

    /// As its table keeps it. A build that knows no partitions within slots reads only the short form, and takes the long
    /// one for no horizon, which is safe.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.day.to_be_bytes().to_vec();
        if let Cover::Units { bits, units } = &self.cover {
            bytes.push(*bits);
            bytes.extend_from_slice(units);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (day, rest) = bytes.split_first_chunk::<2>()?;
        let cover = match rest.split_first() {
            None => Cover::Whole,
            Some((bits, units)) => {
                let width = u32::from(*bits).checked_sub(SLOT_BITS)?;
                let is_known = (1..=SLOT_BITS).contains(&width);
                let is_whole = is_known && units.len() == (1usize << width).div_ceil(8);
                is_whole.then(|| Cover::Units {
                    bits: *bits,
                    units: units.into(),
                })?
            }
        };
        let day = u16::from_be_bytes(*day);
        Some(Self { day, cover })
    }
}

/// The horizons of a device's slots, as its table has them.
#[derive(Debug)]
pub(crate) struct Horizons(Mutex<BTreeMap<Scope, Days>>);

/// Those of a scope.
#[derive(Debug)]
struct Days {
    /// A day for each slot.
    days: Vec<u16>,
    /// The slots of which only a part is settled.
    covers: BTreeMap<u32, Cover>,
}

fn place_of(slot: Slot) -> usize {
    usize::try_from(slot.number()).unwrap_or(usize::MAX)
}

impl Days {
    fn new() -> Self {
        Self {
            days: vec![0; 1 << SLOT_BITS],
            covers: BTreeMap::new(),
        }
    }

    fn set(&mut self, slot: Slot, horizon: Horizon) {
        if let Some(known) = self.days.get_mut(place_of(slot)) {
            *known = horizon.day;
        }
        match horizon.cover {
            Cover::Whole => self.covers.remove(&slot.number()),
            cover @ Cover::Units { .. } => self.covers.insert(slot.number(), cover),
        };
    }

    fn get(&self, slot: Slot) -> Horizon {
        let cover = self.covers.get(&slot.number()).cloned();
        Horizon {
            day: self.days.get(place_of(slot)).copied().unwrap_or(0),
            cover: cover.unwrap_or_default(),
        }
    }

    fn at(&self, hash: &[u8; 16]) -> u16 {
        let slot = Slot::of(hash);
        let cover = self.covers.get(&slot.number());
        let is_meant = cover.is_none_or(|cover| cover.has(hash));
        let day = self.days.get(place_of(slot)).filter(|_| is_meant);
        day.copied().unwrap_or(0)
    }
}

impl Horizons {
    pub(crate) fn load(store: &dyn Store) -> Result<Self, DeviceError> {
        let mut scopes: BTreeMap<Scope, Days> = BTreeMap::new();
        store.visit(
            HORIZON,
            &KeyRange::all(),
            Order::Ascending,
            &mut |key, value| {
                if let (Some((scope, slot)), Some(horizon)) =
                    (parse_horizon_key(key), Horizon::decode(value))
                {
                    let days = scopes.entry(scope).or_insert_with(Days::new);
                    days.set(slot, horizon);
                }
                ControlFlow::Continue(())
            },
        )?;
        Ok(Self(Mutex::new(scopes)))
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Scope, Days>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A slot's.
    pub(crate) fn get(&self, scope: Scope, slot: Slot) -> Horizon {
        let known = self.with(|scopes| Some(scopes.get(&scope)?.get(slot)));
        known.unwrap_or_default()
    }

    /// The last day settled at a path hash.
    pub(crate) fn at(&self, scope: Scope, hash: &[u8; 16]) -> u16 {
        let day = self.with(|scopes| Some(scopes.get(&scope)?.at(hash)));
        day.unwrap_or(0)
    }

    /// The units of so many bits (at most the slot bits) whose first slot is behind, or settled in part only.
    pub(crate) fn behind(&self, scope: Scope, bits: u32, horizon: u16) -> Vec<u32> {
        let bits = bits.min(SLOT_BITS);
        let width = SLOT_BITS - bits;
        let count = 1 << bits;
        self.with(|scopes| match scopes.get(&scope) {
            Some(known) => {
                let firsts = known.days.iter().step_by(1 << width);
                let units = (0..count).zip(firsts);
                let is_partial = |unit: u32| known.covers.contains_key(&(unit << width));
                let behind = units.filter(|(unit, day)| **day < horizon || is_partial(*unit));
                behind.map(|(unit, _)| unit).collect()
            }
            None if horizon == 0 => Vec::new(),
            None => (0..count).collect(),
        })
    }

    /// The slots that are behind in all they have.
    pub(crate) fn slots_behind(&self, scope: Scope, horizon: u16) -> Vec<Slot> {
        self.with(|scopes| match scopes.get(&scope) {
            Some(known) => {
                let slots = (0..1 << SLOT_BITS).zip(&known.days);
                let behind = slots.filter(|(_, day)| **day < horizon);
                behind.filter_map(|(slot, _)| Slot::new(slot)).collect()
            }
            None if horizon == 0 => Vec::new(),
            None => (0..1 << SLOT_BITS).filter_map(Slot::new).collect(),
        })
    }

    pub(crate) fn keep(&self, scope: Scope, slot: Slot, horizon: Horizon) {
        self.with(|scopes| {
            let days = scopes.entry(scope).or_insert_with(Days::new);
            days.set(slot, horizon);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(unit: u32, bits: u32) -> [u8; 16] {
        let mut hash = [0xff; 16];
        let rest = u32::MAX.checked_shr(bits).unwrap_or(0);
        let word = unit.checked_shl(32 - bits).unwrap_or(0) | rest;
        hash[..4].copy_from_slice(&word.to_be_bytes());
        hash
    }

    #[test]
    fn a_whole_slot_needs_no_units() {
        assert_eq!(Cover::of(16, []), Cover::Whole);
        assert_eq!(Cover::of(18, 20..24), Cover::Whole);
        assert_ne!(Cover::of(18, 20..23), Cover::Whole);
    }

    proptest! {
        #[test]
        fn a_horizon_speaks_for_its_units_alone_and_comes_back_from_its_bytes(
            bits in 17u32..=32,
            indices in prop::collection::btree_set(any::<u16>(), 0..20),
            dropped in any::<u16>(),
            day in 1u16..,
        ) {
            let width = bits - SLOT_BITS;
            let first = 0xabcdu32.checked_shl(width).unwrap();
            let within = |index: u16| first | (u32::from(index) & ((1 << width) - 1));
            let units: std::collections::BTreeSet<u32> =
                indices.into_iter().map(within).collect();
            let horizon = Horizon { day, cover: Cover::of(bits, units.clone()) };
            prop_assert_eq!(Horizon::decode(&horizon.encode()), Some(horizon.clone()));
            let dropped = within(dropped);
            let left = horizon.without(&hash(dropped, bits));
            for unit in units.iter().copied().chain([dropped, first]) {
                let hash = hash(unit, bits);
                let is_covered = units.contains(&unit);
                prop_assert_eq!(horizon.at(&hash), if is_covered { day } else { 0 });
                let stays = is_covered && unit != dropped && horizon.cover != Cover::Whole;
                prop_assert_eq!(left.at(&hash), if stays { day } else { 0 });
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            drop(Horizon::decode(&bytes));
        }
    }
}

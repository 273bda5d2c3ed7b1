//! Digests of slots: kept in memory for comparing, and in the same batch as the row for the next start.

use crate::error::{DeviceError, OpenError};
use crate::key::{digest_key, parse_digest_key};
use crate::tables::DIGEST;
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Order, Read, Store};
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::replication::Scope;
use onggi_object_wire::{Digest, Slot};
use std::collections::BTreeMap;
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

type Days = BTreeMap<u16, Sum>;
type Slots = BTreeMap<u32, Days>;

/// The digests of everything on a device.
#[derive(Debug, Default)]
pub(crate) struct Digests(Mutex<BTreeMap<Scope, Slots>>);

/// Digests after a batch: to be kept when the batch is written.
#[derive(Debug)]
#[must_use = "the digests change only when the batch is written"]
pub(crate) struct Change {
    scope: Scope,
    slot: Slot,
    days: Vec<(u16, Sum)>,
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
        let mut scopes: BTreeMap<Scope, Slots> = BTreeMap::new();
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
                        let slots = scopes.entry(scope).or_default();
                        slots.entry(slot.number()).or_default().insert(day, sum);
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
            None => Ok(Self(Mutex::new(scopes))),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<Scope, Slots>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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
        let mut days: Days = self.with(|scopes| {
            let slots = scopes.get(&scope);
            let known = slots.and_then(|slots| slots.get(&slot.number()));
            let touched = old.iter().chain(&new).map(|part| part.day);
            touched
                .map(|day| {
                    (
                        day,
                        known
                            .and_then(|days| days.get(&day))
                            .copied()
                            .unwrap_or_default(),
                    )
                })
                .collect()
        });
        for part in old {
            let sum = days.entry(part.day).or_default();
            sum.digest -= part.digest;
            sum.count = sum.count.saturating_sub(1);
        }
        for part in new {
            let sum = days.entry(part.day).or_default();
            sum.digest += part.digest;
            sum.count = sum.count.saturating_add(1);
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
            days: days.into_iter().collect(),
        }
    }

    /// The batch is written.
    pub(crate) fn keep(&self, change: Change) {
        self.with(|scopes| {
            let slots = scopes.entry(change.scope).or_default();
            let days = slots.entry(change.slot.number()).or_default();
            for (day, sum) in change.days {
                if sum == Sum::default() {
                    days.remove(&day);
                } else {
                    days.insert(day, sum);
                }
            }
            if days.is_empty() {
                slots.remove(&change.slot.number());
            }
        });
    }

    /// The digests of a scope by units of so many bits (at most the slot bits), without tombstones of days up to the
    /// horizon. Units without any rows are left out.
    pub(crate) fn units(&self, scope: Scope, bits: u32, horizon: u16) -> BTreeMap<u32, Sum> {
        self.with(|scopes| {
            let mut units: BTreeMap<u32, Sum> = BTreeMap::new();
            for (slot, days) in scopes.get(&scope).into_iter().flatten() {
                let Some(slot) = Slot::new(*slot) else {
                    continue;
                };
                let unit = units.entry(slot.unit(bits)).or_default();
                let counts = |(day, _): &(&u16, &Sum)| **day == 0 || **day > horizon;
                for (_, sum) in days.iter().filter(counts) {
                    unit.digest += sum.digest;
                    unit.count = unit.count.saturating_add(sum.count);
                }
            }
            units
        })
    }

    /// Puts into the batch that a slot has no tombstones of days up to the horizon any more. The caller holds its stripe.
    pub(crate) fn stage_reclaim(
        &self,
        batch: &mut Batch,
        scope: Scope,
        slot: Slot,
        horizon: u16,
    ) -> Change {
        let days: Vec<u16> = self.with(|scopes| {
            let slots = scopes.get(&scope);
            let days = slots.and_then(|slots| slots.get(&slot.number()));
            let known = days.into_iter().flat_map(BTreeMap::keys).copied();
            known.filter(|day| (1..=horizon).contains(day)).collect()
        });
        for day in &days {
            batch.delete(DIGEST, digest_key(scope, slot, *day));
        }
        Change {
            scope,
            slot,
            days: days.into_iter().map(|day| (day, Sum::default())).collect(),
        }
    }

    /// Whether a slot has tombstones of days up to the horizon.
    pub(crate) fn has_settled(&self, scope: Scope, slot: Slot, horizon: u16) -> bool {
        self.with(|scopes| {
            let slots = scopes.get(&scope);
            let days = slots.and_then(|slots| slots.get(&slot.number()));
            days.is_some_and(|days| {
                days.range(1..=horizon.max(1))
                    .any(|(day, _)| *day <= horizon)
            })
        })
    }

    /// The scopes that hold anything.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        self.with(|scopes| {
            scopes
                .iter()
                .filter(|(_, slots)| !slots.is_empty())
                .map(|(scope, _)| *scope)
                .collect()
        })
    }

    /// How many rows of a scope are there, tombstones apart.
    pub(crate) fn live_count(&self, scope: Scope) -> u64 {
        self.with(|scopes| {
            let days = scopes.get(&scope).into_iter().flatten();
            days.filter_map(|(_, days)| days.get(&0))
                .map(|sum| sum.count)
                .sum()
        })
    }
}

//! How even and how spread a ring is, by the measures Swift's operators know.

use super::{BuilderError, RingBuilder, UNASSIGNED};
use crate::device::{Device, DeviceId};
use std::collections::BTreeMap;

/// The balance of a device that holds copies and should hold none.
const BALANCE_MAX: f64 = 999.99;

/// What a device holds, beside its share by weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Balance {
    /// Copies on it.
    pub partitions: u32,
    /// How far that is from its share, in percent of it; 999.99 for a device that should have none.
    pub percent: f64,
}

/// How many copies of a partition a place holds.
#[derive(Debug, Clone, PartialEq)]
pub struct TierReport {
    /// The place, for example `r1z2-127.0.0.1/d3`.
    pub name: String,
    /// Copies in it.
    pub placed: u64,
    /// Percent of them that are more than the place should have of their partition.
    pub dispersion: f64,
    /// Copies of one partition it should have at most.
    pub most: u32,
    /// By number of copies: partitions of which it has so many.
    pub counts: Vec<u32>,
}

/// How spread a ring is, place by place.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Percent of copies that stand closer to another than they should.
    pub dispersion: f64,
    /// The places, outermost first.
    pub tiers: Vec<TierReport>,
}

/// Region, zone, node, device; an absent one covers all.
type Key<'a> = (u32, Option<u32>, Option<&'a str>, Option<DeviceId>);

fn keys(device: &Device) -> [Key<'_>; 4] {
    let (region, zone, ip) = (device.region, Some(device.zone), Some(device.ip.as_str()));
    [
        (region, None, None, None),
        (region, zone, None, None),
        (region, zone, ip, None),
        (region, zone, ip, Some(device.id)),
    ]
}

/// Places by number, and the four each device is in.
struct Tiers<'a> {
    keys: Vec<Key<'a>>,
    of_device: Vec<Option<[usize; 4]>>,
    most: Vec<u32>,
}

impl<'a> Tiers<'a> {
    fn new(builder: &'a RingBuilder) -> Self {
        let mut numbers: BTreeMap<Key<'a>, usize> = BTreeMap::new();
        for device in builder.devices() {
            for key in keys(device) {
                numbers.insert(key, 0);
            }
        }
        for (number, entry) in numbers.values_mut().enumerate() {
            *entry = number;
        }
        let of = |device: &'a Device| keys(device).map(|key| numbers[&key]);
        let of_device = builder.devices.iter().map(|device| device.as_ref().map(of));
        let of_device: Vec<Option<[usize; 4]>> = of_device.collect();
        let most = most(builder, &numbers);
        let keys = numbers.into_keys().collect();
        Self {
            keys,
            of_device,
            most,
        }
    }

    fn name(&self, builder: &RingBuilder, number: usize) -> String {
        let (region, zone, ip, id) = self.keys[number];
        let mut name = format!("r{region}");
        if let Some(zone) = zone {
            name.push_str(&format!("z{zone}"));
        }
        if let Some(ip) = ip {
            name.push_str(&format!("-{ip}"));
        }
        if let Some(device) = id.and_then(|id| builder.devices.get(id.index())?.as_ref()) {
            name.push_str(&format!("/{}", device.device));
        }
        name
    }
}

/// Copies of a partition each place has at most, when they stand as far apart as places with weight allow.
fn most(builder: &RingBuilder, numbers: &BTreeMap<Key<'_>, usize>) -> Vec<u32> {
    let mut children: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for device in builder.devices().filter(|device| device.weight > 0.0) {
        let mut parent = None;
        for key in keys(device) {
            let number = numbers[&key];
            let siblings = children.entry(parent).or_default();
            if !siblings.contains(&number) {
                siblings.push(number);
            }
            parent = Some(number);
        }
    }
    let mut most = vec![0.0f64; numbers.len()];
    let mut waiting = vec![(None, builder.replicas)];
    while let Some((place, copies)) = waiting.pop() {
        let inside = children.get(&place).map_or(&[][..], Vec::as_slice);
        let count = f64::from(u32::try_from(inside.len().max(1)).unwrap_or(u32::MAX));
        for child in inside {
            let copies = (copies / count).ceil();
            let is_device = !children.contains_key(&Some(*child));
            most[*child] = if is_device { copies.min(1.0) } else { copies };
            waiting.push((Some(*child), copies));
        }
    }
    most.into_iter().map(small).collect()
}

/// A count of copies; at most 64 by the replica limit.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole numbers from 0 to 64"
)]
const fn small(copies: f64) -> u32 {
    copies as u32
}

impl RingBuilder {
    /// What each device holds, by number, beside its share by weight.
    #[must_use]
    pub fn balances(&self) -> BTreeMap<DeviceId, Balance> {
        let mut held = vec![0u32; self.devices.len()];
        for id in self.table.iter().flatten() {
            if let Some(count) = held.get_mut(usize::from(*id)) {
                *count += 1;
            }
        }
        let weight: f64 = self.devices().map(|device| device.weight).sum();
        let copies = f64::from(self.part_power.partitions()) * self.replicas;
        let balance = |device: &Device| {
            let partitions = held[device.id.index()];
            let percent = match (device.weight > 0.0, partitions) {
                (true, held) => 100.0 * f64::from(held) * weight / (device.weight * copies) - 100.0,
                (false, 0) => 0.0,
                (false, _) => BALANCE_MAX,
            };
            Balance {
                partitions,
                percent,
            }
        };
        self.devices()
            .map(|device| (device.id, balance(device)))
            .collect()
    }

    /// How far the worst device is from its share by weight, in percent of it.
    #[must_use]
    pub fn balance(&self) -> f64 {
        let balances = self.balances();
        balances
            .values()
            .map(|balance| balance.percent.abs())
            .fold(0.0, f64::max)
    }

    /// The overload that would let copies spread as widely as the devices allow: 0.1 is ten percent.
    #[must_use]
    pub fn required_overload(&self) -> f64 {
        super::shares::Tree::new(&self.devices).required_overload(self.replicas)
    }

    /// How spread the copies are, place by place.
    #[must_use]
    pub fn report(&self) -> Report {
        let tiers = Tiers::new(self);
        let width = self.table.len() + 1;
        let mut counts = vec![vec![0u32; width]; tiers.keys.len()];
        let mut here = vec![0usize; tiers.keys.len()];
        let (mut risk, mut touched) = (0u64, Vec::new());
        for partition in 0..self.rested_hours.len() {
            let holders = self.table.iter().filter_map(|row| row.get(partition));
            for places in holders.filter_map(|id| *tiers.of_device.get(usize::from(*id))?) {
                for (depth, place) in places.into_iter().enumerate() {
                    if here[place] == 0 {
                        touched.push((depth, place));
                    }
                    here[place] += 1;
                }
            }
            let mut by_depth = [0u64; 4];
            for (depth, place) in touched.drain(..) {
                let copies = core::mem::take(&mut here[place]);
                counts[place][copies] += 1;
                by_depth[depth] += u64::try_from(copies)
                    .unwrap_or(u64::MAX)
                    .saturating_sub(u64::from(tiers.most[place]));
            }
            risk += by_depth.into_iter().max().unwrap_or(0);
        }
        let risk = f64::from(u32::try_from(risk).unwrap_or(u32::MAX));
        let copies = f64::from(self.part_power.partitions()) * self.replicas;
        let rows = counts.into_iter().enumerate();
        Report {
            dispersion: 100.0 * risk / copies,
            tiers: rows
                .map(|(number, counts)| self.tier(&tiers, number, counts))
                .collect(),
        }
    }

    fn tier(&self, tiers: &Tiers<'_>, number: usize, mut counts: Vec<u32>) -> TierReport {
        let most = tiers.most[number];
        counts[0] = self.part_power.partitions() - counts.iter().sum::<u32>();
        let (mut placed, mut over) = (0u64, 0u64);
        for (copies, partitions) in (0u64..).zip(&counts) {
            placed += copies * u64::from(*partitions);
            over += copies.saturating_sub(u64::from(most)) * u64::from(*partitions);
        }
        let float = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        TierReport {
            name: tiers.name(self, number),
            placed,
            dispersion: 100.0 * float(over) / float(placed.max(1)),
            most,
            counts,
        }
    }

    /// Checks that every copy has a device, and no two of a partition the same.
    ///
    /// # Errors
    /// When it is not so.
    pub fn validate(&self) -> Result<(), BuilderError> {
        self.ring()?;
        for partition in 0..self.rested_hours.len() {
            let holders = self.table.iter().filter_map(|row| row.get(partition));
            let holders: Vec<u16> = holders.copied().collect();
            for (index, device) in holders.iter().enumerate() {
                if *device != UNASSIGNED && holders[..index].contains(device) {
                    return Err(BuilderError::Doubled {
                        partition,
                        device: *device,
                    });
                }
            }
        }
        Ok(())
    }
}

//! Looking things up: which devices keep a partition, and who stands in for them.

use crate::device::{Device, DeviceId};
use crate::hash::{PartPower, Partition, PathHash};
use md5::{Digest as _, Md5};
use std::collections::HashSet;

/// A finished ring.
#[derive(Debug, Clone, PartialEq)]
pub struct Ring {
    pub(crate) part_power: PartPower,
    /// By device number; `None` where a device was removed.
    pub(crate) devices: Vec<Option<Device>>,
    /// By replica, then partition. The last row is shorter when the replica count is fractional.
    pub(crate) table: Vec<Vec<u16>>,
    pub(crate) version: Option<u64>,
    pub(crate) next_part_power: Option<u8>,
    spread: Spread,
}

/// How many places of each tier hold partitions: lets the search for handoffs end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Spread {
    regions: usize,
    zones: usize,
    nodes: usize,
    devices: usize,
}

/// Why parts do not make a ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// A partition names a device that is not there.
    #[error("partition {partition} is assigned to device {device}, which does not exist")]
    UnknownDevice {
        /// The partition.
        partition: usize,
        /// The device's number.
        device: u16,
    },
    /// A row of the table has too many or too few partitions.
    #[error("replica {replica} has {found} partitions, {expected} are expected")]
    RowLength {
        /// The row.
        replica: usize,
        /// Partitions in it.
        found: usize,
        /// Partitions it should have.
        expected: usize,
    },
    /// A device stands at another number than its own.
    #[error("device {found} stands at number {index}")]
    Misplaced {
        /// Its place.
        index: usize,
        /// Its own number.
        found: DeviceId,
    },
    /// There is no row at all.
    #[error("the ring has no replicas")]
    Empty,
}

impl Ring {
    /// Puts a ring together from its parts.
    ///
    /// # Errors
    /// When the table does not fit the part power or names devices that are not there.
    pub fn new(
        part_power: PartPower,
        devices: Vec<Option<Device>>,
        table: Vec<Vec<u16>>,
        version: Option<u64>,
    ) -> Result<Self, RingError> {
        check(part_power, &devices, &table)?;
        let spread = Spread::of(&devices, &table);
        Ok(Self {
            part_power,
            devices,
            table,
            version,
            next_part_power: None,
            spread,
        })
    }

    /// The same, noting where an increase of the part power leads.
    #[must_use]
    pub fn with_next_part_power(mut self, bits: Option<u8>) -> Self {
        self.next_part_power = bits;
        self
    }

    /// The part power that an increase leads to, or has led to while it is not finished. Swift's object servers link files
    /// for it; lookups do not depend on it.
    #[must_use]
    pub const fn next_part_power(&self) -> Option<u8> {
        self.next_part_power
    }

    /// How many top bits of a hash are its partition.
    #[must_use]
    pub const fn part_power(&self) -> PartPower {
        self.part_power
    }

    /// The builder's count of changes, when it is known.
    #[must_use]
    pub const fn version(&self) -> Option<u64> {
        self.version
    }

    /// How many copies a partition has at most.
    #[must_use]
    pub const fn replicas(&self) -> usize {
        self.table.len()
    }

    /// The devices in order of their numbers.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().flatten()
    }

    /// The device with a number.
    #[must_use]
    pub fn device(&self, id: DeviceId) -> Option<&Device> {
        self.devices.get(id.index())?.as_ref()
    }

    /// The partition of a hash.
    #[must_use]
    pub const fn partition(&self, hash: &PathHash) -> Partition {
        self.part_power.partition(hash)
    }

    fn holders(&self, partition: usize) -> impl Iterator<Item = &Device> {
        self.table.iter().filter_map(move |row| {
            let id = row.get(partition)?;
            self.devices.get(usize::from(*id))?.as_ref()
        })
    }

    /// The devices that keep a partition, in order; each once.
    #[must_use]
    pub fn primaries(&self, partition: Partition) -> Vec<&Device> {
        let Ok(partition) = usize::try_from(partition.number()) else {
            return Vec::new();
        };
        let mut primaries: Vec<&Device> = Vec::with_capacity(self.table.len());
        for device in self.holders(partition) {
            if primaries.iter().all(|known| known.id != device.id) {
                primaries.push(device);
            }
        }
        primaries
    }

    /// The devices of a partition's copies, in order: what [`Self::primaries`] has, without a list of its own.
    pub fn copies(&self, partition: Partition) -> impl Iterator<Item = DeviceId> + '_ {
        let partition = usize::try_from(partition.number()).unwrap_or(usize::MAX);
        self.holders(partition).map(|device| device.id)
    }

    /// Whether a device is one of a partition's primaries.
    #[must_use]
    pub fn is_primary(&self, partition: Partition, device: DeviceId) -> bool {
        let Ok(partition) = usize::try_from(partition.number()) else {
            return false;
        };
        self.holders(partition).any(|holder| holder.id == device)
    }

    /// The partitions a device is a primary of, in order.
    pub fn partitions_of(&self, device: DeviceId) -> impl Iterator<Item = Partition> + '_ {
        let all = (0..self.part_power.partitions()).map(Partition::new);
        all.filter(move |partition| self.is_primary(*partition, device))
    }

    /// Who stands in when primaries are away, in Swift's order: other regions first, then other zones, other nodes,
    /// other devices.
    #[must_use]
    pub fn handoffs(&self, partition: Partition) -> Handoffs<'_> {
        let mut handoffs = Handoffs {
            ring: self,
            order: Vec::new(),
            tier: Tier::Region,
            position: 0,
            seen: Seen::default(),
        };
        for device in self.primaries(partition) {
            handoffs.seen.add(device);
        }
        handoffs.order = self.scan_order(partition);
        handoffs
    }

    /// The partitions a search for handoffs looks at: from a place picked by the partition's hash in steps.
    fn scan_order(&self, partition: Partition) -> Vec<u32> {
        let parts = self.part_power.partitions();
        let hash: [u8; 16] = Md5::digest(partition.number().to_string()).into();
        let start = self.part_power.top(&hash);
        let step = (parts / 65_536).max(1);
        let wrapped = step - ((parts - start) % step);
        let step = usize::try_from(step).unwrap_or(1);
        (start..parts)
            .step_by(step)
            .chain((wrapped..start).step_by(step))
            .collect()
    }
}

fn check(
    part_power: PartPower,
    devices: &[Option<Device>],
    table: &[Vec<u16>],
) -> Result<(), RingError> {
    let expected = usize::try_from(part_power.partitions()).unwrap_or(usize::MAX);
    let Some(last) = table.len().checked_sub(1) else {
        return Err(RingError::Empty);
    };
    for (index, device) in devices.iter().enumerate() {
        if let Some(device) = device.as_ref().filter(|device| device.id.index() != index) {
            return Err(RingError::Misplaced {
                index,
                found: device.id,
            });
        }
    }
    for (replica, row) in table.iter().enumerate() {
        let fits =
            row.len() == expected || (replica == last && replica > 0 && row.len() < expected);
        if !fits {
            return Err(RingError::RowLength {
                replica,
                found: row.len(),
                expected,
            });
        }
        for (partition, id) in row.iter().enumerate() {
            if devices.get(usize::from(*id)).is_none_or(Option::is_none) {
                return Err(RingError::UnknownDevice {
                    partition,
                    device: *id,
                });
            }
        }
    }
    Ok(())
}

impl Spread {
    fn of(devices: &[Option<Device>], table: &[Vec<u16>]) -> Self {
        let mut used = vec![false; devices.len()];
        for id in table.iter().flatten() {
            if let Some(flag) = used.get_mut(usize::from(*id)) {
                *flag = true;
            }
        }
        let mut seen = Seen::default();
        for (device, used) in devices.iter().zip(used) {
            if let Some(device) = device.as_ref().filter(|_| used) {
                seen.add(device);
            }
        }
        seen.counts()
    }
}

/// The places already chosen, by tier.
#[derive(Debug, Clone, Default)]
struct Seen<'a> {
    regions: HashSet<u32>,
    zones: HashSet<(u32, u32)>,
    nodes: HashSet<(u32, u32, &'a str)>,
    devices: HashSet<DeviceId>,
}

impl<'a> Seen<'a> {
    fn add(&mut self, device: &'a Device) {
        self.regions.insert(device.region);
        self.zones.insert((device.region, device.zone));
        self.nodes.insert((device.region, device.zone, &device.ip));
        self.devices.insert(device.id);
    }

    fn counts(&self) -> Spread {
        Spread {
            regions: self.regions.len(),
            zones: self.zones.len(),
            nodes: self.nodes.len(),
            devices: self.devices.len(),
        }
    }
}

/// How different a handoff has to be from what was chosen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    Region,
    Zone,
    Node,
    Device,
    Done,
}

impl Tier {
    const fn next(self) -> Self {
        match self {
            Self::Region => Self::Zone,
            Self::Zone => Self::Node,
            Self::Node => Self::Device,
            Self::Device | Self::Done => Self::Done,
        }
    }
}

/// The devices that stand in for a partition's primaries, best first.
#[derive(Debug, Clone)]
pub struct Handoffs<'a> {
    ring: &'a Ring,
    order: Vec<u32>,
    tier: Tier,
    position: usize,
    seen: Seen<'a>,
}

impl Handoffs<'_> {
    /// Whether every place of the present tier is taken.
    fn tier_is_exhausted(&self) -> bool {
        let (have, all) = (self.seen.counts(), self.ring.spread);
        match self.tier {
            Tier::Region => have.regions >= all.regions,
            Tier::Zone => have.zones >= all.zones,
            Tier::Node => have.nodes >= all.nodes,
            Tier::Device => have.devices >= all.devices,
            Tier::Done => true,
        }
    }

    fn is_fresh(&self, device: &Device) -> bool {
        if self.seen.devices.contains(&device.id) {
            return false;
        }
        let zone = (device.region, device.zone);
        match self.tier {
            Tier::Region => !self.seen.regions.contains(&device.region),
            Tier::Zone => !self.seen.zones.contains(&zone),
            Tier::Node => !self
                .seen
                .nodes
                .contains(&(zone.0, zone.1, device.ip.as_str())),
            Tier::Device => true,
            Tier::Done => false,
        }
    }
}

impl<'a> Iterator for Handoffs<'a> {
    type Item = &'a Device;

    fn next(&mut self) -> Option<&'a Device> {
        while self.tier != Tier::Done {
            let end = self.order.len() * self.ring.table.len();
            if self.position >= end || self.tier_is_exhausted() {
                self.tier = self.tier.next();
                self.position = 0;
                continue;
            }
            let replicas = self.ring.table.len();
            let (place, replica) = (self.position / replicas, self.position % replicas);
            self.position += 1;
            let partition = usize::try_from(self.order[place]).unwrap_or(usize::MAX);
            let Some(id) = self.ring.table[replica].get(partition) else {
                continue;
            };
            let Some(device) = self.ring.devices[usize::from(*id)].as_ref() else {
                continue;
            };
            if self.is_fresh(device) {
                self.seen.add(device);
                return Some(device);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod swift_tests;

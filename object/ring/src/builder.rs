//! Making rings: devices come and go, and partitions move as little as that allows.
//!
//! Copies of a partition go to different regions, then zones, then nodes, then devices (O7), in proportion to weights.
//! Where weights and spread disagree, `overload` says how much more than its share a device may take for the sake of
//! spread. The same changes with the same seed give the same ring.

mod file;
mod increase;
mod pickle;
mod place;
mod report;
mod search;
mod shares;

use crate::device::{Device, DeviceId};
use crate::file::REPLICAS_MAX;
use crate::hash::PartPower;
use crate::ring::{Ring, RingError};
use onggi_common_units::UtcTime;

pub use report::{Balance, Report, TierReport};
pub use search::{Search, SearchError, canonical_address};

/// The mark of a copy that has no device yet.
const UNASSIGNED: u16 = u16::MAX;
/// The most hours a builder counts since a partition moved.
const HOURS_MAX: u8 = u8::MAX;

/// A device to be added.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDevice {
    /// Its region.
    pub region: u32,
    /// Its zone.
    pub zone: u32,
    /// Its node's address.
    pub ip: String,
    /// Its node's port.
    pub port: u16,
    /// Its name on the node.
    pub device: String,
    /// How much of the data it takes, relative to the others.
    pub weight: f64,
    /// What its operator notes about it.
    pub meta: String,
    /// The address replication uses, where it is another one.
    pub replication_ip: Option<String>,
    /// The port replication uses, where it is another one.
    pub replication_port: Option<u16>,
}

/// What is to be changed about a device; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceChange {
    /// Its region.
    pub region: Option<u32>,
    /// Its zone.
    pub zone: Option<u32>,
    /// Its node's address.
    pub ip: Option<String>,
    /// Its node's port.
    pub port: Option<u16>,
    /// The address replication uses.
    pub replication_ip: Option<String>,
    /// The port replication uses.
    pub replication_port: Option<u16>,
    /// Its name on the node.
    pub device: Option<String>,
    /// What its operator notes about it.
    pub meta: Option<String>,
}

impl NewDevice {
    /// A device without notes.
    #[must_use]
    pub fn new(region: u32, zone: u32, ip: &str, port: u16, device: &str, weight: f64) -> Self {
        let (ip, device) = (ip.to_owned(), device.to_owned());
        Self {
            region,
            zone,
            ip,
            port,
            device,
            weight,
            meta: String::new(),
            replication_ip: None,
            replication_port: None,
        }
    }
}

/// Why a ring cannot be changed so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BuilderError {
    /// A replica count that is no count.
    #[error("{replicas} replicas are not possible: 1 to {REPLICAS_MAX} are")]
    Replicas {
        /// What was asked.
        replicas: f64,
    },
    /// A negative or endless weight.
    #[error("weight {weight} is not possible: it is a number from 0 up")]
    Weight {
        /// What was asked.
        weight: f64,
    },
    /// An overload that is negative or endless.
    #[error("overload {overload} is not possible: it is a number from 0 up")]
    Overload {
        /// What was asked.
        overload: f64,
    },
    /// The device is in the ring already.
    #[error("device {device} is already in the ring as number {id}")]
    Duplicate {
        /// The device.
        device: String,
        /// Its number.
        id: DeviceId,
    },
    /// There is no device with the number.
    #[error("there is no device {id} in the ring")]
    UnknownDevice {
        /// The number.
        id: DeviceId,
    },
    /// Two devices would be the same one.
    #[error("device {id} already uses {address}/{device}")]
    Taken {
        /// The one that is there.
        id: DeviceId,
        /// Its node.
        address: String,
        /// Its name there.
        device: String,
    },
    /// A partition with two copies on one device.
    #[error("partition {partition} has more than one copy on device {device}")]
    Doubled {
        /// The partition.
        partition: usize,
        /// The device.
        device: u16,
    },
    /// All numbers are taken.
    #[error("the ring is full: it has 65,535 devices")]
    Full,
    /// Not enough devices with weight.
    #[error("{replicas} replicas need as many devices with weight, there are {devices}")]
    TooFewDevices {
        /// Copies wanted.
        replicas: f64,
        /// Devices with weight.
        devices: usize,
    },
    /// The ring was never balanced.
    #[error("the ring has unassigned partitions: rebalance it first")]
    Unbalanced,
    /// Devices and copies do not change while partitions are being doubled.
    #[error(
        "Partition power increase in progress. You need \nto finish the increase first before {what}."
    )]
    Increasing {
        /// What was asked.
        what: &'static str,
    },
    /// An increase is announced, or not finished, already.
    #[error("Ring is already prepared for partition power increase.")]
    Prepared,
    /// No larger ring can be made.
    #[error("the part power is at most {}", PartPower::MAX)]
    PartPowerMax,
    /// There is no announced increase to carry out.
    #[error(
        "Ring partition power cannot be increased. Either the ring\nwas not prepared yet, or this operation has already run."
    )]
    NotPrepared,
    /// There is no announced increase to take back.
    #[error("Ring partition power increase cannot be canceled.")]
    NotCanceled,
    /// There is no increase to finish.
    #[error("Ring partition power increase cannot be finished.")]
    NotFinished,
    /// The table and the devices do not fit: the builder file was damaged.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The builder file cannot be read.
    #[error("the builder file is malformed: {reason}")]
    File {
        /// What is wrong.
        reason: String,
    },
}

/// What a rebalance did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rebalanced {
    /// Copies that have a new device.
    pub moved: usize,
    /// Devices that were removed for good.
    pub removed: usize,
    /// How far the worst device is from its weight's share, in percent of it.
    pub balance: f64,
    /// Percent of copies that stand closer to another than they should.
    pub dispersion: f64,
}

/// A ring in the making.
#[derive(Debug, Clone, PartialEq)]
pub struct RingBuilder {
    part_power: PartPower,
    /// Where an increase of it leads; the same where that is done and not finished.
    next_part_power: Option<PartPower>,
    replicas: f64,
    min_part_hours: u32,
    overload: f64,
    version: u64,
    /// The name Swift's tools give a builder at its first save.
    id: Option<String>,
    /// Whether devices changed since the last rebalance.
    devices_changed: bool,
    /// As of the last rebalance.
    dispersion: Option<f64>,
    devices: Vec<Option<Device>>,
    /// Devices that are gone, until a rebalance has moved their partitions.
    removed: Vec<DeviceId>,
    table: Vec<Vec<u16>>,
    /// By partition: hours from the last move of a copy of it to `rested_at`, at most 255.
    rested_hours: Vec<u8>,
    /// Seconds since 1970 to which `rested_hours` count.
    rested_at: u64,
}

fn check_weight(weight: f64) -> Result<(), BuilderError> {
    if weight.is_finite() && weight >= 0.0 {
        Ok(())
    } else {
        Err(BuilderError::Weight { weight })
    }
}

impl RingBuilder {
    /// An empty ring. A copy of a partition moves at most every `min_part_hours`.
    ///
    /// # Errors
    /// When the replica count is not from 1 to 64.
    pub fn new(
        part_power: PartPower,
        replicas: f64,
        min_part_hours: u32,
    ) -> Result<Self, BuilderError> {
        let parts = usize::try_from(part_power.partitions()).unwrap_or(usize::MAX);
        let mut builder = Self {
            part_power,
            next_part_power: None,
            replicas: 0.0,
            min_part_hours,
            overload: 0.0,
            version: 0,
            id: None,
            devices_changed: false,
            dispersion: Some(0.0),
            devices: Vec::new(),
            removed: Vec::new(),
            table: Vec::new(),
            rested_hours: vec![0; parts],
            rested_at: 0,
        };
        builder.set_replicas(replicas)?;
        builder.version = 0;
        Ok(builder)
    }

    /// Changes the replica count; fractions are allowed. The next rebalance makes it so.
    ///
    /// # Errors
    /// When it is not from 1 to 64.
    pub fn set_replicas(&mut self, replicas: f64) -> Result<(), BuilderError> {
        let limit = f64::from(u8::try_from(REPLICAS_MAX).unwrap_or(u8::MAX));
        if !(1.0..=limit).contains(&replicas) {
            return Err(BuilderError::Replicas { replicas });
        }
        self.replicas = replicas;
        self.version += 1;
        Ok(())
    }

    /// Changes how much more than its share a device takes for the sake of spread: 0.1 is ten percent.
    ///
    /// # Errors
    /// When it is negative or not finite.
    pub fn set_overload(&mut self, overload: f64) -> Result<(), BuilderError> {
        if !overload.is_finite() || overload < 0.0 {
            return Err(BuilderError::Overload { overload });
        }
        self.overload = overload;
        self.version += 1;
        Ok(())
    }

    /// Adds a device; it gets partitions at the next rebalance.
    ///
    /// # Errors
    /// When it is there already, its weight is no weight, or the ring is full or being increased.
    pub fn add(&mut self, new: NewDevice) -> Result<DeviceId, BuilderError> {
        self.check_not_increasing("adding devices")?;
        check_weight(new.weight)?;
        let same = |known: &&Device| {
            known.ip == new.ip && known.port == new.port && known.device == new.device
        };
        let removed = |id: DeviceId| self.removed.contains(&id);
        if let Some(known) = self.devices().filter(|known| !removed(known.id)).find(same) {
            return Err(BuilderError::Duplicate {
                device: known.to_string(),
                id: known.id,
            });
        }
        let index = self
            .devices
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.devices.len());
        let id = u16::try_from(index).ok().filter(|id| *id != UNASSIGNED);
        let id = DeviceId::new(id.ok_or(BuilderError::Full)?);
        let device = Device {
            id,
            region: new.region,
            zone: new.zone,
            replication_ip: Some(new.replication_ip.unwrap_or_else(|| new.ip.clone())),
            replication_port: Some(new.replication_port.unwrap_or(new.port)),
            ip: new.ip,
            port: new.port,
            device: new.device,
            weight: new.weight,
            meta: new.meta,
        };
        if index == self.devices.len() {
            self.devices.push(None);
        }
        self.devices[index] = Some(device);
        self.note_change();
        Ok(id)
    }

    /// Takes a device out; its partitions go elsewhere at the next rebalance, however recently they moved.
    ///
    /// # Errors
    /// When there is no such device, or the ring is being increased.
    pub fn remove(&mut self, id: DeviceId) -> Result<(), BuilderError> {
        self.check_not_increasing("removing devices")?;
        self.device_mut(id)?.weight = 0.0;
        self.removed.push(id);
        self.note_change();
        Ok(())
    }

    /// Changes a device's weight; 0 drains it.
    ///
    /// # Errors
    /// When there is no such device, or the weight is no weight.
    pub fn set_weight(&mut self, id: DeviceId, weight: f64) -> Result<(), BuilderError> {
        check_weight(weight)?;
        self.device_mut(id)?.weight = weight;
        self.note_change();
        Ok(())
    }

    /// Changes where a device stands, how it is reached, or what is noted about it.
    ///
    /// # Errors
    /// When there is no such device, or another one has that address and name.
    pub fn change(&mut self, id: DeviceId, change: DeviceChange) -> Result<(), BuilderError> {
        let mut device = self.device_mut(id)?.clone();
        let moves = change.region.is_some() || change.zone.is_some();
        device.region = change.region.unwrap_or(device.region);
        device.zone = change.zone.unwrap_or(device.zone);
        device.ip = change.ip.unwrap_or(device.ip);
        device.port = change.port.unwrap_or(device.port);
        device.device = change.device.unwrap_or(device.device);
        device.meta = change.meta.unwrap_or(device.meta);
        device.replication_ip = change.replication_ip.or(device.replication_ip);
        device.replication_port = change.replication_port.or(device.replication_port);
        let same = |known: &&Device| {
            known.id != id
                && known.ip == device.ip
                && known.port == device.port
                && known.device == device.device
        };
        if let Some(known) = self.devices().find(same) {
            return Err(BuilderError::Taken {
                id: known.id,
                address: known.address(),
                device: known.device.clone(),
            });
        }
        *self.device_mut(id)? = device;
        self.version += 1;
        self.devices_changed |= moves;
        Ok(())
    }

    /// Changes how many hours a partition rests between moves.
    pub const fn set_min_part_hours(&mut self, hours: u32) {
        self.min_part_hours = hours;
        self.version += 1;
    }

    /// Lets every partition move at the next rebalance, as if it had rested for long.
    pub fn pretend_min_part_hours_passed(&mut self) {
        self.rested_at = 0;
        self.rested_hours.fill(HOURS_MAX);
    }

    /// Gives the builder a name, if it has none.
    pub fn name_once(&mut self, id: impl FnOnce() -> String) {
        self.id.get_or_insert_with(id);
    }

    const fn check_not_increasing(&self, what: &'static str) -> Result<(), BuilderError> {
        match self.next_part_power {
            Some(_) => Err(BuilderError::Increasing { what }),
            None => Ok(()),
        }
    }

    fn note_change(&mut self) {
        self.version += 1;
        self.devices_changed = true;
    }

    fn device_mut(&mut self, id: DeviceId) -> Result<&mut Device, BuilderError> {
        let is_removed = self.removed.contains(&id);
        let device = self.devices.get_mut(id.index()).and_then(Option::as_mut);
        device
            .filter(|_| !is_removed)
            .ok_or(BuilderError::UnknownDevice { id })
    }

    /// The devices in order of their numbers; those removed are among them until a rebalance.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.iter().flatten()
    }

    /// How many top bits of a hash are its partition.
    #[must_use]
    pub const fn part_power(&self) -> PartPower {
        self.part_power
    }

    /// How many copies a partition has.
    #[must_use]
    pub const fn replicas(&self) -> f64 {
        self.replicas
    }

    /// How many changes were made.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Hours a partition rests between moves.
    #[must_use]
    pub const fn min_part_hours(&self) -> u32 {
        self.min_part_hours
    }

    /// Seconds until a partition that moved in the last rebalance may move again.
    #[must_use]
    pub fn rest_seconds_left(&self, now: UtcTime) -> u64 {
        let rested = now.seconds().saturating_sub(self.rested_at);
        (u64::from(self.min_part_hours) * 3_600).saturating_sub(rested)
    }

    /// How much more than its share a device takes for the sake of spread.
    #[must_use]
    pub const fn overload(&self) -> f64 {
        self.overload
    }

    /// The builder's name, when it was saved before.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Percent of copies that stand closer to another than they should, as of the last rebalance.
    #[must_use]
    pub const fn dispersion(&self) -> Option<f64> {
        self.dispersion
    }

    /// Whether devices changed since the last rebalance.
    #[must_use]
    pub const fn devices_changed(&self) -> bool {
        self.devices_changed
    }

    /// Whether a device is to leave at the next rebalance.
    #[must_use]
    pub fn is_removed(&self, id: DeviceId) -> bool {
        self.removed.contains(&id)
    }

    /// Whether partitions have devices yet.
    #[must_use]
    pub fn is_balanced_once(&self) -> bool {
        !self.table.is_empty()
    }

    /// The partitions of which any of these devices keeps a copy, each with how many do; most copies first.
    #[must_use]
    pub fn partitions_of(&self, devices: &[DeviceId]) -> Vec<(usize, usize)> {
        let mut wanted = vec![false; self.devices.len()];
        for id in devices {
            if let Some(flag) = wanted.get_mut(id.index()) {
                *flag = true;
            }
        }
        let mut counts = vec![0; self.rested_hours.len()];
        for row in &self.table {
            for (partition, id) in row.iter().enumerate() {
                counts[partition] += usize::from(wanted.get(usize::from(*id)) == Some(&true));
            }
        }
        let found = counts
            .into_iter()
            .enumerate()
            .filter(|(_, count)| *count > 0);
        let mut found: Vec<(usize, usize)> = found.collect();
        found.sort_by_key(|(_, count)| core::cmp::Reverse(*count));
        found
    }

    /// Makes a builder from a finished ring, where the builder was lost. When partitions moved last is not known.
    ///
    /// # Errors
    /// When the ring's replica count is not from 1 to 64.
    pub fn from_ring(ring: &Ring, min_part_hours: u32) -> Result<Self, BuilderError> {
        let power = ring.part_power();
        let copies: usize = ring.table.iter().map(Vec::len).sum();
        let copies = f64::from(u32::try_from(copies).unwrap_or(u32::MAX));
        let replicas = copies / f64::from(power.partitions());
        let mut builder = Self::new(power, replicas, min_part_hours)?;
        builder.devices.clone_from(&ring.devices);
        builder.table.clone_from(&ring.table);
        builder.version = ring.version().unwrap_or(0);
        builder.next_part_power = ring.next_part_power().and_then(PartPower::new);
        builder.dispersion = None;
        Ok(builder)
    }

    /// The finished ring.
    ///
    /// # Errors
    /// When partitions are unassigned: it was never balanced, or copies were added since.
    pub fn ring(&self) -> Result<Ring, BuilderError> {
        if self.table.is_empty() || self.table.iter().flatten().any(|id| *id == UNASSIGNED) {
            return Err(BuilderError::Unbalanced);
        }
        let table = self.table.clone();
        let devices = self.devices.clone();
        let ring = Ring::new(self.part_power, devices, table, Some(self.version))?;
        Ok(ring.with_next_part_power(self.next_part_power.map(PartPower::bits)))
    }

    /// Gives every copy a device, and moves copies towards the devices' shares.
    ///
    /// At most one copy of a partition moves, and only when none moved for `min_part_hours`; copies on removed
    /// devices move in any case.
    ///
    /// # Errors
    /// When there are fewer devices with weight than copies, or the ring is being increased.
    pub fn rebalance(&mut self, seed: u64, now: UtcTime) -> Result<Rebalanced, BuilderError> {
        self.check_not_increasing("rebalancing")?;
        place::rebalance(self, seed, now)
    }
}

#[cfg(test)]
mod tests;

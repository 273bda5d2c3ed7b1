//! Making rings: devices come and go, and partitions move as little as that allows.
//!
//! Copies of a partition go to different regions, then zones, then nodes, then devices (O7), in proportion to weights.
//! Where weights and spread disagree, `overload` says how much more than its share a device may take for the sake of
//! spread. The same changes with the same seed give the same ring.

mod file;
mod place;
mod shares;

use crate::device::{Device, DeviceId};
use crate::file::REPLICAS_MAX;
use crate::hash::PartPower;
use crate::ring::{Ring, RingError};
use onggi_common_units::UtcTime;

/// The mark of a copy that has no device yet.
const UNASSIGNED: u16 = u16::MAX;
/// How much more than its share a device takes for the sake of spread, unless set otherwise.
const OVERLOAD_DEFAULT: f64 = 0.1;

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
    /// How far the worst device is from its share, in percent of it.
    pub balance: f64,
    /// Percent of partitions whose copies stand closer together than they should.
    pub dispersion: f64,
}

/// A ring in the making.
#[derive(Debug, Clone, PartialEq)]
pub struct RingBuilder {
    part_power: PartPower,
    replicas: f64,
    min_part_hours: u32,
    overload: f64,
    version: u64,
    devices: Vec<Option<Device>>,
    /// Devices that are gone, until a rebalance has moved their partitions.
    removed: Vec<DeviceId>,
    table: Vec<Vec<u16>>,
    /// By partition: the hour since 1970 in which a copy of it was last moved; 0 for never.
    moved_hours: Vec<u32>,
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
            replicas: 0.0,
            min_part_hours,
            overload: OVERLOAD_DEFAULT,
            version: 0,
            devices: Vec::new(),
            removed: Vec::new(),
            table: Vec::new(),
            moved_hours: vec![0; parts],
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
    /// When it is there already, its weight is no weight, or the ring is full.
    pub fn add(&mut self, new: NewDevice) -> Result<DeviceId, BuilderError> {
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
            replication_ip: Some(new.ip.clone()),
            replication_port: Some(new.port),
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
        self.version += 1;
        Ok(id)
    }

    /// Takes a device out; its partitions go elsewhere at the next rebalance, however recently they moved.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn remove(&mut self, id: DeviceId) -> Result<(), BuilderError> {
        self.device_mut(id)?.weight = 0.0;
        self.removed.push(id);
        self.version += 1;
        Ok(())
    }

    /// Changes a device's weight; 0 drains it.
    ///
    /// # Errors
    /// When there is no such device, or the weight is no weight.
    pub fn set_weight(&mut self, id: DeviceId, weight: f64) -> Result<(), BuilderError> {
        check_weight(weight)?;
        self.device_mut(id)?.weight = weight;
        self.version += 1;
        Ok(())
    }

    /// Changes where a device is reached: its node's address and port, and its name there.
    ///
    /// # Errors
    /// When there is no such device.
    pub fn set_address(&mut self, id: DeviceId, ip: &str, port: u16) -> Result<(), BuilderError> {
        let device = self.device_mut(id)?;
        ip.clone_into(&mut device.ip);
        device.port = port;
        device.replication_ip = Some(ip.to_owned());
        device.replication_port = Some(port);
        self.version += 1;
        Ok(())
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

    /// The finished ring.
    ///
    /// # Errors
    /// When partitions are unassigned: it was never balanced, or copies were added since.
    pub fn ring(&self) -> Result<Ring, BuilderError> {
        if self.table.is_empty() || self.table.iter().flatten().any(|id| *id == UNASSIGNED) {
            return Err(BuilderError::Unbalanced);
        }
        let table = self.table.clone();
        Ok(Ring::new(
            self.part_power,
            self.devices.clone(),
            table,
            Some(self.version),
        )?)
    }

    /// Gives every copy a device, and moves copies towards the devices' shares.
    ///
    /// At most one copy of a partition moves, and only when none moved for `min_part_hours`; copies on removed
    /// devices move in any case.
    ///
    /// # Errors
    /// When there are fewer devices with weight than copies.
    pub fn rebalance(&mut self, seed: u64, now: UtcTime) -> Result<Rebalanced, BuilderError> {
        place::rebalance(self, seed, now)
    }
}

#[cfg(test)]
mod tests;

//! The builder's file, in memory: Swift's own format, a pickled dictionary.
//!
//! | key | what |
//! |---|---|
//! | `next_part_power` | while partitions are being doubled: where that leads |
//! | `part_power`, `parts`, `replicas`, `min_part_hours`, `overload`, `version`, `id` | what their names say |
//! | `devs` | by number: a dictionary, or `None` where a device was removed |
//! | `_remove_devs` | devices that leave at the next rebalance |
//! | `_replica2part2dev` | one array of device numbers per replica; `None` before the first rebalance |
//! | `_last_part_moves`, `_last_part_moves_epoch` | hours since each partition moved, and the second they count to |
//! | `dispersion` | as of the last rebalance |

use super::pickle::{self, Object, Pickle, Value, Writer};
use super::{BuilderError, RingBuilder, UNASSIGNED};
use crate::device::{Device, DeviceId};
use crate::file::REPLICAS_MAX;
use crate::hash::PartPower;
use std::collections::BTreeMap;

/// What the builder files of the first builds began with.
const GZIP: &[u8] = &[0x1f, 0x8b];

fn malformed(reason: impl ToString) -> BuilderError {
    BuilderError::File {
        reason: reason.to_string(),
    }
}

impl RingBuilder {
    /// Writes the builder as a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.dict(|writer| {
            self.write_numbers(writer);
            self.write_devices(writer);
            self.write_tables(writer);
        });
        writer.finish()
    }

    fn write_numbers(&self, writer: &mut Writer) {
        let numbers = [
            ("part_power", u64::from(self.part_power.bits())),
            ("parts", u64::from(self.part_power.partitions())),
            ("min_part_hours", u64::from(self.min_part_hours)),
            ("version", self.version),
            ("dev_id_bytes", 2),
            ("_last_part_moves_epoch", self.rested_at),
            ("_last_part_gather_start", 0),
        ];
        for (key, number) in numbers {
            writer.text(key);
            writer.int(number);
        }
        writer.text("replicas");
        writer.float(self.replicas);
        writer.text("overload");
        writer.float(self.overload);
        writer.text("dispersion");
        match self.dispersion {
            Some(dispersion) => writer.float(dispersion),
            None => writer.none(),
        }
        writer.text("id");
        match &self.id {
            Some(id) => writer.text(id),
            None => writer.none(),
        }
        writer.text("devs_changed");
        writer.bool(self.devices_changed);
        writer.text("next_part_power");
        match self.next_part_power {
            Some(power) => writer.int(u64::from(power.bits())),
            None => writer.none(),
        }
        writer.text("_dispersion_graph");
        writer.dict(|_| ());
    }

    fn write_devices(&self, writer: &mut Writer) {
        let balances = self.balances();
        let write = |writer: &mut Writer, device: &Device| {
            let held = balances
                .get(&device.id)
                .map_or(0, |balance| balance.partitions);
            write_device(writer, device, held);
        };
        writer.text("devs");
        writer.list(|writer| {
            for device in &self.devices {
                match device {
                    Some(device) => write(writer, device),
                    None => writer.none(),
                }
            }
        });
        writer.text("_remove_devs");
        writer.list(|writer| {
            let devices = self
                .removed
                .iter()
                .filter_map(|id| self.devices.get(id.index()));
            devices.flatten().for_each(|device| write(writer, device));
        });
    }

    fn write_tables(&self, writer: &mut Writer) {
        writer.text("_replica2part2dev");
        if self.table.is_empty() {
            writer.none();
        } else {
            writer.list(|writer| {
                for row in &self.table {
                    writer.array("H", row.iter().copied().map(u64::from));
                }
            });
        }
        writer.text("_last_part_moves");
        writer.array("B", self.rested_hours.iter().copied().map(u64::from));
    }

    /// Reads a builder file, ours or Swift's.
    ///
    /// # Errors
    /// When the bytes are no builder file, or an inconsistent one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BuilderError> {
        if bytes.starts_with(GZIP) {
            return Err(malformed(
                "it is compressed, as the first builds wrote them: move it away and make it anew from the ring, \
                 by write_builder",
            ));
        }
        let pickle = pickle::read(bytes).map_err(malformed)?;
        let root =
            Record::of(&pickle, &pickle.root).ok_or_else(|| malformed("it is no builder"))?;
        let power = PartPower::new(root.number("part_power")?);
        let power = power.ok_or_else(|| malformed("the part power is out of range"))?;
        let mut builder = Self::new(
            power,
            root.float("replicas")?,
            root.number("min_part_hours")?,
        )?;
        builder.set_overload(root.float("overload").unwrap_or(0.0))?;
        builder.version = root.number("version")?;
        if !matches!(root.get("next_part_power"), Value::None) {
            let next = PartPower::new(root.number("next_part_power")?);
            let next = next.filter(|next| *next == power || Some(*next) == power.next());
            let next = next.ok_or_else(|| malformed("the next part power is out of range"))?;
            builder.next_part_power = Some(next);
        }
        builder.id = root.text("id").ok();
        builder.dispersion = root.float("dispersion").ok();
        builder.devices_changed = matches!(root.get("devs_changed"), Value::Bool(true));
        builder.rested_at = root.number("_last_part_moves_epoch").unwrap_or(0);
        builder.read_devices(&root)?;
        builder.read_tables(&root)?;
        Ok(builder)
    }

    fn read_devices(&mut self, root: &Record<'_>) -> Result<(), BuilderError> {
        for (index, value) in root.list("devs")?.iter().enumerate() {
            let device = match Record::of(root.pickle, value) {
                Some(record) => Some(read_device(&record)?),
                None => None,
            };
            if device
                .as_ref()
                .is_some_and(|device| device.id.index() != index)
            {
                return Err(malformed("the devices are out of order"));
            }
            self.devices.push(device);
        }
        if self.devices.len() > usize::from(UNASSIGNED) {
            return Err(BuilderError::Full);
        }
        for value in root.list("_remove_devs")? {
            let record = Record::of(root.pickle, value)
                .ok_or_else(|| malformed("a removed device is none"))?;
            let id = DeviceId::new(record.number("id")?);
            if self.devices.get(id.index()).is_none_or(Option::is_none) {
                return Err(malformed("a removed device is not there"));
            }
            self.removed.push(id);
        }
        Ok(())
    }

    fn read_tables(&mut self, root: &Record<'_>) -> Result<(), BuilderError> {
        if let Some(moves) = root.array("_last_part_moves") {
            if moves.len() != self.rested_hours.len() {
                return Err(malformed("it has not as many hours as partitions"));
            }
            for (rested, hours) in self.rested_hours.iter_mut().zip(moves) {
                *rested = u8::try_from(*hours).unwrap_or(u8::MAX);
            }
        }
        if matches!(root.get("_replica2part2dev"), Value::None) {
            return Ok(());
        }
        let rows = root.list("_replica2part2dev")?;
        if rows.len() > REPLICAS_MAX {
            return Err(malformed("it has too many rows"));
        }
        for (index, row) in rows.iter().enumerate() {
            let row = root
                .array_of(row)
                .ok_or_else(|| malformed("a row is no array"))?;
            let (length, expected) = (row.len(), self.rested_hours.len());
            if length > expected || (length < expected && index + 1 < rows.len()) {
                return Err(malformed(format!("row {index} has {length} partitions")));
            }
            let id = |id: &u32| u16::try_from(*id).unwrap_or(UNASSIGNED);
            self.table.push(row.iter().map(id).collect());
        }
        let unknown = |id: &&u16| {
            self.devices
                .get(usize::from(**id))
                .is_none_or(Option::is_none)
        };
        match self
            .table
            .iter()
            .flatten()
            .filter(|id| **id != UNASSIGNED)
            .find(unknown)
        {
            Some(id) => Err(malformed(format!(
                "partitions are on device {id}, which is not there"
            ))),
            None => Ok(()),
        }
    }
}

fn write_device(writer: &mut Writer, device: &Device, held: u32) {
    writer.dict(|writer| {
        let numbers = [
            ("id", u64::from(device.id.number())),
            ("region", u64::from(device.region)),
            ("zone", u64::from(device.zone)),
            ("port", u64::from(device.port)),
            (
                "replication_port",
                u64::from(device.replication_port.unwrap_or(device.port)),
            ),
            ("parts", u64::from(held)),
            ("parts_wanted", 0),
        ];
        for (key, number) in numbers {
            writer.text(key);
            writer.int(number);
        }
        let replication_ip = device.replication_ip.as_ref().unwrap_or(&device.ip);
        let texts = [
            ("ip", &device.ip),
            ("replication_ip", replication_ip),
            ("device", &device.device),
            ("meta", &device.meta),
        ];
        for (key, text) in texts {
            writer.text(key);
            writer.text(text);
        }
        writer.text("weight");
        writer.float(device.weight);
    });
}

fn read_device(record: &Record<'_>) -> Result<Device, BuilderError> {
    let weight = record.float("weight")?;
    super::check_weight(weight)?;
    Ok(Device {
        id: DeviceId::new(record.number("id")?),
        region: record.number("region").unwrap_or(1),
        zone: record.number("zone")?,
        ip: record.text("ip")?,
        port: record.number("port")?,
        device: record.text("device")?,
        weight,
        meta: record.text("meta").unwrap_or_default(),
        replication_ip: Some(
            record
                .text("replication_ip")
                .or_else(|_| record.text("ip"))?,
        ),
        replication_port: Some(
            record
                .number("replication_port")
                .or_else(|_| record.number("port"))?,
        ),
    })
}

/// A dictionary with texts for keys.
struct Record<'a> {
    pickle: &'a Pickle,
    entries: BTreeMap<&'a str, &'a Value>,
}

impl<'a> Record<'a> {
    fn of(pickle: &'a Pickle, value: &Value) -> Option<Self> {
        let Value::Object(number) = value else {
            return None;
        };
        let Object::Dict(entries) = pickle.objects.get(*number)? else {
            return None;
        };
        let keyed = |(key, value): &'a (Value, Value)| match key {
            Value::Text(key) => Some((key.as_str(), value)),
            _ => None,
        };
        let entries = entries.iter().filter_map(keyed).collect();
        Some(Self { pickle, entries })
    }

    fn get(&self, key: &str) -> &'a Value {
        self.entries.get(key).copied().unwrap_or(&Value::None)
    }

    fn number<N: TryFrom<i64>>(&self, key: &str) -> Result<N, BuilderError> {
        let wrong = || malformed(format!("{key} is missing or out of range"));
        match self.get(key) {
            Value::Int(number) => N::try_from(*number).map_err(|_invalid| wrong()),
            // Swift's epoch is a float in old files.
            Value::Float(number) => N::try_from(whole(*number)).map_err(|_invalid| wrong()),
            Value::None | Value::Bool(_) | Value::Text(_) | Value::Object(_) => Err(wrong()),
        }
    }

    fn float(&self, key: &str) -> Result<f64, BuilderError> {
        match self.get(key) {
            Value::Float(number) => Ok(*number),
            Value::Int(number) => {
                Ok(f64::from(i32::try_from(*number).map_err(|_invalid| {
                    malformed(format!("{key} is out of range"))
                })?))
            }
            Value::None | Value::Bool(_) | Value::Text(_) | Value::Object(_) => {
                Err(malformed(format!("{key} is missing or no number")))
            }
        }
    }

    fn text(&self, key: &str) -> Result<String, BuilderError> {
        match self.get(key) {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(malformed(format!("{key} is missing or no text"))),
        }
    }

    fn object(&self, value: &Value) -> Option<&'a Object> {
        match value {
            Value::Object(number) => self.pickle.objects.get(*number),
            _ => None,
        }
    }

    fn list(&self, key: &str) -> Result<&'a [Value], BuilderError> {
        match self.object(self.get(key)) {
            Some(Object::List(list)) => Ok(list),
            _ => Err(malformed(format!("{key} is missing or no list"))),
        }
    }

    fn array_of(&self, value: &Value) -> Option<&'a [u32]> {
        match self.object(value) {
            Some(Object::Array(numbers)) => Some(numbers),
            _ => None,
        }
    }

    fn array(&self, key: &str) -> Option<&'a [u32]> {
        self.array_of(self.get(key))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "saturating is right for a time"
)]
const fn whole(value: f64) -> i64 {
    value as i64
}

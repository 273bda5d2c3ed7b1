//! The builder's own file, in memory.
//!
//! Gzip over: `OGRB`, version (2 bytes), header length (4 bytes, all big-endian), header (JSON), one little-endian row
//! of device numbers per replica (65,535: unassigned), and the hour each partition last moved (4 bytes each).

use super::{BuilderError, RingBuilder};
use crate::device::{Device, DeviceId};
use crate::file::{compress, decompress};
use crate::hash::PartPower;

const MAGIC: &[u8; 4] = b"OGRB";
const VERSION: u16 = 1;

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    part_power: u8,
    replicas: f64,
    min_part_hours: u32,
    overload: f64,
    version: u64,
    devices: Vec<Option<Device>>,
    removed: Vec<DeviceId>,
    rows: Vec<usize>,
}

fn malformed(reason: impl ToString) -> BuilderError {
    BuilderError::File {
        reason: reason.to_string(),
    }
}

impl RingBuilder {
    /// Writes the builder as a file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = Header {
            part_power: self.part_power.bits(),
            replicas: self.replicas,
            min_part_hours: self.min_part_hours,
            overload: self.overload,
            version: self.version,
            devices: self.devices.clone(),
            removed: self.removed.clone(),
            rows: self.table.iter().map(Vec::len).collect(),
        };
        let header =
            serde_json::to_vec(&header).expect("a header has only texts and finite numbers");
        let length =
            u32::try_from(header.len()).expect("65,535 devices make less than 4 GiB of header");
        let mut plain = MAGIC.to_vec();
        plain.extend_from_slice(&VERSION.to_be_bytes());
        plain.extend_from_slice(&length.to_be_bytes());
        plain.extend_from_slice(&header);
        for id in self.table.iter().flatten() {
            plain.extend_from_slice(&id.to_le_bytes());
        }
        for hour in &self.moved_hours {
            plain.extend_from_slice(&hour.to_le_bytes());
        }
        compress(&plain)
    }

    /// Reads a builder file.
    ///
    /// # Errors
    /// When the bytes are no builder file of version 1, or an inconsistent one.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BuilderError> {
        let plain = decompress(bytes).map_err(malformed)?;
        let (magic, rest) = plain
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed("too short"))?;
        if magic != MAGIC {
            return Err(malformed("it is no ring builder"));
        }
        let (version, rest) = rest
            .split_first_chunk::<2>()
            .ok_or_else(|| malformed("too short"))?;
        let version = u16::from_be_bytes(*version);
        if version != VERSION {
            return Err(malformed(format!(
                "version {version} is not known; version 1 is"
            )));
        }
        let (length, rest) = rest
            .split_first_chunk::<4>()
            .ok_or_else(|| malformed("too short"))?;
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(malformed)?;
        let (header, tables) = rest
            .split_at_checked(length)
            .ok_or_else(|| malformed("the header is cut short"))?;
        let header: Header = serde_json::from_slice(header).map_err(malformed)?;
        Self::assemble(header, tables)
    }

    fn assemble(header: Header, tables: &[u8]) -> Result<Self, BuilderError> {
        let part_power = PartPower::new(header.part_power);
        let part_power = part_power.ok_or_else(|| malformed("the part power is out of range"))?;
        let mut builder = Self::new(part_power, header.replicas, header.min_part_hours)?;
        builder.set_overload(header.overload)?;
        let partitions = builder.moved_hours.len();
        let copies = header.rows.iter().try_fold(0usize, |sum, row| {
            (*row <= partitions)
                .then(|| sum + row)
                .ok_or_else(|| malformed("a row is too long"))
        })?;
        let expected = copies * 2 + partitions * 4;
        if tables.len() != expected {
            return Err(malformed(format!(
                "{} bytes of tables, not {expected}",
                tables.len()
            )));
        }
        let (ids, hours) = tables.split_at(copies * 2);
        let mut ids = ids
            .chunks_exact(2)
            .map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        builder.table = header
            .rows
            .iter()
            .map(|row| ids.by_ref().take(*row).collect())
            .collect();
        for (hour, bytes) in builder.moved_hours.iter_mut().zip(hours.chunks_exact(4)) {
            *hour = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        let misplaced = header.devices.iter().enumerate().any(|(index, device)| {
            device
                .as_ref()
                .is_some_and(|device| device.id.index() != index)
        });
        let unknown = |id: &DeviceId| header.devices.get(id.index()).is_none_or(Option::is_none);
        if misplaced || header.removed.iter().any(unknown) {
            return Err(malformed("the devices are out of order"));
        }
        builder.devices = header.devices;
        builder.removed = header.removed;
        builder.version = header.version;
        Ok(builder)
    }
}

//! An object's row as the device stores it: the row, and where its bytes are.

use onggi_common_meta::table::{PayloadError, Record};
use onggi_common_units::Timestamp;
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::{Digest, ObjectRow};

use crate::key::ObjectKey;

/// Where something may be read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFrom {
    /// Only from the store's own memory: it does not block.
    Memory,
    /// From the disk, too.
    Disk,
}

/// Where an object's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// There are none: a tombstone.
    Nowhere,
    /// In the `body` table.
    Inline,
    /// In the file of this name.
    File(String),
    /// They were damaged and moved away: readers are told so until a good copy comes.
    Quarantined,
}

/// An object's row and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredObject {
    /// The row.
    pub row: ObjectRow,
    /// Where its bytes are.
    pub location: Location,
}

impl StoredObject {
    /// Its part of the digest. A quarantined copy counts differently, so that peers notice that it needs healing.
    #[must_use]
    pub fn digest(&self, key: &ObjectKey) -> Digest {
        let digest = self
            .row
            .digest(key.policy.get(), key.hash.as_bytes(), key.fragment);
        match self.location {
            Location::Nowhere | Location::Inline | Location::File(_) => digest,
            Location::Quarantined => Digest::of(&digest.value().to_be_bytes()),
        }
    }

    /// When its bytes, its content type and its metadata were set.
    #[must_use]
    pub fn timestamps(&self) -> [Timestamp; 3] {
        [
            self.row.data_timestamp,
            self.row.content_type_timestamp,
            self.row.metadata_timestamp,
        ]
    }

    /// The day its digest counts in: 0 for an object, the day of its deletion (since 1970) for a tombstone. The trace of an
    /// expired object is stamped as its bytes were; it was deleted on the day of its date.
    #[must_use]
    pub fn day(&self) -> u16 {
        if self.row.body.is_some() {
            return 0;
        }
        trace_day(&self.row)
    }
}

/// The day (since 1970) a trace's object was deleted.
pub(crate) fn trace_day(row: &ObjectRow) -> u16 {
    let deleted = row.data_timestamp.to_utc().seconds();
    // A day 0 tombstone would count as an object; nothing real was deleted on 1 January 1970.
    day_of(deleted.max(row.date().unwrap_or(0))).max(1)
}

/// The day (since 1970) of a second.
#[must_use]
pub fn day_of(second: u64) -> u16 {
    const SECONDS_PER_DAY: u64 = 86_400;
    u16::try_from(second / SECONDS_PER_DAY).unwrap_or(u16::MAX)
}

fn malformed(error: &CodecError) -> PayloadError {
    PayloadError {
        detail: error.to_string(),
    }
}

impl Record for StoredObject {
    const NAME: &'static str = "object";
    const VERSION: u16 = 1;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        let mut writer = Writer::new();
        match &self.location {
            Location::Nowhere => writer.u8(0),
            Location::Inline => writer.u8(1),
            Location::File(name) => {
                writer.u8(2);
                writer.text(name);
            }
            Location::Quarantined => writer.u8(3),
        }
        self.row.encode(&mut writer);
        payload.extend_from_slice(&writer.finish());
    }

    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
        if version != Self::VERSION {
            return Ok(None);
        }
        let mut reader = Reader::new(payload);
        let read = |reader: &mut Reader<'_>| {
            let location = match reader.u8("a location")? {
                0 => Location::Nowhere,
                1 => Location::Inline,
                2 => Location::File(reader.text("a location")?),
                3 => Location::Quarantined,
                _ => return Err(CodecError::Malformed { what: "a location" }),
            };
            Ok(Self {
                row: ObjectRow::decode(reader)?,
                location,
            })
        };
        let stored = read(&mut reader).map_err(|error| malformed(&error))?;
        reader.end("an object").map_err(|error| malformed(&error))?;
        Ok(Some(stored))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_meta::table;
    use onggi_object_model::ObjectPath;

    fn stored(location: Location) -> StoredObject {
        let path = ObjectPath {
            account: "a".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: "o".parse().unwrap(),
        };
        let at = "1700000000.00000".parse::<Timestamp>().unwrap();
        StoredObject {
            row: ObjectRow::tombstone(path, at),
            location,
        }
    }

    #[test]
    fn a_stored_object_keeps_its_golden_bytes() {
        let bytes = table::encode(&stored(Location::File("f".to_owned())));
        let golden = include_str!("../golden/stored-object-1.hex").trim();
        assert_eq!(onggi_object_wire::head::to_hex(&bytes), golden);
        assert_eq!(
            table::decode::<StoredObject>(&bytes).unwrap(),
            stored(Location::File("f".to_owned()))
        );
    }

    #[test]
    fn every_location_comes_back_and_damage_is_noticed() {
        for location in [
            Location::Nowhere,
            Location::Inline,
            Location::File("x".to_owned()),
            Location::Quarantined,
        ] {
            let mut bytes = table::encode(&stored(location.clone()));
            assert_eq!(
                table::decode::<StoredObject>(&bytes).unwrap(),
                stored(location)
            );
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            assert!(table::decode::<StoredObject>(&bytes).is_err());
        }
    }

    #[test]
    fn a_tombstone_counts_in_the_digest_of_its_day() {
        assert_eq!(stored(Location::Nowhere).day(), 19_675);
    }
}

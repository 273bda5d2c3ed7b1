//! Records of containers and accounts in binary form: what devices store and messages carry.

use crate::codec::{CodecError, Reader, Writer};
use crate::digest::Digest;
use crate::merge::{self, CountedContainer};
use crate::row::{read_metadata, write_metadata};
use onggi_common_units::Timestamp;
use onggi_object_model::{
    ContainerName, ContainerRecord, Etag, Metadata, ObjectName, ObjectRecord, PolicyIndex,
};

/// The newest version of either record's binary form.
pub const VERSION: u8 = 2;
/// The version of object records without annotations and of container records without a policy, written for these.
const VERSION_PLAIN: u8 = 1;

/// A record in a roster: of an object in its container, or of a container in its account.
pub trait Record: Sized + Clone + Send + Sync + PartialEq + core::fmt::Debug + 'static {
    /// What it is called in errors.
    const NAME: &'static str;

    /// The name it is sorted by.
    fn name(&self) -> &str;
    /// Whether it counts and is listed; a tombstone does not.
    fn is_live(&self) -> bool;
    /// The newest of its stamps, totals apart: when what it is about was last put, changed or deleted.
    fn newest(&self) -> Timestamp;
    /// What it adds to its roster's totals when it is live: objects, bytes.
    fn weight(&self) -> (u64, u64);
    /// Takes what wins of another record of the same name. True when anything changed.
    fn merge(&mut self, other: &Self) -> bool;
    /// Appends the binary form.
    fn encode(&self, writer: &mut Writer);
    /// Reads the binary form.
    ///
    /// # Errors
    /// When the bytes are no record this program knows.
    fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError>;

    /// The record's part of its roster's digest.
    fn digest(&self) -> Digest {
        let mut writer = Writer::new();
        self.encode(&mut writer);
        Digest::of(&writer.finish())
    }
}

impl Record for ObjectRecord {
    const NAME: &'static str = "an object record";

    fn name(&self) -> &str {
        self.name.as_str()
    }

    fn is_live(&self) -> bool {
        !self.deleted
    }

    fn newest(&self) -> Timestamp {
        self.timestamp()
    }

    fn weight(&self) -> (u64, u64) {
        (1, self.length)
    }

    fn merge(&mut self, other: &Self) -> bool {
        merge::object_records(self, other)
    }

    fn encode(&self, writer: &mut Writer) {
        let is_plain = self.annotations.is_empty();
        writer.u8(if is_plain { VERSION_PLAIN } else { VERSION });
        writer.text(self.name.as_str());
        writer.timestamp(self.data_timestamp);
        writer.u8(u8::from(self.deleted));
        writer.u64(self.length);
        writer.raw(self.etag.as_bytes());
        writer.timestamp(self.content_type_timestamp);
        writer.text(&self.content_type);
        writer.timestamp(self.metadata_timestamp);
        if !is_plain {
            write_metadata(writer, &self.annotations);
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let what = Self::NAME;
        let version = reader.version(what, VERSION)?;
        let mut record = Self {
            name: ObjectName::new(reader.text(what)?)
                .ok()
                .ok_or(CodecError::Malformed { what })?,
            data_timestamp: reader.timestamp(what)?,
            deleted: match reader.u8(what)? {
                0 => false,
                1 => true,
                _ => return Err(CodecError::Malformed { what }),
            },
            length: reader.u64(what)?,
            etag: Etag::new(reader.array(what)?),
            content_type_timestamp: reader.timestamp(what)?,
            content_type: reader.text(what)?,
            metadata_timestamp: reader.timestamp(what)?,
            annotations: Metadata::default(),
        };
        if version > VERSION_PLAIN {
            record.annotations = read_metadata(reader)?;
        }
        Ok(record)
    }
}

impl Record for CountedContainer {
    const NAME: &'static str = "a container record";

    fn name(&self) -> &str {
        self.record.name.as_str()
    }

    fn is_live(&self) -> bool {
        self.record.exists()
    }

    fn newest(&self) -> Timestamp {
        self.record.put_timestamp.max(self.record.delete_timestamp)
    }

    fn weight(&self) -> (u64, u64) {
        (self.record.object_count, self.record.bytes_used)
    }

    fn merge(&mut self, other: &Self) -> bool {
        merge::container_records(self, other)
    }

    fn encode(&self, writer: &mut Writer) {
        let policy = self.record.policy;
        writer.u8(policy.map_or(VERSION_PLAIN, |_known| VERSION));
        writer.text(self.record.name.as_str());
        writer.timestamp(self.record.put_timestamp);
        writer.timestamp(self.record.delete_timestamp);
        writer.timestamp(self.counted_at);
        writer.u64(self.record.object_count);
        writer.u64(self.record.bytes_used);
        if let Some(policy) = policy {
            writer.u16(policy.get());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        let what = Self::NAME;
        let version = reader.version(what, VERSION)?;
        let name = ContainerName::new(reader.text(what)?)
            .ok()
            .ok_or(CodecError::Malformed { what })?;
        let put_timestamp = reader.timestamp(what)?;
        let delete_timestamp = reader.timestamp(what)?;
        let counted_at = reader.timestamp(what)?;
        let object_count = reader.u64(what)?;
        let bytes_used = reader.u64(what)?;
        let policy = match version {
            VERSION_PLAIN => None,
            _ => Some(PolicyIndex::new(reader.u16(what)?)),
        };
        let record = ContainerRecord {
            name,
            put_timestamp,
            delete_timestamp,
            object_count,
            bytes_used,
            policy,
        };
        Ok(Self { record, counted_at })
    }
}

/// Records as a message's body.
///
/// # Panics
/// When there are more than 2³², which no message's limit allows.
#[must_use]
pub fn encode_all<R: Record>(records: &[R]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u32(u32::try_from(records.len()).expect("messages are bounded far below 2^32 records"));
    for record in records {
        record.encode(&mut writer);
    }
    writer.finish()
}

/// Records from a message's body.
///
/// # Errors
/// When the bytes are no records this program knows.
pub fn decode_all<R: Record>(bytes: &[u8]) -> Result<Vec<R>, CodecError> {
    let mut reader = Reader::new(bytes);
    let count = reader.count(R::NAME, 16)?;
    let mut records = Vec::with_capacity(count);
    for _ in 0..count {
        records.push(R::decode(&mut reader)?);
    }
    reader.end(R::NAME)?;
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(name: &str) -> ObjectRecord {
        ObjectRecord {
            name: name.parse().unwrap(),
            data_timestamp: Timestamp::from_ticks(1).unwrap(),
            content_type_timestamp: Timestamp::from_ticks(2).unwrap(),
            metadata_timestamp: Timestamp::from_ticks(3).unwrap(),
            deleted: false,
            length: 5,
            etag: Etag::EMPTY,
            content_type: "text/plain".to_owned(),
            annotations: Metadata::default(),
        }
    }

    #[test]
    fn annotations_survive_and_only_they_need_the_newer_form() {
        let mut record = object("o");
        record.annotations.insert("bytes", "7");
        let bytes = encode_all(&[record.clone()]);
        assert_eq!(decode_all(&bytes), Ok(vec![record]));
        assert_eq!((bytes[4], encode_all(&[object("o")])[4]), (2, 1));
    }

    fn container(at: u64, counted: u64, objects: u64) -> CountedContainer {
        let stamp = |ticks| Timestamp::from_ticks(ticks).unwrap();
        CountedContainer {
            record: ContainerRecord {
                name: "c".parse().unwrap(),
                put_timestamp: stamp(at),
                delete_timestamp: stamp(4 - at.min(4)),
                object_count: objects,
                bytes_used: objects,
                policy: None,
            },
            counted_at: stamp(counted),
        }
    }

    #[test]
    fn records_keep_their_golden_bytes() {
        let objects = encode_all(&[object("o")]);
        assert_eq!(
            crate::head::to_hex(&objects),
            include_str!("../golden/object-record-1.hex").trim()
        );
        let containers = encode_all(&[container(1, 2, 3)]);
        assert_eq!(
            crate::head::to_hex(&containers),
            include_str!("../golden/container-record-1.hex").trim()
        );
        assert_eq!(decode_all(&objects), Ok(vec![object("o")]));
        assert_eq!(decode_all(&containers), Ok(vec![container(1, 2, 3)]));
        let mut told = container(1, 2, 3);
        told.record.policy = Some(PolicyIndex::new(1));
        let containers = encode_all(&[told.clone()]);
        assert_eq!(
            crate::head::to_hex(&containers),
            include_str!("../golden/container-record-2.hex").trim()
        );
        assert_eq!(decode_all(&containers), Ok(vec![told]));
    }

    #[test]
    fn cut_or_lengthened_messages_are_refused() {
        let bytes = encode_all(&[object("o"), object("p")]);
        for length in 0..bytes.len() {
            assert!(
                decode_all::<ObjectRecord>(&bytes[..length]).is_err(),
                "{length}"
            );
        }
        let longer = [bytes, vec![0]].concat();
        assert!(decode_all::<ObjectRecord>(&longer).is_err());
    }

    proptest! {
        #[test]
        fn container_records_merge_alike_in_any_order(
            a in (0u64..4, 0u64..3, 0u64..3, 0u16..3), b in (0u64..4, 0u64..3, 0u64..3, 0u16..3),
            c in (0u64..4, 0u64..3, 0u64..3, 0u16..3)
        ) {
            let make = |(at, counted, objects, policy): (u64, u64, u64, u16)| {
                let mut made = container(at, counted, objects);
                made.record.policy = policy.checked_sub(1).map(PolicyIndex::new);
                made
            };
            let merged = |mut one: CountedContainer, two: &CountedContainer| { one.merge(two); one };
            let (a, b, c) = (make(a), make(b), make(c));
            prop_assert_eq!(merged(a.clone(), &b), merged(b.clone(), &a));
            prop_assert_eq!(merged(merged(a.clone(), &b), &c), merged(a, &merged(b, &c)));
        }
    }
}

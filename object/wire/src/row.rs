//! The row of an object: three groups of fields, each with its own timestamp.
//!
//! A PUT sets all three groups, a POST the metadata and perhaps the content type, a DELETE all three to nothing.
//! Groups merge one by one (O2, [`crate::merge`]), so that a POST and a PUT that cross lose neither.

use crate::body::Root;
use crate::codec::{CodecError, Reader, Writer};
use crate::digest::Digest;
use onggi_common_units::Timestamp;
use onggi_object_model::listing::annotation::SYSTEM_PREFIX;
use onggi_object_model::{
    AccountName, ContainerName, Etag, Metadata, ObjectInfo, ObjectName, ObjectPath, ObjectRecord,
};

/// The newest version of the binary form.
pub const VERSION: u8 = 1;
const WHAT: &str = "an object row";
/// The metadata that says when an object is to be deleted.
const DELETE_AT: &str = "x-delete-at";

/// The stamp of the trace of an expired object whose bytes were put then: within the same tick, so that it wins over
/// these bytes and over no later write.
#[must_use]
pub const fn expired_at(data_timestamp: Timestamp) -> Timestamp {
    data_timestamp.with_offset(data_timestamp.offset().saturating_add(1))
}

/// What is known about an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// How many there are.
    pub length: u64,
    /// Their MD5.
    pub etag: Etag,
    /// The root of their chunks' hashes.
    pub root: Root,
    /// What the system keeps with these bytes whatever users POST: for example that they are a manifest.
    pub system: Metadata,
}

/// An object, or the trace of a deleted one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectRow {
    /// Its name.
    pub path: ObjectPath,
    /// When its bytes were put, or it was deleted.
    pub data_timestamp: Timestamp,
    /// Its bytes; `None` when it was deleted.
    pub body: Option<Body>,
    /// When its content type was set.
    pub content_type_timestamp: Timestamp,
    /// What its bytes are said to be.
    pub content_type: String,
    /// When its metadata was set.
    pub metadata_timestamp: Timestamp,
    /// Its metadata.
    pub metadata: Metadata,
}

impl ObjectRow {
    /// The trace of an object deleted at this moment.
    #[must_use]
    pub fn tombstone(path: ObjectPath, at: Timestamp) -> Self {
        Self {
            path,
            data_timestamp: at,
            body: None,
            content_type_timestamp: at,
            content_type: String::new(),
            metadata_timestamp: at,
            metadata: Metadata::default(),
        }
    }

    /// The second in its metadata from which on it is not there any more, also of a trace.
    #[must_use]
    pub fn date(&self) -> Option<u64> {
        self.metadata.get(DELETE_AT)?.parse().ok()
    }

    /// The second from which on the object is not there any more, if it is one and has one.
    #[must_use]
    pub fn delete_at(&self) -> Option<u64> {
        self.body.as_ref()?;
        self.date()
    }

    /// The trace an object leaves when its date has come. The metadata stays, and with it the date; `None` for what is no
    /// object.
    #[must_use]
    pub fn expired(&self) -> Option<Self> {
        self.body.as_ref()?;
        Some(Self {
            data_timestamp: expired_at(self.data_timestamp),
            body: None,
            ..self.clone()
        })
    }

    /// The newest of its timestamps.
    #[must_use]
    pub fn newest(&self) -> Timestamp {
        self.data_timestamp
            .max(self.content_type_timestamp)
            .max(self.metadata_timestamp)
    }

    /// What readers see; `None` when it was deleted.
    #[must_use]
    pub fn info(&self) -> Option<ObjectInfo> {
        let body = self.body.as_ref()?;
        Some(ObjectInfo {
            data_timestamp: self.data_timestamp,
            content_type_timestamp: self.content_type_timestamp,
            metadata_timestamp: self.metadata_timestamp,
            length: body.length,
            etag: body.etag,
            content_type: self.content_type.clone(),
            metadata: self.metadata.clone(),
        })
    }

    /// What the container is told about it.
    #[must_use]
    pub fn record(&self) -> ObjectRecord {
        ObjectRecord {
            name: self.path.object.clone(),
            data_timestamp: self.data_timestamp,
            content_type_timestamp: self.content_type_timestamp,
            metadata_timestamp: self.metadata_timestamp,
            deleted: self.body.is_none(),
            length: self.body.as_ref().map_or(0, |body| body.length),
            etag: self.body.as_ref().map_or(Etag::EMPTY, |body| body.etag),
            content_type: self.content_type.clone(),
            annotations: self
                .body
                .as_ref()
                .map(|body| annotations(&body.system))
                .unwrap_or_default(),
        }
    }

    /// The row's part of a digest: its place, its timestamps and its state.
    #[must_use]
    pub fn digest(&self, policy: u16, hash: &[u8; 16], fragment: u8) -> Digest {
        let mut writer = Writer::new();
        writer.u16(policy);
        writer.raw(hash);
        writer.u8(fragment);
        writer.timestamp(self.data_timestamp);
        writer.timestamp(self.content_type_timestamp);
        writer.timestamp(self.metadata_timestamp);
        writer.text(&self.content_type);
        write_metadata(&mut writer, &self.metadata);
        match &self.body {
            None => writer.u8(0),
            Some(body) => {
                writer.u8(1);
                write_body(&mut writer, body);
            }
        }
        Digest::of(&writer.finish())
    }

    /// Appends the binary form: version, names, then the three groups.
    pub fn encode(&self, writer: &mut Writer) {
        writer.u8(VERSION);
        writer.text(self.path.account.as_str());
        writer.text(self.path.container.as_str());
        writer.text(self.path.object.as_str());
        writer.timestamp(self.data_timestamp);
        match &self.body {
            None => writer.u8(0),
            Some(body) => {
                writer.u8(1);
                write_body(writer, body);
            }
        }
        writer.timestamp(self.content_type_timestamp);
        writer.text(&self.content_type);
        writer.timestamp(self.metadata_timestamp);
        write_metadata(writer, &self.metadata);
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// When the bytes are no row this program knows.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, CodecError> {
        reader.version(WHAT, VERSION)?;
        let malformed = CodecError::Malformed { what: WHAT };
        let path = ObjectPath {
            account: AccountName::new(reader.text(WHAT)?)
                .ok()
                .ok_or_else(|| malformed.clone())?,
            container: ContainerName::new(reader.text(WHAT)?)
                .ok()
                .ok_or_else(|| malformed.clone())?,
            object: ObjectName::new(reader.text(WHAT)?)
                .ok()
                .ok_or_else(|| malformed.clone())?,
        };
        let data_timestamp = reader.timestamp(WHAT)?;
        let body = match reader.u8(WHAT)? {
            0 => None,
            1 => Some(read_body(reader)?),
            _ => return Err(malformed),
        };
        Ok(Self {
            path,
            data_timestamp,
            body,
            content_type_timestamp: reader.timestamp(WHAT)?,
            content_type: reader.text(WHAT)?,
            metadata_timestamp: reader.timestamp(WHAT)?,
            metadata: read_metadata(reader)?,
        })
    }
}

/// What of the system's metadata becomes part of the object's line in its container.
#[must_use]
pub fn annotations(system: &Metadata) -> Metadata {
    let mut annotations = Metadata::default();
    for (name, value) in system.iter() {
        if let Some(name) = name.strip_prefix(SYSTEM_PREFIX) {
            annotations.insert(name, value);
        }
    }
    annotations
}

fn write_body(writer: &mut Writer, body: &Body) {
    writer.u64(body.length);
    writer.raw(body.etag.as_bytes());
    writer.raw(body.root.as_bytes());
    write_metadata(writer, &body.system);
}

fn read_body(reader: &mut Reader<'_>) -> Result<Body, CodecError> {
    Ok(Body {
        length: reader.u64(WHAT)?,
        etag: Etag::new(reader.array(WHAT)?),
        root: Root::from_bytes(reader.array(WHAT)?),
        system: read_metadata(reader)?,
    })
}

pub(crate) fn write_metadata(writer: &mut Writer, metadata: &Metadata) {
    writer.pairs(metadata.iter().count(), metadata.iter());
}

pub(crate) fn read_metadata(reader: &mut Reader<'_>) -> Result<Metadata, CodecError> {
    let mut metadata = Metadata::default();
    for (name, value) in reader.map(WHAT)? {
        metadata.insert(name, value);
    }
    Ok(metadata)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn path() -> ObjectPath {
        ObjectPath {
            account: "AUTH_a".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: "o/p".parse().unwrap(),
        }
    }

    fn ticks() -> impl Strategy<Value = Timestamp> {
        (0u64..4, 0u64..2)
            .prop_map(|(ticks, offset)| Timestamp::from_ticks(ticks).unwrap().with_offset(offset))
    }

    fn metadata() -> impl Strategy<Value = Metadata> {
        prop::collection::vec(("[ab]", "[xy]"), 0..3).prop_map(|items| {
            let mut metadata = Metadata::default();
            for (name, value) in items {
                metadata.insert(name, value);
            }
            metadata
        })
    }

    fn body() -> impl Strategy<Value = Body> {
        (0u64..3, 0u8..2, metadata()).prop_map(|(length, etag, system)| Body {
            length,
            etag: Etag::new([etag; 16]),
            root: Root::from_bytes([etag; 32]),
            system,
        })
    }

    /// Rows of one object with timestamps so close that ties are common.
    pub(crate) fn row() -> impl Strategy<Value = ObjectRow> {
        (
            ticks(),
            prop::option::of(body()),
            ticks(),
            "[tu]",
            ticks(),
            metadata(),
        )
            .prop_map(
                |(
                    data_timestamp,
                    body,
                    content_type_timestamp,
                    content_type,
                    metadata_timestamp,
                    metadata,
                )| ObjectRow {
                    path: path(),
                    data_timestamp,
                    body,
                    content_type_timestamp,
                    content_type,
                    metadata_timestamp,
                    metadata,
                },
            )
    }

    #[test]
    fn a_row_keeps_its_golden_bytes() {
        let mut metadata = Metadata::default();
        metadata.insert("x-object-meta-jar", "brown");
        let at = |ticks| Timestamp::from_ticks(ticks).unwrap();
        let row = ObjectRow {
            path: path(),
            data_timestamp: at(1),
            body: Some(Body {
                length: 5,
                etag: Etag::EMPTY,
                root: Root::of(b"onggi"),
                system: Metadata::default(),
            }),
            content_type_timestamp: at(2),
            content_type: "text/plain".to_owned(),
            metadata_timestamp: at(3).with_offset(7),
            metadata,
        };
        let mut writer = Writer::new();
        row.encode(&mut writer);
        let bytes = writer.finish();
        assert_eq!(
            crate::head::to_hex(&bytes),
            include_str!("../golden/object-row-1.hex").trim()
        );
        assert_eq!(ObjectRow::decode(&mut Reader::new(&bytes)), Ok(row));
    }

    proptest! {
        #[test]
        fn a_row_comes_back(row in row()) {
            let mut writer = Writer::new();
            row.encode(&mut writer);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(ObjectRow::decode(&mut reader), Ok(row));
            prop_assert_eq!(reader.end("row"), Ok(()));
        }

        #[test]
        fn different_rows_have_different_digests(a in row(), b in row()) {
            prop_assert_eq!(a == b, a.digest(0, &[1; 16], 255) == b.digest(0, &[1; 16], 255));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            drop(ObjectRow::decode(&mut Reader::new(&bytes)));
        }
    }
}

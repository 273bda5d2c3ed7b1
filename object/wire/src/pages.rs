//! Pages of listings in binary form, as a node answers them: ten thousand lines in a few milliseconds on both sides.

use crate::codec::{CodecError, Reader, Writer};
use crate::row::{read_metadata, write_metadata};
use onggi_object_model::{
    AccountEntry, Etag, Listing, ListingEntry, Metadata, ObjectEntry, PolicyIndex,
};

/// The version of a page's binary form.
const VERSION: u8 = 1;
/// What a line is.
const SUBDIR: u8 = 0;
const ITEM: u8 = 1;
/// An item that has what most have not: annotations, or a policy.
const ITEM_AND_MORE: u8 = 2;
/// No line is shorter: what it is, and the length of its name.
const LINE_BYTES_MIN: usize = 5;
/// Room made before the lines are read.
const LINES_USUAL: usize = 10_000;

/// What is listed: an object in its container, or a container in its account.
pub trait Entry: Sized {
    /// What a page of them is called in errors.
    const PAGE: &'static str;

    /// Whether there is more than every line has.
    fn has_more(&self) -> bool;
    /// Appends the binary form.
    fn encode(&self, writer: &mut Writer);
    /// Reads it.
    ///
    /// # Errors
    /// When the bytes are no such line.
    fn decode(reader: &mut Reader<'_>, has_more: bool) -> Result<Self, CodecError>;
}

impl Entry for ObjectEntry {
    const PAGE: &'static str = "a container's listing";

    fn has_more(&self) -> bool {
        !self.annotations.is_empty()
    }

    fn encode(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.raw(self.hash.as_bytes());
        writer.u64(self.bytes);
        writer.text(&self.content_type);
        writer.timestamp(self.last_modified);
        if self.has_more() {
            write_metadata(writer, &self.annotations);
        }
    }

    fn decode(reader: &mut Reader<'_>, has_more: bool) -> Result<Self, CodecError> {
        let what = Self::PAGE;
        Ok(Self {
            name: reader.text(what)?,
            hash: Etag::new(reader.array(what)?),
            bytes: reader.u64(what)?,
            content_type: reader.text(what)?,
            last_modified: reader.timestamp(what)?,
            annotations: if has_more {
                read_metadata(reader)?
            } else {
                Metadata::default()
            },
        })
    }
}

impl Entry for AccountEntry {
    const PAGE: &'static str = "an account's listing";

    fn has_more(&self) -> bool {
        self.policy.is_some()
    }

    fn encode(&self, writer: &mut Writer) {
        writer.text(&self.name);
        writer.u64(self.count);
        writer.u64(self.bytes);
        writer.timestamp(self.last_modified);
        if let Some(policy) = self.policy {
            writer.u16(policy.get());
        }
    }

    fn decode(reader: &mut Reader<'_>, has_more: bool) -> Result<Self, CodecError> {
        let what = Self::PAGE;
        Ok(Self {
            name: reader.text(what)?,
            count: reader.u64(what)?,
            bytes: reader.u64(what)?,
            last_modified: reader.timestamp(what)?,
            policy: if has_more {
                Some(PolicyIndex::new(reader.u16(what)?))
            } else {
                None
            },
        })
    }
}

/// A page as an answer's body.
///
/// # Panics
/// When there are more than 2³² lines, which no query's limit allows.
#[must_use]
pub fn encode<E: Entry>(page: &Listing<E>) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(VERSION);
    writer.u32(u32::try_from(page.entries.len()).expect("pages are bounded far below 2^32 lines"));
    for entry in &page.entries {
        match entry {
            ListingEntry::Subdir(name) => {
                writer.u8(SUBDIR);
                writer.text(name);
            }
            ListingEntry::Item(item) => {
                writer.u8(if item.has_more() { ITEM_AND_MORE } else { ITEM });
                item.encode(&mut writer);
            }
        }
    }
    writer.finish()
}

/// A page from an answer's body.
///
/// # Errors
/// When the bytes are no page this program knows.
pub fn decode<E: Entry>(bytes: &[u8]) -> Result<Listing<E>, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.version(E::PAGE, VERSION)?;
    let count = reader.count(E::PAGE, LINE_BYTES_MIN)?;
    let mut entries = Vec::with_capacity(count.min(LINES_USUAL));
    for _ in 0..count {
        entries.push(match reader.u8(E::PAGE)? {
            SUBDIR => ListingEntry::Subdir(reader.text(E::PAGE)?),
            ITEM => ListingEntry::Item(E::decode(&mut reader, false)?),
            ITEM_AND_MORE => ListingEntry::Item(E::decode(&mut reader, true)?),
            _ => return Err(CodecError::Malformed { what: E::PAGE }),
        });
    }
    reader.end(E::PAGE)?;
    Ok(Listing { entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Timestamp;
    use proptest::prelude::*;

    fn object(name: String, ticks: u64, annotation: Option<String>) -> ObjectEntry {
        let mut annotations = Metadata::default();
        if let Some(value) = annotation {
            annotations.insert("bytes", value);
        }
        ObjectEntry {
            name,
            hash: Etag::EMPTY,
            bytes: ticks,
            content_type: "text/plain".to_owned(),
            last_modified: Timestamp::from_ticks(ticks).unwrap().with_offset(7),
            annotations,
        }
    }

    fn container(name: String, count: u64, policy: Option<u16>) -> AccountEntry {
        AccountEntry {
            name,
            count,
            bytes: count + 1,
            last_modified: Timestamp::from_ticks(count).unwrap(),
            policy: policy.map(PolicyIndex::new),
        }
    }

    fn lines<E: core::fmt::Debug>(
        item: impl Strategy<Value = E>,
    ) -> impl Strategy<Value = Listing<E>> {
        let line = (item, prop::option::of(".{0,9}")).prop_map(|(item, subdir)| match subdir {
            Some(name) => ListingEntry::Subdir(name),
            None => ListingEntry::Item(item),
        });
        prop::collection::vec(line, 0..20).prop_map(|entries| Listing { entries })
    }

    proptest! {
        #[test]
        fn pages_come_back_and_pieces_of_them_are_refused(
            objects in lines((".{0,9}", 0u64..1 << 40, prop::option::of("[0-9]{1,3}")).prop_map(|(name, ticks, more)| object(name, ticks, more))),
            containers in lines((".{0,9}", 0u64..1 << 40, prop::option::of(any::<u16>())).prop_map(|(name, count, policy)| container(name, count, policy))),
        ) {
            let bytes = encode(&objects);
            for length in 0..bytes.len() {
                prop_assert!(decode::<ObjectEntry>(&bytes[..length]).is_err());
            }
            prop_assert_eq!(decode(&bytes).unwrap(), objects);
            prop_assert_eq!(decode(&encode(&containers)).unwrap(), containers);
            let longer = [bytes.as_slice(), &[0]].concat();
            prop_assert!(decode::<ObjectEntry>(&longer).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decode::<ObjectEntry>(&bytes));
            drop(decode::<AccountEntry>(&bytes));
        }
    }
}

//! Listings: a walk over a range of records that seeks past what shares a line.

use crate::device::{Device, snapshot};
use crate::error::DeviceError;
use crate::key::RosterKey;
use crate::roster::decode_record;
use crate::tables::RECORD;
use core::ops::ControlFlow;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::Order;
use onggi_object_model::listing::past_prefix;
use onggi_object_model::{
    AccountEntry, Listing, ListingEntry, ListingQuery, ObjectEntry, ObjectRecord, Visit,
};
use onggi_object_wire::codec::CodecError;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::rows::Record;

/// A record that can be a line of a listing.
pub trait Listed: Record {
    /// The line.
    type Entry;
    /// The line of it.
    fn into_entry(self) -> Self::Entry;
}

impl Listed for ObjectRecord {
    type Entry = ObjectEntry;

    fn into_entry(self) -> ObjectEntry {
        let last_modified = self.timestamp();
        ObjectEntry {
            name: self.name.into(),
            hash: self.etag,
            bytes: self.length,
            content_type: self.content_type,
            last_modified,
            annotations: self.annotations,
        }
    }
}

impl Listed for CountedContainer {
    type Entry = AccountEntry;

    fn into_entry(self) -> AccountEntry {
        AccountEntry {
            name: self.record.name.into(),
            count: self.record.object_count,
            bytes: self.record.bytes_used,
            last_modified: self.record.put_timestamp,
            policy: self.record.policy,
        }
    }
}

/// A walk under way.
struct Walk<'a, R: Listed> {
    query: &'a ListingQuery,
    prefix: Vec<u8>,
    entries: Vec<ListingEntry<R::Entry>>,
    failed: Option<CodecError>,
    /// Where to go on after a line that stands for many names.
    jump: Option<String>,
}

impl Device {
    /// Lists the live records of a roster.
    ///
    /// # Errors
    /// When the store cannot answer, or a record is damaged.
    pub fn list<R: Listed>(
        &self,
        key: &RosterKey,
        query: &ListingQuery,
    ) -> Result<Listing<R::Entry>, DeviceError> {
        let view = snapshot(self);
        let prefix = key.record_prefix();
        let (low, high) = query.bounds();
        let whole = KeyRange::prefix(prefix.clone());
        let start = [prefix.as_slice(), low.as_slice()].concat();
        let end = match high {
            Some(high) => Some([prefix.as_slice(), high.as_slice()].concat()),
            None => whole.end().map(<[u8]>::to_vec),
        };
        let mut range = match end {
            Some(end) => KeyRange::between(start, end),
            None => KeyRange::from(start),
        };
        let order = if query.reverse {
            Order::Descending
        } else {
            Order::Ascending
        };
        let mut walk: Walk<'_, R> = Walk {
            query,
            prefix,
            entries: Vec::new(),
            failed: None,
            jump: None,
        };
        while walk.entries.len() < query.limit {
            view.visit(RECORD, &range, order, &mut |name, value| {
                walk.step(name, value)
            })?;
            if let Some(error) = walk.failed.take() {
                return Err(error.into());
            }
            let Some(subdir) = walk.jump.take() else {
                break;
            };
            let Some(rest) = walk.past(&range, &subdir) else {
                break;
            };
            range = rest;
        }
        Ok(Listing {
            entries: walk.entries,
        })
    }
}

impl<R: Listed> Walk<'_, R> {
    fn step(&mut self, key: &[u8], value: &[u8]) -> ControlFlow<()> {
        let name = key
            .get(self.prefix.len()..)
            .and_then(|name| core::str::from_utf8(name).ok());
        let Some(name) = name else {
            self.failed = Some(CodecError::Malformed { what: R::NAME });
            return ControlFlow::Break(());
        };
        let visit = self.query.fold(name);
        if visit == Visit::Skip {
            return ControlFlow::Continue(());
        }
        if visit == Visit::End {
            return ControlFlow::Break(());
        }
        let record = match decode_record::<R>(value) {
            Ok((record, _)) => record,
            Err(error) => {
                self.failed = Some(error);
                return ControlFlow::Break(());
            }
        };
        if !record.is_live() {
            return ControlFlow::Continue(());
        }
        if let Visit::Subdir { name, shown } = visit {
            if shown {
                self.entries.push(ListingEntry::Subdir(name.clone()));
            }
            self.jump = Some(name);
            return ControlFlow::Break(());
        }
        self.entries.push(ListingEntry::Item(record.into_entry()));
        if self.entries.len() >= self.query.limit {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// What is left of a range past all names that begin so.
    fn past(&self, range: &KeyRange, subdir: &str) -> Option<KeyRange> {
        let first = [self.prefix.as_slice(), subdir.as_bytes()].concat();
        let rest = if self.query.reverse && self.query.path.is_some() {
            // The object that is named like the pseudo-directory is a line of its own, and comes last.
            range.resume_before(&[first.as_slice(), &[0]].concat())
        } else if self.query.reverse {
            range.resume_before(&first)
        } else {
            let past = past_prefix(&first)?;
            match range.end() {
                Some(end) => KeyRange::between(past, end),
                None => KeyRange::from(past),
            }
        };
        (!rest.is_empty()).then_some(rest)
    }
}

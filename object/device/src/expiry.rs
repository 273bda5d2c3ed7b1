//! Objects with a date of deletion, in the order of these dates.
//!
//! The index has one row for each object that is there and has a date: key = the second 8, then the object's key. It is
//! changed in the batch that changes the object's row. What an expired object leaves is a trace stamped just above its
//! bytes: whichever device makes it, and whenever, it is the same, and any later write wins over it (O2).

use crate::device::Device;
use crate::error::DeviceError;
use crate::key::{OBJECT_KEY_BYTES, ObjectKey};
use crate::object::{Merge, Merged, NewRow};
use crate::pending::Tell;
use crate::stored::StoredObject;
use crate::tables::EXPIRY;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Limit, Order};
use onggi_common_units::{Timestamp, UtcTime};

/// What the index's rows hold: the version of this.
const VALUE: [u8; 1] = [1];

/// An object whose date has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub key: ObjectKey,
    /// The second from which on it is not there any more.
    pub delete_at: u64,
    /// When its bytes were put.
    pub data_timestamp: Timestamp,
    /// When its metadata, and so its date, was set.
    pub metadata_timestamp: Timestamp,
}

pub(crate) fn index_key(delete_at: u64, key: &ObjectKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + OBJECT_KEY_BYTES);
    bytes.extend_from_slice(&delete_at.to_be_bytes());
    bytes.extend_from_slice(&key.bytes());
    bytes
}

fn parse_index_key(bytes: &[u8]) -> Option<(u64, ObjectKey)> {
    let (second, key) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*second), ObjectKey::from_bytes(key)?))
}

/// Puts into the batch what an object's new row makes of the index.
pub(crate) fn stage(
    batch: &mut Batch,
    key: &ObjectKey,
    old: Option<&StoredObject>,
    new: Option<&StoredObject>,
) {
    let date = |stored: Option<&StoredObject>| stored.and_then(|stored| stored.row.delete_at());
    let (old, new) = (date(old), date(new));
    if old == new {
        return;
    }
    if let Some(at) = old {
        batch.delete(EXPIRY, index_key(at, key));
    }
    if let Some(at) = new {
        batch.put(EXPIRY, index_key(at, key), VALUE);
    }
}

impl Device {
    /// The objects whose date is at most this second, in the order of their dates: at most so many after another one.
    ///
    /// # Errors
    /// When the store cannot answer, or a row is damaged.
    pub fn due(
        &self,
        second: u64,
        after: Option<(u64, ObjectKey)>,
        limit: usize,
    ) -> Result<Vec<Due>, DeviceError> {
        let end = second.saturating_add(1).to_be_bytes().to_vec();
        let all = KeyRange::between(Vec::new(), end);
        let range = after.map_or_else(
            || all.clone(),
            |(at, key)| all.resume_after(&index_key(at, &key)),
        );
        let rows = Limit::rows(limit);
        let page = self.reader().scan(EXPIRY, &range, Order::Ascending, rows)?;
        let mut due = Vec::with_capacity(page.rows.len());
        for (delete_at, key) in page.rows.iter().filter_map(|row| parse_index_key(&row.key)) {
            let Some(stored) = self.get_object(&key)? else {
                continue;
            };
            // Between the two reads the row may have changed.
            if stored.row.delete_at() == Some(delete_at) {
                due.push(Due {
                    key,
                    delete_at,
                    data_timestamp: stored.row.data_timestamp,
                    metadata_timestamp: stored.row.metadata_timestamp,
                });
            }
        }
        Ok(due)
    }

    /// Whether this device knows something newer than what a peer wants to delete because its date has come.
    ///
    /// # Errors
    /// When the store cannot answer, or the row is damaged.
    pub fn knows_newer(
        &self,
        key: &ObjectKey,
        data_timestamp: Timestamp,
        metadata_timestamp: Timestamp,
    ) -> Result<bool, DeviceError> {
        let Some(ours) = self.get_object(key)? else {
            return Ok(false);
        };
        let trace = onggi_object_wire::row::expired_at(data_timestamp);
        let is_trace = ours.row.body.is_none() && ours.row.data_timestamp == trace;
        let has_newer_data = ours.row.data_timestamp > data_timestamp && !is_trace;
        Ok(has_newer_data || ours.row.metadata_timestamp > metadata_timestamp)
    }

    /// Deletes an object whose date has come, if it still is the one that was found, and remembers that the container has
    /// to be told. True when it is gone, on stable storage.
    ///
    /// # Errors
    /// When there is no space, or the store or the machine refuses.
    pub fn expire(&self, due: &Due) -> Result<bool, DeviceError> {
        let Some(stored) = self.get_object(&due.key)? else {
            return Ok(false);
        };
        let Some(row) = stored.row.expired() else {
            return Ok(false);
        };
        let how = Merge {
            only_due: Some(*due),
            tell: Some(Tell::elsewhere(UtcTime::from_seconds(due.delete_at))),
            ..Merge::default()
        };
        let merged = self.merge_object(&due.key, NewRow { row, body: None }, how)?;
        Ok(matches!(merged, Merged::Changed { taken, .. } if taken.data))
    }
}

impl Due {
    /// Whether a row still is the one whose date has come.
    pub(crate) fn is_of(&self, stored: &StoredObject) -> bool {
        stored.row.data_timestamp == self.data_timestamp
            && stored.row.metadata_timestamp == self.metadata_timestamp
            && stored.row.delete_at() == Some(self.delete_at)
    }
}

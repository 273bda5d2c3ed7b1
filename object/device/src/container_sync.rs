//! Containers that are copied to another cluster: which they are, and how far each has been sent.
//!
//! Which they are stands in the pending table, written with the container's row. How far each is stands beside the sync
//! points of its peers, and goes with the container. Losing a point costs work and never a change: it is written after
//! what it says was done.

use crate::device::{Device, snapshot};
use crate::error::DeviceError;
use crate::key::{RosterKey, RosterKind};
use crate::roster::decode_record;
use crate::roster_row::RosterRow;
use crate::tables::{CHANGE, PENDING, RECORD, SYNC};
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Limit, Order};
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::rows::Record;

/// Where a container says that it is copied to.
pub const SYNC_TO: &str = "x-container-sync-to";
/// The key both containers of a pair have.
pub const SYNC_KEY: &str = "x-container-sync-key";

const MARK: u8 = b's';
/// Stands where a peer's id would.
const POINTS: &[u8; 16] = b"container-sync-1";
const VERSION: u8 = 1;
const WHAT: &str = "a container's sync points";

/// How far a container's change log has been sent to one destination. Both are sequence numbers of this device's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SyncPoints {
    /// Which destination: points of another one do not count.
    pub destination: [u8; 16],
    /// Up to here this device has tried what is its own share.
    pub tried: u64,
    /// Up to here everything is known to be there, whoever sent it.
    pub settled: u64,
}

impl SyncPoints {
    /// What stands for a destination: another `X-Container-Sync-To` begins anew.
    #[must_use]
    pub fn destination_id(sync_to: &str) -> [u8; 16] {
        let hash = blake3::derive_key("onggi container sync destination 1", sync_to.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        id
    }

    /// Nothing was sent yet.
    #[must_use]
    pub const fn start(destination: [u8; 16]) -> Self {
        Self {
            destination,
            tried: 0,
            settled: 0,
        }
    }
}

fn mark(key: &RosterKey) -> Vec<u8> {
    [&[MARK], key.bytes().as_slice()].concat()
}

/// Whether a container is there and is copied to another.
fn is_copied(row: &RosterRow) -> bool {
    let to = row.metadata.get(SYNC_TO);
    row.exists() && to.is_some_and(|to| !to.is_empty())
}

/// Keeps the list of containers that are copied true.
pub(crate) fn stage(
    batch: &mut Batch,
    key: &RosterKey,
    before: Option<&RosterRow>,
    after: &RosterRow,
) {
    if key.kind != RosterKind::Container {
        return;
    }
    if is_copied(after) {
        batch.put(PENDING, mark(key), vec![VERSION]);
    } else if before.is_some_and(is_copied) {
        batch.delete(PENDING, mark(key));
    }
}

/// Takes a container that leaves the device from the list.
pub(crate) fn stage_drop(batch: &mut Batch, key: &RosterKey) {
    batch.delete(PENDING, mark(key));
}

fn decode(bytes: &[u8]) -> Result<SyncPoints, CodecError> {
    let mut reader = Reader::new(bytes);
    reader.version(WHAT, VERSION)?;
    let points = SyncPoints {
        destination: reader.array(WHAT)?,
        tried: reader.u64(WHAT)?,
        settled: reader.u64(WHAT)?,
    };
    reader.end(WHAT)?;
    Ok(points)
}

impl Device {
    /// The next containers after a key that are copied to another cluster, at most so many.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub fn copied_containers(
        &self,
        after: Option<&RosterKey>,
        limit: usize,
    ) -> Result<Vec<RosterKey>, DeviceError> {
        let range = KeyRange::prefix([MARK]);
        let range = after.map_or_else(|| range.clone(), |key| range.resume_after(&mark(key)));
        let page = self
            .reader()
            .scan(PENDING, &range, Order::Ascending, Limit::rows(limit))?;
        let keys = page
            .rows
            .iter()
            .filter_map(|row| RosterKey::from_bytes(row.key.get(1..)?));
        Ok(keys.collect())
    }

    /// How far a container has been sent to a destination.
    ///
    /// # Errors
    /// When the store cannot answer, or the points are damaged.
    pub fn container_sync_points(
        &self,
        key: &RosterKey,
        destination: [u8; 16],
    ) -> Result<SyncPoints, DeviceError> {
        let bytes = self.reader().get(SYNC, &key.sync(POINTS))?;
        let points = bytes.map(|bytes| decode(&bytes)).transpose()?;
        Ok(points
            .filter(|points| points.destination == destination)
            .unwrap_or_else(|| SyncPoints::start(destination)))
    }

    /// Remembers how far a container has been sent, after it has been.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn set_container_sync_points(
        &self,
        key: &RosterKey,
        points: &SyncPoints,
    ) -> Result<(), DeviceError> {
        let _guard = self.stripes().lock(key.slot());
        if self.roster(key)?.is_none() {
            // It was dropped meanwhile: one that comes back begins its numbers anew.
            return Ok(());
        }
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.raw(&points.destination);
        writer.u64(points.tried);
        writer.u64(points.settled);
        let mut batch = Batch::new();
        batch.put(SYNC, key.sync(POINTS), writer.finish());
        Ok(self.store().write(&batch, Durability::Lazy)?)
    }

    /// The next records changed after a sequence number, each with the number of its change, at most so many.
    ///
    /// # Errors
    /// When the store cannot answer, or a record is damaged.
    pub fn numbered_changes<R: Record>(
        &self,
        key: &RosterKey,
        after: u64,
        limit: usize,
    ) -> Result<Vec<(u64, R)>, DeviceError> {
        let view = snapshot(self);
        let range = KeyRange::prefix(key.bytes()).resume_after(&key.change(after));
        let page = view.scan(CHANGE, &range, Order::Ascending, Limit::rows(limit))?;
        let malformed = || CodecError::Malformed {
            what: "a change log's entry",
        };
        let mut records = Vec::with_capacity(page.rows.len());
        for entry in &page.rows {
            let name = core::str::from_utf8(&entry.value);
            let name = name.map_err(|_invalid| malformed())?;
            let sequence = entry.key.last_chunk::<8>().copied();
            let sequence = u64::from_be_bytes(sequence.ok_or_else(malformed)?);
            if let Some(bytes) = view.get(RECORD, &key.record(name))? {
                records.push((sequence, decode_record(&bytes)?.0));
            }
        }
        Ok(records)
    }
}

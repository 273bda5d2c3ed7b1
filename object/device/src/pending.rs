//! What other devices still have to be told: written with the change itself, so that no crash forgets it.

use crate::commit::Change;
use crate::device::Device;
use crate::error::DeviceError;
use crate::key::{ObjectKey, RosterKey};
use crate::object::Merge;
use crate::roster_row::RosterRow;
use crate::stored::day_of;
use crate::tables::PENDING;
use onggi_common_meta::KeyRange;
use onggi_common_meta::local::{Batch, Durability, Limit, Order};
use onggi_common_units::{Timestamp, UtcTime};
use onggi_object_model::{AccountName, ContainerName, ContainerPath, ObjectRecord};
use onggi_object_wire::ObjectRow;
use onggi_object_wire::codec::{CodecError, Reader, Writer};
use onggi_object_wire::rows::Record as _;

const OBJECT: u8 = b'o';
const ROSTER: u8 = b'c';
const VERSION: u8 = 2;
/// The version that does not say since when.
const VERSION_TIMELESS: u8 = 1;
const WHAT: &str = "a pending row";

/// How an object's container comes to know of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tell {
    /// Since when it has to be told.
    pub since: UtcTime,
    /// The container's copy on this very device, whose line is written in the same batch.
    pub here: Option<RosterKey>,
    /// Whether other devices have to be told as well: then the batch has a row that remembers it. So it has when there is no
    /// such container here.
    pub elsewhere: bool,
}

impl Tell {
    /// The container is told by messages alone.
    #[must_use]
    pub const fn elsewhere(since: UtcTime) -> Self {
        Self {
            since,
            here: None,
            elsewhere: true,
        }
    }
}

/// A container still has to be told about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingObject {
    /// The object.
    pub key: ObjectKey,
    /// Its container.
    pub container: ContainerPath,
    /// What to tell.
    pub record: ObjectRecord,
    /// Since when it is to be told; `None` in rows of builds before.
    pub since: Option<UtcTime>,
}

impl PendingObject {
    /// What the container has to be told about a row.
    pub(crate) fn of(key: &ObjectKey, row: &ObjectRow, how: Merge, since: UtcTime) -> Self {
        let mut record = row.record();
        if let Some(due) = how.only_due {
            // The line's deletion is as old as the date, not as the bytes.
            let date = Timestamp::from_utc(UtcTime::from_seconds(due.delete_at));
            record.metadata_timestamp = record.metadata_timestamp.max(date);
        }
        Self {
            key: *key,
            container: row.path.container_path(),
            record,
            since: Some(since),
        }
    }

    /// The last day of whose deletions this news surely has heard: the one before it was made.
    #[must_use]
    pub fn known(&self) -> u16 {
        self.since
            .map_or(u16::MAX, |since| day_of(since.seconds()).saturating_sub(1))
    }

    fn tells_the_same(&self, other: &Self) -> bool {
        (&self.container, &self.record) == (&other.container, &other.record)
    }

    fn value(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.u64(self.since.map_or(u64::MAX, UtcTime::micros));
        writer.text(self.container.account.as_str());
        writer.text(self.container.container.as_str());
        self.record.encode(&mut writer);
        writer.finish()
    }

    pub(crate) fn stage(&self, batch: &mut Batch) {
        batch.put(PENDING, object_key(&self.key), self.value());
    }

    /// Puts into the batch that the container was told, unless a newer row has taken the place meanwhile. The caller
    /// holds the key's stripe.
    pub(crate) fn stage_forgotten(
        &self,
        device: &Device,
        batch: &mut Batch,
    ) -> Result<(), DeviceError> {
        let key = object_key(&self.key);
        let there = device.reader().get(PENDING, &key)?;
        let there = there.map(|value| decode(&key, &value)).transpose()?;
        if there.is_some_and(|there| there.tells_the_same(self)) {
            batch.delete(PENDING, key);
        }
        Ok(())
    }
}

fn object_key(key: &ObjectKey) -> Vec<u8> {
    [&[OBJECT], key.bytes().as_slice()].concat()
}

fn roster_key(key: &RosterKey) -> Vec<u8> {
    [&[ROSTER], key.bytes().as_slice()].concat()
}

/// Where the rows of objects are.
pub(crate) fn objects() -> KeyRange {
    KeyRange::prefix([OBJECT])
}

pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<PendingObject, CodecError> {
    let malformed = CodecError::Malformed { what: WHAT };
    let key = key.strip_prefix(&[OBJECT]).and_then(ObjectKey::from_bytes);
    let key = key.ok_or_else(|| malformed.clone())?;
    let mut reader = Reader::new(value);
    let since = match reader.version(WHAT, VERSION)? {
        VERSION_TIMELESS => None,
        _ => Some(reader.u64(WHAT)?).filter(|micros| *micros != u64::MAX),
    };
    let account = AccountName::new(reader.text(WHAT)?)
        .ok()
        .ok_or_else(|| malformed.clone())?;
    let container = ContainerName::new(reader.text(WHAT)?)
        .ok()
        .ok_or(malformed)?;
    let record = ObjectRecord::decode(&mut reader)?;
    reader.end(WHAT)?;
    Ok(PendingObject {
        key,
        container: ContainerPath { account, container },
        record,
        since: since.map(UtcTime::from_micros),
    })
}

/// Whether a container's account still has to be told.
pub(crate) fn is_roster_pending(device: &Device, key: &RosterKey) -> Result<bool, DeviceError> {
    Ok(device.reader().get(PENDING, &roster_key(key))?.is_some())
}

/// Marks in the batch that a container's account has to be told.
pub(crate) fn stage_roster(batch: &mut Batch, key: &RosterKey) {
    batch.put(PENDING, roster_key(key), vec![VERSION]);
}

impl Device {
    /// The next pending rows of objects after a key, at most so many.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub fn pending_objects(
        &self,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<Vec<PendingObject>, DeviceError> {
        let range = objects();
        let range = after.map_or_else(|| range.clone(), |key| range.resume_after(&object_key(key)));
        let page = self
            .reader()
            .scan(PENDING, &range, Order::Ascending, Limit::rows(limit))?;
        let rows = page.rows.iter().map(|row| decode(&row.key, &row.value));
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// The containers whose accounts have to be told, at most so many after a key.
    ///
    /// # Errors
    /// When the store cannot answer.
    pub fn pending_containers(
        &self,
        after: Option<&RosterKey>,
        limit: usize,
    ) -> Result<Vec<RosterKey>, DeviceError> {
        let range = KeyRange::prefix([ROSTER]);
        let range = after.map_or_else(|| range.clone(), |key| range.resume_after(&roster_key(key)));
        let page = self
            .reader()
            .scan(PENDING, &range, Order::Ascending, Limit::rows(limit))?;
        let keys = page
            .rows
            .iter()
            .filter_map(|row| RosterKey::from_bytes(row.key.get(1..)?));
        Ok(keys.collect())
    }

    /// The container of an object has to be told of it again; false when the object is not there any more as it was put then.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn tell_again(
        &self,
        key: &ObjectKey,
        put: Timestamp,
        since: UtcTime,
    ) -> Result<bool, DeviceError> {
        let guard = self.stripes().lock(key.slot());
        let stored = self.get_object(key)?;
        let same = stored.filter(|one| one.row.body.is_some() && one.row.data_timestamp == put);
        let is_same = same.is_some();
        if let Some(stored) = same {
            let mut batch = Batch::new();
            let pending = PendingObject {
                key: *key,
                container: stored.row.path.container_path(),
                record: stored.row.record(),
                since: Some(since),
            };
            pending.stage(&mut batch);
            self.store().write(&batch, Durability::Lazy)?;
        }
        drop(guard);
        Ok(is_same)
    }

    /// The containers were told: their pending rows go, unless a newer one has taken the place meanwhile.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn forget_pending_objects(&self, told: &[PendingObject]) -> Result<(), DeviceError> {
        let told = told.iter().cloned().map(Box::new).map(Change::Told);
        for outcome in self.commit(told.collect()) {
            outcome?;
        }
        Ok(())
    }

    /// The account was told about a container as this row has it: its pending row goes, unless it has changed meanwhile.
    ///
    /// # Errors
    /// When the store refuses.
    pub fn forget_pending_container(
        &self,
        key: &RosterKey,
        told: &RosterRow,
    ) -> Result<(), DeviceError> {
        let guard = self.stripes().lock(key.slot());
        let row = self.roster(key)?;
        if row.is_none_or(|row| row.told() == told.told()) {
            let mut batch = Batch::new();
            batch.delete(PENDING, roster_key(key));
            self.store().write(&batch, Durability::Lazy)?;
        }
        drop(guard);
        Ok(())
    }
}

//! Messages to a peer: comparing digests and rows, and pushing what it lacks.

use crate::disks::{Disk, DiskError};
use crate::progress::Progress;
use crate::server::Node;
use bytes::Bytes;
use http::{Method, StatusCode};
use onggi_object_client::{Call, CallBody, CallError, WriteAnswer};
use onggi_object_device::{
    Device, DeviceError, Location, ObjectKey, RosterKey, RosterRow, StoredObject,
};
use onggi_object_model::{Metadata, PolicyIndex};
use onggi_object_ring::PathHash;
use onggi_object_wire::expiry::{DueKey, Expiry, encode_due};
use onggi_object_wire::object::Tail;
use onggi_object_wire::replication::{
    Digests, KeySum, MESSAGE_BYTES_MAX, PUSH_BYTES_MAX, Push, PushBody, PushRow, ROW_ONLY, Roster,
    RosterRuns, RosterState, STALE, Scope, Wants, decode_units, encode_keys, encode_pushes,
    encode_runs, encode_sums,
};
use onggi_object_wire::rows::{self, Record};
use onggi_object_wire::{Digest, Place, Resource};
use serde::Serialize;

/// Partitions compared in one message.
const UNITS_AT_ONCE: usize = 1 << 16;
/// Records in one message.
const RECORDS_AT_ONCE: usize = 1_000;
/// What came in so many last seconds may be on its way to all copies.
const NEWS_SECONDS: u64 = 5;
/// Rows compared in one message.
const KEYS_AT_ONCE: usize = 10_000;

/// Why a peer was not brought up to date.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PushError {
    /// No usable answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Our own device failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The peer said no.
    #[error("{place} answered {status}")]
    Refused {
        /// The peer.
        place: Place,
        /// Its answer.
        status: StatusCode,
    },
    /// The peer answered something malformed.
    #[error("{place} answered something malformed: {source}")]
    Malformed {
        /// The peer.
        place: Place,
        /// What is wrong.
        source: onggi_object_wire::codec::CodecError,
    },
}

/// A peer, and the device that talks to it.
pub(crate) struct Peer<'a> {
    pub(crate) node: &'a Node,
    pub(crate) disk: &'a Disk,
    pub(crate) place: Place,
}

/// How rosters are pushed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pushing {
    /// Traces of days up to this one do not count.
    pub(crate) horizon: u16,
    /// With all their records, whatever the peer is known to have.
    pub(crate) from_start: bool,
}

/// How records are sent, and compared afterwards.
#[derive(Debug, Clone, Copy)]
struct SendRecords {
    /// Traces of days up to this one do not count.
    horizon: u16,
    /// Records stamped in this second or later are news, which may be on their way to the peer.
    settled_before: u64,
}

/// Rows on their way, and how many bytes they are.
#[derive(Default)]
struct Parcel {
    sums: Vec<KeySum>,
    rows: Vec<PushRow>,
    bytes: usize,
}

/// What is needed to push one row.
enum Loaded {
    Gone,
    Row(Box<PushRow>),
    Large(Box<StoredObject>),
}

fn load(device: &Device, key: &ObjectKey, row_only: bool) -> Result<Loaded, DeviceError> {
    let Some(stored) = device.get_object(key)? else {
        return Ok(Loaded::Gone);
    };
    let fragment = key.fragment;
    let row = |bytes| {
        Loaded::Row(Box::new(PushRow {
            fragment,
            row: stored.row.clone(),
            bytes,
        }))
    };
    match &stored.location {
        Location::Nowhere => Ok(row(None)),
        // A peer that has the bytes needs none of ours, damaged or not.
        Location::Inline | Location::File(_) | Location::Quarantined if row_only => Ok(row(None)),
        Location::Inline => {
            let mut reader = device.open_body(key, &stored, &[])?;
            let bytes = reader.next(device)?.unwrap_or_default();
            Ok(row(Some(bytes.to_vec())))
        }
        Location::File(_) => Ok(Loaded::Large(Box::new(stored))),
        // Nothing good to give: the peer gets it from another one.
        Location::Quarantined => Ok(Loaded::Gone),
    }
}

impl Peer<'_> {
    async fn post<H: Serialize>(
        &self,
        resource: Resource,
        head: &H,
        body: Vec<u8>,
    ) -> Result<onggi_object_client::Answer, PushError> {
        self.disk.pace().pass(body.len()).await;
        let call = Call::new(Method::POST, resource, head)?.with_body(CallBody::Whole(body.into()));
        let answer = self.node.nodes.client().call(&self.place, call).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let status = answer.status;
        drop(answer.bytes(MESSAGE_BYTES_MAX).await);
        Err(PushError::Refused {
            place: self.place.clone(),
            status,
        })
    }

    async fn units<H: Serialize>(
        &self,
        resource: Resource,
        head: &H,
        body: Vec<u8>,
    ) -> Result<Vec<u32>, PushError> {
        let answer = self.post(resource, head, body).await?;
        let bytes = answer.bytes(MESSAGE_BYTES_MAX).await?;
        let place = self.place.clone();
        decode_units(&bytes).map_err(|source| PushError::Malformed { place, source })
    }

    /// Which of these units differ on the peer.
    pub(crate) async fn differing(
        &self,
        scope: Scope,
        bits: u32,
        horizon: u16,
        sums: &[(u32, Digest)],
    ) -> Result<Vec<u32>, PushError> {
        let head = Digests {
            scope,
            bits,
            horizon,
        };
        let mut differing = Vec::new();
        for some in sums.chunks(UNITS_AT_ONCE) {
            let units = self.units(Resource::Digests, &head, encode_sums(some));
            differing.extend(units.await?);
        }
        Ok(differing)
    }

    /// The positions of those objects that are due of which the peer knows something newer.
    pub(crate) async fn newer_than_due(
        &self,
        policy: PolicyIndex,
        keys: &[DueKey],
    ) -> Result<Vec<u32>, PushError> {
        self.units(Resource::Expiry, &Expiry { policy }, encode_due(keys))
            .await
    }

    /// Pushes what the peer lacks of these object rows. Those that could not be pushed are returned; the peer holds all
    /// others, or something newer.
    pub(crate) async fn push_objects(
        &self,
        policy: PolicyIndex,
        keys: &[KeySum],
    ) -> Result<Vec<KeySum>, PushError> {
        let mut left = Vec::new();
        for some in keys.chunks(KEYS_AT_ONCE) {
            let head = Wants {
                scope: Scope::Objects(policy),
                horizon: 0,
            };
            let wanted = self
                .units(Resource::Wants, &head, encode_keys(some))
                .await?;
            let mut parcel = Parcel::default();
            for position in wanted {
                let index = usize::try_from(position & !(ROW_ONLY | STALE)).unwrap_or(usize::MAX);
                let Some(sum) = some.get(index).copied() else {
                    continue;
                };
                if position & STALE != 0 {
                    self.disk
                        .call(move |device| device.set_aside(policy, &sum))
                        .await?;
                    continue;
                }
                let row_only = position & ROW_ONLY != 0;
                self.pack(policy, sum, row_only, &mut parcel, &mut left)
                    .await?;
                if parcel.bytes >= PUSH_BYTES_MAX {
                    left.extend(self.send(policy, core::mem::take(&mut parcel)).await?);
                }
            }
            left.extend(self.send(policy, parcel).await?);
        }
        Ok(left)
    }

    async fn pack(
        &self,
        policy: PolicyIndex,
        sum: KeySum,
        row_only: bool,
        parcel: &mut Parcel,
        left: &mut Vec<KeySum>,
    ) -> Result<(), PushError> {
        let key = ObjectKey {
            policy,
            hash: PathHash::new(sum.hash),
            fragment: sum.fragment,
        };
        let loaded = self
            .disk
            .call(move |device| match load(device, &key, row_only) {
                Err(DeviceError::Damaged { .. }) => Ok(Loaded::Gone),
                loaded => loaded,
            });
        match loaded.await? {
            Loaded::Gone => left.push(sum),
            Loaded::Row(row) => {
                parcel.bytes += row.cost();
                parcel.sums.push(sum);
                parcel.rows.push(*row);
            }
            Loaded::Large(stored) => {
                if !self.push_large(key, *stored).await? {
                    left.push(sum);
                }
            }
        }
        Ok(())
    }

    async fn send(&self, policy: PolicyIndex, parcel: Parcel) -> Result<Vec<KeySum>, PushError> {
        if parcel.rows.is_empty() {
            return Ok(Vec::new());
        }
        let body = encode_pushes(&parcel.rows);
        let refused = self.units(Resource::Rows, &Push { policy }, body).await?;
        let taken = parcel.rows.len().saturating_sub(refused.len());
        Progress::add(&self.disk.progress().pushed, taken);
        let mut left = Vec::new();
        for position in refused {
            let index = usize::try_from(position).unwrap_or(usize::MAX);
            let (Some(sum), Some(row)) = (parcel.sums.get(index), parcel.rows.get(index)) else {
                continue;
            };
            // A row alone did not do: the bytes of the same moment are others there.
            if row.bytes.is_none() && row.row.body.is_some() && self.push_whole(policy, sum).await?
            {
                continue;
            }
            left.push(*sum);
        }
        Ok(left)
    }

    async fn push_whole(&self, policy: PolicyIndex, sum: &KeySum) -> Result<bool, PushError> {
        let key = ObjectKey {
            policy,
            hash: PathHash::new(sum.hash),
            fragment: sum.fragment,
        };
        match self
            .disk
            .call(move |device| load(device, &key, false))
            .await?
        {
            Loaded::Gone => Ok(false),
            Loaded::Large(stored) => self.push_large(key, *stored).await,
            Loaded::Row(row) => {
                let body = encode_pushes(&[*row]);
                let refused = self.units(Resource::Rows, &Push { policy }, body).await?;
                Ok(refused.is_empty())
            }
        }
    }

    /// Pushes a row with a large body. False when the bytes turned out damaged.
    async fn push_large(&self, key: ObjectKey, stored: StoredObject) -> Result<bool, PushError> {
        let is_taken = self.send_large(key, stored).await?;
        Progress::add(&self.disk.progress().pushed, usize::from(is_taken));
        Ok(is_taken)
    }

    async fn send_large(&self, key: ObjectKey, stored: StoredObject) -> Result<bool, PushError> {
        let Some(body) = stored.row.body.clone() else {
            return Ok(false);
        };
        let head = PushBody {
            policy: key.policy,
            fragment: key.fragment,
            row: stored.row.clone(),
        };
        let stream = self.node.nodes.stream(&self.place, Resource::Body, &head)?;
        let opened = self
            .disk
            .call(move |device| device.open_body(&key, &stored, &[]))
            .await;
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(DiskError::Device(DeviceError::Damaged { .. })) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        loop {
            let read = self.disk.call(move |device| {
                let block = reader.next(device)?;
                Ok((block, reader))
            });
            let (block, next): (Option<Bytes>, _) = match read.await {
                Ok(read) => read,
                Err(DiskError::Device(DeviceError::Damaged { .. })) => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            reader = next;
            let Some(block) = block else { break };
            self.disk.pace().pass(block.len()).await;
            if stream.send(block).await.is_err() {
                return self.is_taken(stream.answer().await?);
            }
        }
        let tail = Tail {
            length: body.length,
            etag: body.etag,
            root: body.root,
            system: Metadata::default(),
            settled: None,
        };
        self.is_taken(stream.finish(&tail).await?)
    }

    fn is_taken(&self, answer: WriteAnswer) -> Result<bool, PushError> {
        let place = self.place.clone();
        match answer {
            // A newer row there is what ours would have become.
            WriteAnswer::Written { .. } | WriteAnswer::Newer { .. } => Ok(true),
            WriteAnswer::NotFound { .. }
            | WriteAnswer::Present { .. }
            | WriteAnswer::Reserved { .. }
            | WriteAnswer::WrongBody => Ok(false),
            WriteAnswer::Full => Err(PushError::Refused {
                place,
                status: StatusCode::INSUFFICIENT_STORAGE,
            }),
            WriteAnswer::Failed { status } => Err(PushError::Refused { place, status }),
        }
    }

    /// Which of these containers or accounts the peer lacks or has otherwise; with true those that it does not want,
    /// because they may have been deleted long ago.
    pub(crate) async fn wanted_rosters(
        &self,
        scope: Scope,
        keys: &[KeySum],
        horizon: u16,
    ) -> Result<Vec<(KeySum, bool)>, PushError> {
        let mut wanted = Vec::new();
        for some in keys.chunks(KEYS_AT_ONCE) {
            let head = Wants { scope, horizon };
            let positions = self
                .units(Resource::Wants, &head, encode_keys(some))
                .await?;
            let pick = |position: u32| {
                let index = usize::try_from(position & !(ROW_ONLY | STALE)).ok()?;
                Some((*some.get(index)?, position & STALE != 0))
            };
            wanted.extend(positions.into_iter().filter_map(pick));
        }
        Ok(wanted)
    }

    /// Pushes a container or account: its row, what changed since the sync point, and, where that was not enough, the
    /// runs of records that differ.
    pub(crate) async fn push_roster<R: Record>(
        &self,
        key: RosterKey,
        how: Pushing,
        peer_id: [u8; 16],
    ) -> Result<(), PushError> {
        let Pushing {
            horizon,
            from_start,
        } = how;
        let Some(row) = self.disk.call(move |device| device.roster(&key)).await? else {
            return Ok(());
        };
        let start = if from_start {
            0
        } else {
            self.disk
                .call(move |device| device.sync_point(&key, &peer_id))
                .await?
        };
        let settled_before = self.node.clock.now().seconds().saturating_sub(NEWS_SECONDS);
        let settled = || {
            self.disk
                .call(move |device| device.settled(&key, settled_before, horizon))
        };
        let how = SendRecords {
            horizon,
            settled_before,
        };
        let mut after = start;
        let state = loop {
            let changes = self
                .disk
                .call(move |device| device.changes::<R>(&key, after, RECORDS_AT_ONCE))
                .await?;
            let (records, last) = changes;
            let is_last = records.len() < RECORDS_AT_ONCE;
            // Where so many come, all of them may have come to the peer as well.
            if !is_last && !from_start && after == start {
                let told = self.send_records::<R>(key, &row, &[], how).await?;
                if let Some(own) = settled().await?.filter(|own| own.digest == told.settled) {
                    let through = start.max(own.through);
                    self.disk
                        .call(move |device| device.set_sync_point(&key, &peer_id, through))
                        .await?;
                    return Ok(());
                }
            }
            let state = self.send_records(key, &row, &records, how).await?;
            after = last;
            if is_last {
                break state;
            }
        };
        let is_alike = state.digest == row.digest_above(horizon)
            || settled()
                .await?
                .is_some_and(|own| own.digest == state.settled);
        if !is_alike && !from_start {
            self.push_runs::<R>(key, &row, how).await?;
        }
        self.disk
            .call(move |device| device.set_sync_point(&key, &peer_id, after))
            .await?;
        Ok(())
    }

    async fn send_records<R: Record>(
        &self,
        key: RosterKey,
        row: &RosterRow,
        records: &[R],
        how: SendRecords,
    ) -> Result<RosterState, PushError> {
        let head = Roster {
            roster: row.roster_info(),
            horizon: how.horizon,
            settled_before: how.settled_before,
            known: self
                .disk
                .device()
                .horizon(key.kind.scope(), key.hash.as_bytes()),
        };
        let answer = self
            .post(Resource::Roster, &head, rows::encode_all(records))
            .await?;
        let state: RosterState = answer.head()?;
        drop(answer.bytes(MESSAGE_BYTES_MAX).await);
        let pick = |position: &u32| records.get(usize::try_from(*position).ok()?).cloned();
        let stale: Vec<R> = state.stale.iter().filter_map(pick).collect();
        if !stale.is_empty() {
            let dropped = self
                .disk
                .call(move |device| device.drop_stale_records(&key, &stale));
            dropped.await?;
        }
        Ok(state)
    }

    async fn push_runs<R: Record>(
        &self,
        key: RosterKey,
        row: &RosterRow,
        how: SendRecords,
    ) -> Result<(), PushError> {
        let horizon = how.horizon;
        let runs = self
            .disk
            .call(move |device| device.record_runs::<R>(&key, RECORDS_AT_ONCE, horizon))
            .await?;
        let head = RosterRuns {
            scope: key.kind.scope(),
            hash: *key.hash.as_bytes(),
            horizon,
        };
        let differing = self
            .units(Resource::RosterRuns, &head, encode_runs(&runs))
            .await?;
        for position in differing {
            let index = usize::try_from(position).unwrap_or(usize::MAX);
            let Some(run) = runs.get(index).cloned() else {
                continue;
            };
            let before = index
                .checked_sub(1)
                .and_then(|before| runs.get(before)?.last.clone());
            let records = self.disk.call(move |device| {
                let mut records = Vec::new();
                let (after, last) = (before.as_deref(), run.last.as_deref());
                device.visit_records::<R>(&key, after, last, &mut |record| {
                    records.push(record.clone());
                })?;
                Ok(records)
            });
            self.send_records(key, row, &records.await?, how).await?;
        }
        Ok(())
    }
}

//! What other nodes compare and push.

use crate::object::pushed_key;
use crate::respond;
use crate::server::{Call, Node};
use crate::upload::Received;
use http::StatusCode;
use onggi_common_service::http::Response;
use onggi_object_device::reclaim::slots_of;
use onggi_object_device::split::UnitDigests;
use onggi_object_device::{
    Device, DeviceError, Location, Merge, Merged, NewRow, ObjectKey, RosterKey, RosterKind,
    RosterRow,
};
use onggi_object_model::{ObjectRecord, PolicyIndex};
use onggi_object_ring::PathHash;
use onggi_object_wire::digest::{HASH_BITS_MAX, SLOT_BITS};
use onggi_object_wire::expiry::{Expiry, decode_due};
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::object::Refused;
use onggi_object_wire::replication::{
    Digests, KeySum, MESSAGE_BYTES_MAX, Push, PushBody, PushRow, ROW_ONLY, Roster, RosterInfo,
    RosterRuns, RosterState, Run, STALE, Scope, Wants, decode_keys, decode_pushes, decode_runs,
    decode_sums, encode_units,
};
use onggi_object_wire::rows::{self, Record};
use onggi_object_wire::{Digest, Slot};
use std::collections::{BTreeSet, HashMap};

/// Stale records named in one answer, which is in a header. The others are named when they are sent again.
const STALE_MAX: usize = 500;

pub(crate) const fn kind_of(scope: Scope) -> Option<RosterKind> {
    match scope {
        Scope::Objects(_) => None,
        Scope::Containers => Some(RosterKind::Container),
        Scope::Accounts => Some(RosterKind::Account),
    }
}

fn position(index: usize) -> u32 {
    // A message of 16 MiB holds fewer items than that.
    u32::try_from(index).unwrap_or(u32::MAX) & !(ROW_ONLY | STALE)
}

fn unwell(error: &dyn core::fmt::Display) -> Response {
    respond::bad_request(error)
}

impl Call<'_> {
    pub(crate) async fn digests(self) -> Result<Response, Response> {
        let Digests {
            scope,
            bits,
            horizon,
        } = self.head()?;
        if bits > HASH_BITS_MAX {
            return Err(unwell(&"more bits than number partitions"));
        }
        let body = self.body.whole(MESSAGE_BYTES_MAX).await?;
        let theirs = decode_sums(&body).map_err(|error| unwell(&error))?;
        let differing = if bits <= SLOT_BITS {
            let ours = self.disk.device().unit_digests(scope, bits, horizon, None);
            differing_units(&ours, bits, &theirs)
        } else {
            let compared = self.disk.call(move |device| {
                let slots = theirs.iter().flat_map(|(unit, _)| slots_of(*unit, bits));
                let slots: BTreeSet<Slot> = slots.collect();
                let ours = device.unit_digests(scope, bits, horizon, Some(&slots));
                Ok(differing_units(&ours, bits, &theirs))
            });
            compared
                .await
                .map_err(|error| respond::disk_error("comparing partitions", &error))?
        };
        Ok(respond::with_body(StatusCode::OK, encode_units(&differing)))
    }

    pub(crate) async fn wants(self) -> Result<Response, Response> {
        let Wants { scope, horizon } = self.head()?;
        let body = self.body.whole(MESSAGE_BYTES_MAX).await?;
        let theirs = decode_keys(&body).map_err(|error| unwell(&error))?;
        let wanted = self.disk.call(move |device| match (scope, kind_of(scope)) {
            (Scope::Objects(policy), _) => wanted_objects(device, policy, &theirs),
            (_, Some(kind)) => wanted_rosters(device, kind, &theirs, horizon),
            (_, None) => Ok(Vec::new()),
        });
        let wanted = wanted
            .await
            .map_err(|error| respond::disk_error("comparing rows", &error))?;
        Ok(respond::with_body(StatusCode::OK, encode_units(&wanted)))
    }

    pub(crate) async fn newer_than_due(self) -> Result<Response, Response> {
        let Expiry { policy } = self.head()?;
        let body = self.body.whole(MESSAGE_BYTES_MAX).await?;
        let due = decode_due(&body).map_err(|error| unwell(&error))?;
        let newer = self.disk.call(move |device| {
            let mut newer = Vec::new();
            for (index, due) in due.iter().enumerate() {
                let key = ObjectKey {
                    policy,
                    hash: PathHash::new(due.hash),
                    fragment: due.fragment,
                };
                if device.knows_newer(&key, due.data_timestamp, due.metadata_timestamp)? {
                    newer.push(position(index));
                }
            }
            Ok(newer)
        });
        let newer = newer
            .await
            .map_err(|error| respond::disk_error("comparing dates", &error))?;
        Ok(respond::with_body(StatusCode::OK, encode_units(&newer)))
    }

    pub(crate) async fn rows(self) -> Result<Response, Response> {
        let Push { policy } = self.head()?;
        let body = self.body.whole(MESSAGE_BYTES_MAX).await?;
        let pushed = decode_pushes(&body).map_err(|error| unwell(&error))?;
        let keyed: Vec<(ObjectKey, PushRow)> = pushed
            .into_iter()
            .map(|push| {
                (
                    pushed_key(self.node, policy, push.fragment, &push.row.path),
                    push,
                )
            })
            .collect();
        let merged = self.disk.call(move |device| {
            let mut refused = Vec::new();
            for (index, (key, push)) in keyed.into_iter().enumerate() {
                match take_row(device, key, push) {
                    Ok(()) => {}
                    Err(error) if error.is_full() => return Err(error),
                    Err(error) => {
                        tracing::info!(%error, "a pushed row was not taken");
                        refused.push(position(index));
                    }
                }
            }
            Ok(refused)
        });
        let refused = merged
            .await
            .map_err(|error| respond::disk_error("taking rows", &error))?;
        Ok(respond::with_body(
            StatusCode::ACCEPTED,
            encode_units(&refused),
        ))
    }

    pub(crate) async fn pushed_body(self) -> Result<Response, Response> {
        let push: PushBody = self.head()?;
        let Some(body) = push.row.body.clone() else {
            return Err(unwell(&"a pushed body without one in its row"));
        };
        let key = pushed_key(self.node, push.policy, push.fragment, &push.row.path);
        let received: Received = self.body;
        let (finished, tail) = received
            .upload(&self.disk, key, Some(body.length), None)
            .await?;
        if tail.root != body.root || tail.etag != body.etag {
            return Err(respond::status(StatusCode::UNPROCESSABLE_ENTITY));
        }
        let new = NewRow {
            row: push.row,
            body: Some(finished),
        };
        let merged = self
            .disk
            .call(move |device| device.merge_object(&key, new, Merge::default()))
            .await;
        let merged = merged.map_err(|error| respond::disk_error("taking a body", &error))?;
        let head = onggi_object_wire::object::Written::default();
        Ok(match merged {
            Merged::Changed { taken, .. } if taken.data => {
                respond::with_head(StatusCode::CREATED, &head)
            }
            Merged::Changed { .. } => respond::with_head(StatusCode::ACCEPTED, &head),
            Merged::Unchanged { newest, .. } | Merged::Present { newest } => {
                respond::with_head(StatusCode::CONFLICT, &Refused { newest })
            }
            Merged::Absent | Merged::Reserved { .. } | Merged::Lapsed => {
                respond::status(StatusCode::INTERNAL_SERVER_ERROR)
            }
        })
    }

    pub(crate) async fn roster(self) -> Result<Response, Response> {
        let Roster {
            roster,
            horizon,
            known,
            settled_before,
        } = self.head()?;
        let body = self.body.whole(MESSAGE_BYTES_MAX).await?;
        let key = roster_key(self.node, &roster);
        let theirs = RosterRow::from_info(roster);
        let merged = match key.kind {
            RosterKind::Container => {
                let records = rows::decode_all::<ObjectRecord>(&body);
                let records = records.map_err(|error| unwell(&error))?;
                self.disk
                    .call(move |device| device.merge_news(&key, Some(&theirs), &records, known))
                    .await
            }
            RosterKind::Account => {
                let records = rows::decode_all::<CountedContainer>(&body);
                let records = records.map_err(|error| unwell(&error))?;
                self.disk
                    .call(move |device| device.merge_news(&key, Some(&theirs), &records, known))
                    .await
            }
        };
        let told = merged.map_err(|error| respond::disk_error("taking records", &error))?;
        let settled = self
            .disk
            .call(move |device| device.settled(&key, settled_before, horizon))
            .await
            .map_err(|error| respond::disk_error("comparing records", &error))?;
        let settled = settled.map_or(Digest::EMPTY, |settled| settled.digest);
        let state = told.map_or_else(
            || RosterState {
                digest: Digest::EMPTY,
                settled,
                stale: Vec::new(),
            },
            |told| RosterState {
                digest: told.row.digest_above(horizon),
                settled,
                stale: told
                    .stale
                    .into_iter()
                    .take(STALE_MAX)
                    .map(position)
                    .collect(),
            },
        );
        Ok(respond::with_head(StatusCode::ACCEPTED, &state))
    }

    pub(crate) async fn roster_runs(self) -> Result<Response, Response> {
        let RosterRuns {
            scope,
            hash,
            horizon,
        } = self.head()?;
        let Some(kind) = kind_of(scope) else {
            return Err(unwell(&"objects have no records"));
        };
        let body = self.body.whole(MESSAGE_BYTES_MAX).await?;
        let runs = decode_runs(&body).map_err(|error| unwell(&error))?;
        let key = RosterKey {
            kind,
            hash: PathHash::new(hash),
        };
        let differing = self.disk.call(move |device| match kind {
            RosterKind::Container => differing_runs::<ObjectRecord>(device, &key, &runs, horizon),
            RosterKind::Account => differing_runs::<CountedContainer>(device, &key, &runs, horizon),
        });
        let differing = differing
            .await
            .map_err(|error| respond::disk_error("comparing records", &error))?;
        Ok(respond::with_body(StatusCode::OK, encode_units(&differing)))
    }
}

/// The units that are here otherwise. What cannot be read is: then its rows are compared one by one.
fn differing_units(ours: &UnitDigests, bits: u32, theirs: &[(u32, Digest)]) -> Vec<u32> {
    let is_unread = |unit: u32| {
        !ours.unread.is_empty() && slots_of(unit, bits).any(|slot| ours.unread.contains(&slot))
    };
    let differs = |(unit, digest): &&(u32, Digest)| {
        let known = ours.digests.get(unit).copied().unwrap_or_default();
        known != *digest || is_unread(*unit)
    };
    let differing = theirs.iter().filter(differs);
    differing.map(|(unit, _)| *unit).collect()
}

fn roster_key(node: &Node, roster: &RosterInfo) -> RosterKey {
    match roster {
        RosterInfo::Container { path, .. } => node.container_key(path),
        RosterInfo::Account { account, .. } => node.account_key(account),
    }
}

pub(crate) fn take_row(device: &Device, key: ObjectKey, push: PushRow) -> Result<(), DeviceError> {
    let body = match push.bytes {
        None => None,
        Some(bytes) => {
            let mut upload = device.begin_upload(key, Some(bytes.len() as u64))?;
            upload.write(device, &bytes)?;
            Some(upload.finish())
        }
    };
    let new = NewRow {
        row: push.row,
        body,
    };
    device.merge_object(&key, new, Merge::default()).map(|_| ())
}

/// The positions of the rows this device wants, and of those that may be what a reclaimed tombstone deleted.
pub(crate) fn wanted_objects(
    device: &Device,
    policy: PolicyIndex,
    theirs: &[KeySum],
) -> Result<Vec<u32>, DeviceError> {
    let mut wanted = Vec::new();
    for (index, sum) in theirs.iter().enumerate() {
        let key = ObjectKey {
            policy,
            hash: PathHash::new(sum.hash),
            fragment: sum.fragment,
        };
        let Some(ours) = device.get_object(&key)? else {
            let is_stale = device.is_stale(policy, sum);
            wanted.push(position(index) | if is_stale { STALE } else { 0 });
            continue;
        };
        if ours.digest(&key) == sum.digest {
            continue;
        }
        let own = ours.timestamps();
        let is_quarantined = ours.location == Location::Quarantined;
        let is_older = own
            .iter()
            .zip(&sum.timestamps)
            .all(|(ours, theirs)| ours > theirs);
        if is_older && !is_quarantined {
            continue;
        }
        let has_bytes = own[0] >= sum.timestamps[0] && !is_quarantined;
        wanted.push(position(index) | if has_bytes { ROW_ONLY } else { 0 });
    }
    Ok(wanted)
}

/// The positions of the containers or accounts this device wants, and of those that may have been deleted and reclaimed.
pub(crate) fn wanted_rosters(
    device: &Device,
    kind: RosterKind,
    theirs: &[KeySum],
    horizon: u16,
) -> Result<Vec<u32>, DeviceError> {
    let mut ours: HashMap<[u8; 16], Digest> = HashMap::new();
    let mut known: Vec<Slot> = Vec::new();
    let mut wanted = Vec::new();
    for (index, sum) in theirs.iter().enumerate() {
        let slot = Slot::of(&sum.hash);
        if !known.contains(&slot) {
            known.push(slot);
            let keys = device.roster_keys(kind, slot, horizon)?;
            ours.extend(keys.into_iter().map(|key| (key.hash, key.digest)));
        }
        match ours.get(&sum.hash) {
            Some(digest) if *digest == sum.digest => {}
            Some(_) => wanted.push(position(index)),
            None if device.is_settled_roster(kind, sum) => {}
            None => {
                let is_stale = device.is_stale_roster(kind, sum);
                wanted.push(position(index) | if is_stale { STALE } else { 0 });
            }
        }
    }
    Ok(wanted)
}

fn differing_runs<R: Record>(
    device: &Device,
    key: &RosterKey,
    runs: &[Run],
    horizon: u16,
) -> Result<Vec<u32>, DeviceError> {
    let mut differing = Vec::new();
    let mut after: Option<&str> = None;
    for (index, run) in runs.iter().enumerate() {
        let ours = device.run_digest::<R>(key, after, run.last.as_deref(), horizon)?;
        if ours != run.digest {
            differing.push(position(index));
        }
        after = run.last.as_deref();
    }
    Ok(differing)
}

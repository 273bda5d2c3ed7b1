//! What containers and accounts have in common.

use crate::disks::Disk;
use crate::respond::{self, Early};
use crate::server::Node;
use http::StatusCode;
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_device::roster::{Changed, Decision};
use onggi_object_device::{Change, Committed, RosterKey, RosterKind, RosterRow};
use onggi_object_model::{AccountName, ContainerPath, Listing, StampedMetadata};
use onggi_object_wire::pages::{self, Entry};
use serde::Serialize;

impl Node {
    pub(crate) fn container_key(&self, path: &ContainerPath) -> RosterKey {
        RosterKey {
            kind: RosterKind::Container,
            hash: self.hash.container(path),
        }
    }

    pub(crate) fn account_key(&self, account: &AccountName) -> RosterKey {
        RosterKey {
            kind: RosterKind::Account,
            hash: self.hash.account(account),
        }
    }
}

/// Changes a roster's row.
pub(crate) async fn change(
    disk: &Disk,
    key: RosterKey,
    blank: RosterRow,
    act: impl FnOnce(&mut RosterRow) -> Decision + Send + 'static,
) -> Result<Changed, Response> {
    let changed = disk
        .call(move |device| device.change_roster(&key, blank, act))
        .await;
    changed.map_err(|error| respond::disk_error("changing a container or account", &error))
}

/// Takes records that belong to a container or account.
pub(crate) async fn take_records(disk: &Disk, change: Change) -> Result<Response, Response> {
    let committed = disk.commit(change).await;
    let committed = committed.map_err(|error| respond::disk_error("listing", &error))?;
    Ok(respond::status(match committed {
        Committed::Records { is_there: true } => StatusCode::ACCEPTED,
        Committed::Records { is_there: false } | Committed::Object { .. } | Committed::Told => {
            StatusCode::NOT_FOUND
        }
    }))
}

/// Merges metadata into a roster that is there.
pub(crate) fn post(row: &mut RosterRow, metadata: &StampedMetadata) -> Decision {
    if !row.exists() {
        return Decision::Leave;
    }
    row.change_metadata(metadata);
    Decision::Write
}

/// Marks a roster as there, with metadata that changes.
pub(crate) fn put(row: &mut RosterRow, at: Timestamp, metadata: &StampedMetadata) -> Decision {
    if row.delete_timestamp >= at {
        return Decision::Leave;
    }
    row.put_timestamp = row.put_timestamp.max(at);
    row.change_metadata(metadata);
    Decision::Write
}

/// Refuses to read from a device that was away so long that it may hold what was deleted and reclaimed.
pub(crate) fn refuse_rejoining(disk: &Disk) -> Result<(), Early> {
    if disk.is_rejoining() {
        let status = StatusCode::INSUFFICIENT_STORAGE;
        return Err(Early::new(respond::status(status)));
    }
    Ok(())
}

/// Reads a roster's row.
pub(crate) async fn row(disk: &Disk, key: RosterKey) -> Result<Option<RosterRow>, Response> {
    let read = disk.call(move |device| device.roster(&key)).await;
    read.map_err(|error| respond::disk_error("reading a container or account", &error))
}

/// Answers a HEAD.
pub(crate) fn info<I: Serialize>(
    row: Option<&RosterRow>,
    view: impl FnOnce(&RosterRow) -> I,
) -> Response {
    match row {
        Some(row) if row.exists() => respond::with_head(StatusCode::NO_CONTENT, &view(row)),
        Some(row) => respond::with_head(StatusCode::NOT_FOUND, &view(row)),
        None => respond::status(StatusCode::NOT_FOUND),
    }
}

/// Answers a listing.
pub(crate) fn listing<I: Serialize, E: Entry>(info: &I, listing: &Listing<E>) -> Response {
    let mut response = respond::with_head(StatusCode::OK, info);
    *response.body_mut() = onggi_common_service::http::full(pages::encode(listing));
    response
}

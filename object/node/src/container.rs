//! Containers: PUT, POST, DELETE, HEAD, listings, and records of their objects.

use crate::disks::Disk;
use crate::respond;
use crate::rosters;
use crate::server::{Call, Node};
use core::time::Duration;
use http::StatusCode;
use onggi_common_service::http::Response;
use onggi_object_device::roster::Decision;
use onggi_object_device::{Change, RosterRow};
use onggi_object_model::{ContainerPath, ObjectRecord};
use onggi_object_wire::container::{
    Delete, Head, List, Post, Put, ROWS_BYTES_MAX, ROWS_MAX, Rows, Written,
};
use onggi_object_wire::{Place, account, rows};

/// How long telling an account may hold up the answer. What takes longer is told later.
const ACCOUNT_TIME_MAX: Duration = Duration::from_secs(2);

fn blank(path: &ContainerPath) -> RosterRow {
    RosterRow::new(path.account.clone(), Some(path.container.clone()))
}

impl Call<'_> {
    pub(crate) async fn put_container(self) -> Result<Response, Response> {
        let put: Put = self.head()?;
        self.body.none().await?;
        if self.node.is_ahead(put.timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let key = self.node.container_key(&put.path);
        let Put {
            path,
            timestamp,
            policy,
            default_policy,
            metadata,
            account,
        } = put;
        let changed = rosters::change(&self.disk, key, blank(&path), move |row| {
            if row.exists() {
                if policy.is_some_and(|policy| policy != row.policy) {
                    return Decision::Leave;
                }
            } else if timestamp > row.delete_timestamp {
                row.policy = policy.unwrap_or(default_policy);
                row.policy_timestamp = timestamp;
            }
            rosters::put(row, timestamp, &metadata)
        })
        .await?;
        let is_refused = changed.after.put_timestamp < timestamp
            || policy.is_some_and(|policy| policy != changed.after.policy)
            || !changed.after.exists();
        if is_refused {
            return Ok(respond::with_head(
                StatusCode::CONFLICT,
                &changed.after.container_info(),
            ));
        }
        let listed = tell_account(self.node, &changed.after, account).await;
        let code = if changed.was_there() {
            StatusCode::ACCEPTED
        } else {
            StatusCode::CREATED
        };
        Ok(respond::with_head(code, &Written { listed }))
    }

    pub(crate) async fn post_container(self) -> Result<Response, Response> {
        let post: Post = self.head()?;
        self.body.none().await?;
        let key = self.node.container_key(&post.path);
        let blank = blank(&post.path);
        let changed = rosters::change(&self.disk, key, blank, move |row| {
            rosters::post(row, &post.metadata)
        })
        .await?;
        let code = if changed.was_there() {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::NOT_FOUND
        };
        Ok(respond::status(code))
    }

    pub(crate) async fn delete_container(self) -> Result<Response, Response> {
        let delete: Delete = self.head()?;
        self.body.none().await?;
        if self.node.is_ahead(delete.timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let key = self.node.container_key(&delete.path);
        let blank = blank(&delete.path);
        let at = delete.timestamp;
        let changed = rosters::change(&self.disk, key, blank, move |row| {
            if row.live_count > 0 || row.put_timestamp >= at || row.delete_timestamp >= at {
                return Decision::Leave;
            }
            // Also of a container that never came here: the deletion must win over a PUT that comes late.
            row.delete(at);
            Decision::Write
        })
        .await?;
        if changed.after.exists() {
            return Ok(respond::with_head(
                StatusCode::CONFLICT,
                &changed.after.container_info(),
            ));
        }
        let listed = tell_account(self.node, &changed.after, delete.account).await;
        let code = if changed.was_there() {
            StatusCode::NO_CONTENT
        } else {
            StatusCode::NOT_FOUND
        };
        Ok(respond::with_head(code, &Written { listed }))
    }

    pub(crate) async fn head_container(self) -> Result<Response, Response> {
        let head: Head = self.head()?;
        self.body.none().await?;
        rosters::refuse_rejoining(&self.disk)?;
        let row = rosters::row(&self.disk, self.node.container_key(&head.path)).await?;
        Ok(rosters::info(row.as_ref(), RosterRow::container_info))
    }

    pub(crate) async fn list_container(self) -> Result<Response, Response> {
        let List { path, query } = self.head()?;
        self.body.none().await?;
        rosters::refuse_rejoining(&self.disk)?;
        let key = self.node.container_key(&path);
        let read = self.disk.call(move |device| {
            let row = device.roster(&key)?;
            let listing = match &row {
                Some(row) if row.exists() => Some(device.list::<ObjectRecord>(&key, &query)?),
                Some(_) | None => None,
            };
            Ok((row, listing))
        });
        let read = read
            .await
            .map_err(|error| respond::disk_error("listing", &error))?;
        Ok(match read {
            (Some(row), Some(listing)) => rosters::listing(&row.container_info(), &listing),
            (row, _) => rosters::info(row.as_ref(), RosterRow::container_info),
        })
    }

    pub(crate) async fn object_records(self) -> Result<Response, Response> {
        let head: Rows = self.head()?;
        let key = self.node.container_key(&head.path);
        let body = self.body.whole(ROWS_BYTES_MAX).await?;
        let records = rows::decode_all::<ObjectRecord>(&body);
        let records = records.map_err(|error| respond::bad_request(&error))?;
        if records.len() > ROWS_MAX {
            return Err(respond::bad_request(&"too many records"));
        }
        let (known, policy) = (head.known, head.policy);
        rosters::take_records(
            &self.disk,
            Change::ObjectRecords {
                key,
                policy,
                records,
                known,
            },
        )
        .await
    }
}

/// Tells account devices about a container; those that heard it. The updater tells the others.
async fn tell_account(node: &Node, row: &RosterRow, places: Vec<Place>) -> Vec<Place> {
    let Some(record) = row.record(node.now()) else {
        return Vec::new();
    };
    let head = account::Rows {
        account: row.account.clone(),
        // The client has just asked for it.
        known: u16::MAX,
    };
    let mut told = tokio::task::JoinSet::new();
    for place in places {
        let (nodes, head, records) = (node.nodes.clone(), head.clone(), [record.clone()]);
        told.spawn(async move {
            let call = nodes.post_container_records(&place, &head, &records);
            (tokio::time::timeout(ACCOUNT_TIME_MAX, call).await, place)
        });
    }
    let mut listed = Vec::new();
    while let Some(joined) = told.join_next().await {
        match joined {
            Ok((Ok(Ok(true)), place)) => listed.push(place),
            Ok((answer, place)) => {
                tracing::info!(?answer, %place, "an account will be told later");
            }
            Err(error) => tracing::error!(%error, "telling an account was cut off"),
        }
    }
    listed
}

/// The container row of a device, for what runs beside requests.
pub(crate) async fn container_row(
    disk: &Disk,
    key: onggi_object_device::RosterKey,
) -> Option<RosterRow> {
    disk.call(move |device| device.roster(&key))
        .await
        .ok()
        .flatten()
}

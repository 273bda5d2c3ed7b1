//! Objects: PUT, GET, HEAD, POST, DELETE.

use crate::disks::{Disk, DiskError};
use crate::reservation::{guard, reserved};
use crate::respond;
use crate::server::{Call, Node};
use http::StatusCode;
use onggi_common_host::Clock;
use onggi_common_service::http::Response;
use onggi_object_client::limiter::SILENT_AFTER;
use onggi_object_client::{CallError, Limiter, Nodes};
use onggi_object_device::object::post_row;
use onggi_object_device::{
    Change, Committed, Guard, Merge, Merged, NewRow, ObjectKey, PendingObject, Tell,
};
use onggi_object_model::{ObjectPath, ObjectRecord, PolicyIndex};
use onggi_object_wire::object::{Delete, Post, Put, Refused, Which, Written};
use onggi_object_wire::{Body as WireBody, ObjectRow, Place, container};
use std::sync::Arc;

/// How long telling a container may hold up the answer to a write. What takes longer is told later.
const LISTING_TIME_MAX: core::time::Duration = core::time::Duration::from_secs(2);

impl Node {
    pub(crate) fn object_key(&self, which: &Which) -> ObjectKey {
        ObjectKey {
            policy: which.policy,
            hash: self.hash.object(&which.path),
            fragment: which.fragment_byte(),
        }
    }
}

impl Call<'_> {
    pub(crate) async fn put_object(self) -> Result<Response, Response> {
        let put: Put = self.head()?;
        if self.node.is_ahead(put.timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let (node, disk) = (self.node, self.disk.clone());
        let key = node.object_key(&put.which);
        let (body, tail) = self.body.upload(&disk, key, put.length, put.tail).await?;
        let (timestamp, commit) = match tail.settled {
            Some(settled) => (settled.timestamp, Some(settled.commit)),
            None => (put.timestamp, put.commit),
        };
        if node.is_ahead(timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let row = ObjectRow {
            path: put.which.path,
            data_timestamp: timestamp,
            body: Some(WireBody {
                length: tail.length,
                etag: tail.etag,
                root: tail.root,
                system: tail.complete(put.system),
            }),
            content_type_timestamp: timestamp,
            content_type: put.content_type,
            metadata_timestamp: timestamp,
            metadata: put.metadata,
        };
        let how = Merge {
            guard: guard(node, commit.as_ref()),
            ..Merge::default()
        };
        let write = Write {
            key,
            row,
            body: Some(body),
            how,
            listing: put.listing,
        };
        write.carry_out(node, &disk, StatusCode::CREATED).await
    }

    pub(crate) async fn post_object(self) -> Result<Response, Response> {
        let post: Post = self.head()?;
        self.body.none().await?;
        if self.node.is_ahead(post.timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let key = self.node.object_key(&post.which);
        let row = post_row(
            post.which.path,
            post.timestamp,
            post.content_type,
            post.metadata,
        );
        let how = Merge {
            if_present: true,
            guard: guard(self.node, None),
            ..Merge::default()
        };
        let write = Write {
            key,
            row,
            body: None,
            how,
            listing: post.listing,
        };
        write
            .carry_out(self.node, &self.disk, StatusCode::ACCEPTED)
            .await
    }

    pub(crate) async fn delete_object(self) -> Result<Response, Response> {
        let delete: Delete = self.head()?;
        self.body.none().await?;
        if self.node.is_ahead(delete.timestamp) {
            return Err(respond::bad_request(&"stamped too far ahead"));
        }
        let key = self.node.object_key(&delete.which);
        let row = ObjectRow::tombstone(delete.which.path, delete.timestamp);
        let write = Write {
            key,
            row,
            body: None,
            how: Merge {
                guard: guard(self.node, delete.commit.as_ref()),
                ..Merge::default()
            },
            listing: delete.listing,
        };
        write
            .carry_out(self.node, &self.disk, StatusCode::NO_CONTENT)
            .await
    }
}

/// A write of an object: the row, and who is told.
struct Write {
    key: ObjectKey,
    row: ObjectRow,
    body: Option<onggi_object_device::Finished>,
    how: Merge,
    listing: Vec<Place>,
}

impl Write {
    async fn carry_out(
        self,
        node: &Node,
        disk: &Disk,
        done: StatusCode,
    ) -> Result<Response, Response> {
        let Self {
            key,
            row,
            body,
            how,
            listing,
        } = self;
        let how = Merge {
            tell: tell(node, disk, &row.path, &listing),
            ..how
        };
        let is_delete = row.body.is_none() && !how.if_present;
        let new = NewRow { row, body };
        if let Guard::Above { .. } = how.guard {
            node.holds.wait(&disk.name, key).await;
        }
        let committed = merge(disk, key, new, how).await;
        if let Guard::Commit { commit, .. } = how.guard {
            node.holds.end(&disk.name, key, &commit.token);
        }
        let (merged, is_listed) =
            committed.map_err(|error| respond::disk_error("writing an object", &error))?;
        let (was_there, row) = match merged {
            Merged::Changed {
                taken,
                was_there,
                row,
            } if taken.data || how.if_present => (was_there, row),
            // Only metadata of the moment was newer than what is there: the bytes are not the ones readers get.
            Merged::Changed { row, .. } => return Ok(conflict(row.newest())),
            // A deletion that finds a later one has nothing to do: that one holds wherever this one would.
            Merged::Unchanged {
                is_deletion: true, ..
            } if is_delete => {
                return Ok(respond::with_head(
                    StatusCode::NOT_FOUND,
                    &Written::default(),
                ));
            }
            Merged::Unchanged { newest, .. } => return Ok(conflict(newest)),
            Merged::Present { newest } => {
                return Ok(respond::with_head(
                    StatusCode::PRECONDITION_FAILED,
                    &Refused { newest },
                ));
            }
            Merged::Reserved { stamp } => return Ok(reserved(stamp)),
            Merged::Lapsed => return Ok(respond::status(StatusCode::GONE)),
            Merged::Absent => {
                return Ok(respond::with_head(
                    StatusCode::NOT_FOUND,
                    &Written::default(),
                ));
            }
        };
        let listed = tell_containers(node, disk, key, &row, listing, is_listed).await;
        let code = if is_delete && !was_there {
            StatusCode::NOT_FOUND
        } else {
            done
        };
        Ok(respond::with_head(code, &Written { listed }))
    }
}

/// Merges a row together with whatever else waits for the device. A large body is made durable before.
/// Whether the container's copy on the device lists it, too.
async fn merge(
    disk: &Disk,
    key: ObjectKey,
    new: NewRow,
    how: Merge,
) -> Result<(Merged, bool), DiskError> {
    let prepared = if new.has_file() {
        disk.call(move |device| device.prepare_object(&key, new))
            .await?
    } else {
        disk.device().prepare_object(&key, new)?
    };
    let prepared = Box::new(prepared);
    let change = Change::Object { key, prepared, how };
    match disk.commit(change).await? {
        Committed::Object { merged, is_listed } => Ok((merged, is_listed)),
        Committed::Records { .. } | Committed::Told => Err(DiskError::CutOff),
    }
}

pub(crate) fn conflict(newest: onggi_common_units::Timestamp) -> Response {
    respond::with_head(StatusCode::CONFLICT, &Refused { newest })
}

fn is_here(node: &Node, disk: &Disk, place: &Place) -> bool {
    place.device == disk.name && place.address == node.address
}

/// How the container devices of a list come to know of a change: this one in the change's own batch.
fn tell(node: &Node, disk: &Disk, path: &ObjectPath, listing: &[Place]) -> Option<Tell> {
    let here = listing.iter().any(|place| is_here(node, disk, place));
    let elsewhere = listing.iter().any(|place| !is_here(node, disk, place));
    (here || elsewhere).then(|| Tell {
        since: node.clock.now(),
        here: here.then(|| node.container_key(&path.container_path())),
        elsewhere,
    })
}

/// Tells the other container devices about an object; those that have it listed. The pending row goes when all have.
async fn tell_containers(
    node: &Node,
    disk: &Disk,
    key: ObjectKey,
    row: &ObjectRow,
    listing: Vec<Place>,
    is_listed: bool,
) -> Vec<Place> {
    let (mut listed, elsewhere): (Vec<Place>, Vec<Place>) = listing
        .into_iter()
        .partition(|place| is_here(node, disk, place));
    let is_untold_here = !listed.is_empty() && !is_listed;
    if is_untold_here {
        listed.clear();
        tracing::debug!(path = %row.path, "the container is not there yet");
    }
    if elsewhere.is_empty() {
        return listed;
    }
    let (record, container) = (row.record(), row.path.container_path());
    let head = container::Rows {
        path: container.clone(),
        policy: key.policy,
        known: u16::MAX,
    };
    let count = elsewhere.len();
    let mut tellers = Vec::with_capacity(count);
    for place in elsewhere {
        let now = node.clock.monotonic();
        // It will be told later, from the pending row.
        if node.limiter.is_limited(&place.address, now) {
            continue;
        }
        node.limiter.on_sent(&place.address, now);
        tellers.push(Teller {
            nodes: node.nodes.clone(),
            limiter: Arc::clone(&node.limiter),
            clock: Arc::clone(&node.clock),
            place,
        });
    }
    let told = tell_all(tellers, &head, &record, &row.path).await;
    if told.len() == count && !is_untold_here {
        disk.forget_told(PendingObject {
            key,
            container,
            record,
            since: None,
        });
    }
    listed.extend(told);
    listed
}

/// Tells container devices at once; those that heard it.
async fn tell_all(
    mut tellers: Vec<Teller>,
    head: &container::Rows,
    record: &ObjectRecord,
    path: &ObjectPath,
) -> Vec<Place> {
    // Usually there is one for each copy of the object: that needs no task of its own.
    let own = tellers.pop();
    let mut told = tokio::task::JoinSet::new();
    for teller in tellers {
        let (head, records) = (head.clone(), [record.clone()]);
        told.spawn(async move {
            let answer = teller.tell(&head, &records).await;
            (teller.place, answer)
        });
    }
    let mut listed = Vec::new();
    if let Some(teller) = own {
        match teller.tell(head, core::slice::from_ref(record)).await {
            Some(Ok(true)) => listed.push(teller.place),
            answer => report_untold(path, &teller.place, answer),
        }
    }
    while let Some(joined) = told.join_next().await {
        match joined {
            Ok((place, Some(Ok(true)))) => listed.push(place),
            Ok((place, answer)) => report_untold(path, &place, answer),
            Err(error) => tracing::error!(%error, "telling a container was cut off"),
        }
    }
    listed
}

/// What telling one container device takes.
struct Teller {
    nodes: Nodes,
    limiter: Arc<Limiter>,
    clock: Arc<dyn Clock>,
    place: Place,
}

impl Teller {
    /// `None` when it takes too long: at once when the node says nothing at all.
    async fn tell(
        &self,
        head: &container::Rows,
        records: &[ObjectRecord],
    ) -> Option<Result<bool, CallError>> {
        let (address, sent) = (self.place.address.as_str(), self.clock.monotonic());
        let call = self.nodes.post_object_records(&self.place, head, records);
        tokio::pin!(call);
        let answer = loop {
            match tokio::time::timeout(SILENT_AFTER, &mut call).await {
                Ok(answer) => break answer,
                Err(_elapsed) => {
                    let now = self.clock.monotonic();
                    if now >= sent + LISTING_TIME_MAX || self.limiter.on_waiting(address, sent, now)
                    {
                        return None;
                    }
                }
            }
        };
        let now = self.clock.monotonic();
        match &answer {
            Ok(_) => self.limiter.on_success(address, now),
            Err(_) => self.limiter.on_failure(address, now),
        }
        Some(answer)
    }
}

fn report_untold(path: &ObjectPath, place: &Place, answer: Option<Result<bool, CallError>>) {
    match answer {
        Some(Ok(_)) => tracing::debug!(%path, %place, "the container is not there yet"),
        Some(Err(error)) => tracing::info!(%path, %place, %error, "a container will be told later"),
        None => tracing::info!(%path, %place, "a container is slow; it will be told later"),
    }
}

/// The key of an object that a peer pushed.
pub(crate) fn pushed_key(
    node: &Node,
    policy: PolicyIndex,
    fragment: u8,
    path: &ObjectPath,
) -> ObjectKey {
    ObjectKey {
        policy,
        hash: node.hash.object(path),
        fragment,
    }
}

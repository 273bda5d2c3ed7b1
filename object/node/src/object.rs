//! Objects: PUT, GET, HEAD, POST, DELETE.

use crate::disks::Disk;
use crate::reservation::{guard, reserved};
use crate::respond;
use crate::server::{Call, Node};
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use http::{HeaderValue, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use onggi_common_host::Clock;
use onggi_common_service::http::{Body, BodyError, Response, full};
use onggi_object_client::limiter::SILENT_AFTER;
use onggi_object_client::{CallError, Limiter, Nodes};
use onggi_object_device::object::post_row;
use onggi_object_device::{
    BodyReader, DeviceError, Guard, Merge, Merged, NewRow, ObjectKey, PendingObject, StoredObject,
};
use onggi_object_model::range::{RangeHeader, Selection};
use onggi_object_model::{ByteRange, ObjectPath, ObjectRecord, PolicyIndex};
use onggi_object_wire::object::{
    Delete, Found, Get, Missing, Post, Put, Refused, Wanted, Which, Written,
};
use onggi_object_wire::{Body as WireBody, ObjectRow, Place, container};
use std::sync::Arc;
use tokio::sync::mpsc;

/// How long telling a container may hold up the answer to a write. What takes longer is told later.
const LISTING_TIME_MAX: core::time::Duration = core::time::Duration::from_secs(2);
/// Verified blocks waiting for a slow reader.
const BLOCKS_MAX: usize = 2;

impl Node {
    pub(crate) fn object_key(&self, which: &Which) -> ObjectKey {
        ObjectKey {
            policy: which.policy,
            hash: self.hash.object(&which.path),
            fragment: which.fragment_byte(),
        }
    }
}

/// What was asked of the bytes of an object.
enum Selected {
    Whole,
    Ranges(Vec<ByteRange>),
    Unsatisfiable,
}

fn select(range: Option<&Wanted>, length: u64) -> Selected {
    let selection = match range {
        None => return Selected::Whole,
        Some(Wanted::Exact(range)) if range.end() <= length => {
            return Selected::Ranges(vec![*range]);
        }
        Some(Wanted::Exact(_)) => return Selected::Unsatisfiable,
        Some(Wanted::Header(text)) => RangeHeader::parse(text).map(|header| header.select(length)),
    };
    match selection {
        None | Some(Selection::Whole) => Selected::Whole,
        Some(Selection::One(range)) => Selected::Ranges(vec![range]),
        Some(Selection::Many(ranges)) => Selected::Ranges(ranges),
        Some(Selection::Unsatisfiable) => Selected::Unsatisfiable,
    }
}

fn found(stored: &StoredObject) -> Option<Found> {
    let body = stored.row.body.as_ref()?;
    let info = stored.row.info()?;
    Some(Found {
        info,
        system: body.system.clone(),
        root: body.root,
        ranges: Vec::new(),
    })
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

    pub(crate) async fn get_object(self, with_body: bool) -> Result<Response, Response> {
        let get: Get = self.head()?;
        self.body.none().await?;
        if self.disk.is_rejoining() {
            return Err(respond::status(StatusCode::INSUFFICIENT_STORAGE));
        }
        let key = self.node.object_key(&get.which);
        let disk = self.disk.clone();
        let read = self
            .disk
            .call(move |device| read(device, &key, &get, with_body))
            .await;
        let read = read.map_err(|error| respond::disk_error("reading an object", &error))?;
        Ok(match read {
            Read::Missing(missing) => respond::with_head(StatusCode::NOT_FOUND, &missing),
            Read::OtherVersion => respond::status(StatusCode::CONFLICT),
            Read::Unsatisfiable(found) => {
                respond::with_head(StatusCode::RANGE_NOT_SATISFIABLE, &*found)
            }
            Read::Damaged(found) => respond::with_head(StatusCode::SERVICE_UNAVAILABLE, &*found),
            Read::Found { found, body } => found_response(&disk, &found, body),
        })
    }
}

/// What reading an object came to.
enum Read {
    Missing(Missing),
    OtherVersion,
    Unsatisfiable(Box<Found>),
    Damaged(Box<Found>),
    Found {
        found: Box<Found>,
        body: Option<Box<(Bytes, BodyReader)>>,
    },
}

/// Reads the row and, so that damage at the beginning is an answer and no broken one, the first verified bytes.
fn read(
    device: &onggi_object_device::Device,
    key: &ObjectKey,
    get: &Get,
    with_body: bool,
) -> Result<Read, DeviceError> {
    let Some(stored) = device.get_object(key)? else {
        return Ok(Read::Missing(Missing { tombstone: None }));
    };
    let Some(mut found) = found(&stored) else {
        let tombstone = Some(stored.row.data_timestamp);
        return Ok(Read::Missing(Missing { tombstone }));
    };
    if get
        .version
        .is_some_and(|version| version != stored.row.data_timestamp)
    {
        return Ok(Read::OtherVersion);
    }
    match select(get.range.as_ref(), found.info.length) {
        Selected::Whole => {}
        Selected::Ranges(ranges) => found.ranges = ranges,
        Selected::Unsatisfiable => return Ok(Read::Unsatisfiable(Box::new(found))),
    }
    let found = Box::new(found);
    if !with_body {
        return Ok(Read::Found { found, body: None });
    }
    let opened = device
        .open_body(key, &stored, &found.ranges)
        .and_then(|mut reader| {
            let first = reader.next(device)?.unwrap_or_default();
            Ok((first, reader))
        });
    match opened {
        Ok(body) => Ok(Read::Found {
            found,
            body: Some(Box::new(body)),
        }),
        Err(DeviceError::Damaged { .. }) => {
            // A newer write may have taken the bytes away between the two reads: then that one is the answer.
            match device.get_object(key)? {
                Some(now) if now.row.body == stored.row.body => Ok(Read::Damaged(found)),
                Some(_) | None => read(device, key, get, with_body),
            }
        }
        Err(error) => Err(error),
    }
}

fn found_response(disk: &Disk, found: &Found, body: Option<Box<(Bytes, BodyReader)>>) -> Response {
    let code = if found.ranges.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::PARTIAL_CONTENT
    };
    let mut response = respond::with_head(code, found);
    let Some(read) = body else {
        return response;
    };
    let (first, reader) = *read;
    let length = if found.ranges.is_empty() {
        found.info.length
    } else {
        found.ranges.iter().map(|range| range.len()).sum()
    };
    if first.len() as u64 == length {
        *response.body_mut() = full(first);
        return response;
    }
    response
        .headers_mut()
        .insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
    *response.body_mut() = stream(disk.clone(), first, reader);
    response
}

/// The rest of a body, read ahead by a task of its own.
fn stream(disk: Disk, first: Bytes, reader: BodyReader) -> Body {
    let (sender, receiver) = mpsc::channel(BLOCKS_MAX);
    tokio::spawn(async move {
        let mut reader = reader;
        if sender.send(Ok(first)).await.is_err() {
            return;
        }
        loop {
            let read = disk.call(move |device| {
                let block = reader.next(device)?;
                Ok((block, reader))
            });
            match read.await {
                Ok((Some(block), next)) => {
                    reader = next;
                    if sender.send(Ok(block)).await.is_err() {
                        return;
                    }
                }
                Ok((None, _)) => return,
                Err(error) => {
                    tracing::error!(%error, "a body broke off");
                    // The reader may be gone already.
                    drop(sender.send(Err(error.into())).await);
                    return;
                }
            }
        }
    });
    Blocks(receiver).boxed_unsync()
}

/// Blocks as they come from the reading task.
struct Blocks(mpsc::Receiver<Result<Bytes, BodyError>>);

impl HttpBody for Blocks {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.0
            .poll_recv(context)
            .map(|block| block.map(|block| block.map(Frame::data)))
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
            tell_container: !listing.is_empty(),
            ..how
        };
        let is_delete = row.body.is_none() && !how.if_present;
        let new = NewRow { row, body };
        if let Guard::Above { .. } = how.guard {
            node.holds.wait(&disk.name, key).await;
        }
        let merged = disk
            .call(move |device| device.merge_object(&key, new, how))
            .await;
        if let Guard::Commit { commit, .. } = how.guard {
            node.holds.end(&disk.name, key, &commit.token);
        }
        let merged = merged.map_err(|error| respond::disk_error("writing an object", &error))?;
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
        let listed = tell_containers(node, disk, key, &row, listing).await;
        let code = if is_delete && !was_there {
            StatusCode::NOT_FOUND
        } else {
            done
        };
        Ok(respond::with_head(code, &Written { listed }))
    }
}

pub(crate) fn conflict(newest: onggi_common_units::Timestamp) -> Response {
    respond::with_head(StatusCode::CONFLICT, &Refused { newest })
}

/// Tells the container devices about an object; those that heard it. The pending row goes when all did.
async fn tell_containers(
    node: &Node,
    disk: &Disk,
    key: ObjectKey,
    row: &ObjectRow,
    listing: Vec<Place>,
) -> Vec<Place> {
    if listing.is_empty() {
        return Vec::new();
    }
    let (record, container) = (row.record(), row.path.container_path());
    let head = container::Rows {
        path: container.clone(),
        policy: key.policy,
    };
    let mut told = tokio::task::JoinSet::new();
    let count = listing.len();
    for place in listing {
        let now = node.clock.monotonic();
        // It will be told later, from the pending row.
        if node.limiter.is_limited(&place.address, now) {
            continue;
        }
        node.limiter.on_sent(&place.address, now);
        let teller = Teller {
            nodes: node.nodes.clone(),
            limiter: Arc::clone(&node.limiter),
            clock: Arc::clone(&node.clock),
            place,
        };
        let (head, records) = (head.clone(), [record.clone()]);
        told.spawn(async move {
            let answer = teller.tell(&head, &records).await;
            (teller.place, answer)
        });
    }
    let mut listed = Vec::with_capacity(count);
    while let Some(joined) = told.join_next().await {
        match joined {
            Ok((place, Some(Ok(true)))) => listed.push(place),
            Ok((place, answer)) => report_untold(&row.path, &place, answer),
            Err(error) => tracing::error!(%error, "telling a container was cut off"),
        }
    }
    if listed.len() == count {
        let (disk, pending) = (
            disk.clone(),
            PendingObject {
                key,
                container,
                record,
            },
        );
        tokio::spawn(async move {
            let forgotten = disk
                .call(move |device| device.forget_pending_objects(&[pending]))
                .await;
            if let Err(error) = forgotten {
                tracing::warn!(%error, "a pending row stays; the container will be told again");
            }
        });
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

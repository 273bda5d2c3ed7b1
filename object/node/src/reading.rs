//! Reading objects: what a row says to a request, and its bytes from memory, at once, or from the disk.

use crate::disks::{Disk, DiskError};
use crate::respond;
use crate::server::Call;
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use http::{HeaderValue, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, BodyError, Response, full};
use onggi_object_device::{BodyReader, Device, DeviceError, ObjectKey, ReadFrom, StoredObject};
use onggi_object_model::ByteRange;
use onggi_object_model::range::{RangeHeader, Selection};
use onggi_object_wire::object::{Found, Get, Missing, Wanted};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Verified blocks waiting for a slow reader.
const BLOCKS_MAX: usize = 2;
/// Blocks of one body that are read at a time: a disk that is asked for one after the other is idle half of the time.
const READ_AHEAD: usize = 3;

impl Call<'_> {
    pub(crate) async fn get_object(self, with_body: bool) -> Result<Response, Response> {
        let get: Get = self.head()?;
        self.body.none().await?;
        if self.disk.is_rejoining() {
            return Err(respond::status(StatusCode::INSUFFICIENT_STORAGE));
        }
        let key = self.node.object_key(&get.which);
        let disk = self.disk.clone();
        let wants = Wants {
            body: with_body,
            length_max: self.answer_max,
        };
        let small = |from| read_small(disk.device(), &key, &get, wants, from);
        let known = match disk.in_place(|| small(ReadFrom::Disk)) {
            // Most of what is read often is in memory: that needs no thread that may block, whatever the disk is like.
            Ok(None) => small(ReadFrom::Memory).map_err(DiskError::from).transpose(),
            known => known.transpose(),
        };
        let read = match known {
            Some(read) => read,
            None => {
                let quick = disk.quick();
                let read = move |device: &Device| {
                    let small = || read_small(device, &key, &get, wants, ReadFrom::Disk);
                    match quick.timed(small)? {
                        Some(read) => Ok(read),
                        None => read(device, &key, &get, wants),
                    }
                };
                disk.call(read).await
            }
        };
        let read = read.map_err(|error| respond::disk_error("reading an object", &error))?;
        Ok(match read {
            Read::Missing(missing) => respond::with_head(StatusCode::NOT_FOUND, &missing),
            Read::TooLong => respond::too_long(),
            Read::OtherVersion => respond::status(StatusCode::CONFLICT),
            Read::Unsatisfiable(found) => {
                respond::with_head(StatusCode::RANGE_NOT_SATISFIABLE, &*found)
            }
            Read::Damaged(found) => respond::with_head(StatusCode::SERVICE_UNAVAILABLE, &*found),
            Read::Found { found, body } => found_response(&disk, &found, body),
        })
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

/// What is wanted of an object.
#[derive(Debug, Clone, Copy)]
struct Wants {
    /// Its bytes, too.
    body: bool,
    /// No more of them than this.
    length_max: Option<u64>,
}

/// What reading an object came to.
enum Read {
    TooLong,
    Missing(Missing),
    OtherVersion,
    Unsatisfiable(Box<Found>),
    Damaged(Box<Found>),
    Found {
        found: Box<Found>,
        body: Option<Box<(Bytes, BodyReader)>>,
    },
}

/// A row that is found and asked for bytes, or the whole answer.
enum Seen {
    Answered(Read),
    Bytes(Box<Found>),
}

/// What a row says without its bytes.
fn see(stored: Option<&StoredObject>, get: &Get, wants: Wants) -> Seen {
    let Some(stored) = stored else {
        return Seen::Answered(Read::Missing(Missing { tombstone: None }));
    };
    let Some(mut found) = found(stored) else {
        let tombstone = Some(stored.row.data_timestamp);
        return Seen::Answered(Read::Missing(Missing { tombstone }));
    };
    if get
        .version
        .is_some_and(|version| version != stored.row.data_timestamp)
    {
        return Seen::Answered(Read::OtherVersion);
    }
    match select(get.range.as_ref(), found.info.length) {
        Selected::Whole => {}
        Selected::Ranges(ranges) => found.ranges = ranges,
        Selected::Unsatisfiable => {
            return Seen::Answered(Read::Unsatisfiable(Box::new(found)));
        }
    }
    let found = Box::new(found);
    if !wants.body {
        return Seen::Answered(Read::Found { found, body: None });
    }
    if wants
        .length_max
        .is_some_and(|most| selected_length(&found) > most)
    {
        return Seen::Answered(Read::TooLong);
    }
    Seen::Bytes(found)
}

/// Reads what can be had whole at once; `None` when it has to be read from elsewhere, or something is wrong.
fn read_small(
    device: &Device,
    key: &ObjectKey,
    get: &Get,
    wants: Wants,
    from: ReadFrom,
) -> Result<Option<Read>, DeviceError> {
    let Some(stored) = device.get_object_from(key, from)? else {
        return Ok(None);
    };
    let found = match see(stored.as_ref(), get, wants) {
        Seen::Answered(read) => return Ok(Some(read)),
        Seen::Bytes(found) => found,
    };
    let Some(stored) = stored else {
        return Ok(None);
    };
    let Some(mut reader) = device.open_small_body(key, &stored, &found.ranges, from)? else {
        return Ok(None);
    };
    let first = reader.next(device)?.unwrap_or_default();
    let body = Some(Box::new((first, reader)));
    Ok(Some(Read::Found { found, body }))
}

/// Reads the row and, so that damage at the beginning is an answer and no broken one, the first verified bytes.
fn read(device: &Device, key: &ObjectKey, get: &Get, wants: Wants) -> Result<Read, DeviceError> {
    let stored = device.get_object(key)?;
    let found = match see(stored.as_ref(), get, wants) {
        Seen::Answered(read) => return Ok(read),
        Seen::Bytes(found) => found,
    };
    let Some(stored) = stored else {
        return Ok(Read::Missing(Missing { tombstone: None }));
    };
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
                Some(_) | None => read(device, key, get, wants),
            }
        }
        Err(error) => Err(error),
    }
}

fn selected_length(found: &Found) -> u64 {
    if found.ranges.is_empty() {
        found.info.length
    } else {
        found.ranges.iter().map(|range| range.len()).sum()
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
    let length = selected_length(found);
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
        if let Err(error) = read_ahead(&disk, first, reader, &sender).await {
            tracing::error!(%error, "a body broke off");
            // The reader may be gone already.
            drop(sender.send(Err(error.into())).await);
        }
    });
    Blocks(receiver).boxed_unsync()
}

/// Sends blocks in order, some of which are read at a time, until the end or until nobody listens.
async fn read_ahead(
    disk: &Disk,
    first: Bytes,
    mut reader: BodyReader,
    sender: &mpsc::Sender<Result<Bytes, BodyError>>,
) -> Result<(), DiskError> {
    let mut left = reader.take_pieces();
    let reader = Arc::new(reader);
    let mut reading = VecDeque::with_capacity(READ_AHEAD);
    let mut next = first;
    loop {
        while reading.len() < READ_AHEAD
            && let Some(piece) = left.next()
        {
            let (disk, reader) = (disk.clone(), Arc::clone(&reader));
            let read = async move { disk.call(move |device| reader.read(device, piece)).await };
            reading.push_back(tokio::spawn(read));
        }
        if sender.send(Ok(next)).await.is_err() {
            return Ok(());
        }
        let Some(read) = reading.pop_front() else {
            return Ok(());
        };
        next = read.await.ok().ok_or(DiskError::CutOff)??;
    }
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

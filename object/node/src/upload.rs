//! Request bodies: read whole, or streamed to the device, and proven either way.

use crate::disks::{Disk, DiskError};
use crate::respond::{self, Early};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, Response, collect};
use onggi_object_client::Piece;
use onggi_object_device::{Finished, ObjectKey, Upload};
use onggi_object_wire::Root;
use onggi_object_wire::auth::Pending;
use onggi_object_wire::head;
use onggi_object_wire::object::{BUFFERED_BYTES_MAX, Tail};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Bytes gathered before they go to the device: one hop between threads for many frames.
const GATHER_BYTES: usize = 512 << 10;
/// So many frames at most are held for that, however short they are.
const FRAMES_MAX: usize = 1_024;

/// A body that is still to come, or came, and what proves it.
pub(crate) enum Received {
    /// Over HTTP, proven by its request's signature.
    Signed { body: Body, pending: Pending },
    /// Whole, over a link, whose frames are sealed.
    Whole(Bytes),
    /// Whole, from this process: what it hashes to has been found here, too.
    Here(Bytes),
    /// In pieces from this process.
    Pieces {
        pieces: mpsc::Receiver<Piece>,
        /// Whether it will be said at the end what they hash to.
        is_hashed: bool,
    },
}

impl Received {
    pub(crate) const fn signed(body: Body, pending: Pending) -> Self {
        Self::Signed { body, pending }
    }

    /// The whole body, proven.
    pub(crate) async fn whole(self, bytes_max: usize) -> Result<Bytes, Response> {
        match self {
            Self::Signed { body, pending } => {
                let bytes = collect(body, bytes_max).await;
                let bytes = bytes.map_err(|error| respond::bad_request(&error))?;
                prove(pending.verify_body(&bytes))?;
                Ok(bytes)
            }
            Self::Whole(bytes) | Self::Here(bytes) if bytes.len() <= bytes_max => Ok(bytes),
            Self::Whole(_) | Self::Here(_) => Err(respond::bad_request(&"a body that is too long")),
            Self::Pieces { .. } => Err(respond::bad_request(&"a body in pieces")),
        }
    }

    /// Nothing must come, and that is proven too.
    pub(crate) async fn none(self) -> Result<(), Response> {
        self.whole(0).await.map(|_| ())
    }

    pub(crate) fn is_streamed(&self) -> bool {
        match self {
            Self::Signed { pending, .. } => pending.has_tail(),
            Self::Whole(_) | Self::Here(_) => false,
            Self::Pieces { .. } => true,
        }
    }

    /// Takes an object's body onto the device: whole when its tail came in the head, streamed otherwise.
    pub(crate) async fn upload(
        self,
        disk: &Disk,
        key: ObjectKey,
        length: Option<u64>,
        tail: Option<Tail>,
    ) -> Result<(Finished, Tail), Response> {
        let (finished, tail) = match (self.is_streamed(), tail) {
            (false, Some(tail)) => {
                let known = matches!(self, Self::Here(_)).then_some(tail.root);
                let bytes = self.whole(BUFFERED_BYTES_MAX).await?;
                (small(disk, key, bytes, known).await?, tail)
            }
            (true, None) => self.stream(disk, key, length).await?,
            (false, None) => return Err(respond::bad_request(&"a body without a tail")),
            (true, Some(_)) => return Err(respond::bad_request(&"a body with two tails")),
        };
        let hash = finished.hash();
        if hash.length != tail.length || hash.root != tail.root {
            return Err(respond::status(StatusCode::UNPROCESSABLE_ENTITY));
        }
        Ok((finished, tail))
    }

    async fn stream(
        self,
        disk: &Disk,
        key: ObjectKey,
        length: Option<u64>,
    ) -> Result<(Finished, Tail), Response> {
        let begun = disk
            .call(move |device| device.begin_upload(key, length))
            .await;
        let upload = begun.map_err(|error| respond::disk_error("beginning a PUT", &error))?;
        let (finished, tail) = match self {
            Self::Signed { body, pending } => {
                let (upload, tail) = signed(disk, upload, body, pending).await?;
                (upload.finish(), tail)
            }
            Self::Pieces { pieces, is_hashed } => {
                pieces_of(disk, upload, pieces, is_hashed).await?
            }
            Self::Whole(_) | Self::Here(_) => {
                return Err(respond::bad_request(&"a body that is no stream"));
            }
        };
        let tail = head::decode(Some(&tail)).map_err(|error| respond::bad_request(&error))?;
        Ok((finished, tail))
    }
}

/// Writes a body that comes over HTTP; its tail.
async fn signed(
    disk: &Disk,
    upload: Upload,
    mut body: Body,
    pending: Pending,
) -> Result<(Upload, Vec<u8>), Response> {
    let mut trailers = HeaderMap::new();
    let mut gathering = Gathering::new(upload);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| respond::bad_request(&error))?;
        match frame.into_data() {
            Ok(bytes) => gathering = gathering.add(disk, bytes).await?,
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    let upload = gathering.finish(disk).await?;
    let tail = trailers.get(head::TAIL);
    let tail = tail.ok_or_else(|| respond::bad_request(&"a body without a tail"))?;
    let proof = trailers
        .get(head::TAIL_PROOF)
        .and_then(|value| value.to_str().ok());
    prove(pending.verify_tail(tail.as_bytes(), proof.unwrap_or_default()))?;
    let tail = head::from_text(tail.as_bytes());
    let tail = tail.ok_or_else(|| respond::bad_request(&"a tail that is no base64"))?;
    Ok((upload, tail))
}

/// Writes a body that comes from this process; its tail.
async fn pieces_of(
    disk: &Disk,
    upload: Upload,
    mut pieces: mpsc::Receiver<Piece>,
    is_hashed: bool,
) -> Result<(Finished, Vec<u8>), Response> {
    let upload = if is_hashed { upload.unhashed() } else { upload };
    let mut gathering = Gathering::new(upload);
    while let Some(piece) = pieces.recv().await {
        let (tail, hash) = match piece {
            Piece::Bytes(bytes) => {
                gathering = gathering.add(disk, bytes).await?;
                continue;
            }
            Piece::Finish { tail, hash } => (tail, hash.filter(|_| is_hashed)),
        };
        let upload = gathering.finish(disk).await?;
        let finished = match hash {
            Some(hash) => upload.finish_as(&hash),
            None => (!is_hashed).then(|| upload.finish()),
        };
        let finished = finished.ok_or_else(|| respond::bad_request(&"hashes of another body"))?;
        return Ok((finished, tail));
    }
    Err(respond::bad_request(&"a body that was given up"))
}

/// Bytes on their way to a device, so many at a time that hops between threads are few. While some are written the next
/// ones gather.
struct Gathering {
    upload: Writing,
    gathered: Vec<Bytes>,
    bytes: usize,
}

enum Writing {
    No(Box<Upload>),
    Yes(JoinHandle<Result<Upload, DiskError>>),
}

impl Writing {
    async fn done(self) -> Result<Upload, DiskError> {
        match self {
            Self::No(upload) => Ok(*upload),
            Self::Yes(writing) => writing.await.ok().ok_or(DiskError::CutOff)?,
        }
    }
}

impl Gathering {
    fn new(upload: Upload) -> Self {
        Self {
            upload: Writing::No(Box::new(upload)),
            gathered: Vec::new(),
            bytes: 0,
        }
    }

    async fn add(mut self, disk: &Disk, bytes: Bytes) -> Result<Self, Response> {
        self.bytes += bytes.len();
        self.gathered.push(bytes);
        if self.bytes < GATHER_BYTES && self.gathered.len() < FRAMES_MAX {
            return Ok(self);
        }
        let upload = self.upload.done().await.map_err(unwritten)?;
        let (disk, gathered) = (disk.clone(), self.gathered);
        let writing = async move { write(&disk, upload, gathered).await };
        Ok(Self {
            upload: Writing::Yes(tokio::spawn(writing)),
            gathered: Vec::new(),
            bytes: 0,
        })
    }

    async fn finish(self, disk: &Disk) -> Result<Upload, Response> {
        let upload = self.upload.done().await.map_err(unwritten)?;
        let written = write(disk, upload, self.gathered).await;
        written.map_err(unwritten)
    }
}

fn prove(proven: Result<(), onggi_object_wire::Refusal>) -> Result<(), Early> {
    proven.map_err(|refusal| {
        tracing::warn!(%refusal, "refused a body");
        Early::new(respond::status(StatusCode::FORBIDDEN))
    })
}

async fn small(
    disk: &Disk,
    key: ObjectKey,
    bytes: Bytes,
    known: Option<Root>,
) -> Result<Finished, Response> {
    if let Some(finished) = Finished::small(disk.device(), key, &bytes, known) {
        return Ok(finished);
    }
    let taken = disk.call(move |device| {
        let mut upload = device.begin_upload(key, Some(bytes.len() as u64))?;
        upload.write(device, &bytes)?;
        Ok(upload.finish())
    });
    taken
        .await
        .map_err(|error| respond::disk_error("beginning a PUT", &error))
}

fn unwritten(error: DiskError) -> Response {
    respond::disk_error("writing a body", &error)
}

async fn write(disk: &Disk, upload: Upload, bytes: Vec<Bytes>) -> Result<Upload, DiskError> {
    if bytes.is_empty() {
        return Ok(upload);
    }
    disk.call(move |device| {
        let mut upload = upload;
        for piece in &bytes {
            upload.write(device, piece)?;
        }
        Ok(upload)
    })
    .await
}

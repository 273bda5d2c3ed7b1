//! Request bodies: read whole, or streamed to the device, and proven either way.

use crate::disks::{Disk, DiskError};
use crate::respond::{self, Early};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, Response, collect};
use onggi_object_device::{Finished, ObjectKey, Upload};
use onggi_object_wire::auth::Pending;
use onggi_object_wire::head;
use onggi_object_wire::object::{BUFFERED_BYTES_MAX, Tail};

/// Bytes gathered before they go to the device: one hop between threads for many frames.
const GATHER_BYTES: usize = 512 << 10;

/// A body that is still to come, and what proves it.
pub(crate) struct Received {
    body: Body,
    pending: Pending,
}

impl Received {
    pub(crate) const fn new(body: Body, pending: Pending) -> Self {
        Self { body, pending }
    }

    /// The whole body, proven.
    pub(crate) async fn whole(self, bytes_max: usize) -> Result<Bytes, Response> {
        let bytes = collect(self.body, bytes_max).await;
        let bytes = bytes.map_err(|error| respond::bad_request(&error))?;
        prove(self.pending.verify_body(&bytes))?;
        Ok(bytes)
    }

    /// Nothing must come, and that is proven too.
    pub(crate) async fn none(self) -> Result<(), Response> {
        self.whole(0).await.map(|_| ())
    }

    pub(crate) fn is_streamed(&self) -> bool {
        self.pending.has_tail()
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
                let bytes = self.whole(BUFFERED_BYTES_MAX).await?;
                (small(disk, key, bytes).await?, tail)
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
        let mut upload = begun.map_err(|error| respond::disk_error("beginning a PUT", &error))?;
        let mut body = self.body;
        let mut trailers = HeaderMap::new();
        let mut gathered: Vec<Bytes> = Vec::new();
        let mut gathered_bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| respond::bad_request(&error))?;
            match frame.into_data() {
                Ok(bytes) => {
                    gathered_bytes += bytes.len();
                    gathered.push(bytes);
                }
                Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            }
            if gathered_bytes >= GATHER_BYTES {
                upload = write(disk, upload, core::mem::take(&mut gathered)).await?;
                gathered_bytes = 0;
            }
        }
        let upload = write(disk, upload, gathered).await?;
        let tail_bytes = trailers
            .get(head::TAIL)
            .map(|value| value.as_bytes().to_vec());
        let tail_bytes =
            tail_bytes.ok_or_else(|| respond::bad_request(&"a body without a tail"))?;
        let proof = trailers
            .get(head::TAIL_PROOF)
            .and_then(|value| value.to_str().ok());
        prove(
            self.pending
                .verify_tail(&tail_bytes, proof.unwrap_or_default()),
        )?;
        let tail = head::decode(Some(&tail_bytes)).map_err(|error| respond::bad_request(&error))?;
        Ok((upload.finish(), tail))
    }
}

fn prove(proven: Result<(), onggi_object_wire::Refusal>) -> Result<(), Early> {
    proven.map_err(|refusal| {
        tracing::warn!(%refusal, "refused a body");
        Early::new(respond::status(StatusCode::FORBIDDEN))
    })
}

async fn small(disk: &Disk, key: ObjectKey, bytes: Bytes) -> Result<Finished, Response> {
    if let Some(finished) = Finished::small(disk.device(), key, &bytes) {
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

async fn write(disk: &Disk, upload: Upload, bytes: Vec<Bytes>) -> Result<Upload, Response> {
    if bytes.is_empty() {
        return Ok(upload);
    }
    let written: Result<Upload, DiskError> = disk
        .call(move |device| {
            let mut upload = upload;
            for piece in &bytes {
                upload.write(device, piece)?;
            }
            Ok(upload)
        })
        .await;
    written.map_err(|error| respond::disk_error("writing a body", &error))
}

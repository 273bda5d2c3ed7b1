//! Requests over links ([`onggi_object_wire::link`]) and from this process.
//!
//! Each request of a link is carried out by a task of its own and answered when it is done, in any order. Answers that
//! wait are written together.

use crate::respond::{Head, TooLong};
use crate::server::{Asked, Node};
use crate::upload::Received;
use bytes::{Buf as _, Bytes, BytesMut};
use core::time::Duration;
use http::Method;
use http_body_util::BodyExt as _;
use onggi_common_host::{Entropy as _, SystemEntropy};
use onggi_common_service::Drain;
use onggi_common_service::http::{Response, collect};
use onggi_object_client::{Answer, AnswerFuture, Call, CallBody, NodeClient};
use onggi_object_wire::Place;
use onggi_object_wire::auth::SignedHead;
use onggi_object_wire::link::{self, LinkKeys, Opener, Sealer};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore};

/// Requests of one link carried out at a time; more wait in the connection. With answers of 64 KiB at most this is also
/// what a caller that does not read can make a node hold: 16 MiB.
const REQUESTS_MAX: u32 = 256;
/// What one read takes at most.
const READ_BYTES: usize = 64 << 10;
/// A buffer that grew beyond this is given back.
const BUFFER_KEPT_BYTES: usize = 256 << 10;

/// The answers of a link on their way.
struct Answers {
    outgoing: Mutex<Outgoing>,
    stirred: Notify,
    places: Arc<Semaphore>,
}

struct Outgoing {
    sealer: Sealer,
    buffer: Vec<u8>,
}

impl Answers {
    fn new(keys: &LinkKeys) -> Self {
        Self {
            outgoing: Mutex::new(Outgoing {
                sealer: Sealer::new(keys.to_caller),
                buffer: Vec::new(),
            }),
            stirred: Notify::new(),
            places: Arc::new(Semaphore::new(REQUESTS_MAX as usize)),
        }
    }

    fn add(&self, answer: &link::Answer<'_>) {
        {
            let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
            let Outgoing { sealer, buffer } = &mut *outgoing;
            sealer.answer(buffer, answer);
        }
        self.stirred.notify_one();
    }

    /// Whether further requests are under way.
    fn is_busy(&self) -> bool {
        self.places.available_permits() < REQUESTS_MAX as usize
    }

    fn take(&self, sending: &mut Vec<u8>) {
        let mut outgoing = self.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
        core::mem::swap(sending, &mut outgoing.buffer);
    }

    /// Writes what gathers, for as long as the connection takes it.
    async fn write(&self, writer: &mut OwnedWriteHalf) -> io::Result<()> {
        let mut sending = Vec::new();
        loop {
            self.stirred.notified().await;
            if self.is_busy() {
                // Those that were answered by the same write to the disk are about to answer too: one system call for all.
                tokio::task::yield_now().await;
            }
            self.take(&mut sending);
            writer.write_all(&sending).await?;
            sending.clear();
            sending.shrink_to(BUFFER_KEPT_BYTES);
        }
    }

    /// Waits for all requests under way, then writes what is left.
    async fn finish(&self, writer: &mut OwnedWriteHalf) -> io::Result<()> {
        drop(self.places.acquire_many(REQUESTS_MAX).await);
        let mut rest = Vec::new();
        self.take(&mut rest);
        writer.write_all(&rest).await?;
        writer.shutdown().await
    }
}

impl Node {
    /// Serves a link until the drain begins or the other end is gone; requests under way are answered.
    pub(crate) async fn serve_link(
        self: Arc<Self>,
        mut stream: TcpStream,
        greeting_max: Duration,
        drain: Drain,
    ) {
        let greeted = tokio::time::timeout(greeting_max, self.greet(&mut stream)).await;
        let Ok(Ok(Some(keys))) = greeted else {
            tracing::debug!(?greeted, "a link was not made");
            return;
        };
        let (mut reader, mut writer) = stream.into_split();
        let answers = Arc::new(Answers::new(&keys));
        let ended = tokio::select! {
            ended = self.read(&mut reader, Opener::new(keys.to_node), &answers) => ended,
            ended = answers.write(&mut writer) => ended,
            () = drain.requested() => answers.finish(&mut writer).await,
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a link ended early");
        }
    }

    /// Takes the caller's authorization and answers with this node's part of the keys.
    async fn greet(&self, stream: &mut TcpStream) -> io::Result<Option<LinkKeys>> {
        let mut preface = [0; link::PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        let length = usize::from(stream.read_u16().await?);
        if preface != *link::PREFACE || length > link::AUTHORIZATION_BYTES_MAX {
            return Ok(None);
        }
        let mut text = vec![0; length];
        stream.read_exact(&mut text).await?;
        let signed = SignedHead {
            method: link::METHOD,
            authority: &self.address,
            path: link::PATH,
            head: &[],
            length: Some(0),
        };
        let text = core::str::from_utf8(&text).ok();
        let pending = match self.judge(text, &signed) {
            Ok(pending) => pending,
            Err(refusal) => {
                let peer = stream.peer_addr().ok();
                tracing::warn!(?peer, %refusal, "refused a link");
                return Ok(None);
            }
        };
        let nonce: [u8; link::NONCE_BYTES] = SystemEntropy.bytes();
        let (proof, keys) = pending.link_keys(&nonce);
        let answer = [link::PREFACE.as_slice(), &nonce, &proof].concat();
        stream.write_all(&answer).await?;
        Ok(Some(keys))
    }

    async fn read(
        self: &Arc<Self>,
        reader: &mut OwnedReadHalf,
        mut opener: Opener,
        answers: &Arc<Answers>,
    ) -> io::Result<()> {
        let mut came = BytesMut::new();
        loop {
            if came.capacity() - came.len() < READ_BYTES / 2 {
                came.reserve(READ_BYTES);
            }
            if reader.read_buf(&mut came).await? == 0 {
                return Ok(());
            }
            while let Some(end) = opener.next(&came).map_err(io::Error::other)? {
                // Copied, so that the buffer stays the connection's own and is used again.
                let frame = Bytes::copy_from_slice(came.get(..end).unwrap_or_default());
                came.advance(end);
                let place = Arc::clone(&answers.places).acquire_owned().await;
                let place = place.map_err(io::Error::other)?;
                let (node, answers) = (Arc::clone(self), Arc::clone(answers));
                tokio::spawn(async move {
                    node.answer_frame(&frame, &answers).await;
                    drop(place);
                });
            }
        }
    }

    async fn answer_frame(&self, frame: &Bytes, answers: &Answers) {
        let request = match link::Request::parse(frame) {
            Ok(request) => request,
            Err(error) => {
                tracing::warn!(%error, "a request of another build");
                return;
            }
        };
        let response = self
            .take(Asked {
                method: Method::from_bytes(request.method.as_bytes()).unwrap_or_default(),
                device: request.device,
                resource: request.resource,
                head: Some(frame.slice_ref(request.head)),
                body: Received::Whole(frame.slice_ref(request.body)),
                answer_max: Some(link::BODY_BYTES_MAX as u64),
            })
            .await;
        let id = request.id;
        let too_long = link::Answer {
            id,
            status: link::TOO_LONG,
            head: None,
            body: &[],
        };
        let (parts, body) = response.into_parts();
        if parts.extensions.get::<TooLong>().is_some() {
            return answers.add(&too_long);
        }
        match collect(body, link::BODY_BYTES_MAX).await {
            Ok(body) => answers.add(&link::Answer {
                id,
                status: parts.status.as_u16(),
                head: parts.extensions.get::<Head>().map(|head| &*head.0),
                body: &body,
            }),
            Err(error) => {
                tracing::debug!(%error, "an answer is left to HTTP");
                answers.add(&too_long);
            }
        }
    }

    async fn answer_here(&self, place: &Place, call: Call) -> Answer {
        let asked = Asked {
            method: call.method,
            device: place.device.as_str(),
            resource: call.resource,
            head: Some(call.head.into()),
            body: match call.body {
                CallBody::None => Received::Whole(Bytes::new()),
                CallBody::Whole(bytes) => Received::Here(bytes),
                CallBody::Stream { pieces, is_hashed } => Received::Pieces { pieces, is_hashed },
            },
            answer_max: None,
        };
        answer(self.take(asked).await)
    }
}

fn answer(response: Response) -> Answer {
    let (mut parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        head: parts.extensions.remove::<Head>().map(|head| head.0),
        body: body.boxed_unsync(),
    }
}

/// A node in the caller's own process.
impl NodeClient for Node {
    fn call<'a>(&'a self, place: &'a Place, call: Call) -> AnswerFuture<'a> {
        Box::pin(async move { Ok(self.answer_here(place, call).await) })
    }
}

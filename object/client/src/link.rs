//! Links to nodes: small requests to one node share a connection ([`onggi_object_wire::link`]).
//!
//! There is one link for each node, made by the first call that needs it. Two tasks serve it: one writes whatever has
//! gathered, one hands answers to those who wait. A link on which nothing came since a call began that waited in vain is
//! not used for further calls, so that a new connection is tried as soon as the network or the node is back.

use crate::call::{Answer, BodyError, Call, CallBody, CallError};
use bytes::{Buf as _, Bytes, BytesMut};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use onggi_common_host::{Clock, nearby};
use onggi_object_wire::auth::{BodyProof, Signed};
use onggi_object_wire::link::{self, LinkKeys, Opener, Sealer};
use onggi_object_wire::{Place, Resource, Signer};
use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, Semaphore, oneshot};

/// Requests of one link that wait for their answers.
const WAITING_MAX: usize = 4_096;
/// Bytes of one link that wait to be sent.
const OUTGOING_BYTES_MAX: usize = 8 << 20;
/// What one read takes at most.
const READ_BYTES: usize = 64 << 10;
/// A buffer that grew beyond this is given back.
const BUFFER_KEPT_BYTES: usize = 256 << 10;
/// A caller that went away after this long without anything heard makes the link suspect.
const SUSPECT_AFTER: Duration = Duration::from_millis(200);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is changed in single steps: a panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The links of a process, by the node's address.
pub(crate) struct Links {
    signer: Arc<Signer>,
    clock: Arc<dyn Clock>,
    connect_within: Duration,
    lines: Mutex<HashMap<String, Arc<Line>>>,
}

impl core::fmt::Debug for Links {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Links")
    }
}

/// The link to one node, if there is one. Making it is waited for by all who need it.
#[derive(Default)]
struct Line {
    current: Mutex<Option<Arc<Link>>>,
    making: tokio::sync::Mutex<()>,
}

/// What a call over a link brings.
pub(crate) enum Called {
    /// The answer.
    Answer(Answer),
    /// The answer is too long for a link: the call is to be made over HTTP.
    TooLong,
}

/// Whether a call can go over a link.
pub(crate) fn takes(call: &Call) -> bool {
    let is_short = match &call.body {
        CallBody::None => true,
        CallBody::Whole(bytes) => bytes.len() <= link::BODY_BYTES_MAX,
        CallBody::Stream { .. } => false,
    };
    let is_frequent = match call.resource {
        Resource::Object | Resource::Reservation => true,
        // Their listings are long.
        Resource::Container | Resource::Account => call.method != http::Method::GET,
        Resource::ContainerRows | Resource::AccountRows => true,
        Resource::Expiry
        | Resource::Digests
        | Resource::Wants
        | Resource::Rows
        | Resource::Body
        | Resource::Roster
        | Resource::RosterRuns => false,
    };
    is_short && is_frequent && link::is_method(call.method.as_str()).is_some()
}

impl Links {
    pub(crate) fn new(
        signer: Arc<Signer>,
        clock: Arc<dyn Clock>,
        connect_within: Duration,
    ) -> Self {
        Self {
            signer,
            clock,
            connect_within,
            lines: Mutex::new(HashMap::new()),
        }
    }

    fn line(&self, address: &str) -> Arc<Line> {
        let mut lines = lock(&self.lines);
        if let Some(line) = lines.get(address) {
            return Arc::clone(line);
        }
        let line = Arc::new(Line::default());
        lines.insert(address.to_owned(), Arc::clone(&line));
        line
    }

    /// Makes a call that [`takes`] allows.
    ///
    /// # Errors
    /// When no answer comes within the limit.
    pub(crate) async fn call(
        &self,
        place: &Place,
        call: &Call,
        limit: Duration,
    ) -> Result<Called, CallError> {
        let line = self.line(&place.address);
        let link = match line.usable() {
            Some(link) => link,
            None => self.make(&line, &place.address).await?,
        };
        let began = self.clock.monotonic();
        let waiting = link.ask(place, call, began)?;
        match tokio::time::timeout(limit, waiting.answer()).await {
            Ok(answered) => answered,
            Err(_elapsed) => Err(CallError::TimedOut {
                address: place.address.clone(),
                limit,
            }),
        }
    }

    async fn make(&self, line: &Line, address: &str) -> Result<Arc<Link>, CallError> {
        let making = tokio::time::timeout(self.connect_within, line.making.lock()).await;
        let busy = || CallError::Busy {
            address: address.to_owned(),
        };
        let _making = making.ok().ok_or_else(busy)?;
        if let Some(link) = line.usable() {
            return Ok(link);
        }
        let connected = tokio::time::timeout(self.connect_within, self.connect(address)).await;
        let failed = |source| CallError::Connect {
            address: address.to_owned(),
            source,
        };
        let late = |_elapsed| failed(io::ErrorKind::TimedOut.into());
        let (stream, keys) = connected.map_err(late)?.map_err(failed)?;
        let link = Link::start(address, stream, &keys, Arc::clone(&self.clock));
        *lock(&line.current) = Some(Arc::clone(&link));
        Ok(link)
    }

    async fn connect(&self, address: &str) -> io::Result<(TcpStream, LinkKeys)> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        nearby::unpaced(&stream);
        let signed = Signed {
            method: link::METHOD,
            authority: address,
            path: link::PATH,
            head: &[],
            length: Some(0),
            body: BodyProof::of(&[]),
        };
        let signature = self.signer.sign(&signed, self.clock.now());
        let text = signature.header.as_bytes();
        let length = u16::try_from(text.len()).map_err(io::Error::other)?;
        let hello = [link::PREFACE.as_slice(), &length.to_be_bytes(), text].concat();
        stream.write_all(&hello).await?;
        let mut preface = [0; link::PREFACE.len()];
        let (mut nonce, mut proof) = ([0; link::NONCE_BYTES], [0; link::PROOF_BYTES]);
        stream.read_exact(&mut preface).await?;
        stream.read_exact(&mut nonce).await?;
        stream.read_exact(&mut proof).await?;
        let keys = signature.link_keys(&nonce, &proof);
        match keys.filter(|_| preface == *link::PREFACE) {
            Some(keys) => Ok((stream, keys)),
            None => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "what listens there does not hold the cluster's key",
            )),
        }
    }
}

impl Line {
    fn usable(&self) -> Option<Arc<Link>> {
        lock(&self.current).clone().filter(|link| link.is_usable())
    }
}

struct Outgoing {
    sealer: Sealer,
    buffer: Vec<u8>,
}

type Answered = Result<Called, CallError>;

/// One connection with everything under way on it.
struct Link {
    address: String,
    clock: Arc<dyn Clock>,
    outgoing: Mutex<Outgoing>,
    /// Something is there to be sent.
    stirred: Notify,
    /// Closed with the link, so that nobody goes on waiting for the other end.
    closing: Semaphore,
    /// `None` when the link is closed.
    waiting: Mutex<Option<HashMap<u32, oneshot::Sender<Answered>>>>,
    next_id: AtomicU32,
    /// When something came last, in milliseconds of the monotonic clock.
    heard_ms: AtomicU64,
    /// No further calls: the other end seems away.
    is_suspect: AtomicBool,
}

/// A call whose answer is waited for. Dropping it forgets the call, which the node carries out all the same.
struct Waiting {
    link: Arc<Link>,
    id: u32,
    began: Duration,
    answer: Option<oneshot::Receiver<Answered>>,
}

impl Link {
    fn start(
        address: &str,
        stream: TcpStream,
        keys: &LinkKeys,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        let link = Arc::new(Self {
            address: address.to_owned(),
            heard_ms: AtomicU64::new(millis(clock.monotonic())),
            clock,
            outgoing: Mutex::new(Outgoing {
                sealer: Sealer::new(keys.to_node),
                buffer: Vec::new(),
            }),
            stirred: Notify::new(),
            closing: Semaphore::new(0),
            waiting: Mutex::new(Some(HashMap::new())),
            next_id: AtomicU32::new(0),
            is_suspect: AtomicBool::new(false),
        });
        let (reader, writer) = stream.into_split();
        tokio::spawn(Arc::clone(&link).write(writer));
        tokio::spawn(Arc::clone(&link).read(reader, Opener::new(keys.to_caller)));
        link
    }

    fn is_usable(&self) -> bool {
        !self.is_suspect.load(Ordering::Relaxed) && lock(&self.waiting).is_some()
    }

    fn lost(&self) -> CallError {
        CallError::Lost {
            address: self.address.clone(),
        }
    }

    fn ask(
        self: &Arc<Self>,
        place: &Place,
        call: &Call,
        began: Duration,
    ) -> Result<Waiting, CallError> {
        let (sender, answer) = oneshot::channel();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let busy = || CallError::Busy {
            address: self.address.clone(),
        };
        match lock(&self.waiting).as_mut() {
            Some(waiting) if waiting.len() < WAITING_MAX => waiting.insert(id, sender),
            Some(_) => return Err(busy()),
            None => return Err(self.lost()),
        };
        let waiting = Waiting {
            link: Arc::clone(self),
            id,
            began,
            answer: Some(answer),
        };
        let request = link::Request {
            id,
            method: link::is_method(call.method.as_str()).unwrap_or_default(),
            resource: call.resource,
            device: place.device.as_str(),
            head: &call.head,
            body: match &call.body {
                CallBody::Whole(bytes) => bytes,
                CallBody::None | CallBody::Stream { .. } => &[],
            },
        };
        {
            let mut outgoing = lock(&self.outgoing);
            if outgoing.buffer.len() > OUTGOING_BYTES_MAX {
                return Err(busy());
            }
            let Outgoing { sealer, buffer } = &mut *outgoing;
            sealer.request(buffer, &request);
        }
        self.stirred.notify_one();
        Ok(waiting)
    }

    /// Whether several calls are under way.
    fn is_busy(&self) -> bool {
        lock(&self.waiting)
            .as_ref()
            .is_some_and(|waiting| waiting.len() > 1)
    }

    /// Fails everything under way.
    fn close(&self) {
        drop(lock(&self.waiting).take());
        self.closing.close();
    }

    fn forget(&self, id: u32) {
        let mut waiting = lock(&self.waiting);
        let is_idle = waiting.as_mut().is_none_or(|waiting| {
            waiting.remove(&id);
            waiting.is_empty()
        });
        drop(waiting);
        if is_idle && self.is_suspect.load(Ordering::Relaxed) {
            self.close();
        }
    }

    async fn write(self: Arc<Self>, mut writer: OwnedWriteHalf) {
        let sent = tokio::select! {
            sent = self.send(&mut writer) => sent,
            _closed = self.closing.acquire() => Ok(()),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, address = self.address, "a link broke");
        }
        self.close();
    }

    async fn send(&self, writer: &mut OwnedWriteHalf) -> io::Result<()> {
        let mut sending = Vec::new();
        loop {
            self.stirred.notified().await;
            if self.is_busy() {
                // Tasks that are ready may have more to send: a system call for all is far cheaper than one for each.
                tokio::task::yield_now().await;
            }
            core::mem::swap(&mut sending, &mut lock(&self.outgoing).buffer);
            writer.write_all(&sending).await?;
            sending.clear();
            sending.shrink_to(BUFFER_KEPT_BYTES);
        }
    }

    async fn read(self: Arc<Self>, mut reader: OwnedReadHalf, opener: Opener) {
        let received = tokio::select! {
            received = self.receive(&mut reader, opener) => received,
            _closed = self.closing.acquire() => Ok(()),
        };
        if let Err(error) = received {
            tracing::debug!(%error, address = self.address, "a link broke");
        }
        self.close();
    }

    async fn receive(&self, reader: &mut OwnedReadHalf, mut opener: Opener) -> io::Result<()> {
        let mut came = BytesMut::new();
        loop {
            if came.capacity() - came.len() < READ_BYTES / 2 {
                came.reserve(READ_BYTES);
            }
            if reader.read_buf(&mut came).await? == 0 {
                return Ok(());
            }
            let now = millis(self.clock.monotonic());
            self.heard_ms.store(now, Ordering::Relaxed);
            if let Err(error) = self.deliver(&mut came, &mut opener) {
                tracing::warn!(%error, address = self.address, "a link is of no use any more");
                return Ok(());
            }
        }
    }

    fn deliver(&self, came: &mut BytesMut, opener: &mut Opener) -> Result<(), link::LinkError> {
        while let Some(end) = opener.next(came)? {
            // Copied, so that the buffer stays the connection's own and is used again.
            let frame = Bytes::copy_from_slice(came.get(..end).unwrap_or_default());
            came.advance(end);
            let answer = link::Answer::parse(&frame)?;
            let waiting = lock(&self.waiting)
                .as_mut()
                .and_then(|all| all.remove(&answer.id));
            if let Some(waiting) = waiting {
                // Who asked may be gone.
                drop(waiting.send(called(&frame, &answer)));
            }
        }
        Ok(())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn called(frame: &Bytes, answer: &link::Answer<'_>) -> Answered {
    if answer.status == link::TOO_LONG {
        return Ok(Called::TooLong);
    }
    let malformed = |_| CallError::Malformed {
        detail: format!("its status is {}", answer.status),
    };
    let body = Full::new(frame.slice_ref(answer.body));
    Ok(Called::Answer(Answer {
        status: StatusCode::from_u16(answer.status).map_err(malformed)?,
        head: answer.head.map(|head| frame.slice_ref(head)),
        body: body
            .map_err(|never: Infallible| -> BodyError { match never {} })
            .boxed_unsync(),
    }))
}

impl Waiting {
    async fn answer(mut self) -> Answered {
        let Some(answer) = &mut self.answer else {
            return Err(self.link.lost());
        };
        let answered = answer.await;
        self.answer = None;
        answered.unwrap_or_else(|_closed| Err(self.link.lost()))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.answer.take().is_none() {
            return;
        }
        let now = self.link.clock.monotonic();
        let is_silent = self.link.heard_ms.load(Ordering::Relaxed) <= millis(self.began);
        if is_silent && now.saturating_sub(self.began) >= SUSPECT_AFTER {
            self.link.is_suspect.store(true, Ordering::Relaxed);
        }
        self.link.forget(self.id);
    }
}

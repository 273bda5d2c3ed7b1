//! HTTP/1.1 listeners with limits, and the one body type requests and responses use.
//!
//! A service implements [`Handler`]; [`serve`] gives it requests until the drain begins. Every limit has a name here.

mod chunks;
mod lenient_target;
mod linger;
mod malformed_target;
mod strict_head;

use crate::Drain;
use bytes::Bytes;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use lenient_target::{Framing, Lenient};
use malformed_target::Watched;
use onggi_common_host::nearby;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Why a body could not be read to its end.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A request's or response's body.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;
/// A request as handlers see it. Its extensions hold the [`Peer`].
pub type Request = http::Request<Body>;
/// A response as handlers make it.
pub type Response = http::Response<Body>;

/// The address a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. It must not fail: an error is a response too.
    fn handle(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// What connections of another protocol begin with, if this handler takes some: with a byte no HTTP method begins with.
    fn preface(&self) -> Option<&'static [u8]> {
        None
    }

    /// Serves a connection that begins with the preface, of which nothing has been read yet, until the drain begins.
    fn take_stream(
        self: Arc<Self>,
        _stream: TcpStream,
        _limits: Limits,
        _drain: Drain,
    ) -> impl Future<Output = ()> + Send {
        core::future::ready(())
    }

    /// Answers a request whose target is no UTF-8, which cannot be told as a [`Request`]. Without an answer it is 400.
    fn refuse_target(&self, _method: &http::Method) -> Option<Response> {
        None
    }
}

/// What one listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at a time; more wait in the kernel's backlog.
    pub connections_max: usize,
    /// Bytes of a request line and header block.
    pub header_bytes_max: usize,
    /// Header lines in a request.
    pub headers_max: usize,
    /// Time a client may take to send its header block.
    pub header_time_max: Duration,
    /// Time a client may leave a request body without a byte.
    pub body_idle_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            header_bytes_max: 64 << 10,
            headers_max: 200,
            header_time_max: Duration::from_secs(30),
            body_idle_max: Duration::from_secs(60),
        }
    }
}

/// What one connection buffers of a request at most: a head of the largest size, or that much of a body.
const READ_BUFFER_BYTES_MAX: usize = 256 << 10;

/// A body of no bytes.
#[must_use]
pub fn empty() -> Body {
    Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body of no bytes that says so: with it a `Content-Length: 0` of the response is sent even where there can be no body,
/// as in a 204.
#[must_use]
pub fn said_empty() -> Body {
    SaidEmpty.boxed_unsync()
}

struct SaidEmpty;

impl HttpBody for SaidEmpty {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(None)
    }

    // Not at its end before it was asked: the library drops the length of a body that is.
    fn is_end_stream(&self) -> bool {
        false
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(0)
    }
}

/// A body of these bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body that was read whole was too long or broke off.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// More bytes than allowed.
    #[error("the body is longer than {bytes_max} bytes")]
    TooLong {
        /// The limit.
        bytes_max: usize,
    },
    /// The client went away or sent a malformed body.
    #[error("the body broke off: {source}")]
    Broken {
        /// Why.
        source: BodyError,
    },
}

/// Reads a whole body of at most `bytes_max` bytes.
///
/// # Errors
/// When the body is longer, or breaks off.
pub async fn collect(mut body: Body, bytes_max: usize) -> Result<Bytes, CollectError> {
    let mut chunks: Vec<Bytes> = Vec::new();
    let mut length = 0usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| CollectError::Broken { source })?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(chunk.len());
        if length > bytes_max {
            return Err(CollectError::TooLong { bytes_max });
        }
        chunks.push(chunk);
    }
    Ok(match chunks.pop() {
        Some(only) if chunks.is_empty() => only,
        None => Bytes::new(),
        Some(last) => {
            chunks.push(last);
            chunks.concat().into()
        }
    })
}

/// A request body that must not stall.
struct Lively {
    inner: Incoming,
    idle_max: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

/// A client left its request body without a byte for too long.
#[derive(Debug, thiserror::Error)]
#[error("no byte of the request body came for {idle_max:?}")]
pub struct Stalled {
    /// The limit that was reached.
    pub idle_max: Duration,
}

impl HttpBody for Lively {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(context) {
            Poll::Ready(frame) => {
                let idle_max = this.idle_max;
                this.sleep
                    .as_mut()
                    .reset(tokio::time::Instant::now() + idle_max);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => match this.sleep.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(Box::new(Stalled {
                    idle_max: this.idle_max,
                })))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn lively(inner: Incoming, idle_max: Duration) -> Body {
    if inner.is_end_stream() {
        return empty();
    }
    let sleep = Box::pin(tokio::time::sleep(idle_max));
    Lively {
        inner,
        idle_max,
        sleep,
    }
    .boxed_unsync()
}

/// A handler that answers `GET /healthcheck` with `OK` and passes everything else on.
#[derive(Debug)]
pub struct WithHealthcheck<H>(pub H);

impl<H: Handler> Handler for WithHealthcheck<H> {
    async fn handle(&self, request: Request) -> Response {
        let asks = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
        if asks && request.uri().path() == "/healthcheck" {
            return Response::new(full("OK"));
        }
        self.0.handle(request).await
    }

    fn refuse_target(&self, method: &http::Method) -> Option<Response> {
        self.0.refuse_target(method)
    }
}

impl<H: Handler> Handler for Arc<H> {
    async fn handle(&self, request: Request) -> Response {
        H::handle(self, request).await
    }

    fn preface(&self) -> Option<&'static [u8]> {
        H::preface(self)
    }

    async fn take_stream(self: Arc<Self>, stream: TcpStream, limits: Limits, drain: Drain) {
        H::take_stream(Self::clone(&self), stream, limits, drain).await;
    }

    fn refuse_target(&self, method: &http::Method) -> Option<Response> {
        H::refuse_target(self, method)
    }
}

/// Serves connections until the drain begins, then lets requests under way finish.
pub async fn serve<H: Handler>(
    listener: TcpListener,
    handler: Arc<H>,
    limits: Limits,
    drain: Drain,
) {
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = drain.requested() => return,
        };
        let Some((stream, peer, slot)) = accepted else {
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "TCP_NODELAY was refused");
        }
        nearby::unpaced(&stream);
        let (handler, drain) = (Arc::clone(&handler), drain.clone());
        let hold = drain.hold();
        tokio::spawn(async move {
            take(stream, peer, handler, limits, drain).await;
            drop((slot, hold));
        });
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<Accepted> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, slot)),
        Err(error) => {
            // Out of descriptors, or the client was gone before it was accepted: neither ends the listener.
            tracing::warn!(%error, "accepting a connection failed");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

/// Whether the first byte is that of the preface; `None` when none comes.
async fn begins_with(stream: &TcpStream, preface: &[u8], within: Duration) -> Option<bool> {
    let mut first = [0; 1];
    let peeked = tokio::time::timeout(within, stream.peek(&mut first)).await;
    let came = peeked.ok()?.ok()?;
    (came > 0).then(|| preface.first() == first.first())
}

async fn take<H: Handler>(
    stream: TcpStream,
    peer: SocketAddr,
    handler: Arc<H>,
    limits: Limits,
    drain: Drain,
) {
    if let Some(preface) = H::preface(&handler) {
        match begins_with(&stream, preface, limits.header_time_max).await {
            Some(true) => return H::take_stream(handler, stream, limits, drain).await,
            Some(false) => {}
            None => return,
        }
    }
    serve_connection(stream, peer, handler, limits, drain).await;
}

/// Serves one connection of HTTP requests until it ends or the drain begins.
pub async fn serve_connection<S, H>(
    stream: S,
    peer: SocketAddr,
    handler: Arc<H>,
    limits: Limits,
    drain: Drain,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let refusing = Arc::clone(&handler);
    let framing = Framing::new();
    let stream = Lenient::new(stream, framing.clone());
    let service = service_fn(move |request: http::Request<Incoming>| {
        framing.tell(request.body());
        let handler = Arc::clone(&handler);
        async move {
            let mut request = request.map(|body| lively(body, limits.body_idle_max));
            request.extensions_mut().insert(Peer(peer));
            Ok::<_, Infallible>(handler.handle(request).await)
        }
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_time_max)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(READ_BUFFER_BYTES_MAX.max(limits.header_bytes_max))
        .max_headers(limits.headers_max)
        // As Swift and Cinder write them; old clients compare with case.
        .title_case_headers(true)
        .keep_alive(true)
        .half_close(false)
        .serve_connection(TokioIo::new(Watched::new(stream)), service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.requested() => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
    let stream = connection.into_parts().io.into_inner();
    if let Err(error) = finish(stream, &*refusing, &drain).await {
        tracing::debug!(%error, %peer, "the last answer may not have arrived");
    }
}

/// Ends a connection so that its client gets the last answer.
async fn finish<S, H>(
    stream: Watched<Lenient<S>>,
    refusing: &H,
    drain: &Drain,
) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    H: Handler,
{
    let Some(stream) = stream.refuse(refusing).await?.into_unfinished() else {
        return Ok(());
    };
    tokio::select! {
        lingered = linger::linger(stream) => lingered,
        () = drain.requested() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    struct Echo;
    impl Handler for Echo {
        async fn handle(&self, request: Request) -> Response {
            match collect(request.into_body(), 16).await {
                Ok(bytes) => Response::new(full(bytes)),
                Err(error) => {
                    let mut response = Response::new(full(error.to_string()));
                    *response.status_mut() = http::StatusCode::BAD_REQUEST;
                    response
                }
            }
        }
    }

    struct Refusing;
    impl Handler for Refusing {
        async fn handle(&self, _request: Request) -> Response {
            Response::new(empty())
        }

        fn refuse_target(&self, method: &http::Method) -> Option<Response> {
            let mut response = Response::new(full(format!("no {method}")));
            *response.status_mut() = http::StatusCode::PRECONDITION_FAILED;
            Some(response)
        }
    }

    async fn talk(limits: Limits, bytes: &[u8]) -> String {
        ask(Echo, limits, bytes).await
    }

    async fn ask(handler: impl Handler, limits: Limits, bytes: &[u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        let server = tokio::spawn(serve(listener, Arc::new(handler), limits, drain.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        drain.begin();
        server.await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn a_body_is_echoed_and_a_long_one_refused() {
        let request =
            b"PUT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 3\r\n\r\njar";
        let answer = talk(Limits::default(), request).await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("jar"),
            "{answer}"
        );
        let long = b"PUT / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 17\r\n\r\n12345678901234567";
        let answer = talk(Limits::default(), long).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") && answer.contains("longer than 16"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn smuggled_and_oversized_heads_are_refused() {
        for head in [
            "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\njars"
                .to_owned(),
            "PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n"
                .to_owned(),
            "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\njar"
                .to_owned(),
            "PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "PUT / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "GET / HTTP/1.1\nhost: x\n\n".to_owned(),
            "GET / HTTP/1.1\r\nhost: x\r\na: b\r\n c\r\n\r\n".to_owned(),
            format!(
                "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
                "a: b\r\n".repeat(201)
            ),
            format!(
                "GET / HTTP/1.1\r\nhost: x\r\na: {}\r\n\r\n",
                "b".repeat(70 << 10)
            ),
        ] {
            let answer = talk(Limits::default(), head.as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 4"), "{answer} to {:.60}", head);
        }
    }

    struct NoContent;
    impl Handler for NoContent {
        async fn handle(&self, _request: Request) -> Response {
            let mut response = Response::new(said_empty());
            *response.status_mut() = http::StatusCode::NO_CONTENT;
            let none = http::HeaderValue::from(0);
            let length = http::header::CONTENT_LENGTH;
            response.headers_mut().insert(length, none);
            response
        }
    }

    #[tokio::test]
    async fn an_answer_without_content_can_say_its_length() {
        for method in ["GET", "HEAD", "DELETE"] {
            let request = format!("{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            let answer = ask(NoContent, Limits::default(), request.as_bytes()).await;
            assert!(answer.contains("\r\nContent-Length: 0\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_target_that_is_no_utf8_is_refused_in_the_services_words_also_behind_another_request()
    {
        let bad = b"PUT /\xb8\xed HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\njar";
        let answer = ask(Refusing, Limits::default(), bad).await;
        assert!(
            answer.starts_with("HTTP/1.1 412 ") && answer.ends_with("\r\n\r\nno PUT"),
            "{answer}"
        );
        assert!(
            talk(Limits::default(), bad)
                .await
                .starts_with("HTTP/1.1 400 ")
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        let limits = Limits::default();
        let server = tokio::spawn(serve(listener, Arc::new(Refusing), limits, drain.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 512];
        let length = stream.read(&mut first).await.unwrap();
        assert!(first[..length].starts_with(b"HTTP/1.1 200 "));
        stream.write_all(bad).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 412 ") && answer.ends_with("no PUT"),
            "{answer}"
        );
        drain.begin();
        server.await.unwrap();
    }

    struct Target;
    impl Handler for Target {
        async fn handle(&self, request: Request) -> Response {
            let target = request.uri().to_string();
            let body = collect(request.into_body(), 64).await.unwrap();
            Response::new(full([target.as_bytes(), b" ", &body].concat()))
        }
    }

    #[tokio::test]
    async fn a_target_may_have_what_no_target_should_also_behind_a_body() {
        let put = "PUT /a<`> HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n<`> \n";
        let get = "GET /?<`> HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = ask(Target, Limits::default(), (put.to_owned() + get).as_bytes()).await;
        assert!(
            answer.contains("\r\n\r\n/a%3C%60%3E <`> \nHTTP/1.1 200 "),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\n/?%3C%60%3E "), "{answer}");
    }

    /// Refuses as soon as it has the head.
    struct NoRoom;
    impl Handler for NoRoom {
        async fn handle(&self, mut request: Request) -> Response {
            drop(request.body_mut().frame().await);
            let mut response = Response::new(full("no room"));
            *response.status_mut() = http::StatusCode::INSUFFICIENT_STORAGE;
            response
        }
    }

    #[tokio::test]
    async fn whoever_still_sends_gets_the_refusal() {
        const SENT: usize = 32 << 20;
        for length in ["transfer-encoding: chunked", "content-length: 33554432"] {
            let head = format!("PUT / HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n2000000\r\n");
            let mut request = head.into_bytes();
            request.resize(request.len() + SENT - 9, b'x');
            // As clients do that look for an answer only when they have sent all.
            let answer = ask(NoRoom, Limits::default(), &request).await;
            assert!(
                answer.starts_with("HTTP/1.1 507 ") && answer.ends_with("no room"),
                "{answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_never_closes_is_not_waited_for_long() {
        let (near, far) = tokio::io::duplex(64 << 10);
        let began = tokio::time::Instant::now();
        linger::linger(near).await.unwrap();
        let quiet = began.elapsed().as_secs();
        assert!((5..=6).contains(&quiet), "{quiet} s");
        drop(far);
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let sending = tokio::spawn(async move {
            while far.write_all(b"more").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let began = tokio::time::Instant::now();
        linger::linger(near).await.unwrap();
        let busy = began.elapsed().as_secs();
        assert!((30..=31).contains(&busy), "{busy} s");
        sending.await.unwrap();
    }

    #[tokio::test]
    async fn a_stalled_body_is_given_up() {
        let limits = Limits {
            body_idle_max: Duration::from_millis(30),
            ..Limits::default()
        };
        let answer = talk(
            limits,
            b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nj",
        )
        .await;
        assert!(answer.contains("no byte of the request body"), "{answer}");
    }
}

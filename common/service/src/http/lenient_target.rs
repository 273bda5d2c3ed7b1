//! Request targets with `<`, `>` or a backtick as they are. RFC 3986 has no place for them and the HTTP library answers 400,
//! but clients send them and other servers of the same interfaces take them: here they are percent-encoded on their way to
//! the library.
//!
//! The stream below the library has to know where a request line begins for that. It follows the heads itself; how long
//! the body behind a head is it is told by the library ([`Framing`]), the only one to decide that. A body in chunks is
//! followed as the library reads it. Where nothing is told, everything behind is passed on as it is.
//!
//! What a head may not have although the library takes it ([`HeadJudge`]) goes on as a NUL and the head's end, which the
//! library answers with 400 and the end of the connection.

use super::chunks::{Chunk, Next};
use super::strict_head::HeadJudge;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, ready};
use http_body::Body as HttpBody;
use std::io::{self, IoSlice};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The library has not said anything since the last head.
const NOT_TOLD: u64 = u64::MAX;
/// The body's end is not known beforehand.
const NO_LENGTH: u64 = u64::MAX - 1;

/// What the library says about the body behind a head.
#[derive(Debug, Clone)]
pub(super) struct Framing(Arc<AtomicU64>);

impl Framing {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOT_TOLD)))
    }

    /// A request with this body begins.
    pub(super) fn tell(&self, body: &impl HttpBody) {
        let length = if body.is_end_stream() {
            0
        } else {
            body.size_hint().exact().unwrap_or(NO_LENGTH)
        };
        self.0.store(length.min(NO_LENGTH), Ordering::Release);
    }

    fn take(&self) -> u64 {
        self.0.swap(NOT_TOLD, Ordering::AcqRel)
    }
}

/// Where the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a request line, or in its method.
    Method,
    Target,
    /// Behind the target. `is_blank`: the line has no byte yet.
    Head {
        is_blank: bool,
    },
    /// Behind a head.
    Between,
    Body {
        left: u64,
    },
    Chunks(Chunk),
    /// At a byte that may not stand there.
    Refused,
    Unknown,
}

/// A stream whose request targets are made ones the library takes.
pub(super) struct Lenient<S> {
    inner: S,
    framing: Framing,
    place: Place,
    judge: HeadJudge,
    /// Bytes that were read and are not handed on yet.
    held: Vec<u8>,
}

const fn is_encoded(byte: u8) -> bool {
    matches!(byte, b'<' | b'>' | b'`')
}

impl<S> Lenient<S> {
    pub(super) fn new(inner: S, framing: Framing) -> Self {
        Self {
            inner,
            framing,
            place: Place::Method,
            judge: HeadJudge::default(),
            held: Vec::new(),
        }
    }

    /// The stream below, unless the last request was read to its end: its client may still be sending.
    pub(super) fn into_unfinished(self) -> Option<S> {
        (self.place != Place::Method || !self.held.is_empty()).then_some(self.inner)
    }

    /// Follows bytes as far as they are of one kind: to the end of a head or of a body, and to the first byte that is to
    /// be encoded or refused. Returns how many that are.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let mut count = 0;
        while let Some(byte) = bytes.get(count) {
            match self.place {
                Place::Unknown => return bytes.len(),
                Place::Refused => return count,
                Place::Between => {
                    self.place = match self.framing.take() {
                        NOT_TOLD => Place::Unknown,
                        NO_LENGTH => Place::Chunks(Chunk::Start),
                        0 => Place::Method,
                        left => Place::Body { left },
                    };
                    continue;
                }
                Place::Body { left } => {
                    let rest = bytes.len() - count;
                    let passed = usize::try_from(left).map_or(rest, |left| left.min(rest));
                    self.place = match left - passed as u64 {
                        0 => Place::Method,
                        left => Place::Body { left },
                    };
                    count += passed;
                    continue;
                }
                Place::Chunks(Chunk::Data(left)) => {
                    let rest = bytes.len() - count;
                    let passed = usize::try_from(left).map_or(rest, |left| left.min(rest));
                    self.place = Place::Chunks(Chunk::after_data(left, passed as u64));
                    count += passed;
                    continue;
                }
                Place::Chunks(chunk) => {
                    self.place = match chunk.after(*byte) {
                        Next::Within(chunk) => Place::Chunks(chunk),
                        Next::Over => Place::Method,
                        Next::Lost => Place::Unknown,
                    };
                    count += 1;
                    continue;
                }
                Place::Target if is_encoded(*byte) => return count,
                Place::Head { is_blank: false } => {
                    // Most of a head says nothing to us: that is not looked at byte by byte.
                    let rest = bytes.get(count..).unwrap_or_default();
                    let passed = self.judge.indifferent(rest);
                    if passed > 0 {
                        count += passed;
                        continue;
                    }
                }
                Place::Method | Place::Target | Place::Head { .. } => {}
            }
            if !self.judge.admits(*byte) {
                self.place = Place::Refused;
                return count;
            }
            self.place = self.after(*byte);
            count += 1;
            if self.place == Place::Between {
                // The library decides what follows when it has the head.
                return count;
            }
        }
        count
    }

    /// Where the byte behind this one of a head belongs.
    const fn after(&self, byte: u8) -> Place {
        match (self.place, byte) {
            (Place::Method, b' ') => Place::Target,
            (Place::Target, b' ') => Place::Head { is_blank: false },
            (Place::Head { is_blank: true }, b'\n') => Place::Between,
            (Place::Target | Place::Head { .. }, b'\n') => Place::Head { is_blank: true },
            (Place::Head { is_blank: true }, b'\r') => Place::Head { is_blank: true },
            (Place::Head { .. }, _) => Place::Head { is_blank: false },
            (place, _) => place,
        }
    }

    /// Looks at what was just read, at the end of `buffer`; what must not go on yet is taken out of it and held.
    fn sift(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let read = buffer.filled().get(before..).unwrap_or_default();
        let count = self.follow(read);
        let Some(rest) = read.get(count..).filter(|rest| !rest.is_empty()) else {
            return;
        };
        let mut held = match rest.split_first() {
            Some((first, others)) if self.place == Place::Target => {
                // Encoded, it is a byte like others: whatever stands behind is looked at when it goes on.
                let mut held = format!("%{first:02X}").into_bytes();
                held.extend_from_slice(others);
                held
            }
            Some((_, others)) if self.place == Place::Refused => {
                self.place = Place::Unknown;
                // The library looks at a head when it has an end.
                [b"\0\r\n\r\n", others].concat()
            }
            _ => rest.to_vec(),
        };
        held.append(&mut self.held);
        self.held = held;
        buffer.set_filled(before + count);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        // Nothing handed on would be the end of the stream: what is held goes on in the same turn.
        while buffer.filled().len() == before {
            if self.held.is_empty() {
                ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
                if buffer.filled().len() == before {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let count = self.held.len().min(buffer.remaining());
                if count == 0 {
                    return Poll::Ready(Ok(()));
                }
                let part: Vec<u8> = self.held.drain(..count).collect();
                buffer.put_slice(&part);
            }
            if self.place != Place::Unknown {
                self.sift(buffer, before);
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{Empty, Full};
    use tokio::io::AsyncReadExt as _;

    /// What the library would get of these pieces. It says what follows a head as soon as it has it.
    async fn passed(pieces: &[&[u8]], bodies: &[Option<u64>]) -> String {
        let stream = Pieces(pieces.iter().map(|piece| piece.to_vec()).collect());
        let framing = Framing::new();
        let mut lenient = Lenient::new(stream, framing.clone());
        let mut bodies = bodies.iter();
        let mut all = Vec::new();
        let mut chunk = [0; 64];
        loop {
            let count = lenient.read(&mut chunk).await.unwrap();
            if count == 0 {
                return String::from_utf8(all).unwrap();
            }
            all.extend_from_slice(&chunk[..count]);
            if lenient.place == Place::Between {
                match bodies.next() {
                    Some(Some(0)) => framing.tell(&Empty::<Bytes>::new()),
                    Some(Some(length)) => {
                        let length = usize::try_from(*length).unwrap();
                        framing.tell(&Full::new(Bytes::from(vec![0; length])));
                    }
                    Some(None) => framing.0.store(NO_LENGTH, Ordering::Release),
                    None => {}
                }
            }
        }
    }

    /// A stream that gives one piece a read.
    struct Pieces(Vec<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(piece) = self.0.first_mut() {
                let count = piece.len().min(buffer.remaining());
                buffer.put_slice(&piece.drain(..count).collect::<Vec<u8>>());
                if piece.is_empty() {
                    self.0.remove(0);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    const GET: &[u8] = b"GET /a<b>`c?x=<y> HTTP/1.1\r\nHost: <a>\r\n\r\n";
    const GOT: &str = "GET /a%3Cb%3E%60c?x=%3Cy%3E HTTP/1.1\r\nHost: <a>\r\n\r\n";

    /// A byte by itself is always looked at.
    #[tokio::test]
    async fn what_is_passed_over_would_not_have_been_refused() {
        const PARTS: [&str; 14] = [
            "GET /<a> HTTP/1.1\r\n",
            "PUT /",
            " ",
            "\r\n",
            "\r",
            "\n",
            "content-length",
            "Transfer-Encoding",
            ":",
            "x",
            "long-words-in-a-line",
            ": 7",
            "<",
            "\r\n\r\n",
        ];
        let mut state = 7u64;
        for _ in 0..4_000 {
            let mut head = PARTS[0].to_owned();
            for _ in 0..12 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                head.push_str(PARTS[usize::try_from(state >> 60).unwrap() % PARTS.len()]);
            }
            let single: Vec<&[u8]> = head.as_bytes().chunks(1).collect();
            let bodies = [Some(0); 8];
            assert_eq!(
                passed(&[head.as_bytes()], &bodies).await,
                passed(&single, &bodies).await,
                "{head:?}"
            );
        }
    }

    #[tokio::test]
    async fn targets_are_encoded_and_nothing_else_is() {
        assert_eq!(passed(&[GET], &[Some(0)]).await, GOT);
        let pipelined = [GET, GET].concat();
        let both = [GOT, GOT].concat();
        assert_eq!(passed(&[&pipelined], &[Some(0); 2]).await, both);
        let bytes: Vec<&[u8]> = GET.chunks(1).collect();
        assert_eq!(passed(&bytes, &[Some(0)]).await, GOT);
        let plain = b"GET /a%3C HTTP/1.0\r\n\r\n";
        assert_eq!(passed(&[plain], &[]).await.as_bytes(), plain);
    }

    #[tokio::test]
    async fn what_no_head_may_have_is_made_what_the_library_refuses() {
        let both = "PUT / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r";
        let whole = format!("{both}\n0\r\n\r\nGET /< HTTP/1.1\r\n\r\n");
        let expected = format!("{both}\0\r\n\r\n0\r\n\r\nGET /< HTTP/1.1\r\n\r\n");
        assert_eq!(passed(&[whole.as_bytes()], &[]).await, expected);
        let bytes: Vec<&[u8]> = whole.as_bytes().chunks(1).collect();
        assert_eq!(passed(&bytes, &[]).await, expected);
        let bare = b"GET / HTTP/1.1\nHost: x\n\n";
        let expected = "GET / HTTP/1.1\0\r\n\r\nHost: x\n\n";
        assert_eq!(passed(&[bare], &[]).await, expected);
    }

    #[tokio::test]
    async fn heads_behind_a_chunked_body_are_followed() {
        let head = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".as_slice();
        let body = b"7;<\r\nGET /< \r\n0\r\nA: <\r\n\r\n".as_slice();
        let whole = [head, body, GET].concat();
        let expected = [head, body, GOT.as_bytes()].concat();
        for size in [whole.len(), 7, 1] {
            let pieces: Vec<&[u8]> = whole.chunks(size).collect();
            let got = passed(&pieces, &[None, Some(0)]).await;
            assert_eq!(got.as_bytes(), expected, "{size}");
        }
    }

    #[tokio::test]
    async fn bodies_are_passed_on_whatever_they_look_like() {
        let head = b"PUT /< HTTP/1.1\r\n\r\n".as_slice();
        let body = b"GET /<b> HTTP/1.1\r\n\r\n.".as_slice();
        let (put, got) = ("PUT /%3C HTTP/1.1\r\n\r\n", "GET /<b> HTTP/1.1\r\n\r\n.");
        let length = u64::try_from(body.len()).unwrap();
        let whole = [head, body, GET].concat();
        let expected = [put, got, GOT].concat();
        assert_eq!(passed(&[&whole], &[Some(length), Some(0)]).await, expected);
        let pieces: Vec<&[u8]> = whole.chunks(7).collect();
        assert_eq!(passed(&pieces, &[Some(length), Some(0)]).await, expected);
        // A body that is not in chunks, or nothing said: nothing behind the head is touched.
        let untouched = [put, got, core::str::from_utf8(GET).unwrap()].concat();
        assert_eq!(passed(&[&whole], &[None]).await, untouched);
        assert_eq!(passed(&[&whole], &[]).await, untouched);
    }
}

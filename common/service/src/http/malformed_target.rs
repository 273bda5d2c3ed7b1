//! Requests whose target is no UTF-8. The HTTP library answers them by itself, with 400 and nothing else; a service may
//! have an answer of its own ([`super::Handler::refuse_target`]).
//!
//! The stream below the library notices a request line of that kind and holds back the library's own answer. It only
//! looks on: what is read and written is not changed.

use super::{Handler, collect};
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use http::{HeaderValue, Method, header};
use std::io::{self, IoSlice};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// The longest method looked for in a request line.
const METHOD_BYTES_MAX: usize = 32;
/// The library's own answer is a status line, a length, a date: no answer of a service is as short.
const OWN_ANSWER_BYTES_MAX: usize = 160;
/// Bytes of a refusal's body.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// How long the client may take to receive the refusal.
const REFUSAL_TIME_MAX: Duration = Duration::from_secs(2);

/// The method of a request line whose target is no UTF-8.
fn malformed(chunk: &[u8]) -> Option<Method> {
    let start = chunk.get(..METHOD_BYTES_MAX.min(chunk.len()))?;
    let space = start.iter().position(|byte| *byte == b' ')?;
    let (method, rest) = (chunk.get(..space)?, chunk.get(space + 1..)?);
    if !rest.starts_with(b"/") || !method.iter().all(u8::is_ascii_uppercase) {
        return None;
    }
    let target = rest.split(|byte| matches!(byte, b' ' | b'\r' | b'\n'));
    if core::str::from_utf8(target.into_iter().next()?).is_ok() {
        return None;
    }
    Method::from_bytes(method).ok()
}

fn is_own_answer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HTTP/1.1 400 ")
        && bytes.ends_with(b"\r\n\r\n")
        && bytes.len() <= OWN_ANSWER_BYTES_MAX
}

/// A stream that is looked on.
pub(super) struct Watched<S> {
    inner: S,
    /// What the last bytes that were read ask for, if they begin with a request line the library will not take.
    malformed: Option<Method>,
    held: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self {
            inner,
            malformed: None,
            held: Vec::new(),
        }
    }

    /// Sends the service's answer instead of the one that was held back, if one was. Returns the stream that was looked on.
    ///
    /// # Errors
    /// When the client is gone, or does not take the answer in time.
    pub(super) async fn refuse<H: Handler>(mut self, handler: &H) -> io::Result<S> {
        if let Some(method) = self.malformed.filter(|_| !self.held.is_empty()) {
            let answer = match handler.refuse_target(&method) {
                Some(response) => written(response, &method).await,
                None => self.held.into(),
            };
            tokio::time::timeout(REFUSAL_TIME_MAX, self.inner.write_all(&answer)).await??;
        }
        Ok(self.inner)
    }

    /// Whether bytes the library writes are held back.
    fn holds(&mut self, bytes: &[u8]) -> bool {
        let is_held = self.malformed.is_some() && self.held.is_empty() && is_own_answer(bytes);
        if is_held {
            self.held = bytes.to_vec();
        }
        is_held
    }
}

/// A response as bytes; the connection ends with it.
async fn written(mut response: super::Response, method: &Method) -> Bytes {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    let (head, body) = response.into_parts();
    let mut out = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if *method != Method::HEAD
        && let Ok(body) = collect(body, REFUSAL_BYTES_MAX).await
    {
        out.extend_from_slice(&body);
    }
    out.into()
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let chunk = buffer.filled().get(before..).unwrap_or_default();
        if !chunk.is_empty() {
            self.malformed = malformed(chunk);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.holds(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices
            && self.holds(only)
        {
            return Poll::Ready(Ok(only.len()));
        }
        Pin::new(&mut self.inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_line_with_a_target_that_is_no_utf8_is_malformed() {
        let put = malformed(b"PUT /v1/a/\xb8\xed HTTP/1.1\r\nhost: x\r\n\r\n");
        assert_eq!(put, Some(Method::PUT));
        assert_eq!(malformed(b"GET /\xff"), Some(Method::GET));
        for fine in [
            "GET /v1/a/한 HTTP/1.1\r\n".as_bytes(),
            b"GET /v1/a HTTP/1.1\r\nx: \xff\r\n",
            b"get /\xff HTTP/1.1\r\n",
            b"\xff\xfe /\xff",
            b"GET \xff",
            b"",
        ] {
            assert_eq!(malformed(fine), None, "{fine:?}");
        }
    }
}

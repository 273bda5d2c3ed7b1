//! HTTP/1.1 over kept connections, with limits.

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use core::time::Duration;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use tokio::net::TcpStream;

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take after the request was sent.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// How long an answer's body may pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer that is read whole: a listing's page.
const WHOLE_BYTES_MAX: usize = 64 << 20;
/// Idle connections kept.
const IDLE_MAX: usize = 64;

/// Why a body cannot be sent.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;
/// A request's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body of no bytes.
pub(crate) fn empty() -> Body {
    Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// A body of these bytes.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// `http://authority/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) authority: String,
    pub(crate) path: String,
}

impl Url {
    /// Reads a URL; only plain HTTP is spoken.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        if text.starts_with("https://") {
            bail!("{text}: https is not supported yet, http is");
        }
        let rest = text
            .strip_prefix("http://")
            .with_context(|| format!("{text:?} is no http:// URL"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.is_empty() || authority.contains('@') {
            bail!("{text:?} names no host");
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':')
        });
        let authority = if has_port {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        Ok(Self {
            authority,
            path: format!("/{}", path.trim_end_matches('/')),
        })
    }

    /// The URL with more of a path, already encoded.
    pub(crate) fn join(&self, rest: &str) -> Self {
        let path = format!("{}/{rest}", self.path.trim_end_matches('/'));
        Self {
            authority: self.authority.clone(),
            path,
        }
    }
}

/// A request.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// An answer whose body is still to be read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    connection: Option<(String, SendRequest<Body>)>,
}

/// Connections that wait for their next request.
#[derive(Default)]
pub(crate) struct Client(Mutex<HashMap<String, Vec<SendRequest<Body>>>>);

impl core::fmt::Debug for Client {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    fn take(&self, authority: &str) -> Option<SendRequest<Body>> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(authority)?;
        while let Some(connection) = kept.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        None
    }

    /// Gives a connection back whose answer was read to its end.
    pub(crate) fn give_back(&self, answer: Answer) {
        let Some((authority, connection)) = answer.connection else {
            return;
        };
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.entry(authority).or_default();
        if kept.len() < IDLE_MAX && !connection.is_closed() {
            kept.push(connection);
        }
    }

    async fn connect(authority: &str) -> Result<SendRequest<Body>> {
        let connecting = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(authority)).await;
        let stream = connecting
            .with_context(|| format!("{authority} does not take connections"))?
            .with_context(|| format!("cannot connect to {authority}"))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(256 << 10)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends a request and waits for the head of its answer.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer> {
        let authority = call.url.authority;
        let mut request = Request::builder()
            .method(call.method)
            .uri(call.url.path)
            .body(call.body)?;
        *request.headers_mut() = call.headers;
        request
            .headers_mut()
            .insert(http::header::HOST, authority.parse()?);
        let mut request = Some(request);
        // A kept connection may have been closed meanwhile: what never left is sent on a fresh one.
        if let Some(mut kept) = self.take(&authority)
            && let Some(first) = request.take()
        {
            match kept.try_send_request(first).await {
                Ok(response) => return Ok(answer(response, authority, kept)),
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) => request = Some(unsent),
                    None => {
                        return Err(failed.into_error()).context(format!("talking to {authority}"));
                    }
                },
            }
        }
        let mut connection = Self::connect(&authority).await?;
        let request = request.context("the request is gone")?;
        let sent = connection.send_request(request).await;
        let response = sent.with_context(|| format!("talking to {authority}"))?;
        Ok(answer(response, authority, connection))
    }

    /// The same for requests whose bodies are short: with a time limit.
    pub(crate) async fn ask(&self, call: Call) -> Result<Answer> {
        let authority = call.url.authority.clone();
        let answered = tokio::time::timeout(ANSWER_WITHIN, self.send(call)).await;
        answered.with_context(|| format!("{authority} does not answer"))?
    }
}

fn answer(
    response: Response<Incoming>,
    authority: String,
    connection: SendRequest<Body>,
) -> Answer {
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body,
        connection: Some((authority, connection)),
    }
}

impl Answer {
    /// The next bytes of the body; `None` at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(PAUSE_MAX, self.body.frame()).await;
            let frame = match frame.context("the answer stopped coming")? {
                None => return Ok(None),
                Some(frame) => frame.context("the answer broke off")?,
            };
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// The whole body.
    pub(crate) async fn bytes(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            if all.len() + bytes.len() > WHOLE_BYTES_MAX {
                bail!("the answer is longer than {WHOLE_BYTES_MAX} bytes");
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .and_then(|value| core::str::from_utf8(value.as_bytes()).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_plain_http_with_a_host() {
        let url = Url::parse("http://127.0.0.1:8080/v1/AUTH_x/").unwrap();
        assert_eq!(
            (url.authority.as_str(), url.path.as_str()),
            ("127.0.0.1:8080", "/v1/AUTH_x")
        );
        assert_eq!(url.join("c/o").path, "/v1/AUTH_x/c/o");
        assert_eq!(Url::parse("http://host").unwrap().authority, "host:80");
        assert_eq!(Url::parse("http://[::1]/").unwrap().authority, "[::1]:80");
        assert_eq!(
            Url::parse("http://[::1]:81/").unwrap().authority,
            "[::1]:81"
        );
        for bad in ["https://h/", "ftp://h", "h:80", "http://", "http://u@h/"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }
}

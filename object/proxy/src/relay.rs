//! v1 authentication: the request goes to the identity service, its answer comes back.

use crate::fault::Fault;
use core::time::Duration;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, Method, Request as HttpRequest, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use onggi_common_service::http::{Response, full};
use tokio::net::TcpStream;

/// How long the identity service may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of its answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// What of a request is passed on. Nothing else a client sends reaches the identity service.
const PASSED_ON: [HeaderName; 5] = [
    HeaderName::from_static("x-auth-user"),
    HeaderName::from_static("x-auth-key"),
    HeaderName::from_static("x-storage-user"),
    HeaderName::from_static("x-storage-pass"),
    header::HOST,
];
/// What of the answer comes back.
const PASSED_BACK: [HeaderName; 7] = [
    HeaderName::from_static("x-auth-token"),
    HeaderName::from_static("x-auth-token-expires"),
    HeaderName::from_static("x-storage-token"),
    HeaderName::from_static("x-storage-url"),
    header::CONTENT_TYPE,
    header::WWW_AUTHENTICATE,
    header::RETRY_AFTER,
];

type RelayError = Box<dyn std::error::Error + Send + Sync>;

/// Passes headers that are named from one map to another.
fn pass(names: &[HeaderName], from: &HeaderMap, to: &mut HeaderMap) {
    for name in names {
        if let Some(value) = from.get(name) {
            to.insert(name, value.clone());
        }
    }
}

/// Relays a request for a token to the identity service at `address`.
pub(crate) async fn relay(address: &str, request: &Head) -> Result<Response, Fault> {
    if !matches!(request.method, Method::GET | Method::HEAD) {
        return Err(Fault::MethodNotAllowed("GET, HEAD"));
    }
    match tokio::time::timeout(ANSWER_WITHIN, exchange(address, request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            tracing::warn!(%error, address, "the identity service cannot be reached");
            Err(Fault::Unavailable)
        }
        Err(_) => {
            tracing::warn!(address, "the identity service does not answer");
            Err(Fault::Unavailable)
        }
    }
}

async fn exchange(address: &str, request: &Head) -> Result<Response, RelayError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let target = request
        .uri
        .path_and_query()
        .map_or("/auth/v1.0", |path| path.as_str());
    let mut relayed = HttpRequest::get(target).body(Empty::<bytes::Bytes>::new())?;
    pass(&PASSED_ON, &request.headers, relayed.headers_mut());
    if !relayed.headers().contains_key(header::HOST) {
        relayed.headers_mut().insert(header::HOST, address.parse()?);
    }
    let (parts, body) = sender.send_request(relayed).await?.into_parts();
    let bytes = Limited::new(body, ANSWER_BYTES_MAX)
        .collect()
        .await?
        .to_bytes();
    connection.abort();
    let mut response = Response::new(full(bytes));
    *response.status_mut() = parts.status;
    pass(&PASSED_BACK, &parts.headers, response.headers_mut());
    Ok(response)
}

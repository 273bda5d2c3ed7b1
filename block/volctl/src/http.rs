//! A small HTTP/1.1 client: plain HTTP, one connection a request, time and size limited.

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use core::time::Duration;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long a connection may take to open.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a request may take as a whole.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(60);
/// Bytes of an answer: a page of a thousand volumes is about two MiB.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// The body as JSON; null when there is none.
    pub(crate) fn json(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&self.body).context("the answer is no JSON")
    }

    /// What an error answer says, in one line.
    pub(crate) fn message(&self) -> String {
        let json = self.json().unwrap_or(Value::Null);
        let text = match onggi_block_cinder::Fault::message_of(&json) {
            Some(message) => message.to_owned(),
            None => String::from_utf8_lossy(&self.body)
                .chars()
                .take(200)
                .collect(),
        };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() {
            self.status.to_string()
        } else {
            line
        }
    }
}

/// What is sent.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: Vec<(&'static str, &'a str)>,
    pub(crate) body: Option<Value>,
}

/// Sends a request to `service` (a noun for messages) and reads its answer whole.
pub(crate) async fn send(call: Call<'_>, service: &str) -> Result<Answer> {
    let url = call.url.clone();
    let uri: Uri = url
        .parse()
        .with_context(|| format!("the {service}'s address {url} is no URL"))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => bail!("{url}: https is not supported yet, use an http address"),
        Some(_) | None => bail!("{url} is no http address"),
    }
    let origin = format!(
        "http://{}",
        uri.authority().map_or("", |authority| authority.as_str())
    );
    match tokio::time::timeout(REQUEST_TIME_MAX, exchange(call, &uri)).await {
        Ok(outcome) => outcome.map_err(|error| {
            anyhow!("cannot reach the {service} at {origin} ({error:#}): is onggid running?")
        }),
        Err(_) => bail!(
            "the {service} at {origin} did not answer within {} s",
            REQUEST_TIME_MAX.as_secs()
        ),
    }
}

async fn exchange(call: Call<'_>, uri: &Uri) -> Result<Answer> {
    let stream = connect(uri).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request(call, uri)?).await?;
    let (head, body) = answer.into_parts();
    let limited = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    connection.abort();
    let body = limited
        .map_err(|error| anyhow!("reading the answer: {error}"))?
        .to_bytes();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body,
    })
}

async fn connect(uri: &Uri) -> Result<TcpStream> {
    let host = uri.host().context("it names no host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = uri.port_u16().unwrap_or(80);
    match tokio::time::timeout(CONNECT_TIME_MAX, TcpStream::connect((host, port))).await {
        Ok(stream) => Ok(stream?),
        Err(_) => bail!("no connection within {} s", CONNECT_TIME_MAX.as_secs()),
    }
}

fn request(call: Call<'_>, uri: &Uri) -> Result<Request<Full<Bytes>>> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::builder()
        .method(call.method)
        .uri(path)
        .header("host", host)
        .header("accept", "application/json")
        .header("user-agent", concat!("volctl/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close");
    for (name, value) in call.headers {
        request = request.header(name, value);
    }
    let body = match call.body {
        Some(body) => {
            request = request.header("content-type", "application/json");
            Bytes::from(serde_json::to_vec(&body)?)
        }
        None => Bytes::new(),
    };
    Ok(request.body(Full::new(body))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(url: String) -> Call<'static> {
        Call {
            method: Method::GET,
            url,
            headers: Vec::new(),
            body: None,
        }
    }

    #[tokio::test]
    async fn nobody_listening_is_said_with_the_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = send(get(format!("http://{address}/v3")), "volume service")
            .await
            .unwrap_err();
        let line = format!("{error:#}");
        let start = format!("cannot reach the volume service at http://{address} (");
        assert!(
            line.starts_with(&start) && line.ends_with("): is onggid running?"),
            "{line}"
        );
    }

    #[tokio::test]
    async fn https_and_other_schemes_are_refused() {
        let error = send(get("https://127.0.0.1:1/".to_owned()), "volume service")
            .await
            .unwrap_err();
        assert!(
            format!("{error:#}").contains("https is not supported yet"),
            "{error:#}"
        );
        assert!(
            send(get("ftp://127.0.0.1:1/".to_owned()), "x")
                .await
                .is_err()
        );
        assert!(send(get("not a url".to_owned()), "x").await.is_err());
    }

    #[test]
    fn a_fault_is_told_in_one_line() {
        let answer = |body: &str| Answer {
            status: StatusCode::NOT_FOUND,
            headers: HeaderMap::new(),
            body: Bytes::from(body.to_owned()),
        };
        let fault = answer(
            r#"{"itemNotFound": {"code": 404, "message": "Volume x\ncould not be found."}}"#,
        );
        assert_eq!(fault.message(), "Volume x could not be found.");
        assert_eq!(answer("").message(), "404 Not Found");
        assert_eq!(answer("plain").message(), "plain");
    }
}

//! A connection to the object store that is kept: for scenarios that send thousands of requests.

use crate::curl::Curl;
use anyhow::{Context as _, Result};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One request may take so long; generous, for busy machines.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);

/// One connection, with a session's token.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
    base: String,
    token: String,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

impl Connection {
    pub(crate) fn open(host: SocketAddr, curl: &Curl) -> Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REQUEST_TIME_MAX))?;
        let (_, base) = curl.url.split_once("/v1/").context("no /v1/ in the URL")?;
        Ok(Self {
            stream: BufReader::new(stream),
            host,
            base: format!("/v1/{base}"),
            token: curl.token.clone(),
        })
    }

    /// Sends a request for a path below the account and reads its answer.
    pub(crate) fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let Self {
            host, base, token, ..
        } = self;
        let mut bytes = format!(
            "{method} {base}{path} HTTP/1.1\r\nHost: {host}\r\nX-Auth-Token: {token}\r\nContent-Length: {}\r\n",
            body.len()
        )
        .into_bytes();
        for (name, value) in headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(body);
        self.stream.get_mut().write_all(&bytes)?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("no status line")?.parse()?;
        let mut answer = Answer {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        };
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.split_once(':') else {
                break;
            };
            let name = name.to_ascii_lowercase();
            answer.headers.push((name, value.trim().to_owned()));
        }
        if method != "HEAD" {
            let length = answer.header("content-length").map(str::parse);
            answer.body = vec![0; length.transpose()?.unwrap_or(0)];
            self.stream.read_exact(&mut answer.body)?;
        }
        Ok(answer)
    }
}

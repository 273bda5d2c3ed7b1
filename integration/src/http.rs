//! A blocking HTTP/1.1 client that costs little: it shares the processors with what it measures.

use anyhow::{Context as _, Result, bail, ensure};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const ANSWER_TIME_MAX: Duration = Duration::from_secs(120);
const BUFFER_BYTES: usize = 256 << 10;
/// A body up to this goes out in one write with its head.
const JOINED_BYTES_MAX: usize = 64 << 10;

/// A kept connection.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer was received and not looked at yet.
    filled: std::ops::Range<usize>,
}

/// An answer, its body counted and thrown away.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body_bytes: u64,
    head: String,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, wanted: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    }
}

/// A request without its body.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    /// Further lines, each with its end.
    pub(crate) headers: &'a str,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("connecting to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        Ok(Self {
            address,
            stream,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0..0,
        })
    }

    /// Sends a request whose body is `piece` so many times, and takes its answer.
    pub(crate) fn request(
        &mut self,
        head: &Head<'_>,
        piece: &[u8],
        times: usize,
    ) -> Result<Answer> {
        self.send(head, piece, times)?;
        self.answer(head.method)
    }

    /// Sends a request, whose answer has to be taken before the next is sent.
    pub(crate) fn send(&mut self, head: &Head<'_>, piece: &[u8], times: usize) -> Result<()> {
        let length = piece.len() * times;
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\n{}",
            head.method, head.path, self.address, head.headers
        );
        if matches!(head.method, "PUT" | "POST") {
            text.push_str(&format!("Content-Length: {length}\r\n"));
        }
        text.push_str("\r\n");
        let mut first = text.into_bytes();
        if length <= JOINED_BYTES_MAX {
            first.extend(piece.repeat(times));
            self.stream.write_all(&first)?;
        } else {
            self.stream.write_all(&first)?;
            for _ in 0..times {
                self.stream.write_all(piece)?;
            }
        }
        Ok(())
    }

    /// Takes the answer of a request with this method.
    pub(crate) fn answer(&mut self, method: &str) -> Result<Answer> {
        let head = self.answer_head()?;
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .with_context(|| format!("no status in {head:?}"))?;
        let mut answer = Answer {
            status,
            body_bytes: 0,
            head,
        };
        ensure!(
            answer.header("transfer-encoding").is_none(),
            "a chunked answer, which this client does not read: {}",
            answer.head
        );
        if method == "HEAD" || status == 204 || status == 304 {
            return Ok(answer);
        }
        let length = answer.header("content-length").context("no length")?;
        answer.body_bytes = length.parse()?;
        self.skip(answer.body_bytes)?;
        Ok(answer)
    }

    /// The socket, to wait until an answer begins to come.
    pub(crate) const fn socket(&self) -> &TcpStream {
        &self.stream
    }

    fn answer_head(&mut self) -> Result<String> {
        loop {
            let received = &self.buffer[self.filled.clone()];
            if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&received[..end]).into_owned();
                self.filled.start += end + 4;
                return Ok(head);
            }
            if self.filled.start > 0 {
                self.buffer.copy_within(self.filled.clone(), 0);
                self.filled = 0..self.filled.len();
            }
            ensure!(self.filled.end < self.buffer.len(), "a head without end");
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<()> {
        let count = self.stream.read(&mut self.buffer[self.filled.end..])?;
        if count == 0 {
            bail!("{} has closed the connection", self.address);
        }
        self.filled.end += count;
        Ok(())
    }

    fn skip(&mut self, length: u64) -> Result<()> {
        let mut left = usize::try_from(length)?;
        loop {
            let here = left.min(self.filled.len());
            self.filled.start += here;
            left -= here;
            if left == 0 {
                return Ok(());
            }
            self.filled = 0..0;
            self.receive()?;
        }
    }
}

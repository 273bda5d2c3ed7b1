//! The parts of a `multipart/form-data` body (RFC 7578), read from the front as its bytes come.
//!
//! [`MultipartDecoder`] keeps at most what was put in last and one part's header block of [`HEAD_BYTES_MAX`]. However
//! the body is cut, the same parts come.
//!
//! ```text
//! --boundary CRLF  headers CRLF CRLF  bytes  CRLF --boundary CRLF … CRLF --boundary--
//! ```

/// Bytes of a boundary. RFC 2046 allows 70; some programs use more.
pub const BOUNDARY_BYTES_MAX: usize = 200;
/// Bytes of one part's header block.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Empty lines before the first boundary, which some send.
const LEADING_LINES_MAX: usize = 8;
/// Spaces behind a boundary.
const PADDING_BYTES_MAX: usize = 64;
const LINE_END: &[u8] = b"\r\n";

/// Why bytes are no multipart body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MultipartError {
    /// The content type names no boundary, or one that is too long.
    #[error("no boundary")]
    NoBoundary,
    /// The body does not begin with its boundary.
    #[error("invalid starting boundary")]
    Start,
    /// Something stands behind a boundary.
    #[error("invalid boundary")]
    Boundary,
    /// A part's header block is malformed, or longer than [`HEAD_BYTES_MAX`].
    #[error("the headers of a part are malformed")]
    Head,
    /// The body ends before its last boundary.
    #[error("the form breaks off")]
    Truncated,
}

/// What a part says about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHead {
    headers: Vec<(String, String)>,
}

impl PartHead {
    /// A header's value, by its lower-case name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether it is a part of a form, and what the form calls it.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        Disposition::parse(self.get("content-disposition").unwrap_or_default())
    }

    fn parse(block: &[u8]) -> Result<Self, MultipartError> {
        let text = match core::str::from_utf8(block) {
            Ok(text) => text.to_owned(),
            // Old browsers say names in the page's own coding.
            Err(_) => block.iter().map(|byte| char::from(*byte)).collect(),
        };
        let mut headers = Vec::new();
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            if line.contains(['\r', '\n', '\0']) {
                return Err(MultipartError::Head);
            }
            let (name, value) = line.split_once(':').ok_or(MultipartError::Head)?;
            headers.push((
                name.trim_end().to_ascii_lowercase(),
                value.trim().to_owned(),
            ));
        }
        Ok(Self { headers })
    }
}

/// A header value with attributes: `form-data; name="file"; filename="a.txt"`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disposition {
    /// What stands first, in lower case.
    pub kind: String,
    attributes: Vec<(String, String)>,
}

impl Disposition {
    /// Reads a value. What cannot be read ends it.
    #[must_use]
    pub fn parse(value: &str) -> Self {
        let (kind, mut rest) = value.split_once(';').unwrap_or((value, ""));
        let mut attributes = Vec::new();
        loop {
            rest = rest.trim_start_matches([' ', '\t', ';']);
            let Some((name, after)) = rest.split_once('=') else {
                break;
            };
            let (text, left) = match after.strip_prefix('"') {
                Some(quoted) => {
                    // Browsers write a quote in a name as %22, or as it is: only one at the end, or before the next
                    // attribute, closes.
                    let ends = quoted.match_indices('"').map(|(at, _)| at);
                    let mut ends = ends.filter(|at| {
                        let behind = quoted.get(at + 1..).unwrap_or_default();
                        behind.trim_start().is_empty() || behind.trim_start().starts_with(';')
                    });
                    match ends.next() {
                        Some(end) => (
                            quoted.get(..end).unwrap_or_default(),
                            quoted.get(end + 1..).unwrap_or_default(),
                        ),
                        None => break,
                    }
                }
                None => after.split_once(';').unwrap_or((after, "")),
            };
            attributes.push((name.trim().to_ascii_lowercase(), text.trim_end().to_owned()));
            rest = left;
        }
        Self {
            kind: kind.trim().to_ascii_lowercase(),
            attributes,
        }
    }

    /// An attribute, by its lower-case name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The boundary of a `Content-Type`; `None` when it is not `multipart/form-data` with one.
#[must_use]
pub fn boundary(content_type: &str) -> Option<String> {
    let kind = Disposition::parse(content_type);
    let boundary = kind.get("boundary").unwrap_or_default();
    (kind.kind == "multipart/form-data" && !boundary.is_empty()).then(|| boundary.to_owned())
}

/// What the next bytes of a body are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MultipartEvent {
    /// A part begins.
    Part(PartHead),
    /// Bytes of it.
    Bytes(Vec<u8>),
    /// It is over.
    PartEnd,
    /// So is the body; what stands behind means nothing.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first boundary, after so many empty lines.
    Start {
        lines: usize,
    },
    /// Right behind a boundary.
    Behind,
    Head,
    Bytes,
    Ended,
}

/// Reads a body from the front.
#[derive(Debug)]
pub struct MultipartDecoder {
    /// The end of a line, two dashes and the boundary.
    delimiter: Vec<u8>,
    held: Vec<u8>,
    state: State,
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl MultipartDecoder {
    /// A decoder of a body with this boundary.
    ///
    /// # Errors
    /// When the boundary is empty or too long.
    pub fn new(boundary: &str) -> Result<Self, MultipartError> {
        if boundary.is_empty() || boundary.len() > BOUNDARY_BYTES_MAX {
            return Err(MultipartError::NoBoundary);
        }
        Ok(Self {
            delimiter: [LINE_END, b"--", boundary.as_bytes()].concat(),
            held: Vec::new(),
            state: State::Start { lines: 0 },
        })
    }

    /// Takes the next bytes. Events are asked for until there are none before more are put in.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.state != State::Ended {
            self.held.extend_from_slice(bytes);
        }
    }

    /// Takes this many bytes off the front.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.held.split_off(count.min(self.held.len()));
        core::mem::replace(&mut self.held, rest)
    }

    /// The next event; `None` when it takes more bytes to tell.
    ///
    /// # Errors
    /// When the bytes are no multipart body. The decoder cannot go on then.
    pub fn read(&mut self) -> Result<Option<MultipartEvent>, MultipartError> {
        loop {
            let moved = match self.state {
                State::Start { lines } => self.start(lines)?,
                State::Behind => self.behind()?,
                State::Head => match self.head()? {
                    Some(head) => return Ok(Some(MultipartEvent::Part(head))),
                    None => false,
                },
                State::Bytes => return Ok(self.bytes()),
                State::Ended => return Ok(Some(MultipartEvent::End)),
            };
            if !moved {
                return Ok(None);
            }
        }
    }

    /// Says that no more bytes come.
    ///
    /// # Errors
    /// When the body is not over yet.
    pub fn finish(&self) -> Result<(), MultipartError> {
        match self.state {
            State::Ended => Ok(()),
            State::Start { .. } => Err(MultipartError::Start),
            State::Behind | State::Head | State::Bytes => Err(MultipartError::Truncated),
        }
    }

    fn start(&mut self, lines: usize) -> Result<bool, MultipartError> {
        // What is held must begin as an empty line or the boundary does.
        let boundary = self.delimiter.get(LINE_END.len()..).unwrap_or_default();
        if self.held.starts_with(boundary) {
            let length = boundary.len();
            self.take(length);
            self.state = State::Behind;
            return Ok(true);
        }
        if self.held.starts_with(LINE_END) && lines < LEADING_LINES_MAX {
            self.take(LINE_END.len());
            self.state = State::Start { lines: lines + 1 };
            return Ok(true);
        }
        let may_be_line = LINE_END.starts_with(&self.held) && lines < LEADING_LINES_MAX;
        if may_be_line || boundary.starts_with(&self.held) {
            Ok(false)
        } else {
            Err(MultipartError::Start)
        }
    }

    fn behind(&mut self) -> Result<bool, MultipartError> {
        if self.held.starts_with(b"--") {
            self.held.clear();
            self.state = State::Ended;
            return Ok(true);
        }
        let is_padding = |byte: &u8| matches!(byte, b' ' | b'\t');
        let padding = self.held.iter().take_while(|byte| is_padding(byte)).count();
        if padding > PADDING_BYTES_MAX {
            return Err(MultipartError::Boundary);
        }
        let rest = self.held.get(padding..).unwrap_or_default();
        if rest.starts_with(LINE_END) {
            // The line's end stays: a part without headers has only this and the next.
            self.take(padding);
            self.state = State::Head;
            return Ok(true);
        }
        if LINE_END.starts_with(rest) || (padding == 0 && b"--".starts_with(rest)) {
            Ok(false)
        } else {
            Err(MultipartError::Boundary)
        }
    }

    fn head(&mut self) -> Result<Option<PartHead>, MultipartError> {
        let within = self.held.len().min(HEAD_BYTES_MAX);
        let block = self.held.get(..within).unwrap_or_default();
        let Some(length) = find(block, b"\r\n\r\n") else {
            return if within == HEAD_BYTES_MAX {
                Err(MultipartError::Head)
            } else {
                Ok(None)
            };
        };
        let block = self.take(length + 2 * LINE_END.len());
        if find(&block, &self.delimiter).is_some() {
            return Err(MultipartError::Head);
        }
        self.state = State::Bytes;
        PartHead::parse(block.get(..length).unwrap_or_default()).map(Some)
    }

    fn bytes(&mut self) -> Option<MultipartEvent> {
        if let Some(at) = find(&self.held, &self.delimiter) {
            if at > 0 {
                return Some(MultipartEvent::Bytes(self.take(at)));
            }
            let length = self.delimiter.len();
            self.take(length);
            self.state = State::Behind;
            return Some(MultipartEvent::PartEnd);
        }
        // The end may be the beginning of a delimiter.
        let longest = self.held.len().min(self.delimiter.len() - 1);
        let kept = (1..=longest).rev().find(|kept| {
            let tail = self.held.get(self.held.len() - kept..).unwrap_or_default();
            self.delimiter.starts_with(tail)
        });
        let free = self.held.len() - kept.unwrap_or(0);
        (free > 0).then(|| MultipartEvent::Bytes(self.take(free)))
    }
}

#[cfg(test)]
mod tests;

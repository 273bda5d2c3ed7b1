//! Bodies made of pieces: parts of objects one after another, with texts between them. For large objects and for
//! several ranges in one answer.
//!
//! Pieces are opened one at a time, when the reader comes to them. A manifest within a manifest is unfolded when it is
//! reached, so that memory stays bounded by the depth.

use crate::fault::{Fault, set};
use crate::object::reading::piped;
use crate::proxy::Asking;
use crate::subrequest::{self, Trusted, bare};
use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, Response, empty, full};
use onggi_object_model::precondition::http_date_seconds;
use onggi_object_model::range::RangeHeader;
use onggi_object_model::{ByteRange, ObjectPath, Selection};
use std::collections::VecDeque;
use tokio::sync::mpsc;

/// Manifests within manifests within a manifest.
pub(crate) const DEPTH_MAX: usize = 10;

/// Through which of the middleware a piece is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Through {
    /// As it is stored.
    Nothing,
    /// Links are followed.
    Links,
    /// Dynamic large objects are put together as well.
    DynamicLarge,
}

/// Bytes `start..end` of an object.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) path: ObjectPath,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The whole object's length, when it is known: all of it is then asked for without a range.
    pub(crate) whole: Option<u64>,
    /// What the object's tag must be.
    pub(crate) etag: Option<String>,
    pub(crate) through: Through,
}

/// One piece of a body.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Bytes(Bytes),
    Part(Part),
    /// Bytes of what a manifest describes.
    Manifest {
        part: Part,
        depth: usize,
    },
}

impl Piece {
    pub(crate) fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Part(part) | Self::Manifest { part, .. } => part.end.saturating_sub(part.start),
        }
    }

    /// Bytes `from..to` of this piece.
    fn cut(&self, from: u64, to: u64) -> Self {
        let narrowed = |part: &Part| Part {
            start: part.start.saturating_add(from),
            end: part.start.saturating_add(to),
            ..part.clone()
        };
        match self {
            Self::Bytes(bytes) => {
                let index = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Self::Bytes(bytes.slice(index(from)..index(to).max(index(from))))
            }
            Self::Part(part) => Self::Part(narrowed(part)),
            Self::Manifest { part, depth } => Self::Manifest {
                part: narrowed(part),
                depth: *depth,
            },
        }
    }
}

/// Bytes `start..end` of what the pieces make.
pub(crate) fn cut(pieces: &[Piece], start: u64, end: u64) -> Vec<Piece> {
    let mut at = 0u64;
    let mut chosen = Vec::new();
    for piece in pieces {
        let next = at.saturating_add(piece.length());
        let (from, to) = (start.max(at), end.min(next));
        if from < to {
            chosen.push(piece.cut(from - at, to - at));
        }
        at = next;
    }
    chosen
}

/// A body under way.
struct Assembly {
    asking: Asking,
    /// What every request of it begins with.
    head: Head,
    queue: VecDeque<Piece>,
    /// Opened before the answer began.
    ready: VecDeque<(Body, u64)>,
}

impl Assembly {
    /// Opens what comes first, so that a missing first object is an answer and no broken body.
    async fn begin(&mut self) -> Result<(), Fault> {
        while let Some(piece) = self.queue.front() {
            let is_text = matches!(piece, Piece::Bytes(_));
            let Some(opened) = self.open_next().await? else {
                return Ok(());
            };
            self.ready.push_back(opened);
            if !is_text {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn open_next(&mut self) -> Result<Option<(Body, u64)>, Fault> {
        while let Some(piece) = self.queue.pop_front() {
            let length = piece.length();
            match piece {
                _ if length == 0 => {}
                Piece::Bytes(bytes) => return Ok(Some((full(bytes), length))),
                Piece::Part(part) => return Ok(Some((self.open(&part).await?, length))),
                Piece::Manifest { part, depth } => {
                    let (asking, head) = (self.asking.clone(), self.head.clone());
                    let pieces = asking.submanifest(&head, &part, depth).await?;
                    for piece in cut(&pieces, part.start, part.end).into_iter().rev() {
                        self.queue.push_front(piece);
                    }
                }
            }
        }
        Ok(None)
    }

    async fn open(&mut self, part: &Part) -> Result<Body, Fault> {
        let mut head = bare(&self.head, Method::GET);
        if part.whole != Some(part.end) || part.start != 0 {
            let range = format!("bytes={}-{}", part.start, part.end.saturating_sub(1));
            set(&mut head.headers, header::RANGE, &range);
        }
        if let Some(etag) = &part.etag {
            set(&mut head.headers, header::IF_MATCH, &format!("\"{etag}\""));
        }
        if part.through == Through::Nothing
            && let Some(trusted) = self.head.extensions.get::<Trusted>()
        {
            // Several ranges of one stored object, which was allowed as a whole.
            head.extensions.insert(*trusted);
        }
        let asking = self.asking.clone();
        let path = part.path.clone();
        let response = match part.through {
            Through::Nothing => asking.stored(path, head, empty()).await,
            Through::Links => asking.versioned(path, head, empty()).await,
            Through::DynamicLarge => asking.dynamic_large(path, head, empty()).await,
        };
        let gone = || Fault::Conflict(String::new());
        let response = match response {
            Ok(response) if response.status().is_success() => response,
            Ok(_) | Err(Fault::NotFound | Fault::Forbidden | Fault::Unauthorized { .. }) => {
                return Err(gone());
            }
            Err(fault) => return Err(fault),
        };
        let length = subrequest::text(response.headers(), "content-length");
        let length = length.and_then(|length| length.parse::<u64>().ok());
        if length != Some(part.end - part.start) {
            return Err(gone());
        }
        Ok(response.into_body())
    }

    async fn pump(mut self, sender: mpsc::Sender<Result<Bytes, Fault>>) {
        loop {
            let next = match self.ready.pop_front() {
                Some(ready) => Ok(Some(ready)),
                None => self.open_next().await,
            };
            let sent = match next {
                Ok(Some((body, length))) => send_all(body, length, &sender).await,
                Ok(None) => return,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = sent {
                tracing::info!(%fault, "a body of several parts broke off");
                // The reader may be gone already.
                drop(sender.send(Err(fault)).await);
                return;
            }
        }
    }
}

async fn send_all(
    mut body: Body,
    length: u64,
    sender: &mpsc::Sender<Result<Bytes, Fault>>,
) -> Result<(), Fault> {
    let mut left = length;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_broken| Fault::Unavailable)?;
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        left = left.checked_sub(count).ok_or(Fault::Unavailable)?;
        sender
            .send(Ok(bytes))
            .await
            .map_err(|_gone| Fault::ClientDisconnect)?;
    }
    if left == 0 {
        Ok(())
    } else {
        Err(Fault::Unavailable)
    }
}

/// The body the pieces make.
pub(crate) async fn assemble(
    asking: &Asking,
    head: &Head,
    pieces: Vec<Piece>,
) -> Result<Body, Fault> {
    let length = pieces.iter().map(Piece::length).sum();
    let mut assembly = Assembly {
        asking: asking.clone(),
        head: head.clone(),
        queue: pieces.into(),
        ready: VecDeque::new(),
    };
    assembly.begin().await?;
    let (body, sender) = piped(length);
    tokio::spawn(assembly.pump(sender));
    Ok(body)
}

/// Whether a request's range still counts: without `If-Range`, or when that names what is there.
pub(crate) fn if_range_holds(request: &HeaderMap, there: &HeaderMap) -> bool {
    let Some(condition) = subrequest::text(request, "if-range") else {
        return true;
    };
    let bare = |tag: &str| tag.trim().trim_matches('"').to_owned();
    match http_date_seconds(condition) {
        Some(since) => {
            subrequest::text(there, "last-modified").and_then(http_date_seconds) == Some(since)
        }
        None => subrequest::text(there, "etag").map(bare) == Some(bare(condition)),
    }
}

/// Answers a read of what pieces make, or of the range that is asked for. `base` has the headers of the whole.
pub(crate) async fn respond(
    asking: &Asking,
    head: &Head,
    mut base: Response,
    pieces: Vec<Piece>,
) -> Result<Response, Fault> {
    let length: u64 = pieces.iter().map(Piece::length).sum();
    base.headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    *base.status_mut() = StatusCode::OK;
    *base.body_mut() = empty();
    if head.method == Method::HEAD {
        return Ok(base);
    }
    let range = subrequest::text(&head.headers, "range")
        .filter(|_| if_range_holds(&head.headers, base.headers()))
        .and_then(RangeHeader::parse);
    match range.map_or(Selection::Whole, |range| range.select(length)) {
        Selection::Whole => *base.body_mut() = assemble(asking, head, pieces).await?,
        Selection::One(range) => {
            partial(&mut base, range, length);
            let pieces = cut(&pieces, range.start(), range.end());
            *base.body_mut() = assemble(asking, head, pieces).await?;
        }
        Selection::Many(ranges) => {
            let pieces = multipart(asking, &mut base, &pieces, &ranges);
            *base.body_mut() = assemble(asking, head, pieces).await?;
        }
        Selection::Unsatisfiable => unsatisfiable(&mut base, length),
    }
    Ok(base)
}

/// Makes a whole thing's answer that of one range.
pub(crate) fn partial(response: &mut Response, range: ByteRange, length: u64) {
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(range.len()));
    set(headers, header::CONTENT_RANGE, &range.content_range(length));
}

/// Makes a whole thing's answer that of a range outside of it.
pub(crate) fn unsatisfiable(response: &mut Response, length: u64) {
    Fault::RangeNotSatisfiable { length }.put_in(response, false);
}

/// The pieces of a `multipart/byteranges` body; sets the headers that announce it.
fn multipart(
    asking: &Asking,
    response: &mut Response,
    pieces: &[Piece],
    ranges: &[ByteRange],
) -> Vec<Piece> {
    let length: u64 = pieces.iter().map(Piece::length).sum();
    let boundary = asking.random_hex();
    let headers = response.headers_mut();
    let kind = subrequest::text(headers, "content-type").unwrap_or_default();
    let kind = kind.to_owned();
    let mut made = Vec::new();
    for range in ranges {
        let content_range = range.content_range(length);
        let part = format!(
            "--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {content_range}\r\n\r\n"
        );
        made.push(Piece::Bytes(part.into()));
        made.extend(cut(pieces, range.start(), range.end()));
        made.push(Piece::Bytes(Bytes::from_static(b"\r\n")));
    }
    made.push(Piece::Bytes(format!("--{boundary}--").into()));
    let total: u64 = made.iter().map(Piece::length).sum();
    set(
        headers,
        header::CONTENT_TYPE,
        &format!("multipart/byteranges;boundary={boundary}"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(total));
    headers.remove(HeaderName::from_static("content-range"));
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(start: u64, end: u64) -> Piece {
        Piece::Part(Part {
            path: ObjectPath {
                account: "AUTH_a".parse().unwrap(),
                container: "c".parse().unwrap(),
                object: "o".parse().unwrap(),
            },
            start,
            end,
            whole: None,
            etag: None,
            through: Through::Nothing,
        })
    }

    fn shown(pieces: &[Piece]) -> Vec<String> {
        let show = |piece: &Piece| match piece {
            Piece::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Piece::Part(part) | Piece::Manifest { part, .. } => {
                format!("{}..{}", part.start, part.end)
            }
        };
        pieces.iter().map(show).collect()
    }

    #[test]
    fn a_cut_takes_what_it_touches_of_each_piece() {
        let pieces = [
            part(0, 10),
            Piece::Bytes(Bytes::from_static(b"abc")),
            part(5, 15),
        ];
        assert_eq!(shown(&cut(&pieces, 0, 23)), ["0..10", "abc", "5..15"]);
        assert_eq!(shown(&cut(&pieces, 9, 12)), ["9..10", "ab"]);
        assert_eq!(shown(&cut(&pieces, 13, 14)), ["5..6"]);
        assert_eq!(shown(&cut(&pieces, 23, 40)), Vec::<String>::new());
    }
}

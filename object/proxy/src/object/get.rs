//! GET and HEAD of objects: the newest version a read quorum knows, and its bytes from whoever has them whole.

use super::text;
use crate::account::is_found;
use crate::cluster::Member;
use crate::driver::{self, Asked};
use crate::fault::{Fault, set, set_named};
use crate::proxy::Core;
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use http::request::Parts as Head;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, BodyError, Response, empty, full};
use onggi_common_units::Timestamp;
use onggi_object_client::{GetAnswer, Nodes};
use onggi_object_model::precondition::last_modified;
use onggi_object_model::{ByteRange, ObjectInfo, ObjectPath, PolicyIndex, Precondition, Verdict};
use onggi_object_replica::{Answer, GetStep, merge};
use onggi_object_wire::Place;
use onggi_object_wire::object::{Get, Wanted, Which};
use tokio::sync::mpsc;

const TIMESTAMP: HeaderName = HeaderName::from_static("x-timestamp");
/// Pieces of a body on their way to a client.
const PIECES_MAX: usize = 4;
/// A body this short is read whole before it is answered: a node that breaks off is then no one's business.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// How long a node may pause within a body before another one goes on.
const PIECE_WITHIN: Duration = Duration::from_secs(10);

/// What one node said, and whether it was asked for bytes as well.
struct Said {
    has_body: bool,
    answer: GetAnswer,
}

/// An object that is there, and its bytes.
pub(super) struct Opened {
    pub(super) info: ObjectInfo,
    /// The part that was asked for; `None` for the whole.
    pub(super) range: Option<ByteRange>,
    pub(super) body: Body,
}

/// An object whose row is known and whose bytes are not open yet.
struct Located {
    info: ObjectInfo,
    /// When the bytes were put that are to be read.
    version: Timestamp,
    range: Option<ByteRange>,
    /// A body that was opened along the way.
    open: Option<onggi_object_client::Body>,
    /// Where else the same bytes may be, best first.
    sources: Vec<Place>,
}

fn classify(said: &Said) -> Answer {
    match &said.answer {
        GetAnswer::Found { found, .. } | GetAnswer::Unsatisfiable { found } => Answer::Found {
            data: found.info.data_timestamp,
            healthy: true,
        },
        GetAnswer::Damaged { found } => Answer::Found {
            data: found.info.data_timestamp,
            healthy: false,
        },
        GetAnswer::Missing { tombstone } => Answer::Missing {
            tombstone: *tombstone,
        },
        GetAnswer::OtherVersion | GetAnswer::Failed { .. } => Answer::Failed,
    }
}

fn info_of(answer: &GetAnswer) -> Option<&ObjectInfo> {
    match answer {
        GetAnswer::Found { found, .. }
        | GetAnswer::Unsatisfiable { found }
        | GetAnswer::Damaged { found } => Some(&found.info),
        GetAnswer::Missing { .. } | GetAnswer::OtherVersion | GetAnswer::Failed { .. } => None,
    }
}

/// What all answers together say; 404 when it has expired.
fn merged(asked: &Asked<Said>, now: Timestamp) -> Result<ObjectInfo, Fault> {
    let infos = asked
        .answers
        .iter()
        .filter_map(|(_, said)| info_of(&said.answer))
        .cloned();
    let info = infos.reduce(|mut sum, info| {
        merge::object_info(&mut sum, &info);
        sum
    });
    let info = info.ok_or(Fault::NotFound)?;
    let expires = info
        .metadata
        .get("x-delete-at")
        .and_then(|text| text.parse::<u64>().ok());
    if expires.is_some_and(|at| at <= now.to_utc().seconds()) {
        return Err(Fault::NotFound);
    }
    Ok(info)
}

impl Core {
    async fn ask(
        &self,
        base: &Get,
        path: &ObjectPath,
        wants_body: bool,
    ) -> Result<Asked<Said>, Fault> {
        let replicas = self
            .cluster
            .object(base.which.policy, path)
            .ok_or(Fault::Unavailable)?;
        let nodes = self.cluster.nodes.clone();
        let send = |place: Place, first: bool| {
            let (nodes, get) = (nodes.clone(), base.clone());
            let has_body = first && wants_body;
            driver::boxed(async move {
                let answer = if has_body {
                    nodes.get_object(&place, &get).await?
                } else {
                    nodes.head_object(&place, &get).await?
                };
                Ok(Said { has_body, answer })
            })
        };
        let asked = self.cluster.read(&replicas, send, classify).await;
        if is_found(&asked)? {
            Ok(asked)
        } else {
            Err(Fault::NotFound)
        }
    }

    /// What is known about an object.
    pub(crate) async fn head(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
    ) -> Result<ObjectInfo, Fault> {
        let get = Get {
            which: Which::whole(policy, path.clone()),
            range: None,
            version: None,
        };
        let asked = self.ask(&get, path, false).await?;
        let info = merged(&asked, self.cluster.clock.now())?;
        self.cluster.clock.observe(info.timestamp());
        Ok(info)
    }

    /// Finds an object and opens what is wanted of it.
    async fn locate(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        range: Option<String>,
    ) -> Result<Located, Fault> {
        let which = Which::whole(policy, path.clone());
        let get = Get {
            which,
            range: range.map(Wanted::Header),
            version: None,
        };
        let asked = self.ask(&get, path, true).await?;
        let info = merged(&asked, self.cluster.clock.now())?;
        let GetStep::Read { data: version } = asked.step else {
            return Err(Fault::NotFound);
        };
        let replicas = self
            .cluster
            .object(policy, path)
            .ok_or(Fault::Unavailable)?;
        let holders: Vec<_> = asked.machine.holders(version).collect();
        let others: Vec<_> = asked.machine.others().collect();
        let mut open = None;
        let (mut ranges, mut unsatisfiable, mut opened_at) = (None, false, None);
        for (member, said) in asked.answers {
            if info_of(&said.answer).is_none_or(|info| info.data_timestamp != version) {
                continue;
            }
            match said.answer {
                GetAnswer::Found { found, body } => {
                    ranges.get_or_insert(found.ranges);
                    if said.has_body {
                        (open, opened_at) = (Some(body), Some(member.id));
                    }
                }
                GetAnswer::Unsatisfiable { .. } => unsatisfiable = true,
                GetAnswer::Damaged { .. }
                | GetAnswer::Missing { .. }
                | GetAnswer::OtherVersion
                | GetAnswer::Failed { .. } => {}
            }
        }
        if unsatisfiable {
            return Err(Fault::RangeNotSatisfiable {
                length: info.length,
            });
        }
        let range = ranges.and_then(|ranges| ranges.first().copied());
        let others = others.into_iter().filter(|id| !holders.contains(id));
        let known = holders
            .iter()
            .copied()
            .filter(|id| Some(*id) != opened_at)
            .chain(others);
        let known: Vec<Member> = known.filter_map(|id| replicas.find(id)).collect();
        let mut sources: Vec<Place> = known.into_iter().map(|member| member.place).collect();
        sources.extend(replicas.handoffs().into_iter().map(|member| member.place));
        Ok(Located {
            info,
            version,
            range,
            open,
            sources,
        })
    }

    /// Opens an object: the bytes come from one node after another if need be.
    pub(super) async fn open(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        range: Option<String>,
    ) -> Result<Opened, Fault> {
        let located = self.locate(policy, path, range).await?;
        let Located {
            info,
            version,
            range,
            open,
            sources,
        } = located;
        let (start, end) = range.map_or((0, info.length), |range| (range.start(), range.end()));
        let mut reading = Reading {
            nodes: self.cluster.nodes.clone(),
            which: Which::whole(policy, path.clone()),
            version,
            position: start,
            end,
            current: open,
            sources: sources.into_iter(),
        };
        if start >= end {
            return Ok(Opened {
                info,
                range,
                body: empty(),
            });
        }
        if end - start <= WHOLE_BYTES_MAX {
            let mut whole = Vec::with_capacity(usize::try_from(end - start).unwrap_or(0));
            while let Some(piece) = reading.next().await? {
                whole.extend_from_slice(&piece);
            }
            return Ok(Opened {
                info,
                range,
                body: full(whole),
            });
        }
        // The first piece decides whether the answer is 200 or 503.
        let first = reading.next().await?.ok_or(Fault::Unavailable)?;
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        tokio::spawn(reading.pump(first, sender));
        let body = Pieces {
            pieces,
            left: end - start,
        }
        .boxed_unsync();
        Ok(Opened { info, range, body })
    }

    pub(super) async fn get_object(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        request: &Head,
    ) -> Result<Response, Fault> {
        let headers = &&request.headers;
        let pairs = headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
        let condition = Precondition::from_headers(pairs);
        if request.method == Method::HEAD {
            let info = self.head(policy, path).await?;
            if let Some(response) = refused(&condition, &info)? {
                return Ok(response);
            }
            let mut response = object_response(StatusCode::OK, &info);
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, HeaderValue::from(info.length));
            return Ok(response);
        }
        if !condition.is_empty() {
            // Judged before any byte is asked for.
            let info = self.head(policy, path).await?;
            if let Some(response) = refused(&condition, &info)? {
                return Ok(response);
            }
        }
        // One range is answered as such; of several, RFC 9110 §14.2 lets us send the whole. With If-Range the same.
        let range = text(headers, "range").filter(|range| !range.contains(','));
        let range = range
            .filter(|_| !headers.contains_key(header::IF_RANGE))
            .map(str::to_owned);
        let Opened { info, range, body } = self.open(policy, path, range).await?;
        let status = if range.is_some() {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        let mut response = object_response(status, &info);
        let length = range.map_or(info.length, ByteRange::len);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        if let Some(range) = range {
            set(
                response.headers_mut(),
                header::CONTENT_RANGE,
                &range.content_range(info.length),
            );
        }
        *response.body_mut() = body;
        Ok(response)
    }
}

/// 304 as an answer, 412 as a fault, `None` to go on.
fn refused(condition: &Precondition, info: &ObjectInfo) -> Result<Option<Response>, Fault> {
    match condition.judge_read(&info.etag.to_string(), info.timestamp()) {
        Verdict::Proceed => Ok(None),
        Verdict::NotModified => Ok(Some(object_response(StatusCode::NOT_MODIFIED, info))),
        Verdict::Failed => Err(Fault::PreconditionFailed(
            "A precondition for this request was not met".to_owned(),
        )),
    }
}

fn object_response(status: StatusCode, info: &ObjectInfo) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in info.metadata.iter() {
        set_named(headers, name, value);
    }
    set(headers, header::CONTENT_TYPE, &info.content_type);
    set(headers, header::ETAG, &info.etag.to_string());
    set(
        headers,
        header::LAST_MODIFIED,
        &last_modified(info.timestamp()),
    );
    set(headers, TIMESTAMP, &info.timestamp().normal());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

/// Bytes of one version, from one node after another.
struct Reading {
    nodes: Nodes,
    which: Which,
    version: Timestamp,
    position: u64,
    end: u64,
    current: Option<onggi_object_client::Body>,
    sources: std::vec::IntoIter<Place>,
}

impl Reading {
    /// The next bytes; `None` at the end. 503 when nobody has them any more.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        while self.position < self.end {
            if self.current.is_none() {
                self.open_next().await?;
            }
            let Some(body) = &mut self.current else {
                continue;
            };
            let frame = tokio::time::timeout(PIECE_WITHIN, body.frame()).await;
            let bytes = match frame {
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
                Ok(Some(Err(error))) => {
                    tracing::info!(%error, "a storage node broke off in mid-body; another one goes on");
                    self.current = None;
                    continue;
                }
                // Ended early, or stalled.
                Ok(None) | Err(_) => {
                    self.current = None;
                    continue;
                }
            };
            if bytes.is_empty() {
                continue;
            }
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if length > self.end - self.position {
                // More than was asked for is not what was asked for.
                self.current = None;
                continue;
            }
            self.position += length;
            return Ok(Some(bytes));
        }
        Ok(None)
    }

    async fn open_next(&mut self) -> Result<(), Fault> {
        let range = ByteRange::new(self.position, self.end);
        let get = Get {
            which: self.which.clone(),
            range: range.map(Wanted::Exact),
            version: Some(self.version),
        };
        for place in self.sources.by_ref() {
            match self.nodes.get_object(&place, &get).await {
                Ok(GetAnswer::Found { body, .. }) => {
                    self.current = Some(body);
                    return Ok(());
                }
                Ok(answer) => tracing::debug!(device = %place, ?answer, "cannot go on from here"),
                Err(error) => tracing::debug!(device = %place, %error, "cannot go on from here"),
            }
        }
        Err(Fault::Unavailable)
    }

    /// Sends everything on until the end, or until nobody listens.
    async fn pump(mut self, first: Bytes, sender: mpsc::Sender<Result<Bytes, Fault>>) {
        let mut piece = Ok(Some(first));
        loop {
            let (message, is_last) = match piece {
                Ok(Some(bytes)) => (Ok(bytes), false),
                Ok(None) => return,
                Err(fault) => (Err(fault), true),
            };
            if sender.send(message).await.is_err() || is_last {
                return;
            }
            piece = self.next().await;
        }
    }
}

/// A body whose pieces another task finds.
struct Pieces {
    pieces: mpsc::Receiver<Result<Bytes, Fault>>,
    left: u64,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.pieces.poll_recv(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Ok(bytes))) => {
                self.left = self
                    .left
                    .saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            // The connection breaks: the client must not take part of a body for the whole.
            Poll::Ready(Some(Err(fault))) => Poll::Ready(Some(Err(Box::new(fault)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

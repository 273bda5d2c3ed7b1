//! PUT of objects: bytes in, hashes beside, N copies out.

use super::arriving::{Arrived, Arriving, Beginning};
use super::change::{LEAD_MAX, is_settled, stamps};
use super::conditional::Change;
use super::stream::Fan;
use super::write_reply;
use crate::driver;
use crate::fault::{Fault, set};
use crate::proxy::Core;
use crate::subrequest::{Stamped, is_true, text};
use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use onggi_common_service::http::{Body, Response, empty, full};
use onggi_common_units::Timestamp;
use onggi_object_client::WriteAnswer;
use onggi_object_model::limits::OBJECT_BYTES_MAX;
use onggi_object_model::precondition::last_modified;
use onggi_object_model::{Metadata, ObjectPath, ObjectRecord, PolicyIndex};
use onggi_object_replica::{Consistency, Failure, Outcome};
use onggi_object_wire::Place;
use onggi_object_wire::object::{Commit, Put, Which};
use std::sync::Arc;

/// The last second an object can expire at.
const DELETE_AT_MAX: u64 = 9_999_999_999;

/// What a PUT is about, apart from its bytes.
#[derive(Debug, Clone)]
pub(super) struct NewObject {
    pub(super) policy: PolicyIndex,
    pub(super) path: ObjectPath,
    pub(super) content_type: String,
    pub(super) metadata: Metadata,
    /// What the system keeps with the bytes.
    pub(super) system: Metadata,
    /// What the client says the MD5 is.
    pub(super) etag: Option<String>,
    /// How many bytes the client says there are.
    pub(super) length: Option<u64>,
    /// When it was put in another cluster; `None` for now.
    pub(super) stamped: Option<Timestamp>,
    /// What a conditional PUT expects, and its token.
    pub(super) commit: Option<Commit>,
}

/// An answer that says nothing but its status; Swift's 202 has a page.
pub(crate) fn plain(status: StatusCode) -> Response {
    const ACCEPTED: &str =
        "<html><h1>Accepted</h1><p>The request is accepted for processing.</p></html>";
    let is_accepted = status == StatusCode::ACCEPTED;
    let mut response = Response::new(if is_accepted { full(ACCEPTED) } else { empty() });
    if is_accepted {
        let length = HeaderValue::from(ACCEPTED.len());
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
    }
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/html; charset=UTF-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `X-Delete-After` becomes `X-Delete-At`; a moment that is over is refused.
pub(crate) fn expiry(
    headers: &HeaderMap,
    now: Timestamp,
    metadata: &mut Metadata,
) -> Result<(), Fault> {
    let number = |name: &str, text: &str| {
        // Further than ten digits reach is never.
        let value = is_number(text).then(|| text.parse().unwrap_or(u64::MAX).min(DELETE_AT_MAX));
        value.ok_or_else(|| Fault::BadRequest(format!("Non-integer {name}")))
    };
    let seconds = now.to_utc().seconds();
    if let Some(after) = text(headers, "x-delete-after").filter(|text| !text.is_empty()) {
        // Swift reads a sign, and then finds the moment over.
        let is_past = after.strip_prefix('-').is_some_and(is_number);
        let after = number("X-Delete-After", after.strip_prefix('+').unwrap_or(after));
        if is_past || after == Ok(0) {
            return Err(Fault::BadRequest("X-Delete-After in past".to_owned()));
        }
        let after = after?;
        let at = seconds.saturating_add(after).min(DELETE_AT_MAX);
        metadata.insert("x-delete-at", at.to_string());
    }
    let Some(at) = metadata.get("x-delete-at") else {
        return Ok(());
    };
    let is_past = at.strip_prefix('-').is_some_and(is_number);
    let at = if is_past {
        0
    } else {
        number("X-Delete-At", at.strip_prefix('+').unwrap_or(at))?
    };
    metadata.insert("x-delete-at", at.to_string());
    if at <= seconds {
        return Err(Fault::BadRequest("X-Delete-At in past".to_owned()));
    }
    Ok(())
}

/// What bytes are, by the end of their name: for the clients that do not say.
pub(crate) fn guess(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "css" => "text/css",
        "csv" => "text/csv",
        "gif" => "image/gif",
        "gz" => "application/gzip",
        "htm" | "html" => "text/html",
        "jpeg" | "jpg" => "image/jpeg",
        "js" => "application/javascript",
        "json" => "application/json",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        "ogg" => "audio/ogg",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "svg" => "image/svg+xml",
        "tar" => "application/x-tar",
        "txt" => "text/plain",
        "wav" => "audio/x-wav",
        "webm" => "video/webm",
        "webp" => "image/webp",
        "xml" => "text/xml",
        "zip" => "application/zip",
        _ => "application/octet-stream",
    }
}

impl Core {
    pub(super) async fn put_object(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        request: &Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let length = announced_length(&request.headers)?;
        let mut new = self.new_object(policy, path, &request.headers, length)?;
        let which = Which::whole(policy, path.clone());
        new.commit = self.check_condition(&which, request).await?;
        new.stamped = request.extensions.get::<Stamped>().map(|at| at.0);
        self.store(new, request, body).await
    }

    fn new_object(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        headers: &HeaderMap,
        length: Option<u64>,
    ) -> Result<NewObject, Fault> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let mut metadata =
            Metadata::from_headers(pairs).map_err(|error| Fault::BadRequest(error.to_string()))?;
        expiry(headers, self.cluster.clock.now(), &mut metadata)?;
        let detect = text(headers, "x-detect-content-type").is_some_and(is_true);
        let content_type = match headers.get(header::CONTENT_TYPE) {
            Some(value) if !detect && !value.is_empty() => core::str::from_utf8(value.as_bytes())
                .map_err(|_invalid| {
                Fault::BadRequest("Please specify content-type as UTF-8".to_owned())
            })?,
            Some(_) | None => guess(path.object.as_str()),
        };
        let etag = text(headers, "etag").map(|etag| etag.trim().trim_matches('"').to_owned());
        Ok(NewObject {
            policy,
            path: path.clone(),
            content_type: content_type.to_owned(),
            metadata,
            system: Metadata::system_from_headers(
                headers
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.as_bytes())),
            ),
            etag: etag.filter(|etag| !etag.is_empty()),
            length,
            stamped: None,
            commit: None,
        })
    }

    /// Takes the bytes and stores them.
    async fn store(
        &self,
        mut new: NewObject,
        request: &Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let (metadata, system) = (&mut new.metadata, &mut new.system);
        let sealing = self.encryption.seal_new(&new.path, metadata, system)?;
        let mut arriving = Arriving::new(body, sealing, &self.hashers);
        if let Beginning::Whole(first) = arriving.begin().await? {
            let arrived = arriving.finish().await?;
            check_etag(&new, &arrived)?;
            if let Some(claim) = new.commit {
                let which = Which::whole(new.policy, new.path.clone());
                let base = Put {
                    tail: Some(arrived.tail.clone()),
                    ..new.put(Timestamp::ZERO, Vec::new())
                };
                let change = Change::Put {
                    base: Box::new(base),
                    bytes: first,
                };
                let won = self.contest(&which, request, claim, &change).await?;
                return self
                    .acknowledge(&new, &arrived, won.timestamp, &won.answers)
                    .await;
            }
            return self.store_whole(&new, first, arrived).await;
        }
        let timestamp = self.stamp_of(&new);
        let mut fan = Fan::open(self, &new, timestamp)?;
        while let Some(bytes) = arriving.next_block().await? {
            fan.send(bytes).await?;
        }
        let mut arrived = arriving.finish().await?;
        // Dropping the streams gives the PUT up: nothing of it stays.
        check_etag(&new, &arrived)?;
        let needed = fan.needed();
        let is_conditional = new.commit.is_some();
        let (held, settled) = self.reserve_for_stream(&new, request).await?.unzip();
        let timestamp = settled.map_or(timestamp, |settled| settled.timestamp);
        arrived.tail.settled = settled;
        let (outcome, answers) = fan.finish(&arrived.tail, &arrived.hash).await;
        if let (Some(held), Outcome::Stored { .. }) = (held, outcome) {
            held.keep();
        }
        match outcome {
            Outcome::Stored { .. } => self.acknowledge(&new, &arrived, timestamp, &answers).await,
            Outcome::Failed(Failure::Newer { .. }) if new.stamped.is_some() => {
                Ok(plain(StatusCode::ACCEPTED))
            }
            Outcome::Failed(Failure::Newer { newest })
                if !is_conditional
                    && newest <= self.cluster.clock.ahead(LEAD_MAX)
                    && is_settled(&answers, needed) =>
            {
                // Another write began while this one's bytes came, and stands in its place: as if it had come after this.
                self.cluster.clock.observe(newest);
                Ok(plain(StatusCode::ACCEPTED))
            }
            Outcome::Failed(failure) => Err(self.failed(failure)),
        }
    }

    /// A small body goes whole: it can be sent again, to a handoff or above a newer row.
    async fn store_whole(
        &self,
        new: &NewObject,
        bytes: Bytes,
        arrived: Arrived,
    ) -> Result<Response, Fault> {
        let replicas = self
            .cluster
            .object(new.policy, &new.path)
            .ok_or(Fault::Unavailable)?;
        let told = self.cluster.container(&new.path.container_path()).places();
        let needed = replicas.quorum().writes();
        let mut is_superseded = false;
        if let Some(at) = new.stamped {
            self.cluster.clock.observe(at);
        }
        for timestamp in stamps(&self.cluster.clock) {
            let timestamp = new.stamped.unwrap_or(timestamp);
            let base = Put {
                tail: Some(arrived.tail.clone()),
                ..new.put(timestamp, Vec::new())
            };
            let nodes = self.cluster.nodes.clone();
            let send = |place: Arc<Place>, told: Vec<Place>| {
                let (nodes, bytes) = (nodes.clone(), bytes.clone());
                let put = Put {
                    listing: told,
                    ..base.clone()
                };
                driver::boxed(async move { nodes.put_object(&place, &put, bytes).await })
            };
            let written = self
                .cluster
                .write(&replicas, &told, send, write_reply)
                .await;
            match written.outcome {
                Outcome::Stored { .. } => {
                    self.cluster.clock.observe(timestamp);
                    let answers: Vec<WriteAnswer> = written
                        .answers
                        .into_iter()
                        .map(|(_, answer)| answer)
                        .collect();
                    return self.acknowledge(new, &arrived, timestamp, &answers).await;
                }
                Outcome::Failed(Failure::Newer { .. }) if new.stamped.is_some() => {
                    return Ok(plain(StatusCode::ACCEPTED));
                }
                Outcome::Failed(Failure::Newer { newest }) => {
                    self.cluster.clock.observe(newest);
                    let answers = written.answers.iter().map(|(_, answer)| answer);
                    is_superseded = is_settled(answers, needed);
                }
                Outcome::Failed(failure) => return Err(self.failed(failure)),
            }
        }
        // It was stamped above all that was there when it began: what stands in its place came after it.
        if is_superseded {
            Ok(plain(StatusCode::ACCEPTED))
        } else {
            Err(Fault::Unavailable)
        }
    }

    /// The stamp a PUT carries: its own, or one newer than everything seen.
    fn stamp_of(&self, new: &NewObject) -> Timestamp {
        let clock = &self.cluster.clock;
        new.stamped
            .inspect(|at| clock.observe(*at))
            .unwrap_or_else(|| clock.write_stamp())
    }

    fn failed(&self, failure: Failure) -> Fault {
        match failure {
            Failure::ConditionFailed => Fault::PreconditionFailed(String::new()),
            Failure::Mismatch => Fault::Unprocessable,
            // The clock is above it now: trying again succeeds.
            Failure::Newer { newest } => {
                self.cluster.clock.observe(newest);
                Fault::Unavailable
            }
            Failure::Unavailable | Failure::Missing | Failure::Conflict => Fault::Unavailable,
        }
    }

    pub(super) async fn acknowledge(
        &self,
        new: &NewObject,
        arrived: &Arrived,
        timestamp: Timestamp,
        answers: &[WriteAnswer],
    ) -> Result<Response, Fault> {
        let tail = &arrived.tail;
        let answers: Vec<&WriteAnswer> = answers.iter().collect();
        let record = || ObjectRecord {
            name: new.path.object.clone(),
            data_timestamp: timestamp,
            content_type_timestamp: timestamp,
            metadata_timestamp: timestamp,
            deleted: false,
            length: tail.length,
            etag: tail.etag,
            content_type: new.content_type.clone(),
            annotations: onggi_object_wire::row::annotations(&tail.complete(new.system.clone())),
        };
        let listed = self
            .list_record(&new.path, new.policy, &answers, record)
            .await;
        if !listed && self.cluster.consistency == Consistency::Strict {
            return Err(Fault::Unavailable);
        }
        let mut response = plain(StatusCode::CREATED);
        let headers = response.headers_mut();
        set(headers, header::ETAG, &arrived.etag.to_string());
        set(headers, header::LAST_MODIFIED, &last_modified(timestamp));
        Ok(response)
    }
}

impl NewObject {
    pub(super) fn put(&self, timestamp: Timestamp, listing: Vec<Place>) -> Put {
        Put {
            which: Which::whole(self.policy, self.path.clone()),
            timestamp,
            content_type: self.content_type.clone(),
            metadata: self.metadata.clone(),
            system: self.system.clone(),
            length: self.length,
            commit: self.commit,
            listing,
            tail: None,
        }
    }
}

fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    let coding = text(headers, "transfer-encoding").map(str::trim);
    if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case("chunked")) {
        return Err(Fault::NotImplemented(
            "Transfer-Encoding can only be chunked".to_owned(),
        ));
    }
    let Some(value) = headers.get(header::CONTENT_LENGTH) else {
        return if headers.contains_key(header::TRANSFER_ENCODING) {
            Ok(None)
        } else {
            Err(Fault::LengthRequired)
        };
    };
    let length = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let length = length
        .ok_or_else(|| Fault::BadRequest("Invalid Content-Length header value".to_owned()))?;
    if length > OBJECT_BYTES_MAX {
        return Err(Fault::TooLarge);
    }
    Ok(Some(length))
}

fn check_etag(new: &NewObject, arrived: &Arrived) -> Result<(), Fault> {
    let Some(expected) = &new.etag else {
        return Ok(());
    };
    if expected.eq_ignore_ascii_case(&arrived.etag.to_string()) {
        Ok(())
    } else {
        Err(Fault::Unprocessable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn a_body_needs_a_length_or_chunks_and_stays_below_the_limit() {
        assert_eq!(announced_length(&headers(&[])), Err(Fault::LengthRequired));
        assert_eq!(
            announced_length(&headers(&[("transfer-encoding", "chunked")])),
            Ok(None)
        );
        assert_eq!(
            announced_length(&headers(&[("content-length", "7")])),
            Ok(Some(7))
        );
        assert_eq!(
            announced_length(&headers(&[("content-length", "5368709123")])),
            Err(Fault::TooLarge)
        );
        assert!(matches!(
            announced_length(&headers(&[("content-length", "x")])),
            Err(Fault::BadRequest(_))
        ));
    }

    #[test]
    fn a_deletion_date_must_be_a_number_in_the_future() {
        let now: Timestamp = "1000".parse().unwrap();
        let run = |name: &'static str, value: &'static str| {
            let headers = headers(&[(name, value)]);
            let pairs = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.as_bytes()));
            let mut metadata = Metadata::from_headers(pairs).unwrap();
            expiry(&headers, now, &mut metadata)
                .map(|()| metadata.get("x-delete-at").map(str::to_owned))
        };
        assert_eq!(run("x-delete-after", "5"), Ok(Some("1005".to_owned())));
        assert_eq!(run("x-delete-at", "1001"), Ok(Some("1001".to_owned())));
        assert_eq!(run("x-delete-after", "+5"), Ok(Some("1005".to_owned())));
        for (name, value, words) in [
            ("x-delete-at", "999", "X-Delete-At in past"),
            ("x-delete-at", "-1", "X-Delete-At in past"),
            ("x-delete-at", "soon", "Non-integer X-Delete-At"),
            ("x-delete-at", "--1", "Non-integer X-Delete-At"),
            ("x-delete-after", "-1", "X-Delete-After in past"),
            ("x-delete-after", "0", "X-Delete-After in past"),
            ("x-delete-after", "-", "Non-integer X-Delete-After"),
            ("x-delete-after", "1.5", "Non-integer X-Delete-After"),
        ] {
            let refused = Err(Fault::BadRequest(words.to_owned()));
            assert_eq!(run(name, value), refused, "{name}: {value}");
        }
    }
}

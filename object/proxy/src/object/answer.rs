//! Answers to GET and HEAD of an object as it is stored: conditions, ranges, headers.

use super::get::{Known, Opened};
use crate::assembly::{self, Part, Piece, Through};
use crate::fault::{Fault, set, set_named};
use crate::proxy::Asking;
use crate::subrequest::{EtagAt, text};
use http::request::Parts as Head;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::{Response, empty};
use onggi_object_model::metadata::STATIC_LARGE_OBJECT;
use onggi_object_model::precondition::last_modified;
use onggi_object_model::{ObjectPath, PolicyIndex, Precondition, Verdict};

const TIMESTAMP: HeaderName = HeaderName::from_static("x-timestamp");

/// The tag conditions compare with.
pub(super) fn compared_etag(head: &Head, known: &Known) -> String {
    let names = head.extensions.get::<EtagAt>().map(|at| at.0.as_slice());
    let other = names
        .unwrap_or_default()
        .iter()
        .find_map(|name| known.system.get(name));
    other.map_or_else(|| known.info.etag.to_string(), str::to_owned)
}

pub(crate) fn condition(head: &Head) -> Precondition {
    let pairs = head
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    Precondition::from_headers(pairs)
}

impl Asking {
    pub(super) async fn read_stored(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        head: &Head,
    ) -> Result<Response, Fault> {
        let condition = condition(head);
        let core = &self.core;
        let wanted = text(&head.headers, "range").filter(|_| head.method == Method::GET);
        let has_many = wanted.is_some_and(|range| range.contains(','));
        let is_looked_at_first = head.method == Method::HEAD
            || !condition.is_empty()
            || has_many
            || head.headers.contains_key(header::IF_RANGE);
        if !is_looked_at_first {
            return self.open_stored(policy, path, wanted).await;
        }
        let known = match core.head(policy, path).await {
            Err(Fault::NotFound) if condition.wants_any() => {
                let mut response = Response::new(empty());
                fail_condition(&mut response);
                return Ok(response);
            }
            found => found?,
        };
        if let Some(response) = refused(&condition, head, &known) {
            return Ok(response);
        }
        let whole = object_response(&known);
        if head.method == Method::HEAD {
            return Ok(whole);
        }
        let wanted = wanted.filter(|_| assembly::if_range_holds(&head.headers, whole.headers()));
        if !has_many || wanted.is_none() {
            return self.open_stored(policy, path, wanted).await;
        }
        let part = Part {
            path: path.clone(),
            start: 0,
            end: known.info.length,
            whole: Some(known.info.length),
            etag: Some(known.info.etag.to_string()),
            through: Through::Nothing,
        };
        Box::pin(assembly::respond(
            self,
            head,
            whole,
            vec![Piece::Part(part)],
        ))
        .await
    }

    async fn open_stored(
        &self,
        policy: PolicyIndex,
        path: &ObjectPath,
        range: Option<&str>,
    ) -> Result<Response, Fault> {
        let opened = self.core.open(policy, path, range.map(str::to_owned)).await;
        let Opened { known, range, body } = match opened {
            Ok(opened) => opened,
            Err(Fault::RangeNotSatisfiable { length }) => {
                let mut response = object_response(&self.core.head(policy, path).await?);
                assembly::unsatisfiable(&mut response, length);
                return Ok(response);
            }
            Err(fault) => return Err(fault),
        };
        let mut response = object_response(&known);
        if let Some(range) = range {
            assembly::partial(&mut response, range, known.info.length);
        }
        *response.body_mut() = body;
        Ok(response)
    }
}

/// 304 and 412 with the object's own headers; `None` to go on.
fn refused(condition: &Precondition, head: &Head, known: &Known) -> Option<Response> {
    let etag = compared_etag(head, known);
    match condition.judge_read(&etag, known.info.timestamp()) {
        Verdict::Proceed => None,
        Verdict::NotModified => {
            let mut response = object_response(known);
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            Some(response)
        }
        Verdict::Failed => {
            let mut response = object_response(known);
            fail_condition(&mut response);
            Some(response)
        }
    }
}

/// Makes an answer that of a read whose condition does not hold: what is there is named, and no page comes with it.
pub(crate) fn fail_condition(response: &mut Response) {
    Fault::PreconditionFailed(String::new()).put_in(response, true);
    response.headers_mut().remove(header::ACCEPT_RANGES);
}

/// The headers of a whole object, those only the system sees among them.
pub(crate) fn object_response(known: &Known) -> Response {
    let mut response = Response::new(empty());
    let headers = response.headers_mut();
    let info = &known.info;
    for (name, value) in info.metadata.iter() {
        set_named(headers, name, value);
    }
    for (name, value) in known.system.iter() {
        set_named(headers, name, value);
    }
    if known.system.get(STATIC_LARGE_OBJECT).is_some() {
        set(
            headers,
            HeaderName::from_static(STATIC_LARGE_OBJECT),
            "True",
        );
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
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(info.length));
    response
}

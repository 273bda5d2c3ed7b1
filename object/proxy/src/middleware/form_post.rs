//! Browsers' forms: files that are uploaded by whoever has a signed form, without a token.
//!
//! The signature is an HMAC over the path, `redirect`, `max_file_size`, `max_file_count` and `expires`, one a line, with
//! one of the keys that signed URLs have. A form's fields come before its files; each file is stored while it arrives.

use super::feed::feed;
use super::temp_url::{Scope, Signature};
use crate::fault::{Fault, set, set_named};
use crate::proxy::Asking;
use crate::subrequest::{bare, text};
use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use onggi_common_service::http::{Body, Response, collect, full};
use onggi_object_model::listing::escape_xml;
use onggi_object_model::multipart::{
    self, MultipartDecoder, MultipartError, MultipartEvent, PartHead,
};
use onggi_object_model::path::encode_segment;
use onggi_object_model::{ContainerPath, ObjectPath, Resource};
use std::collections::BTreeMap;
use subtle::Choice;

/// Bytes of a field that count; more are left out, as Swift does.
const VALUE_BYTES_MAX: usize = 4_096;
/// Fields of a form that are not files.
const FIELDS_MAX: usize = 100;
/// Bytes of an answer that are passed on when a file was refused.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why a form is refused as a whole, in Swift's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    /// 400.
    #[error("{0}")]
    Invalid(&'static str),
    /// 400: no form at all.
    #[error(transparent)]
    Multipart(#[from] MultipartError),
    /// 401.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// The request broke off.
    #[error("the body broke off")]
    Body,
}

type Fields = BTreeMap<String, String>;

/// How the form ended when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ended {
    status: StatusCode,
    message: &'static str,
    /// What a file that was refused was answered.
    answer: Option<Bytes>,
    /// What browsers of other sites may see of it.
    headers: HeaderMap,
}

impl Ended {
    fn new(status: StatusCode, message: &'static str) -> Self {
        Self {
            status,
            message,
            answer: None,
            headers: HeaderMap::new(),
        }
    }
}

/// A form that is being read.
struct Form<'a> {
    asking: &'a Asking,
    request: &'a Head,
    resource: &'a Resource,
    body: Body,
    decoder: MultipartDecoder,
    fields: Fields,
    files: u64,
}

/// The boundary of a request that is a form; `None` for any other.
pub(crate) fn boundary(request: &Head) -> Option<String> {
    let kind = text(&request.headers, "content-type").filter(|_| request.method == Method::POST)?;
    multipart::boundary(kind)
}

impl Asking {
    /// Stores the files of a form.
    pub(crate) async fn form_post(
        &self,
        resource: &Resource,
        boundary: &str,
        request: &Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let decoder = match MultipartDecoder::new(boundary) {
            Ok(decoder) => decoder,
            Err(error) => return Ok(refused(resource, &error.into())),
        };
        let mut form = Form {
            asking: self,
            request,
            resource,
            body,
            decoder,
            fields: Fields::new(),
            files: 0,
        };
        match form.read().await? {
            Ok(ended) => Ok(answer(&form.fields, ended)),
            Err(refusal) => Ok(refused(resource, &refusal)),
        }
    }
}

/// A number of a form; nothing is 0.
fn number(fields: &Fields, name: &str, words: &'static str) -> Result<u64, Refusal> {
    let text = fields.get(name).map_or("", |text| text.trim());
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_malformed| Refusal::Invalid(words))
}

/// What a form's signature is over.
fn message(path: &str, fields: &Fields) -> String {
    let or = |name: &str, missing: &'static str| {
        let text = fields.get(name).filter(|text| !text.is_empty());
        text.map_or(missing, String::as_str).to_owned()
    };
    format!(
        "{path}\n{}\n{}\n{}\n{}",
        or("redirect", ""),
        or("max_file_size", "0"),
        or("max_file_count", "0"),
        or("expires", "0")
    )
}

/// The object a file becomes: its name behind what the URL has.
fn target(resource: &Resource, name: &str) -> Option<ObjectPath> {
    if name.contains('\0') {
        return None;
    }
    let (container, object) = match resource {
        Resource::Account(_) => return None,
        Resource::Container(path) => (path.clone(), name.to_owned()),
        Resource::Object(path) => (path.container_path(), format!("{}{name}", path.object)),
    };
    let ContainerPath { account, container } = container;
    Some(ObjectPath {
        account,
        container,
        object: object.parse().ok()?,
    })
}

/// The headers a file is put with.
fn headers(fields: &Fields, part: &PartHead, head: &mut Head) -> Result<(), Refusal> {
    for (field, name, words) in [
        (
            "x_delete_at",
            "x-delete-at",
            "x_delete_at not an integer: Unix timestamp required.",
        ),
        (
            "x_delete_after",
            "x-delete-after",
            "x_delete_after not an integer: Number of seconds required.",
        ),
    ] {
        if fields.contains_key(field) {
            let number = number(fields, field, words)?;
            head.headers.insert(name, HeaderValue::from(number));
        }
    }
    for name in ["content-type", "content-encoding"] {
        let said = fields.get(name).map(String::as_str);
        let Some(value) = said.or_else(|| part.get(name)) else {
            continue;
        };
        let value = if name == "content-type" && value.is_empty() {
            "application/octet-stream"
        } else {
            value
        };
        set_named(&mut head.headers, name, value);
    }
    let chunked = HeaderValue::from_static("chunked");
    head.headers.insert(header::TRANSFER_ENCODING, chunked);
    Ok(())
}

impl Form<'_> {
    /// The next event of the form, from as many of its bytes as it takes.
    async fn next(&mut self) -> Result<MultipartEvent, Refusal> {
        loop {
            if let Some(event) = self.decoder.read()? {
                return Ok(event);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.decoder.push(&bytes);
                    }
                }
                Some(Err(_broken)) => return Err(Refusal::Body),
                None => {
                    self.decoder.finish()?;
                    return Ok(MultipartEvent::End);
                }
            }
        }
    }

    async fn read(&mut self) -> Result<Result<Ended, Refusal>, Fault> {
        let mut last = Ended::new(StatusCode::BAD_REQUEST, "no files to process");
        loop {
            let part = match self.next().await {
                Ok(MultipartEvent::Part(part)) => part,
                Ok(MultipartEvent::End) => return Ok(Ok(last)),
                Ok(MultipartEvent::Bytes(_) | MultipartEvent::PartEnd) => continue,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let disposition = part.disposition();
            let file = disposition.get("filename").filter(|name| !name.is_empty());
            let is_file = disposition.kind == "form-data" && file.is_some();
            if !is_file {
                if let Err(refusal) = self.field(disposition.get("name")).await {
                    return Ok(Err(refusal));
                }
                continue;
            }
            self.files += 1;
            match self.file(file.unwrap_or_default(), &part).await? {
                Ok(ended) if ended.status.is_success() => last = ended,
                other => return Ok(other),
            }
        }
    }

    /// Reads a field that is no file.
    async fn field(&mut self, name: Option<&str>) -> Result<(), Refusal> {
        let mut value = Vec::new();
        loop {
            match self.next().await? {
                MultipartEvent::Bytes(bytes) => {
                    let room = VALUE_BYTES_MAX - value.len();
                    value.extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
                }
                MultipartEvent::PartEnd => break,
                MultipartEvent::Part(_) | MultipartEvent::End => return Err(Refusal::Body),
            }
        }
        let Some(name) = name else { return Ok(()) };
        if self.fields.len() >= FIELDS_MAX {
            return Err(Refusal::Invalid("too many fields"));
        }
        let value = String::from_utf8(value)
            .map_err(|_invalid| Refusal::Invalid("a field is not UTF-8"))?;
        self.fields.insert(name.to_ascii_lowercase(), value);
        Ok(())
    }

    /// What the form's signature opens.
    async fn scope(&mut self) -> Result<Result<Scope, Refusal>, Fault> {
        let wrong = Refusal::Unauthorized("invalid signature");
        let container = match self.resource {
            Resource::Account(_) => return Ok(Err(wrong)),
            Resource::Container(path) => path.clone(),
            Resource::Object(path) => path.container_path(),
        };
        let now = self.asking.core.cluster.clock.now().to_utc().seconds();
        match number(&self.fields, "expires", "expired not an integer") {
            Ok(expires) if expires < now => {
                return Ok(Err(Refusal::Unauthorized("form expired")));
            }
            Ok(_) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        let signature = self.fields.get("signature").map_or("", String::as_str);
        let Some(signature) = Signature::parse(signature) else {
            return Ok(Err(wrong));
        };
        let path = percent_encoding::percent_decode_str(self.request.uri.path());
        let message = message(&path.decode_utf8_lossy(), &self.fields);
        let mut scope = None;
        for (key, opens) in self.asking.signing_keys(&container).await? {
            let holds: Choice = signature.holds(key.as_bytes(), &message);
            if bool::from(holds) && scope.is_none() {
                scope = Some(opens);
            }
        }
        Ok(scope.ok_or(wrong))
    }

    /// Checks that a file may be stored, and under which name and headers.
    async fn admit(
        &mut self,
        name: &str,
        part: &PartHead,
    ) -> Result<Result<(Asking, ObjectPath, Head, u64), Refusal>, Fault> {
        let mut head = bare(self.request, Method::PUT);
        let limit = number(
            &self.fields,
            "max_file_size",
            "max_file_size not an integer",
        );
        let limit = match limit.and_then(|limit| {
            headers(&self.fields, part, &mut head)?;
            Ok(limit)
        }) {
            Ok(limit) => limit,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let scope = match self.scope().await? {
            Ok(scope) => scope,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(path) = target(self.resource, name) else {
            return Ok(Err(Refusal::Invalid("the file has no valid name")));
        };
        // The form's key decides, whoever the browser's user is.
        let mut asking = self.asking.clone();
        asking.caller = None;
        asking.service = None;
        asking.scope = Some(scope);
        Ok(Ok((asking, path, head, limit)))
    }

    async fn file(&mut self, name: &str, part: &PartHead) -> Result<Result<Ended, Refusal>, Fault> {
        let count = number(
            &self.fields,
            "max_file_count",
            "max_file_count not an integer",
        );
        match count {
            Ok(count) if self.files > count => {
                let ended = Ended::new(StatusCode::BAD_REQUEST, "max file count exceeded");
                return Ok(Ok(ended));
            }
            Ok(_) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        let (asking, path, head, limit) = match self.admit(name, part).await? {
            Ok(admitted) => admitted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (feed, body) = feed();
        let put = Box::pin(asking.object_in_turn(path, head, body));
        let filling = async {
            let mut length = 0u64;
            let mut is_wanted = true;
            loop {
                let refusal = match self.next().await {
                    Ok(MultipartEvent::Bytes(bytes)) => {
                        length = length.saturating_add(bytes.len() as u64);
                        if length <= limit {
                            is_wanted = is_wanted && feed.send(bytes.into()).await.is_ok();
                            continue;
                        }
                        Refusal::Invalid("max_file_size exceeded")
                    }
                    Ok(MultipartEvent::PartEnd) => return Ok(()),
                    Ok(MultipartEvent::Part(_) | MultipartEvent::End) => Refusal::Body,
                    Err(refusal) => refusal,
                };
                // Nothing of a file that is too long or breaks off stays.
                feed.fail(refusal.to_string().into()).await;
                return Err(refusal);
            }
        };
        let (answered, filled) = tokio::join!(put, filling);
        if let Err(refusal) = filled {
            return Ok(Err(refusal));
        }
        Ok(Ok(stored(answered).await))
    }
}

/// What storing a file came to.
async fn stored(answered: Result<Response, Fault>) -> Ended {
    let (parts, body) = answered
        .unwrap_or_else(|fault| fault.response(false))
        .into_parts();
    let mut ended = Ended::new(parts.status, "");
    if !parts.status.is_success() {
        ended.answer = collect(body, ANSWER_BYTES_MAX).await.ok();
    }
    for (name, value) in &parts.headers {
        if name.as_str().starts_with("access-control") {
            ended.headers.append(name, value.clone());
        }
    }
    ended
}

/// Each word with a capital, as Swift's messages have them.
fn title(text: &str) -> String {
    let mut within = false;
    let letter = |c: char| {
        let first = c.is_alphabetic() && !within;
        within = c.is_alphabetic();
        if first {
            c.to_ascii_uppercase()
        } else {
            c.to_ascii_lowercase()
        }
    };
    text.chars().map(letter).collect()
}

fn page(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let body = body.into();
    let length = body.len();
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// What a form that was read is answered: a page, or the way to one.
fn answer(fields: &Fields, ended: Ended) -> Response {
    let Ended {
        status,
        message,
        answer,
        headers,
    } = ended;
    let redirect = fields.get("redirect").filter(|url| !url.is_empty());
    let mut response = if let Some(redirect) = redirect {
        let glue = if redirect.contains('?') { '&' } else { '?' };
        let (code, message) = (status.as_u16(), encode_segment(message));
        let url = format!("{redirect}{glue}status={code}&message={message}");
        let link = escape_xml(&url);
        let mut response = page(
            StatusCode::SEE_OTHER,
            format!("<html><body><p><a href=\"{link}\">Click to continue...</a></p></body></html>"),
        );
        let kind = HeaderValue::from_static("text/html; charset=UTF-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        set(response.headers_mut(), header::LOCATION, &url);
        response
    } else {
        let words = if message.is_empty() {
            status.to_string()
        } else {
            format!("{status}\r\nFormPost: {}", title(message))
        };
        page(status, answer.unwrap_or_else(|| words.into()))
    };
    response.headers_mut().extend(headers);
    response
}

/// What a form that is refused as a whole is answered.
fn refused(resource: &Resource, refusal: &Refusal) -> Response {
    match refusal {
        Refusal::Unauthorized(words) => {
            let realm = resource.account().to_string();
            let fault = Fault::Unauthorized { realm };
            let (parts, _body) = fault.response(false).into_parts();
            let mut response = page(parts.status, format!("FormPost: {}", title(words)));
            if let Some(realm) = parts.headers.get(header::WWW_AUTHENTICATE) {
                let realm = realm.clone();
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, realm);
            }
            response
        }
        Refusal::Body => Fault::ClientDisconnect.response(false),
        Refusal::Invalid(_) | Refusal::Multipart(_) => {
            page(StatusCode::BAD_REQUEST, format!("FormPost: {refusal}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn a_signature_is_over_the_path_and_what_the_form_allows() {
        let all = fields(&[
            ("redirect", "https://srv.example/page"),
            ("max_file_size", "1048576"),
            ("max_file_count", "10"),
            ("expires", "1700000000"),
            ("x_delete_at", "1800000000"),
        ]);
        assert_eq!(
            message("/v1/AUTH_a/c/prefix", &all),
            "/v1/AUTH_a/c/prefix\nhttps://srv.example/page\n1048576\n10\n1700000000"
        );
        assert_eq!(message("/v1/a/c", &Fields::new()), "/v1/a/c\n\n0\n0\n0");
    }

    #[test]
    fn files_are_named_behind_what_the_url_has() {
        let to = |url: &str, name: &str| {
            let path = target(&Resource::parse(url).unwrap(), name)?;
            Some(format!("{}/{}", path.container, path.object))
        };
        assert_eq!(to("/v1/a/c", "f.txt").as_deref(), Some("c/f.txt"));
        assert_eq!(to("/v1/a/c/", "f.txt").as_deref(), Some("c/f.txt"));
        assert_eq!(to("/v1/a/c/p", "f.txt").as_deref(), Some("c/pf.txt"));
        assert_eq!(to("/v1/a/c/p/", "f.txt").as_deref(), Some("c/p/f.txt"));
        assert_eq!(to("/v1/a/c", "\0versions\0c/o"), None);
        assert_eq!(to("/v1/a", "c/f.txt"), None);
    }

    #[test]
    fn a_redirect_is_told_what_came_of_it_and_nothing_breaks_out_of_the_page() {
        let form = fields(&[("redirect", "https://a/?x=\"><script>")]);
        let response = answer(
            &form,
            Ended::new(StatusCode::BAD_REQUEST, "max file count exceeded"),
        );
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(
            response.headers()[header::LOCATION],
            "https://a/?x=\"><script>&status=400&message=max%20file%20count%20exceeded"
        );
        let split = fields(&[("redirect", "https://a/\r\nSet-Cookie: x")]);
        let response = answer(&split, Ended::new(StatusCode::CREATED, ""));
        assert!(response.headers().get(header::LOCATION).is_none());
        assert_eq!(title("max_file_size exceeded"), "Max_File_Size Exceeded");
    }

    #[test]
    fn numbers_of_a_form_are_numbers() {
        let form = fields(&[("a", "7"), ("b", "-1"), ("c", "x"), ("d", "")]);
        let of = |name| number(&form, name, "bad");
        assert_eq!((of("a"), of("d"), of("e")), (Ok(7), Ok(0), Ok(0)));
        assert_eq!(of("b"), Err(Refusal::Invalid("bad")));
        assert_eq!(of("c"), Err(Refusal::Invalid("bad")));
    }
}

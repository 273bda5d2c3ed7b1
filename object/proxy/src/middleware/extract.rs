//! Archives that are uploaded and unpacked: each file in one becomes an object.
//!
//! A file's bytes go from the request's body into the object's as they come. Files that cannot be made are named in the
//! report and left out; the others are made.

use super::feed::feed;
use super::report::{self, Format, Report};
use super::unpack::{Compression, UnpackError, Unpacked, Unpacker};
use crate::fault::{Fault, set_named};
use crate::proxy::Asking;
use crate::subrequest::{bare, text};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::{Body, Response, empty};
use onggi_object_model::limits::{
    CONTAINER_NAME_BYTES_MAX, OBJECT_BYTES_MAX, OBJECT_NAME_BYTES_MAX,
};
use onggi_object_model::tar::{TarEntry, TarError, TarKind};
use onggi_object_model::{
    AccountName, ContainerName, ContainerPath, ObjectName, ObjectPath, Resource,
};
use std::collections::HashSet;

/// Containers one archive may make.
pub(crate) const CONTAINERS_MAX: usize = 10_000;
/// Files that could not be made after which the rest is left.
pub(crate) const FAILURES_MAX: usize = 1_000;
/// Bytes of files that are too large which are read over before the archive is given up: a compressed one can announce
/// any number of them.
const SKIPPED_BYTES_MAX: u64 = 4 * OBJECT_BYTES_MAX;
/// What pax attributes that become headers begin with, as GNU and BSD tar write them.
const XATTRS: [&str; 2] = ["SCHILY.xattr.user.", "LIBARCHIVE.xattr.user."];
/// Bytes of a name in a report.
const SHOWN_BYTES_MAX: usize = OBJECT_NAME_BYTES_MAX + CONTAINER_NAME_BYTES_MAX + 2;

/// Why the whole stops.
enum Stop {
    Unpack(UnpackError),
    /// 401: the others would be refused as well.
    Unauthorized,
    TooManyContainers,
    TooManyBytes,
}

impl From<UnpackError> for Stop {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

impl Stop {
    fn say(&self, report: &mut Report) {
        let (status, words) = match self {
            Self::Unpack(UnpackError::Body { .. }) => (
                Fault::ClientDisconnect.status(),
                "The client was disconnected during request.".to_owned(),
            ),
            Self::Unpack(error) => (
                StatusCode::BAD_REQUEST,
                format!("Invalid Tar File: {error}"),
            ),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                report::page_text(StatusCode::UNAUTHORIZED),
            ),
            Self::TooManyContainers => (
                StatusCode::BAD_REQUEST,
                format!("More than {CONTAINERS_MAX} containers to create from tar."),
            ),
            Self::TooManyBytes => (
                StatusCode::BAD_REQUEST,
                "Invalid Tar File: too many bytes in files that are too large".to_owned(),
            ),
        };
        report.status = Some(status);
        report.body = words;
    }
}

/// An archive that is being made objects of.
struct Extraction<'a> {
    asking: &'a Asking,
    request: &'a Head,
    account: &'a AccountName,
    /// What stands before every name in the archive; empty or with a slash at its end.
    base: String,
    unpacker: Unpacker,
    report: Report,
    /// Containers that were seen to. Forgotten when there are too many: then they are looked at again.
    seen: HashSet<ContainerName>,
    containers_made: usize,
    skipped: u64,
}

impl Asking {
    /// Unpacks a request's body.
    pub(crate) async fn extract(
        &self,
        compression: Compression,
        resource: &Resource,
        request: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let has_body = text(&request.headers, "content-length").is_some()
            || request.headers.contains_key(header::TRANSFER_ENCODING);
        let refused = report::refused(&request, has_body);
        if let Some(status) = refused {
            let report = Report {
                created: Some(0),
                status: Some(status),
                ..Report::default()
            };
            return Ok(report.response(Format::of(&request), StatusCode::OK));
        }
        let format = Format::of(&request);
        let (asking, resource) = (self.clone(), resource.clone());
        let work = async move {
            let mut extraction = Extraction {
                asking: &asking,
                request: &request,
                account: resource.account(),
                base: base(&resource),
                unpacker: Unpacker::new(body, compression),
                report: Report {
                    created: Some(0),
                    ..Report::default()
                },
                seen: HashSet::new(),
                containers_made: 0,
                skipped: 0,
            };
            let done = extraction.run().await;
            extraction.finish(done).await
        };
        Ok(report::answered_in_time(format, work).await)
    }
}

/// What stands before the names of files.
fn base(resource: &Resource) -> String {
    match resource {
        Resource::Account(_) => String::new(),
        Resource::Container(path) => format!("{}/", path.container),
        Resource::Object(path) => {
            let prefix = path.object.as_str().trim_end_matches('/');
            format!("{}/{prefix}/", path.container)
        }
    }
}

/// `container/object` of a name in an archive; `None` for a file outside of containers.
fn place<'a>(base: &str, name: &'a [u8]) -> Option<(Vec<u8>, &'a [u8])> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let start = name.iter().position(|byte| *byte != b'/')?;
    let name = name.get(start..)?;
    let whole = [base.as_bytes(), name].concat();
    whole.contains(&b'/').then_some((whole, name))
}

/// A name as a report shows it.
fn shown(name: &[u8]) -> String {
    let name = name.get(..SHOWN_BYTES_MAX).unwrap_or(name);
    percent_encoding::percent_encode(name, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2F", "/")
        .replace("%2D", "-")
        .replace("%2E", ".")
        .replace("%5F", "_")
        .replace("%7E", "~")
}

fn object_path(account: &AccountName, place: &[u8]) -> Result<ObjectPath, StatusCode> {
    let text = core::str::from_utf8(place).map_err(|_invalid| StatusCode::PRECONDITION_FAILED)?;
    if text.contains('\0') {
        return Err(StatusCode::PRECONDITION_FAILED);
    }
    let (container, object) = text
        .split_once('/')
        .ok_or(StatusCode::PRECONDITION_FAILED)?;
    let bad = |_malformed| StatusCode::BAD_REQUEST;
    Ok(ObjectPath {
        account: account.clone(),
        container: ContainerName::new(container).map_err(bad)?,
        object: ObjectName::new(object).map_err(bad)?,
    })
}

/// The headers an object of an archive is put with.
fn headers(request: &HeaderMap, entry: &TarEntry, made: &mut HeaderMap) {
    for (name, value) in request {
        let is_kept = name.as_str().starts_with("x-object-meta-")
            || matches!(name.as_str(), "x-delete-at" | "x-delete-after");
        if is_kept {
            made.append(name, value.clone());
        }
    }
    if text(request, "x-detect-content-type").is_none()
        && let Some(kind) = request.get(header::CONTENT_TYPE)
    {
        made.insert(header::CONTENT_TYPE, kind.clone());
    }
    for (key, value) in &entry.attributes {
        let Some(name) = XATTRS.iter().find_map(|prefix| key.strip_prefix(prefix)) else {
            continue;
        };
        let Ok(value) = core::str::from_utf8(value) else {
            continue;
        };
        if name == "mime_type" {
            set_named(made, "content-type", value);
        } else if let Some(name) = name.strip_prefix("meta.") {
            set_named(
                made,
                &format!("x-object-meta-{name}").to_ascii_lowercase(),
                value,
            );
        }
    }
    made.insert(header::CONTENT_LENGTH, HeaderValue::from(entry.size));
}

impl Extraction<'_> {
    async fn run(&mut self) -> Result<(), Stop> {
        while self.report.problems.len() < FAILURES_MAX {
            match self.unpacker.next().await? {
                Unpacked::Entry(entry) => self.entry(entry).await?,
                Unpacked::Bytes(bytes) => {
                    self.skipped = self.skipped.saturating_add(bytes.len() as u64);
                    if self.skipped > SKIPPED_BYTES_MAX {
                        return Err(Stop::TooManyBytes);
                    }
                }
                Unpacked::End => return Ok(()),
            }
        }
        Ok(())
    }

    fn failed(&mut self, place: &[u8], status: StatusCode) {
        self.report
            .problems
            .push((shown(place), report::status_text(status)));
    }

    async fn entry(&mut self, entry: TarEntry) -> Result<(), Stop> {
        if entry.kind == TarKind::Other {
            return Ok(());
        }
        let Some((place, _)) = place(&self.base, &entry.name) else {
            return Ok(());
        };
        if entry.size > OBJECT_BYTES_MAX {
            self.failed(&place, StatusCode::PAYLOAD_TOO_LARGE);
            return Ok(());
        }
        if entry.kind == TarKind::Sparse {
            self.failed(&place, StatusCode::NOT_IMPLEMENTED);
            return Ok(());
        }
        let path = match object_path(self.account, &place) {
            Ok(path) => path,
            Err(status) => {
                self.failed(&place, status);
                return Ok(());
            }
        };
        let container_problem = self.container(&path.container_path()).await?;
        let status = self.put(path, &entry).await?;
        if status.is_success() {
            self.report.created = self.report.created.map(|created| created + 1);
            return Ok(());
        }
        // The rights of a container may allow what making it did not.
        if let Some((name, status)) = container_problem {
            self.failed(name.as_bytes(), status);
        }
        self.failed(&place, status);
        if status == StatusCode::UNAUTHORIZED {
            return Err(Stop::Unauthorized);
        }
        Ok(())
    }

    /// Sees to it that a container is there; what went wrong, if something did.
    async fn container(
        &mut self,
        path: &ContainerPath,
    ) -> Result<Option<(String, StatusCode)>, Stop> {
        if self.seen.contains(&path.container) {
            return Ok(None);
        }
        if self.seen.len() >= CONTAINERS_MAX {
            self.seen.clear();
        }
        self.seen.insert(path.container.clone());
        let (asking, request) = (self.asking, self.request);
        let mut status = ask(asking, request, path, Method::HEAD).await;
        if status == StatusCode::NOT_FOUND {
            status = ask(asking, request, path, Method::PUT).await;
            if status.is_success() {
                self.containers_made += 1;
                if self.containers_made > CONTAINERS_MAX {
                    return Err(Stop::TooManyContainers);
                }
            }
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(Stop::Unauthorized);
        }
        Ok((!status.is_success()).then(|| (format!("/v1{path}"), status)))
    }

    async fn put(&mut self, path: ObjectPath, entry: &TarEntry) -> Result<StatusCode, Stop> {
        let mut head = bare(self.request, Method::PUT);
        headers(&self.request.headers, entry, &mut head.headers);
        if entry.size == 0 {
            let put = Box::pin(self.asking.object_in_turn(path, head, empty()));
            return Ok(status_of(put.await));
        }
        let (feed, body) = feed();
        let put = Box::pin(self.asking.object_in_turn(path, head, body));
        let unpacker = &mut self.unpacker;
        let filling = async move {
            let mut left = entry.size;
            while left > 0 {
                let bytes = match unpacker.next().await {
                    Ok(Unpacked::Bytes(bytes)) => bytes,
                    Ok(Unpacked::Entry(_) | Unpacked::End) => {
                        let error = UnpackError::from(TarError::Truncated);
                        feed.fail(error.to_string().into()).await;
                        return Err(error);
                    }
                    Err(error) => {
                        feed.fail(error.to_string().into()).await;
                        return Err(error);
                    }
                };
                left = left.saturating_sub(bytes.len() as u64);
                // A refused object's bytes are read over: the next header is behind them.
                if feed.send(bytes).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        let (answered, filled) = tokio::join!(put, filling);
        filled?;
        Ok(status_of(answered))
    }

    async fn finish(self, done: Result<(), Stop>) -> Report {
        let mut report = self.report;
        let created = report.created.unwrap_or_default();
        let has_server_error = report
            .problems
            .iter()
            .any(|(_, status)| status.starts_with('5') && !status.starts_with("501"));
        let status = if has_server_error {
            StatusCode::BAD_GATEWAY
        } else if !report.problems.is_empty() {
            StatusCode::BAD_REQUEST
        } else if created == 0 {
            "Invalid Tar File: No Valid Files".clone_into(&mut report.body);
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::CREATED
        };
        report.status = Some(status);
        match done {
            Ok(()) => self.unpacker.drain().await,
            Err(stop) => stop.say(&mut report),
        }
        report
    }
}

async fn ask(asking: &Asking, request: &Head, path: &ContainerPath, method: Method) -> StatusCode {
    let head = bare(request, method);
    status_of(Box::pin(asking.container(path, &head)).await)
}

fn status_of(answered: Result<Response, Fault>) -> StatusCode {
    match answered {
        Ok(response) => response.status(),
        Err(fault) => fault.status(),
    }
}

#[cfg(test)]
#[path = "extract/tests.rs"]
mod tests;

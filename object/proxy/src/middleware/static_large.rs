//! Static large objects: a manifest that names segments, their tags and lengths; readers get the segments' bytes.

mod delete;

use crate::assembly::{self, DEPTH_MAX, Part, Piece, Through};
use crate::fault::{Fault, set};
use crate::middleware::report::{Format, Report, status_text};
use crate::proxy::Asking;
use crate::subrequest::{
    Answering, EtagAt, Trusted, bare, is_true, parameter, set_length, text, unconditional,
};
use bytes::Bytes;
use core::pin::Pin;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use md5::{Digest as _, Md5};
use onggi_common_service::http::{Body, Response, collect, empty, full};
use onggi_object_model::manifest::{
    self, Asked, MANIFEST_BYTES_MAX, ManifestError, Segment, Settled, parse_kept, settle_range,
};
use onggi_object_model::metadata::STATIC_LARGE_OBJECT;
use onggi_object_model::path::encode_rest;
use onggi_object_model::{AccountName, Etag, ObjectPath};

/// The tag readers of the large object see, without quotes.
pub(crate) const ETAG: &str = "x-object-sysmeta-slo-etag";
/// How many bytes they get.
pub(crate) const SIZE: &str = "x-object-sysmeta-slo-size";
const MANIFEST_ETAG: HeaderName = HeaderName::from_static("x-manifest-etag");
const PARTS_COUNT: HeaderName = HeaderName::from_static("x-parts-count");
/// Segments looked at at a time when a manifest is put.
const LOOKS_AT_ONCE: usize = 8;
fn is_large(headers: &HeaderMap) -> bool {
    text(headers, STATIC_LARGE_OBJECT).is_some_and(is_true)
}

/// The tag of what a manifest describes.
pub(super) fn tag(segments: &[Segment]) -> String {
    let mut md5 = Md5::new();
    for segment in segments {
        match segment.inline() {
            Some(bytes) => md5.update(Etag::new(Md5::digest(bytes).into()).to_string()),
            None => md5.update(segment.tag_text()),
        }
    }
    Etag::new(md5.finalize().into()).to_string()
}

/// Marks a PUT's bytes as the manifest of a large object.
pub(super) fn mark(headers: &mut HeaderMap, etag: &str, size: u64) {
    let size = size.to_string();
    for (name, value) in [
        (STATIC_LARGE_OBJECT, "true"),
        (ETAG, etag),
        (SIZE, &size),
        ("x-object-sysmeta-listing-bytes", &size),
        ("x-object-sysmeta-listing-slo_etag", etag),
    ] {
        set(headers, HeaderName::from_static(name), value);
    }
}

/// A segment's path with one slash before it.
fn rooted(path: &str) -> String {
    format!("/{}", path.trim_start_matches('/'))
}

/// `/container/object` of an account.
fn segment_path(account: &AccountName, path: &str) -> Option<ObjectPath> {
    let (container, object) = path.trim_start_matches('/').split_once('/')?;
    if path.contains('\0') {
        return None;
    }
    Some(ObjectPath {
        account: account.clone(),
        container: container.parse().ok()?,
        object: object.parse().ok()?,
    })
}

impl Asking {
    /// Takes manifests in, puts large objects together, and deletes them with their segments.
    pub(crate) fn static_large(&self, path: ObjectPath, head: Head, body: Body) -> Answering<'_> {
        Box::pin(self.answer_large(path, head, body))
    }

    async fn answer_large(
        &self,
        path: ObjectPath,
        mut head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let wanted = parameter(&head, "multipart-manifest");
        let wanted = wanted.as_deref();
        match head.method {
            Method::PUT if wanted == Some("put") => {
                Box::pin(self.put_manifest(path, head, body)).await
            }
            Method::DELETE if wanted == Some("delete") => {
                Box::pin(self.delete_large(path, head)).await
            }
            Method::GET | Method::HEAD if wanted == Some("get") => {
                let is_raw = parameter(&head, "format").as_deref() == Some("raw");
                let response =
                    Box::pin(self.dynamic_large(path.clone(), head.clone(), body)).await?;
                if is_large(response.headers()) {
                    return Box::pin(self.shown_manifest(path, head, response, is_raw)).await;
                }
                Ok(response)
            }
            Method::GET | Method::HEAD => {
                let mut at = head.extensions.get::<EtagAt>().cloned().unwrap_or_default();
                at.0.push(ETAG);
                head.extensions.insert(at);
                let response =
                    Box::pin(self.dynamic_large(path.clone(), head.clone(), body)).await?;
                if is_large(response.headers()) {
                    return Box::pin(self.read_large(path, head, response)).await;
                }
                Ok(response)
            }
            _ => Box::pin(self.dynamic_large(path, head, body)).await,
        }
    }

    /// The manifest itself, as it is kept or as it could be put again.
    async fn shown_manifest(
        &self,
        path: ObjectPath,
        head: Head,
        mut response: Response,
        is_raw: bool,
    ) -> Result<Response, Fault> {
        if !is_raw {
            let kind = HeaderValue::from_static("application/json; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            return Ok(response);
        }
        let (segments, mut response) = self.manifest(&path, &head, response).await?;
        let raw = Bytes::from(manifest::raw(&segments));
        let etag = Etag::new(Md5::digest(&raw).into());
        set(response.headers_mut(), header::ETAG, &etag.to_string());
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(raw.len()));
        if head.method == Method::GET {
            *response.body_mut() = full(raw);
        }
        Ok(response)
    }

    /// Reads the manifest an answer is about; asks again when the answer has not all of it.
    async fn manifest(
        &self,
        path: &ObjectPath,
        head: &Head,
        response: Response,
    ) -> Result<(Vec<Segment>, Response), Fault> {
        let is_whole = response.status() == StatusCode::OK && head.method == Method::GET;
        let response = if is_whole {
            response
        } else {
            let mut again = unconditional(head);
            again.method = Method::GET;
            Box::pin(self.dynamic_large(path.clone(), again, empty())).await?
        };
        let (parts, body) = response.into_parts();
        let bytes = collect(body, MANIFEST_BYTES_MAX)
            .await
            .map_err(|_broken| Fault::Unavailable)?;
        let segments = parse_kept(&bytes).ok_or_else(|| {
            Fault::Conflict("the manifest of the large object is damaged".to_owned())
        })?;
        Ok((segments, Response::from_parts(parts, empty())))
    }

    async fn read_large(
        &self,
        path: ObjectPath,
        head: Head,
        mut response: Response,
    ) -> Result<Response, Fault> {
        let part_number = part_number(&head)?;
        let is_refused = matches!(
            response.status(),
            StatusCode::NOT_MODIFIED | StatusCode::PRECONDITION_FAILED
        );
        if is_refused || (head.method == Method::HEAD && part_number.is_none()) {
            let size = text(response.headers(), SIZE).and_then(|size| size.parse::<u64>().ok());
            large_headers(response.headers_mut());
            if let Some(size) = size.filter(|_| !is_refused) {
                response
                    .headers_mut()
                    .insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            }
            return Ok(response);
        }
        let (segments, mut base) = self.manifest(&path, &head, response).await?;
        large_headers(base.headers_mut());
        let pieces = pieces(&path.account, &segments, 0)?;
        let Some(number) = part_number else {
            return assembly::respond(self, &head, base, pieces).await;
        };
        base.headers_mut()
            .insert(PARTS_COUNT, HeaderValue::from(pieces.len()));
        self.read_part(&head, base, pieces, number).await
    }

    async fn read_part(
        &self,
        head: &Head,
        mut base: Response,
        pieces: Vec<Piece>,
        number: usize,
    ) -> Result<Response, Fault> {
        let length: u64 = pieces.iter().map(Piece::length).sum();
        let Some(piece) = pieces.get(number - 1) else {
            let words = "The requested part number is not satisfiable";
            *base.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            let is_get = head.method == Method::GET;
            let headers = base.headers_mut();
            let shown = if is_get { words.len() } else { 0 };
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(shown));
            set(headers, header::CONTENT_RANGE, &format!("bytes */{length}"));
            *base.body_mut() = if is_get { full(words) } else { empty() };
            return Ok(base);
        };
        let start: u64 = pieces.iter().take(number - 1).map(Piece::length).sum();
        let range = onggi_object_model::ByteRange::new(start, start.saturating_add(piece.length()));
        if let Some(range) = range {
            assembly::partial(&mut base, range, length);
        }
        if head.method == Method::GET {
            *base.body_mut() = assembly::assemble(self, head, vec![piece.clone()]).await?;
        }
        Ok(base)
    }

    /// The pieces of a manifest within a manifest.
    pub(crate) fn submanifest<'a>(
        &'a self,
        head: &'a Head,
        part: &'a Part,
        depth: usize,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Piece>, Fault>> + Send + 'a>> {
        Box::pin(self.unfold(head, part, depth))
    }

    async fn unfold(&self, head: &Head, part: &Part, depth: usize) -> Result<Vec<Piece>, Fault> {
        if depth >= DEPTH_MAX {
            return Err(Fault::Conflict(String::new()));
        }
        let asked = bare(head, Method::GET);
        let gone = || Fault::Conflict(String::new());
        let response =
            Box::pin(self.dynamic_large(part.path.clone(), asked.clone(), empty())).await;
        let response = match response {
            Ok(response) if is_large(response.headers()) => response,
            Ok(_) | Err(Fault::NotFound | Fault::Forbidden | Fault::Unauthorized { .. }) => {
                return Err(gone());
            }
            Err(fault) => return Err(fault),
        };
        let is_same = part.etag.is_none() || text(response.headers(), ETAG) == part.etag.as_deref();
        if !is_same {
            return Err(gone());
        }
        let (segments, _) = self.manifest(&part.path, &asked, response).await?;
        pieces(&part.path.account, &segments, depth)
    }

    async fn put_manifest(
        &self,
        path: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let is_chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
        if !is_chunked && !head.headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Fault::LengthRequired);
        }
        let announced = text(&head.headers, "content-length").and_then(|text| text.parse().ok());
        if announced.is_some_and(|length: usize| length > MANIFEST_BYTES_MAX) {
            return Err(Fault::TooLarge);
        }
        let bytes = collect(body, MANIFEST_BYTES_MAX)
            .await
            .map_err(|error| match error {
                onggi_common_service::http::CollectError::TooLong { .. } => Fault::TooLarge,
                onggi_common_service::http::CollectError::Broken { .. } => Fault::ClientDisconnect,
            })?;
        let asked = manifest::parse_asked(&bytes).map_err(|error| match error {
            ManifestError::TooMany => Fault::TooLarge,
            error => Fault::BadRequest(error.to_string()),
        })?;
        let itself = format!("/{}/{}", path.container, path.object);
        let names_itself = |segment: &Asked| matches!(segment, Asked::Object { path, .. } if rooted(path) == itself);
        if let Some(index) = asked.iter().position(names_itself) {
            return Err(Fault::BadRequest(format!(
                "Index {index}: manifest must not include itself as a segment\n"
            )));
        }
        let beat = parameter(&head, "heartbeat").is_some_and(|text| is_true(&text));
        let format = Format::of(&head);
        if !beat {
            let (response, _) = self.store_manifest(path, head, asked, format).await?;
            return Ok(response);
        }
        // Who may not write learns it before the answer begins.
        let resource = onggi_object_model::Resource::Object(path.clone());
        self.authorize(&Method::PUT, &resource, &head.headers)
            .await?;
        let asking = self.clone();
        Ok(super::report::heartbeat(format, async move {
            let stored = Box::pin(asking.store_manifest(path, head, asked, format)).await;
            match stored {
                Ok((response, problems)) => Report::of_put(&response, problems),
                Err(fault) => Report::of_fault(&fault),
            }
        }))
    }

    /// Checks the segments and stores the manifest. The problems that made it fail come with the answer.
    async fn store_manifest(
        &self,
        path: ObjectPath,
        mut head: Head,
        asked: Vec<Asked>,
        format: Format,
    ) -> Result<(Response, Vec<(String, String)>), Fault> {
        let looked = self.look_at(&path.account, &head, asked).await?;
        let mut segments = Vec::new();
        let mut problems = Vec::new();
        for found in looked {
            match found {
                Ok(segment) => segments.push(segment),
                Err(problem) => problems.push(problem),
            }
        }
        if !problems.is_empty() {
            let report = Report::failed(StatusCode::BAD_REQUEST, problems.clone());
            return Ok((report.response(format, StatusCode::BAD_REQUEST), problems));
        }
        let etag = tag(&segments);
        let size: u64 = segments
            .iter()
            .filter_map(Segment::bounds)
            .map(|(start, end)| end.saturating_sub(start))
            .sum();
        let said = text(&head.headers, "etag").map(|said| said.trim().trim_matches('"').to_owned());
        if said.is_some_and(|said| !said.eq_ignore_ascii_case(&etag)) {
            return Err(Fault::Unprocessable);
        }
        let kept = serde_json::to_vec(&segments).map_err(|_unwritable| Fault::Unavailable)?;
        let kept = Bytes::from(kept);
        let own = Etag::new(Md5::digest(&kept).into()).to_string();
        set_length(&mut head, &kept);
        set(&mut head.headers, header::ETAG, &own);
        mark(&mut head.headers, &etag, size);
        head.uri = http::Uri::from_static("/");
        let mut response = Box::pin(self.dynamic_large(path, head, full(kept))).await?;
        if response.status().is_success() {
            set(response.headers_mut(), header::ETAG, &format!("\"{etag}\""));
            set(response.headers_mut(), MANIFEST_ETAG, &own);
        }
        Ok((response, Vec::new()))
    }

    /// Looks at every segment once, some at a time; what is kept of each, or what is wrong with it.
    async fn look_at(
        &self,
        account: &AccountName,
        head: &Head,
        asked: Vec<Asked>,
    ) -> Result<Vec<Result<Segment, (String, String)>>, Fault> {
        let mut looked = Vec::with_capacity(asked.len());
        for group in asked.chunks(LOOKS_AT_ONCE) {
            let mut tasks = Vec::new();
            for segment in group {
                let (asking, head, account) = (self.clone(), head.clone(), account.clone());
                let segment = segment.clone();
                tasks.push(tokio::spawn(async move {
                    asking.look_at_one(&account, &head, segment).await
                }));
            }
            for task in tasks {
                looked.push(task.await.map_err(|_panicked| Fault::Unavailable)?);
            }
        }
        Ok(looked)
    }

    async fn look_at_one(
        &self,
        account: &AccountName,
        head: &Head,
        asked: Asked,
    ) -> Result<Segment, (String, String)> {
        let (path, etag, size, range) = match asked {
            Asked::Inline { text, .. } => {
                return Ok(Segment {
                    data: Some(text),
                    ..Segment::default()
                });
            }
            Asked::Object {
                path,
                etag,
                size,
                range,
            } => (path, etag, size, range),
        };
        let shown = encode_rest(&path);
        let problem = |what: &str| (shown.clone(), what.to_owned());
        let Some(object) = segment_path(account, &path) else {
            return Err(problem("404 Not Found"));
        };
        let mut asked = bare(head, Method::HEAD);
        asked.extensions.remove::<Trusted>();
        let there = match Box::pin(self.static_large(object, asked, empty())).await {
            Ok(response) if response.status().is_success() => response,
            Ok(response) => return Err(problem(&status_text(response.status()))),
            Err(fault) => return Err(problem(&status_text(fault.status()))),
        };
        let headers = there.headers();
        let length = text(headers, "content-length").and_then(|text| text.parse::<u64>().ok());
        let length = length.ok_or_else(|| problem("411 Length Required"))?;
        let hash = text(headers, "etag").unwrap_or_default().trim_matches('"');
        if size.is_some_and(|size| size != length) {
            return Err(problem("Size Mismatch"));
        }
        if etag.is_some_and(|etag| etag != hash) {
            return Err(problem("Etag Mismatch"));
        }
        // A large object of no bytes is there all the same.
        if length == 0 && !is_large(headers) {
            return Err(problem("Too Small; each segment must be at least 1 byte."));
        }
        let range = match range.map(|range| settle_range(&range, length)) {
            None | Some(Settled::Whole) => None,
            Some(Settled::Range(range)) => Some(range),
            Some(Settled::Unsatisfiable) => return Err(problem("Unsatisfiable Range")),
        };
        let modified = text(headers, "x-timestamp")
            .and_then(|stamp| stamp.parse::<onggi_common_units::Timestamp>().ok())
            .map(|stamp| stamp.to_utc().iso_naive().to_string());
        Ok(Segment {
            name: rooted(&path),
            hash: hash.to_owned(),
            bytes: length,
            content_type: text(headers, "content-type").unwrap_or_default().to_owned(),
            last_modified: modified.unwrap_or_default(),
            range,
            sub_slo: is_large(headers),
            data: None,
        })
    }
}

/// The headers readers of a large object see.
fn large_headers(headers: &mut HeaderMap) {
    if let Some(own) = headers.get(header::ETAG).cloned() {
        headers.insert(MANIFEST_ETAG, own);
    }
    if let Some(etag) = text(headers, ETAG).map(|etag| format!("\"{etag}\"")) {
        set(headers, header::ETAG, &etag);
    }
}

fn part_number(head: &Head) -> Result<Option<usize>, Fault> {
    let Some(number) = parameter(head, "part-number") else {
        return Ok(None);
    };
    match number.parse::<usize>() {
        Ok(number) if number > 0 && head.headers.contains_key(header::RANGE) => {
            let words = "Range requests are not supported with part number queries";
            Err(Fault::BadRequest(words.to_owned()))
        }
        Ok(number) if number > 0 => Ok(Some(number)),
        Ok(_) | Err(_) => Err(Fault::BadRequest(
            "Part number must be an integer greater than 0".to_owned(),
        )),
    }
}

/// The pieces segments make.
fn pieces(account: &AccountName, segments: &[Segment], depth: usize) -> Result<Vec<Piece>, Fault> {
    let damaged = || Fault::Conflict("the manifest of the large object is damaged".to_owned());
    let piece = |segment: &Segment| {
        if let Some(bytes) = segment.inline() {
            return Some(Piece::Bytes(bytes.into()));
        }
        let (start, end) = segment.bounds()?;
        let part = Part {
            path: segment_path(account, &segment.name)?,
            start,
            end,
            whole: Some(segment.bytes),
            etag: Some(segment.hash.clone()),
            through: Through::DynamicLarge,
        };
        Some(if segment.sub_slo {
            Piece::Manifest {
                part,
                depth: depth + 1,
            }
        } else {
            Piece::Part(part)
        })
    };
    let made: Option<Vec<Piece>> = segments.iter().map(piece).collect();
    made.ok_or_else(damaged)
}

//! Dynamic large objects: an object that stands for all objects whose names begin with a prefix, in order.

use crate::assembly::{self, Part, Piece, Through};
use crate::fault::{Fault, set};
use crate::middleware::encryption::is_known;
use crate::object::answer::fail_condition;
use crate::proxy::Asking;
use crate::subrequest::{Answering, parameter, text, unconditional};
use http::request::Parts as Head;
use http::{Method, StatusCode, header};
use md5::{Digest as _, Md5};
use onggi_common_service::http::{Body, Response, empty};
use onggi_object_model::limits::CONTAINER_LISTING_MAX;
use onggi_object_model::listing::{Named as _, annotation};
use onggi_object_model::precondition::http_date_seconds;
use onggi_object_model::{
    ContainerName, ContainerPath, Etag, ListingEntry, ListingQuery, ObjectPath, Precondition,
    Resource, Verdict,
};

/// The header that names container and prefix.
const MANIFEST: &str = "x-object-manifest";
/// Segments of one object: two pages of a listing.
const SEGMENTS_MAX: usize = 2 * CONTAINER_LISTING_MAX;

/// `container/prefix`, decoded.
fn parse(value: &str) -> Option<(ContainerName, String)> {
    let decoded = percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .ok()?;
    let (container, prefix) = decoded.trim_start_matches('/').split_once('/')?;
    if prefix.is_empty() || decoded.contains('\0') {
        return None;
    }
    Some((container.parse().ok()?, prefix.to_owned()))
}

impl Asking {
    /// Puts dynamic large objects together on reads.
    pub(crate) fn dynamic_large(&self, path: ObjectPath, head: Head, body: Body) -> Answering<'_> {
        Box::pin(self.answer_dynamic(path, head, body))
    }

    async fn answer_dynamic(
        &self,
        path: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        match head.method {
            Method::PUT | Method::POST => {
                if let Some(value) = text(&head.headers, MANIFEST).filter(|text| !text.is_empty()) {
                    let is_well = parse(value).is_some()
                        && !value.starts_with('/')
                        && !value.contains(['?', '&']);
                    if !is_well {
                        return Err(Fault::BadRequest(
                            "X-Object-Manifest must be in the format container/prefix".to_owned(),
                        ));
                    }
                }
                Box::pin(self.versioned(path, head, body)).await
            }
            Method::GET | Method::HEAD => {
                let is_manifest_wanted =
                    parameter(&head, "multipart-manifest").as_deref() == Some("get");
                let response = Box::pin(self.versioned(path.clone(), head.clone(), body)).await?;
                let manifest = text(response.headers(), MANIFEST).and_then(parse);
                match manifest {
                    Some(manifest) if !is_manifest_wanted => {
                        Box::pin(self.read_dynamic(path, head, response, manifest)).await
                    }
                    Some(_) | None => Ok(response),
                }
            }
            _ => Box::pin(self.versioned(path, head, body)).await,
        }
    }

    async fn read_dynamic(
        &self,
        path: ObjectPath,
        head: Head,
        first: Response,
        (container, prefix): (ContainerName, String),
    ) -> Result<Response, Fault> {
        // Conditions and ranges were held against the manifest itself.
        let mut base = if first.status() == StatusCode::OK {
            first
        } else {
            let mut again = unconditional(&head);
            again.method = Method::HEAD;
            Box::pin(self.versioned(path.clone(), again, empty())).await?
        };
        let container = ContainerPath {
            account: path.account,
            container,
        };
        let resource = Resource::Container(container.clone());
        self.authorize(&Method::GET, &resource, &head.headers)
            .await?;
        let (pieces, etag) = self.segments(&container, &prefix).await?;
        set(
            base.headers_mut(),
            header::ETAG,
            &format!("\"{}\"", Etag::new(etag)),
        );
        if let Some(refused) = refuse(&head, &Etag::new(etag).to_string(), &mut base) {
            return Ok(refused);
        }
        // As Swift has it: several ranges of a dynamic large object are the whole.
        let mut head = head;
        if text(&head.headers, "range").is_some_and(|range| range.contains(',')) {
            head.headers.remove(header::RANGE);
        }
        assembly::respond(self, &head, base, pieces).await
    }

    /// All segments, and the tag over their tags.
    async fn segments(
        &self,
        container: &ContainerPath,
        prefix: &str,
    ) -> Result<(Vec<Piece>, [u8; 16]), Fault> {
        let mut query = ListingQuery {
            prefix: prefix.to_owned(),
            ..ListingQuery::page(CONTAINER_LISTING_MAX)
        };
        let (mut pieces, mut md5) = (Vec::new(), Md5::new());
        loop {
            let (_, page) = self.core.page(container, query.clone()).await?;
            if !is_known(&page) {
                return Err(Fault::Undecryptable);
            }
            let is_full = page.entries.len() >= query.limit;
            for entry in page.entries {
                let ListingEntry::Item(item) = entry else {
                    continue;
                };
                let hash = item.annotations.get(annotation::HASH);
                let hash = hash.map_or_else(|| item.hash.to_string(), str::to_owned);
                md5.update(hash.as_bytes());
                item.name().clone_into(&mut query.marker);
                let length = item.content_bytes();
                let Ok(object) = item.name.parse() else {
                    continue;
                };
                pieces.push(Piece::Part(Part {
                    path: ObjectPath {
                        account: container.account.clone(),
                        container: container.container.clone(),
                        object,
                    },
                    start: 0,
                    end: length,
                    whole: Some(length),
                    etag: None,
                    through: Through::Links,
                }));
            }
            if !is_full {
                break;
            }
            if pieces.len() >= SEGMENTS_MAX {
                return Err(Fault::Conflict(format!(
                    "the large object has more than {SEGMENTS_MAX} segments"
                )));
            }
        }
        Ok((pieces, md5.finalize().into()))
    }
}

/// 304 and 412 for a large object of this tag.
pub(super) fn refuse(head: &Head, etag: &str, base: &mut Response) -> Option<Response> {
    let pairs = head
        .headers
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let condition = Precondition::from_headers(pairs);
    let modified = text(base.headers(), "last-modified")
        .and_then(http_date_seconds)
        .unwrap_or_default();
    match condition.judge_read_at(etag, modified) {
        Verdict::Proceed => None,
        Verdict::NotModified => {
            let mut response = core::mem::take(base);
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            Some(response)
        }
        Verdict::Failed => {
            let mut response = core::mem::take(base);
            fail_condition(&mut response);
            Some(response)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_a_container_and_a_prefix() {
        let (container, prefix) = parse("c/o%20p/").unwrap();
        assert_eq!((container.as_str(), prefix.as_str()), ("c", "o p/"));
        assert_eq!(parse("/c/o").unwrap().1, "o");
        for bad in ["", "c", "c/", "/", "c/%00", "%00versions%00c/o"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}

//! Many things in one request: lists of names deleted, archives unpacked (`extract`).

use super::report::{self, Format, Report};
use super::unpack::Compression;
use crate::fault::Fault;
use crate::proxy::Asking;
use crate::subrequest::{bare, parameter, text};
use http::request::Parts as Head;
use http::{Method, StatusCode, header};
use onggi_common_service::http::{Body, CollectError, Response, collect, empty};
use onggi_object_model::limits::OBJECT_NAME_BYTES_MAX;
use onggi_object_model::path::encode_rest;
use onggi_object_model::{AccountName, Resource};

/// Names one request may delete.
pub(crate) const DELETES_MAX: usize = 10_000;
/// Errors after which a request ends.
const ERRORS_MAX: usize = 1_000;
/// Bytes of a list of names: three times the longest name each may be when it is percent-encoded, as much as is likely.
const LIST_BYTES_MAX: usize = 8 << 20;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bulk {
    Delete,
    Extract(Compression),
}

impl Asking {
    /// Whether a request is for many things.
    pub(crate) fn bulk_wanted(&self, request: &Head) -> Result<Option<Bulk>, Fault> {
        let deletes = matches!(request.method, Method::POST | Method::DELETE)
            && parameter(request, "bulk-delete").is_some();
        let archive = parameter(request, "extract-archive");
        let wanted = match archive.filter(|_| request.method == Method::PUT) {
            Some(kind) => {
                let unknown = || Fault::BadRequest("Unsupported archive format".to_owned());
                Some(Bulk::Extract(
                    Compression::parse(&kind).ok_or_else(unknown)?,
                ))
            }
            None => deletes.then_some(Bulk::Delete),
        };
        if wanted.is_some() && self.scope.is_some() {
            // A signed URL is for one object, or for those with a prefix: not for names in a body.
            return Err(Fault::InvalidTempUrl {
                realm: "unknown".to_owned(),
            });
        }
        Ok(wanted)
    }

    pub(crate) async fn bulk(
        &self,
        bulk: Bulk,
        resource: &Resource,
        request: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        match bulk {
            Bulk::Delete => self.bulk_delete(resource, request, body).await,
            Bulk::Extract(compression) => self.extract(compression, resource, request, body).await,
        }
    }

    async fn bulk_delete(
        &self,
        resource: &Resource,
        request: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let has_body = text(&request.headers, "content-length").is_some()
            || request.headers.contains_key(header::TRANSFER_ENCODING);
        let refused = report::refused(&request, has_body);
        if let Some(status) = refused {
            let report = Report {
                status: Some(status),
                ..Report::default()
            };
            return Ok(report.response(Format::of(&request), StatusCode::OK));
        }
        let format = Format::of(&request);
        let list = collect(body, LIST_BYTES_MAX)
            .await
            .map_err(|error| match error {
                CollectError::TooLong { .. } => Fault::TooLarge,
                CollectError::Broken { .. } => Fault::ClientDisconnect,
            })?;
        let account = resource.account().clone();
        let asking = self.clone();
        let work = async move {
            match names(&list) {
                Ok(names) => asking.delete_all(&account, &request, names).await,
                Err((status, words)) => Report {
                    status: Some(status),
                    body: words,
                    ..Report::default()
                },
            }
        };
        Ok(report::answered_in_time(format, work).await)
    }

    async fn delete_all(
        &self,
        account: &AccountName,
        request: &Head,
        names: Vec<String>,
    ) -> Report {
        let mut report = Report::default();
        if names.is_empty() {
            report.status = Some(StatusCode::BAD_REQUEST);
            "Invalid bulk delete.".clone_into(&mut report.body);
        }
        for raw in names {
            if report.problems.len() >= ERRORS_MAX {
                report.status = Some(StatusCode::BAD_REQUEST);
                "Too many errors.".clone_into(&mut report.body);
                break;
            }
            let answered = match target(account, &raw) {
                None => Err(Fault::PreconditionFailed("no name".to_owned())),
                Some(Resource::Object(path)) => {
                    let head = bare(request, Method::DELETE);
                    Box::pin(self.object_in_turn(path, head, empty())).await
                }
                Some(Resource::Container(path)) => {
                    let head = bare(request, Method::DELETE);
                    Box::pin(self.container(&path, &head)).await
                }
                Some(Resource::Account(_)) => Err(Fault::PreconditionFailed("no name".to_owned())),
            };
            let status = match answered {
                Ok(response) => response.status(),
                Err(fault) => fault.status(),
            };
            if status.is_success() {
                report.deleted += 1;
            } else if status == StatusCode::NOT_FOUND {
                report.not_found += 1;
            } else {
                report.problems.push((raw, report::status_text(status)));
            }
        }
        report
    }
}

/// The names of a list, one a line, as they are written.
fn names(list: &[u8]) -> Result<Vec<String>, (StatusCode, String)> {
    let text = String::from_utf8_lossy(list);
    let mut names = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.len() > 3 * (OBJECT_NAME_BYTES_MAX + 256 + 2) {
            let words = "Invalid File Name".to_owned();
            return Err((StatusCode::BAD_REQUEST, words));
        }
        if names.len() >= DELETES_MAX {
            let words = format!("Maximum Bulk Deletes: {DELETES_MAX} per request");
            return Err((StatusCode::PAYLOAD_TOO_LARGE, words));
        }
        names.push(line.to_owned());
    }
    Ok(names)
}

/// What a line names: `/container` or `/container/object`, percent-encoded.
fn target(account: &AccountName, raw: &str) -> Option<Resource> {
    let encoded = format!(
        "/v1/{}/{}",
        encode_rest(account.as_str()),
        raw.trim_start_matches('/')
    );
    match Resource::parse(&encoded) {
        Ok(Resource::Account(_)) | Err(_) => None,
        Ok(found) => (found.account() == account).then_some(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_containers_and_objects_and_never_what_is_ours() {
        let account: AccountName = "AUTH_a".parse().unwrap();
        let named = |raw| target(&account, raw);
        assert!(
            matches!(named("/c/o%20p"), Some(Resource::Object(path)) if path.object.as_str() == "o p")
        );
        assert!(matches!(named("c"), Some(Resource::Container(_))));
        for bad in ["", "/", "%00versions%00c/o", "c/%ff"] {
            assert!(named(bad).is_none(), "{bad}");
        }
        let many = "c/o\n".repeat(DELETES_MAX + 1);
        let (status, _) = names(many.as_bytes()).unwrap_err();
        assert_eq!(report::status_text(status), "413 Request Entity Too Large");
        let long = "c/".to_owned() + &"o".repeat(4_000);
        let refused = names(long.as_bytes()).unwrap_err();
        assert_eq!(refused.0, StatusCode::BAD_REQUEST);
        assert_eq!(names(b"a\r\n\n b \n").unwrap(), ["a", "b"]);
    }
}

//! A manifest is deleted with its segments (`?multipart-manifest=delete`).

use super::{is_large, segment_path};
use crate::assembly::DEPTH_MAX;
use crate::fault::Fault;
use crate::middleware::report::{Format, Report, status_text};
use crate::proxy::Asking;
use crate::subrequest::{bare, is_true, parameter, set_query};
use http::request::Parts as Head;
use http::{Method, StatusCode};
use onggi_common_service::http::{Response, empty};
use onggi_object_model::ObjectPath;
use onggi_object_model::manifest::Segment;
use onggi_object_model::path::{encode_rest, encode_segment};
use std::collections::BTreeSet;
use tokio::task::JoinSet;

/// Objects one request deletes with their manifest.
const DELETES_MAX: usize = 10_000;

/// How many segments `async` deletes at a time.
const DELETIONS_AT_ONCE: usize = 16;

/// What Swift demands of a manifest that is deleted with `async`: segments of one container, none a manifest itself.
fn check_async(segments: &[Segment]) -> Result<(), Fault> {
    let stored = || segments.iter().filter(|segment| segment.data.is_none());
    let containers: BTreeSet<&str> = stored()
        .filter_map(|segment| {
            let name = segment.name.trim_start_matches('/');
            name.split_once('/').map(|(container, _)| container)
        })
        .collect();
    if containers.len() > 1 {
        let containers: Vec<String> = containers
            .into_iter()
            .map(|container| format!("\"{}\"", encode_segment(container)))
            .collect();
        return Err(Fault::BadRequest(format!(
            "All segments must be in one container. Found segments in {}",
            containers.join(", ")
        )));
    }
    if stored().any(|segment| segment.sub_slo) {
        let words = "No segments may be large objects.";
        return Err(Fault::BadRequest(words.to_owned()));
    }
    Ok(())
}

/// An object as a report names it.
fn shown(path: &ObjectPath) -> String {
    encode_rest(&format!("/{}/{}", path.container, path.object))
}

impl Asking {
    /// Deletes the segments, those of manifests within too, and the manifest last.
    pub(super) async fn delete_large(
        &self,
        path: ObjectPath,
        head: Head,
    ) -> Result<Response, Fault> {
        let format = Format::of(&head);
        let is_async = parameter(&head, "async").is_some_and(|text| is_true(&text));
        let mut asked = bare(&head, Method::GET);
        if let Some(version) = parameter(&head, "version-id") {
            set_query(&mut asked, &[("version-id", &version)]);
        }
        let mut doomed: Vec<ObjectPath> = Vec::new();
        let response = Box::pin(self.dynamic_large(path.clone(), asked.clone(), empty())).await;
        match response {
            Ok(response) if is_large(response.headers()) => {
                let (segments, _) = self.manifest(&path, &asked, response).await?;
                if is_async {
                    check_async(&segments)?;
                }
                self.gather(&path, &head, segments, &mut doomed).await?;
            }
            Ok(response) if response.status().is_success() => {
                let report = Report {
                    problems: vec![(shown(&path), "Not an SLO manifest".to_owned())],
                    ..Report::default()
                };
                return Ok(report.response(format, StatusCode::OK));
            }
            Ok(_) | Err(Fault::NotFound) => {}
            Err(fault) => return Err(fault),
        }
        let mut report = Report::default();
        if is_async {
            self.delete_side_by_side(&mut report, doomed, &head).await?;
        } else {
            for object in doomed {
                self.delete_one(&mut report, object, bare(&head, Method::DELETE))
                    .await;
            }
        }
        let mut last = bare(&head, Method::DELETE);
        if let Some(version) = parameter(&head, "version-id") {
            set_query(&mut last, &[("version-id", &version)]);
        }
        self.delete_one(&mut report, path, last).await;
        if is_async && report.problems.is_empty() {
            return Ok(crate::object::put::plain(StatusCode::NO_CONTENT));
        }
        Ok(report.response(format, StatusCode::OK))
    }

    /// What a manifest's deletion takes along.
    async fn gather(
        &self,
        path: &ObjectPath,
        head: &Head,
        segments: Vec<Segment>,
        doomed: &mut Vec<ObjectPath>,
    ) -> Result<(), Fault> {
        let mut stack = vec![(segments.into_iter(), None::<ObjectPath>)];
        while let Some((segments, own)) = stack.last_mut() {
            let Some(segment) = segments.next() else {
                doomed.extend(own.take());
                stack.pop();
                continue;
            };
            let Some(object) = segment_path(&path.account, &segment.name) else {
                continue;
            };
            if doomed.len() >= DELETES_MAX {
                return Err(Fault::BadRequest(format!(
                    "Too many buffered slo segments to delete; {DELETES_MAX} are allowed"
                )));
            }
            if !segment.sub_slo || stack.len() >= DEPTH_MAX {
                doomed.push(object);
                continue;
            }
            let asked = bare(head, Method::GET);
            match Box::pin(self.dynamic_large(object.clone(), asked.clone(), empty())).await {
                Ok(response) if is_large(response.headers()) => {
                    let (inner, _) = self.manifest(&object, &asked, response).await?;
                    stack.push((inner.into_iter(), Some(object)));
                }
                Ok(_) | Err(_) => doomed.push(object),
            }
        }
        Ok(())
    }

    /// Deletes segments of one manifest, some at a time.
    async fn delete_side_by_side(
        &self,
        report: &mut Report,
        doomed: Vec<ObjectPath>,
        head: &Head,
    ) -> Result<(), Fault> {
        let mut doomed = doomed.into_iter();
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < DELETIONS_AT_ONCE {
                let Some(object) = doomed.next() else {
                    break;
                };
                let (asking, asked) = (self.clone(), bare(head, Method::DELETE));
                under_way.spawn(async move {
                    let mut report = Report::default();
                    asking.delete_one(&mut report, object, asked).await;
                    report
                });
            }
            let Some(done) = under_way.join_next().await else {
                return Ok(());
            };
            let done = done.map_err(|_panicked| Fault::Unavailable)?;
            report.deleted += done.deleted;
            report.not_found += done.not_found;
            report.problems.extend(done.problems);
        }
    }

    async fn delete_one(&self, report: &mut Report, path: ObjectPath, head: Head) {
        let shown = shown(&path);
        match Box::pin(self.dynamic_large(path, head, empty())).await {
            Ok(response) if response.status().is_success() => report.deleted += 1,
            Ok(response) => report
                .problems
                .push((shown, status_text(response.status()))),
            Err(Fault::NotFound) => report.not_found += 1,
            Err(fault) => report.problems.push((shown, status_text(fault.status()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(name: &str, sub_slo: bool, data: Option<&str>) -> Segment {
        Segment {
            name: name.to_owned(),
            hash: String::new(),
            bytes: 1,
            content_type: String::new(),
            last_modified: String::new(),
            range: None,
            sub_slo,
            data: data.map(str::to_owned),
        }
    }

    #[test]
    fn only_plain_segments_of_one_container_are_deleted_with_async() {
        let one = segment("/c/1", false, None);
        let inline = segment("", false, Some("eA=="));
        assert_eq!(check_async(&[]), Ok(()));
        assert_eq!(check_async(&[one.clone(), inline]), Ok(()));
        let other = check_async(&[one.clone(), segment("/d /2", false, None)]);
        let words = "All segments must be in one container. Found segments in \"c\", \"d%20\"";
        assert_eq!(other, Err(Fault::BadRequest(words.to_owned())));
        assert!(check_async(&[one, segment("/c/2", true, None)]).is_err());
    }
}

//! The older ways to keep versions: a container names another one that gets what is overwritten.
//!
//! `X-Versions-Location` brings the last version back on DELETE; `X-History-Location` leaves a marker instead.

use super::versions::DELETED;
use crate::fault::{Fault, set};
use crate::proxy::Asking;
use crate::subrequest::{Trusted, bare, set_query, text};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, header};
use onggi_common_service::http::{Body, Response, empty};
use onggi_common_units::Timestamp;
use onggi_object_model::listing::Named as _;
use onggi_object_model::{
    ContainerInfo, ContainerName, ContainerPath, ListingEntry, ListingQuery, ObjectPath, Resource,
};
use std::sync::Arc;

/// The container's items: where versions go, and in which of the two ways.
pub(crate) const LOCATION: &str = "x-container-sysmeta-versions-location";
pub(crate) const MODE: &str = "x-container-sysmeta-versions-mode";
/// The two ways.
pub(crate) const STACK: &str = "stack";
pub(crate) const HISTORY: &str = "history";
/// Versions looked through for one that can be brought back.
const VERSIONS_LOOKED_AT: usize = 1_000;

/// What an object's copy takes along.
pub(super) fn take_along(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        let text = name.as_str();
        let is_taken = text.starts_with("x-object-meta-")
            || text.starts_with("x-object-sysmeta-")
            || matches!(
                text,
                "content-type"
                    | "content-length"
                    | "content-encoding"
                    | "content-disposition"
                    | "content-language"
                    | "cache-control"
                    | "expires"
                    | "x-object-manifest"
                    | "x-delete-at"
                    | "x-static-large-object"
                    | "etag"
            );
        if is_taken {
            to.insert(name.clone(), value.clone());
        }
    }
}

/// What versions of an object are called before the time: their name's length in hexadecimal, and their name.
fn prefix(path: &ObjectPath) -> String {
    let name = path.object.as_str();
    format!("{:03x}{name}/", name.len())
}

/// A container's name as the header has it: percent-encoded, and nothing but a name.
pub(crate) fn container_name(value: &str) -> Option<ContainerName> {
    let decoded = percent_encoding::percent_decode_str(value)
        .decode_utf8()
        .ok()?;
    if decoded.contains('\0') {
        return None;
    }
    decoded.parse().ok()
}

struct Place {
    path: ObjectPath,
    versions: ContainerPath,
    is_history: bool,
}

impl Place {
    fn version(&self, at: Timestamp) -> Result<ObjectPath, Fault> {
        let name = format!("{}{}", prefix(&self.path), at.normal());
        Ok(ObjectPath {
            account: self.versions.account.clone(),
            container: self.versions.container.clone(),
            object: name.parse().map_err(|_too_long| {
                Fault::PreconditionFailed(
                    "the object's name is too long to keep versions".to_owned(),
                )
            })?,
        })
    }
}

fn place(path: &ObjectPath, info: Option<&ContainerInfo>) -> Option<Place> {
    let metadata = &info?.metadata;
    let container = container_name(metadata.get(LOCATION)?)?;
    Some(Place {
        path: path.clone(),
        versions: ContainerPath {
            account: path.account.clone(),
            container,
        },
        is_history: metadata.get(MODE) == Some(HISTORY),
    })
}

impl Asking {
    pub(super) async fn legacy_versioned(
        &self,
        path: ObjectPath,
        info: Option<Arc<ContainerInfo>>,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let writes = matches!(head.method, Method::PUT | Method::DELETE);
        let place = place(&path, info.as_deref()).filter(|_| writes);
        let Some(place) = place else {
            return Box::pin(self.linked(path, head, body)).await;
        };
        if head.extensions.get::<Trusted>().is_none() {
            let resource = Resource::Object(path.clone());
            self.authorize(&head.method, &resource, &head.headers)
                .await?;
        }
        if head.method == Method::PUT {
            self.keep_current(&place, &head).await?;
            return Box::pin(self.linked(path, head, body)).await;
        }
        if place.is_history {
            self.keep_current(&place, &head).await?;
            let mut marker = bare(&head, Method::PUT);
            marker.extensions.insert(Trusted);
            set(&mut marker.headers, header::CONTENT_TYPE, DELETED);
            let length = HeaderValue::from(0);
            marker.headers.insert(header::CONTENT_LENGTH, length);
            let version = place.version(self.core.cluster.clock.stamp())?;
            self.write_version(version, marker, empty()).await?;
            return Box::pin(self.linked(path, head, body)).await;
        }
        Box::pin(self.bring_back(place, head, body)).await
    }

    async fn write_version(
        &self,
        version: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<(), Fault> {
        match Box::pin(self.linked(version, head, body)).await {
            Ok(response) if response.status().is_success() => Ok(()),
            Err(Fault::NotFound) => Err(Fault::PreconditionFailed(
                "The versions container does not exist".to_owned(),
            )),
            Ok(_) => Err(Fault::Unavailable),
            Err(fault) => Err(fault),
        }
    }

    /// Copies what is there now to the container of versions.
    async fn keep_current(&self, place: &Place, head: &Head) -> Result<(), Fault> {
        let mut asked = bare(head, Method::GET);
        asked.extensions.insert(Trusted);
        set_query(&mut asked, &[("symlink", "get")]);
        let found = match Box::pin(self.linked(place.path.clone(), asked, empty())).await {
            Ok(found) => found,
            Err(Fault::NotFound) => return Ok(()),
            Err(fault) => return Err(fault),
        };
        let at = text(found.headers(), "x-timestamp").and_then(|text| text.parse().ok());
        let version = place.version(at.ok_or(Fault::Unavailable)?)?;
        let mut copy = bare(head, Method::PUT);
        copy.extensions.insert(Trusted);
        let (from, body) = found.into_parts();
        take_along(&from.headers, &mut copy.headers);
        self.write_version(version, copy, body).await
    }

    /// Puts the last version in the place of what is deleted.
    async fn bring_back(&self, place: Place, head: Head, body: Body) -> Result<Response, Fault> {
        let query = ListingQuery {
            prefix: prefix(&place.path),
            reverse: true,
            ..ListingQuery::page(VERSIONS_LOOKED_AT)
        };
        let page = match self.core.page(&place.versions, query).await {
            Ok((_, page)) => page,
            Err(Fault::NotFound) => return Box::pin(self.linked(place.path, head, body)).await,
            Err(fault) => return Err(fault),
        };
        let mut is_deleted = false;
        for entry in page.entries {
            let ListingEntry::Item(item) = entry else {
                continue;
            };
            let Ok(object) = item.name().parse() else {
                continue;
            };
            let version = ObjectPath {
                account: place.versions.account.clone(),
                container: place.versions.container.clone(),
                object,
            };
            // Who may delete the object gets its versions back, whoever may read the container they are in.
            let mut asked = bare(&head, Method::GET);
            asked.extensions.insert(Trusted);
            set_query(&mut asked, &[("symlink", "get")]);
            let mut last = bare(&head, Method::DELETE);
            if item.content_type == DELETED {
                // A marker of the other way: what is deleted goes with it, and nothing comes in its place.
                if is_deleted {
                    return Ok(crate::object::put::plain(http::StatusCode::NO_CONTENT));
                }
                let there = self.exists(&place.path, &head).await?;
                if !there {
                    last.extensions.insert(Trusted);
                    Box::pin(self.linked(version, last, empty())).await?;
                    is_deleted = true;
                    continue;
                }
                return Box::pin(self.linked(place.path, head, body)).await;
            }
            let found = match Box::pin(self.linked(version.clone(), asked, empty())).await {
                Ok(found) => found,
                Err(Fault::NotFound) => continue,
                Err(fault) => return Err(fault),
            };
            let mut copy = bare(&head, Method::PUT);
            copy.extensions.insert(Trusted);
            let (from, bytes) = found.into_parts();
            take_along(&from.headers, &mut copy.headers);
            let written = Box::pin(self.linked(place.path, copy, bytes)).await?;
            if !written.status().is_success() {
                return Ok(written);
            }
            last.extensions.insert(Trusted);
            return Box::pin(self.linked(version, last, empty())).await;
        }
        if is_deleted {
            return Ok(crate::object::put::plain(http::StatusCode::NO_CONTENT));
        }
        Box::pin(self.linked(place.path, head, body)).await
    }

    async fn exists(&self, path: &ObjectPath, head: &Head) -> Result<bool, Fault> {
        let mut asked = bare(head, Method::HEAD);
        asked.extensions.insert(Trusted);
        match self.stored(path.clone(), asked, empty()).await {
            Ok(_) => Ok(true),
            Err(Fault::NotFound) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_by_length_name_and_time() {
        let path = ObjectPath {
            account: "AUTH_a".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: "한/x".parse().unwrap(),
        };
        assert_eq!(prefix(&path), "005한/x/");
    }
}

//! One change of an object on its way to another cluster.

use super::peer::{Answer, Peer, PeerError, Peers};
use crate::disks::DiskError;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use onggi_common_service::http::{Body, empty};
use onggi_common_units::{Secret, Timestamp};
use onggi_object_model::metadata::{OBJECT_KEPT_HEADERS, STATIC_LARGE_OBJECT};
use onggi_object_model::path::{encode_rest, encode_segment};
use onggi_object_model::{ContainerPath, MetadataKind, ObjectRecord};
use onggi_object_wire::Realms;
use onggi_object_wire::realms::{Destination, SyncRequest};
use std::sync::Arc;

const TIMESTAMP: HeaderName = HeaderName::from_static("x-timestamp");
const AUTH: HeaderName = HeaderName::from_static("x-container-sync-auth");
/// Where a link leads, as clients say it.
const OF_LINKS: &str = "x-symlink-target";

/// From where to where a container is copied.
pub(super) struct Route {
    pub(super) from: ContainerPath,
    pub(super) destination: Destination,
    pub(super) realms: Arc<Realms>,
    pub(super) container_key: Secret,
    pub(super) peer: Arc<Peer>,
    pub(super) peers: Arc<Peers>,
}

/// Why a change is not there yet.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    /// There was no time left, or the other cluster was away.
    #[error("not every change was tried")]
    NotTried,
    /// The other cluster does not answer.
    #[error("the other cluster: {0}")]
    Remote(PeerError),
    /// The other cluster refuses.
    #[error("the other cluster answers {status} to {method} of {name:?}{}", hint(*status))]
    Refused {
        /// Its answer.
        status: StatusCode,
        /// What was asked.
        method: Method,
        /// Of which object.
        name: String,
    },
    /// This cluster's proxy does not answer.
    #[error("this cluster's proxy: {0}")]
    Proxy(PeerError),
    /// This cluster's proxy cannot read the object.
    #[error("this cluster's proxy answers {status} to GET of {name:?}")]
    Unreadable {
        /// Its answer.
        status: StatusCode,
        /// Of which object.
        name: String,
    },
    /// The container has heard of a write that its objects have not kept yet.
    #[error("{name:?} is not as new yet as the container says")]
    Older {
        /// Of which object.
        name: String,
    },
    /// The realm went from the file.
    #[error("the realm is not configured any more")]
    NoRealm,
    /// A request that cannot be made.
    #[error("a request cannot be made: {0}")]
    Request(http::Error),
    /// The device does not answer.
    #[error("the device: {0}")]
    Disk(String),
}

const fn hint(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => {
            "; do both containers have the same X-Container-Sync-Key, and both clusters the realm's key?"
        }
        StatusCode::NOT_FOUND => "; is the container there?",
        _ => "",
    }
}

impl RowError {
    pub(super) fn disk(error: DiskError) -> Self {
        Self::Disk(error.to_string())
    }

    /// Whether it is of no use to go on with other objects now.
    pub(super) const fn is_peer_away(&self) -> bool {
        matches!(
            self,
            Self::Remote(PeerError::Connect { .. } | PeerError::Stalled { .. })
                | Self::Proxy(PeerError::Connect { .. })
        )
    }
}

/// The newest of a record's times, without what is within a tick: no header carries that.
fn changed(record: &ObjectRecord) -> Timestamp {
    let newest = record.data_timestamp.max(record.metadata_timestamp);
    newest.max(record.content_type_timestamp)
}

fn stamp(headers: &HeaderMap) -> Option<Timestamp> {
    headers.get(TIMESTAMP)?.to_str().ok()?.parse().ok()
}

/// What goes along with an object's bytes: what clients have said about it, and what it is.
fn taken_along(from: &HeaderMap) -> HeaderMap {
    let kept = |name: &str| {
        name.starts_with(MetadataKind::Object.prefix())
            || name.starts_with(OF_LINKS)
            || OBJECT_KEPT_HEADERS.contains(&name)
            || matches!(name, "content-type" | "content-length" | "x-timestamp")
            || name == STATIC_LARGE_OBJECT
    };
    let pairs = from.iter().filter(|(name, _)| kept(name.as_str()));
    let mut headers: HeaderMap = pairs
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let etag = from.get(header::ETAG).and_then(|etag| etag.to_str().ok());
    let etag = etag.map(|etag| HeaderValue::from_str(etag.trim_matches('"')));
    if let Some(Ok(etag)) = etag {
        headers.insert(header::ETAG, etag);
    }
    headers
}

impl Route {
    /// Brings one change to the other cluster. `Ok` when it is there, or something newer is.
    pub(super) async fn send(&self, record: &ObjectRecord) -> Result<(), RowError> {
        let name = record.name.as_str();
        if record.deleted {
            return self.delete(name, record.data_timestamp).await;
        }
        let newest = changed(record);
        if self.is_there(name, newest).await? {
            return Ok(());
        }
        let Some(object) = self.read(name, newest).await? else {
            return Ok(());
        };
        let (parts, body) = object.response.into_parts();
        let headers = taken_along(&parts.headers);
        let answer = self.ask(Method::PUT, name, headers, body).await?;
        // 409: something newer came there meanwhile.
        if answer.is_success() || answer == StatusCode::CONFLICT {
            return Ok(());
        }
        Err(self.refused(answer, Method::PUT, name))
    }

    fn refused(&self, status: StatusCode, method: Method, name: &str) -> RowError {
        RowError::Refused {
            status,
            method,
            name: name.to_owned(),
        }
    }

    async fn delete(&self, name: &str, at: Timestamp) -> Result<(), RowError> {
        let answer = self.ask(Method::DELETE, name, stamped(at), empty()).await?;
        let is_gone = matches!(answer, StatusCode::NOT_FOUND | StatusCode::CONFLICT);
        if answer.is_success() || is_gone {
            return Ok(());
        }
        Err(self.refused(answer, Method::DELETE, name))
    }

    async fn is_there(&self, name: &str, newest: Timestamp) -> Result<bool, RowError> {
        let request = self.request(Method::HEAD, name, stamped(newest), empty())?;
        let answer = self.peer.send(request).await.map_err(RowError::Remote)?;
        let answer = answer.finish().await.map_err(RowError::Remote)?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        if !answer.status.is_success() {
            return Err(self.refused(answer.status, Method::HEAD, name));
        }
        Ok(stamp(&answer.headers).is_some_and(|there| there.ticks() >= newest.ticks()))
    }

    /// The object as it is kept here; `None` when there is nothing to send.
    async fn read(&self, name: &str, newest: Timestamp) -> Result<Option<Answer>, RowError> {
        let path = format!(
            "/v1/{}/{}/{}",
            encode_segment(self.from.account.as_str()),
            encode_segment(self.from.container.as_str()),
            encode_rest(name)
        );
        let answer = self.peers.read(&path).await.map_err(RowError::Proxy)?;
        let status = answer.response.status();
        let older = || RowError::Older {
            name: name.to_owned(),
        };
        match status {
            StatusCode::GONE => Ok(None),
            StatusCode::NOT_FOUND => Err(older()),
            _ if !status.is_success() => Err(RowError::Unreadable {
                status,
                name: name.to_owned(),
            }),
            _ => {
                let there = stamp(answer.response.headers());
                if there.is_none_or(|there| there.ticks() < newest.ticks()) {
                    return Err(older());
                }
                Ok(Some(answer))
            }
        }
    }

    async fn ask(
        &self,
        method: Method,
        name: &str,
        headers: HeaderMap,
        body: Body,
    ) -> Result<StatusCode, RowError> {
        let request = self.request(method, name, headers, body)?;
        let answer = self.peer.send(request).await.map_err(RowError::Remote)?;
        let answer = answer.finish().await.map_err(RowError::Remote)?;
        Ok(answer.status)
    }

    fn request(
        &self,
        method: Method,
        name: &str,
        mut headers: HeaderMap,
        body: Body,
    ) -> Result<Request<Body>, RowError> {
        let path = self.destination.object(name);
        let timestamp = headers
            .get(TIMESTAMP)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("0");
        let signed = SyncRequest {
            method: method.as_str(),
            path: &path,
            timestamp,
        };
        let nonce = self.peers.nonce();
        let realm = &self.destination.realm;
        let auth = self
            .realms
            .sign(realm, &signed, &nonce, &self.container_key);
        let auth = auth.ok_or(RowError::NoRealm)?;
        let auth = HeaderValue::try_from(auth).map_err(|error| RowError::Request(error.into()))?;
        headers.insert(AUTH, auth);
        // A link's own time is asked for, and not its target's.
        let target = match method {
            Method::HEAD => format!("{path}?symlink=get"),
            _ => path,
        };
        let mut request = Request::builder().method(method).uri(target);
        if let Some(all) = request.headers_mut() {
            all.extend(headers);
        }
        request.body(body).map_err(RowError::Request)
    }
}

fn stamped(at: Timestamp) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(at.to_string()) {
        headers.insert(TIMESTAMP, value);
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_said_goes_along_and_nothing_else() {
        let mut from = HeaderMap::new();
        for (name, value) in [
            ("x-object-meta-color", "blue"),
            ("content-type", "text/plain"),
            ("content-encoding", "gzip"),
            ("x-delete-at", "2000000000"),
            ("x-static-large-object", "True"),
            ("x-object-manifest", "c/p"),
            ("x-symlink-target", "c/o"),
            ("x-symlink-target-etag", "e"),
            ("x-timestamp", "1.00000"),
            ("content-length", "3"),
            ("etag", "\"abc\""),
            ("x-trans-id", "tx"),
            ("date", "now"),
            ("last-modified", "then"),
            ("accept-ranges", "bytes"),
            ("connection", "keep-alive"),
            ("x-object-sysmeta-a", "b"),
        ] {
            from.insert(name, HeaderValue::from_static(value));
        }
        let along = taken_along(&from);
        assert_eq!(along.len(), 11, "{along:?}");
        assert_eq!(along[header::ETAG], "abc");
        for name in ["x-trans-id", "date", "connection", "x-object-sysmeta-a"] {
            assert!(!along.contains_key(name), "{name}");
        }
    }
}

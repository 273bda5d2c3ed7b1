//! Container sync: what other clusters send of their containers, where containers of this one may be sent to, and what
//! the nodes that send them read.
//!
//! A request of another cluster is signed with the realm's and the container's key. It enters below the checks of large
//! objects and links, whose parts may come later, and keeps the time it was made at there. A node's request is signed
//! with this cluster's own keys, reads any object as it is kept, and nothing else.

use super::{static_large, versions};
use crate::clock::AHEAD_MAX;
use crate::fault::Fault;
use crate::options::SyncOptions;
use crate::proxy::Asking;
use crate::subrequest::{Stamped, Trusted, bare, is_true, set_length, set_query, text};
use bytes::Bytes;
use http::request::Parts as Head;
use http::{HeaderMap, Method, StatusCode, header};
use onggi_common_service::http::{Body, CollectError, Response, collect, empty, full};
use onggi_common_units::{Secret, Timestamp, UtcTime};
use onggi_object_model::manifest::{MANIFEST_BYTES_MAX, SEGMENTS_MAX, Segment, parse_kept};
use onggi_object_model::metadata::STATIC_LARGE_OBJECT;
use onggi_object_model::path::encode_rest;
use onggi_object_model::{ContainerPath, ObjectPath, Resource};
use onggi_object_wire::auth::SignedHead;
use onggi_object_wire::realms::SyncRequest;
use onggi_object_wire::{Realms, Verifier, head};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

const AUTH: &str = "x-container-sync-auth";
pub(crate) const SYNC_TO: &str = "x-container-sync-to";
pub(crate) const SYNC_KEY: &str = "x-container-sync-key";
/// The longest object a manifest may describe: lengths are added up without care elsewhere.
const DESCRIBED_BYTES_MAX: u64 = 1 << 60;

/// Which clusters there are, and who of this one reads for them.
pub(crate) struct ContainerSync {
    configured: Option<Configured>,
}

struct Configured {
    realms: watch::Receiver<Arc<Realms>>,
    current: Option<(String, String)>,
    verifier: Mutex<Verifier>,
}

/// What a request of another cluster says beside what every request says.
#[derive(Debug, Clone)]
pub(crate) struct Incoming {
    auth: String,
    timestamp: Option<String>,
    is_manifest: bool,
}

/// Takes from a request's headers what only another cluster may say; `None` when it is not of one.
pub(crate) fn take(headers: &mut HeaderMap) -> Option<Incoming> {
    let auth = headers.remove(AUTH)?;
    Some(Incoming {
        auth: auth.to_str().unwrap_or_default().to_owned(),
        timestamp: text(headers, "x-timestamp").map(str::to_owned),
        is_manifest: text(headers, STATIC_LARGE_OBJECT).is_some_and(is_true),
    })
}

impl ContainerSync {
    pub(crate) fn new(options: Option<SyncOptions>) -> Self {
        let configured = options.map(|options| Configured {
            realms: options.realms,
            current: options.current,
            verifier: Mutex::new(Verifier::new(options.keys, options.authorities)),
        });
        Self { configured }
    }

    fn realms(&self) -> Arc<Realms> {
        let configured = self.configured.as_ref();
        configured.map_or_else(Arc::default, |it| Arc::clone(&it.realms.borrow()))
    }

    /// Whether a node of this cluster asks for what it is to send.
    pub(crate) fn is_of_node(&self, request: &Head, now: UtcTime) -> bool {
        let Some(configured) = &self.configured else {
            return false;
        };
        let Some(said) = text(&request.headers, head::AUTHORIZATION) else {
            return false;
        };
        let path = request
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str());
        let signed = SignedHead {
            method: request.method.as_str(),
            authority: text(&request.headers, header::HOST.as_str()).unwrap_or_default(),
            path,
            head: &[],
            length: Some(0),
        };
        let judged = {
            let verifier = configured.verifier.lock();
            let mut verifier = verifier.unwrap_or_else(PoisonError::into_inner);
            verifier.verify(Some(said), &signed, now)
        };
        match judged.and_then(|pending| pending.verify_body(&[])) {
            Ok(()) => request.method == Method::GET,
            Err(refusal) => {
                tracing::warn!(%refusal, "a request that says it is a storage node's is not");
                false
            }
        }
    }

    /// Adds to `/info` which clusters there are.
    pub(crate) fn tell(&self, document: &mut serde_json::Value) {
        let Some(configured) = &self.configured else {
            return;
        };
        let mut realms = serde_json::Map::new();
        for (realm, clusters) in self.realms().clusters() {
            let mut shown = serde_json::Map::new();
            for cluster in clusters {
                let is_current = configured.current.as_ref().is_some_and(|(of, name)| {
                    of.eq_ignore_ascii_case(realm) && name.eq_ignore_ascii_case(cluster)
                });
                let said = match is_current {
                    true => serde_json::json!({ "current": true }),
                    false => serde_json::json!({}),
                };
                shown.insert(cluster.to_owned(), said);
            }
            realms.insert(realm.to_owned(), serde_json::json!({ "clusters": shown }));
        }
        document["container_sync"] = serde_json::json!({ "realms": realms });
    }
}

fn refused(resource: &Resource) -> Fault {
    Fault::InvalidSyncAuth {
        realm: resource.account().to_string(),
    }
}

/// The time another cluster's write was made at.
fn stamp(incoming: &Incoming, now: Timestamp) -> Result<Timestamp, Fault> {
    let said = incoming.timestamp.as_deref().unwrap_or_default();
    let stamp: Timestamp = said.parse().map_err(|_malformed| {
        Fault::BadRequest("X-Timestamp should be seconds since 1970".to_owned())
    })?;
    if stamp.to_utc() > now.to_utc().saturating_add(AHEAD_MAX) {
        return Err(Fault::BadRequest(format!(
            "X-Timestamp is more than {} seconds ahead of this cluster's clock",
            AHEAD_MAX.as_secs()
        )));
    }
    Ok(stamp)
}

/// How long an object is that a manifest of another cluster describes; `None` when it is no manifest.
fn described(segments: &[Segment]) -> Option<u64> {
    if segments.is_empty() || segments.len() > SEGMENTS_MAX {
        return None;
    }
    let mut size = 0u64;
    for segment in segments {
        let (start, end) = segment.bounds()?;
        size = size.checked_add(end.checked_sub(start)?)?;
        if segment.bytes.max(size) > DESCRIBED_BYTES_MAX {
            return None;
        }
    }
    Some(size)
}

impl Asking {
    /// Refuses an `X-Container-Sync-To` that leads nowhere, and one beside versions, which are not copied.
    pub(crate) async fn check_sync_to(
        &self,
        path: &ContainerPath,
        headers: &HeaderMap,
    ) -> Result<(), Fault> {
        let to = text(headers, SYNC_TO).filter(|to| !to.is_empty());
        let enables = text(headers, versions::HEADER).is_some_and(is_true);
        if to.is_none() && !enables {
            return Ok(());
        }
        if let Some(to) = to {
            let destination = self.core.sync.realms().destination(to);
            destination.map_err(|error| Fault::BadRequest(error.to_string()))?;
        }
        let known = self.core.fetch_container(path).await?;
        let known = known.as_ref().map(|known| &known.metadata);
        let has_versions = known.is_some_and(|it| it.get(versions::ENABLED).is_some());
        if to.is_some() && (enables || has_versions) {
            let words =
                "Cannot configure container sync on a container with object versioning configured.";
            return Err(Fault::BadRequest(words.to_owned()));
        }
        let is_copied = known
            .and_then(|it| it.get(SYNC_TO))
            .is_some_and(|to| !to.is_empty());
        if enables && is_copied && !headers.contains_key(SYNC_TO) {
            let words = "Cannot enable object versioning on a container configured as source of container syncing.";
            return Err(Fault::BadRequest(words.to_owned()));
        }
        Ok(())
    }

    /// Answers another cluster.
    pub(crate) async fn synced(
        &self,
        incoming: &Incoming,
        resource: &Resource,
        mut request: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let Resource::Object(path) = resource else {
            return Err(refused(resource));
        };
        self.check_signature(incoming, path, &request).await?;
        if !matches!(request.method, Method::HEAD | Method::PUT | Method::DELETE) {
            return Err(Fault::MethodNotAllowed("HEAD, PUT, DELETE"));
        }
        if let Some(refused) = self.filtered(&request, resource).await? {
            return Ok(refused);
        }
        if request.method == Method::HEAD {
            let mut asked = bare(&request, Method::HEAD);
            set_query(&mut asked, &[("symlink", "get")]);
            asked.extensions.insert(Trusted);
            return Box::pin(self.linked(path.clone(), asked, empty())).await;
        }
        let stamp = stamp(incoming, self.core.cluster.clock.now())?;
        if request.method == Method::PUT {
            self.check_quotas(path, &request).await?;
        }
        for name in crate::subrequest::CONDITIONS {
            request.headers.remove(name);
        }
        request.uri = http::Uri::from_static("/");
        request.extensions.insert(Trusted);
        request.extensions.insert(Stamped(stamp));
        if self.is_overtaken(path, &mut request, stamp).await? {
            return Err(Fault::Conflict(String::new()));
        }
        if incoming.is_manifest && request.method == Method::PUT {
            return Box::pin(self.put_kept_manifest(path.clone(), request, body)).await;
        }
        Box::pin(self.dynamic_large(path.clone(), request, body)).await
    }

    async fn check_signature(
        &self,
        incoming: &Incoming,
        path: &ObjectPath,
        request: &Head,
    ) -> Result<(), Fault> {
        let refused = || Fault::InvalidSyncAuth {
            realm: path.account.to_string(),
        };
        let info = self.core.container_info(&path.container_path()).await?;
        let key = info.as_deref().and_then(|info| info.metadata.get(SYNC_KEY));
        let key = key.map(Secret::new);
        // The one encoded form of the path, whatever the client has sent.
        let decoded = onggi_object_model::path::decode_segment(request.uri.path());
        let signed_path = encode_rest(&decoded.ok_or_else(refused)?);
        let signed = SyncRequest {
            method: request.method.as_str(),
            path: &signed_path,
            timestamp: incoming.timestamp.as_deref().unwrap_or("0"),
        };
        let realms = self.core.sync.realms();
        realms
            .verify(&incoming.auth, &signed, key.as_ref())
            .map_err(|refusal| {
                tracing::info!(%refusal, container = %path.container_path(), "refused a container sync request");
                refused()
            })
    }

    /// Where versions are kept each PUT is a version of its own time, so the object's is looked at here.
    async fn is_overtaken(
        &self,
        path: &ObjectPath,
        request: &mut Head,
        stamp: Timestamp,
    ) -> Result<bool, Fault> {
        let info = self.core.container_info(&path.container_path()).await?;
        if info.as_deref().and_then(versions::is_enabled) != Some(true) {
            return Ok(false);
        }
        request.extensions.remove::<Stamped>();
        let mut asked = bare(request, Method::HEAD);
        set_query(&mut asked, &[("symlink", "get")]);
        asked.extensions.insert(Trusted);
        let found = match Box::pin(self.linked(path.clone(), asked, empty())).await {
            Ok(found) => found,
            Err(Fault::NotFound) => return Ok(false),
            Err(fault) => return Err(fault),
        };
        let there = text(found.headers(), "x-timestamp").and_then(|text| text.parse().ok());
        Ok(there.is_some_and(|there: Timestamp| there >= stamp))
    }

    /// Stores a manifest as another cluster keeps it: its segments may not be here yet.
    async fn put_kept_manifest(
        &self,
        path: ObjectPath,
        mut request: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let bytes: Bytes =
            collect(body, MANIFEST_BYTES_MAX)
                .await
                .map_err(|error| match error {
                    CollectError::TooLong { .. } => Fault::TooLarge,
                    CollectError::Broken { .. } => Fault::ClientDisconnect,
                })?;
        let segments = parse_kept(&bytes).unwrap_or_default();
        let size = described(&segments).ok_or_else(|| {
            Fault::BadRequest("the manifest of the large object is malformed".to_owned())
        })?;
        set_length(&mut request, &bytes);
        static_large::mark(&mut request.headers, &static_large::tag(&segments), size);
        Box::pin(self.dynamic_large(path, request, full(bytes))).await
    }

    /// Answers a storage node with an object as it is kept, a link as a link and a manifest as itself. 410 when there is
    /// nothing to send and never will be: it has expired, or is one of the system's own links.
    pub(crate) async fn read_for_sync(&self, request: &Head) -> Result<Response, Fault> {
        let Ok(Resource::Object(path)) = Resource::parse(request.uri.path()) else {
            return Err(Fault::NotFound);
        };
        let mut asked = bare(request, Method::GET);
        set_query(&mut asked, &[("symlink", "get")]);
        asked.extensions.insert(Trusted);
        let mut gone = Response::new(empty());
        *gone.status_mut() = StatusCode::GONE;
        match Box::pin(self.linked(path.clone(), asked, empty())).await {
            Ok(found) if found.headers().contains_key(versions::LINK) => Ok(gone),
            Ok(found) => Ok(found),
            Err(Fault::NotFound) => {
                let container = self.core.container_info(&path.container_path()).await?;
                let policy = container.ok_or(Fault::NotFound)?.policy;
                match self.core.has_expired(policy, &path).await? {
                    true => Ok(gone),
                    false => Err(Fault::NotFound),
                }
            }
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn incoming(pairs: &[(&'static str, &'static str)]) -> (Option<Incoming>, HeaderMap) {
        let header = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        let mut headers: HeaderMap = pairs.iter().map(header).collect();
        (take(&mut headers), headers)
    }

    #[test]
    fn only_a_signed_request_keeps_its_time() {
        assert!(incoming(&[("x-timestamp", "1")]).0.is_none());
        let (said, left) = incoming(&[
            ("x-container-sync-auth", "r n s"),
            ("x-timestamp", "1700000000.00001"),
            ("x-static-large-object", "True"),
        ]);
        let said = said.unwrap();
        assert!(said.is_manifest && !left.contains_key(AUTH));
        let now: Timestamp = "1700000000".parse().unwrap();
        assert_eq!(stamp(&said, now).unwrap().to_string(), "1700000000.00001");
        let early: Timestamp = "1699999000".parse().unwrap();
        assert!(matches!(stamp(&said, early), Err(Fault::BadRequest(_))));
        let (said, _) = incoming(&[("x-container-sync-auth", "r n s")]);
        assert!(matches!(
            stamp(&said.unwrap(), now),
            Err(Fault::BadRequest(_))
        ));
    }

    #[test]
    fn a_manifest_of_another_cluster_is_measured_with_care() {
        let of = |text: &str| described(&parse_kept(text.as_bytes()).unwrap_or_default());
        let swift = r#"[{"name": "/c/a", "bytes": 10, "hash": "x", "content_type": "a/b", "last_modified": "2026-01-01T00:00:00.000000"},
            {"name": "/c/b", "bytes": 10, "hash": "y", "range": "2-4", "sub_slo": true}, {"data": "YWJj"}]"#;
        assert_eq!(of(swift), Some(10 + 3 + 3));
        for bad in [
            "",
            "[]",
            "{}",
            "[1]",
            "nonsense",
            r#"[{"name": "/c/a", "bytes": 18446744073709551615}]"#,
            r#"[{"name": "/c/a", "bytes": 5, "range": "9-2"}]"#,
            r#"[{"name": "/c/a", "bytes": 5, "range": "0-18446744073709551615"}]"#,
            r#"[{"name": "/c/a", "bytes": 5, "range": "x"}]"#,
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }
}

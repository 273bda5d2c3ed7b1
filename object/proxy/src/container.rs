//! Containers: making, changing, deleting, and listing what is in them.

use crate::access::{self, Rights};
use crate::account::{is_found, listing_response};
use crate::driver::{self, Written};
use crate::fault::{Fault, set, set_named};
use crate::filling::Filling;
use crate::proxy::Core;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::{Response, empty};
use onggi_object_client::{ContainerAnswer, InfoAnswer, ListAnswer};
use onggi_object_model::limits::CONTAINER_LISTING_MAX;
use onggi_object_model::metadata::CONTAINER_KEPT_HEADERS;
use onggi_object_model::precondition::last_modified;
use onggi_object_model::{
    ContainerInfo, ContainerPath, Listing, ListingFormat, ListingQuery, ListingQueryError,
    MetadataKind, ObjectEntry, ObjectPath, PolicyIndex, StampedMetadata,
};
use onggi_object_replica::merge::{self, MergedListing};
use onggi_object_replica::{Answer, Failure, Outcome, Reply};
use onggi_object_wire::{Place, container};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Lookups of names that replicas do not agree about, at a time.
const DOUBTS_AT_ONCE: usize = 16;

/// How a node's answer to a container or account write counts.
pub(crate) fn roster_reply(answer: &ContainerAnswer) -> Reply {
    match answer {
        ContainerAnswer::Made { .. } => Reply::Stored { existed: false },
        ContainerAnswer::Done { .. } => Reply::Stored { existed: true },
        ContainerAnswer::NotFound => Reply::Missing,
        ContainerAnswer::Conflict => Reply::Conflict,
        ContainerAnswer::Full | ContainerAnswer::Failed { .. } => Reply::Failed,
    }
}

fn existing(info: &ContainerInfo) -> Answer {
    if info.exists() {
        Answer::Found {
            data: info.put_timestamp,
            healthy: true,
        }
    } else {
        Answer::Missing {
            tombstone: Some(info.delete_timestamp),
        }
    }
}

fn deleted(info: Option<&ContainerInfo>) -> Answer {
    Answer::Missing {
        tombstone: info.map(|info| info.delete_timestamp),
    }
}

fn info_answer(answer: &InfoAnswer<ContainerInfo>) -> Answer {
    match answer {
        InfoAnswer::Found(info) => existing(info),
        InfoAnswer::Missing(info) => deleted(info.as_deref()),
        InfoAnswer::Failed { .. } => Answer::Failed,
    }
}

fn list_answer(answer: &ListAnswer<ContainerInfo, ObjectEntry>) -> Answer {
    match answer {
        ListAnswer::Found { info, .. } => existing(info),
        ListAnswer::Missing(info) => deleted(info.as_deref()),
        ListAnswer::Failed { .. } => Answer::Failed,
    }
}

fn merged(infos: impl IntoIterator<Item = ContainerInfo>) -> Option<ContainerInfo> {
    infos.into_iter().reduce(|mut sum, info| {
        merge::container_info(&mut sum, &info);
        sum
    })
}

/// What a malformed listing request is answered.
pub(crate) fn listing_faults(error: ListingQueryError) -> Fault {
    match error {
        ListingQueryError::LimitTooLarge { .. } => Fault::PreconditionFailed(error.to_string()),
        ListingQueryError::NotUtf8 { .. } => Fault::BadRequest(error.to_string()),
        ListingQueryError::NotAcceptable => Fault::NotAcceptable(error.to_string()),
    }
}

pub(crate) fn put_total(headers: &mut HeaderMap, name: HeaderName, total: u64) {
    headers.insert(name, HeaderValue::from(total));
}

pub(crate) fn put_stamped_metadata(
    headers: &mut HeaderMap,
    metadata: &StampedMetadata,
    is_shown: impl Fn(&str) -> bool,
) {
    for (name, value) in metadata.iter().filter(|(name, _)| is_shown(name)) {
        set_named(headers, name, value);
    }
}

fn status_only(status: StatusCode) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

impl Core {
    pub(crate) async fn container(
        self: &Arc<Self>,
        path: ContainerPath,
        request: &Head,
        rights: Rights,
    ) -> Result<Response, Fault> {
        match request.method {
            Method::PUT => self.put_container(&path, request).await,
            Method::POST => self.post_container(&path, request).await,
            Method::DELETE => self.delete_container(&path).await,
            Method::HEAD => {
                let info = self.fetch_container(&path).await?.ok_or(Fault::NotFound)?;
                let mut response = self.container_response(&info, rights);
                let kind = ListingFormat::Plain.content_type();
                set(response.headers_mut(), header::CONTENT_TYPE, kind);
                Ok(response)
            }
            _ => self.list_container(&path, request, rights).await,
        }
    }

    /// A container, as remembered or as its nodes know it; `None` when it is not there.
    pub(crate) async fn container_info(
        &self,
        path: &ContainerPath,
    ) -> Result<Option<Arc<ContainerInfo>>, Fault> {
        let now = self.cluster.clock.monotonic();
        if let Some(known) = self.cache.container(path, now) {
            return Ok(Some(known));
        }
        let Some(info) = self.fetch_container(path).await? else {
            return Ok(None);
        };
        let info = Arc::new(info);
        self.cache.put_container(path, now, &info);
        Ok(Some(info))
    }

    /// A container as its nodes know it now.
    pub(crate) async fn fetch_container(
        &self,
        path: &ContainerPath,
    ) -> Result<Option<ContainerInfo>, Fault> {
        let head = container::Head { path: path.clone() };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Place, _first| {
            let (nodes, head) = (nodes.clone(), head.clone());
            driver::boxed(async move { nodes.head_container(&place, &head).await })
        };
        let replicas = self.cluster.container(path);
        let asked = self.cluster.read(&replicas, send, info_answer).await;
        let found = is_found(&asked)?;
        let infos = asked
            .answers
            .into_iter()
            .filter_map(|(_, answer)| match answer {
                InfoAnswer::Found(info) | InfoAnswer::Missing(Some(info)) => Some(*info),
                InfoAnswer::Missing(None) | InfoAnswer::Failed { .. } => None,
            });
        let info = merged(infos);
        if let Some(info) = &info {
            self.cluster
                .clock
                .observe(info.put_timestamp.max(info.delete_timestamp));
        }
        Ok(info.filter(|info| found && info.exists()))
    }

    fn container_response(&self, info: &ContainerInfo, rights: Rights) -> Response {
        let mut response = status_only(StatusCode::NO_CONTENT);
        let headers = response.headers_mut();
        let name = HeaderName::from_static;
        put_total(headers, name("x-container-object-count"), info.object_count);
        put_total(headers, name("x-container-bytes-used"), info.bytes_used);
        set(headers, name("x-timestamp"), &info.put_timestamp.normal());
        set(
            headers,
            name("x-put-timestamp"),
            &info.put_timestamp.normal(),
        );
        set(
            headers,
            header::LAST_MODIFIED,
            &last_modified(info.put_timestamp),
        );
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(policy) = self.cluster.policy(info.policy) {
            set(headers, name("x-storage-policy"), &policy.name);
        }
        // ACLs and sync keys are the owner's business.
        put_stamped_metadata(headers, &info.metadata, |name| {
            rights.is_owner || !CONTAINER_KEPT_HEADERS.contains(&name)
        });
        response
    }

    async fn list_container(
        self: &Arc<Self>,
        path: &ContainerPath,
        request: &Head,
        rights: Rights,
    ) -> Result<Response, Fault> {
        let raw = request.uri.query().unwrap_or_default();
        let query = ListingQuery::parse(raw, CONTAINER_LISTING_MAX).map_err(listing_faults)?;
        let accept = request
            .headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok());
        let format = ListingFormat::negotiate(raw, accept).map_err(listing_faults)?;
        let (info, page) = self.page(path, query).await?;
        let head = self.container_response(&info, rights);
        Ok(listing_response(
            head,
            &page,
            format,
            ("container", path.container.as_str()),
        ))
    }

    /// A page of a container's listing, without the names that only replicas that lag behind still have.
    async fn page(
        self: &Arc<Self>,
        path: &ContainerPath,
        query: ListingQuery,
    ) -> Result<(ContainerInfo, Listing<ObjectEntry>), Fault> {
        let mut filling = Filling::new(query);
        loop {
            let (info, round) = self.container_page(path, filling.query()).await?;
            let doubts = filling.doubts(round.doubtful);
            let gone = self.objects_gone(path, info.policy, doubts).await;
            if !filling.add(round.page, &gone) {
                return Ok((info, filling.into_page()));
            }
        }
    }

    /// What R replicas list, and about which names they do not agree.
    async fn container_page(
        &self,
        path: &ContainerPath,
        query: &ListingQuery,
    ) -> Result<(ContainerInfo, MergedListing<ObjectEntry>), Fault> {
        let list = container::List {
            path: path.clone(),
            query: query.clone(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Place, _first| {
            let (nodes, list) = (nodes.clone(), list.clone());
            driver::boxed(async move { nodes.list_container(&place, &list).await })
        };
        let replicas = self.cluster.container(path);
        let asked = self.cluster.read(&replicas, send, list_answer).await;
        let found = is_found(&asked)?;
        let (mut infos, mut pages) = (Vec::new(), Vec::new());
        for (_, answer) in asked.answers {
            match answer {
                ListAnswer::Found { info, listing } => {
                    infos.push(*info);
                    pages.push(listing);
                }
                ListAnswer::Missing(Some(info)) => infos.push(*info),
                ListAnswer::Missing(None) | ListAnswer::Failed { .. } => {}
            }
        }
        let info = merged(infos)
            .filter(|info| found && info.exists())
            .ok_or(Fault::NotFound)?;
        Ok((info, merge::listings(pages, query.limit, query.reverse)))
    }

    /// Which of these objects, that not every replica lists, are not there.
    async fn objects_gone(
        self: &Arc<Self>,
        path: &ContainerPath,
        policy: PolicyIndex,
        doubtful: Vec<String>,
    ) -> HashSet<String> {
        let mut gone = HashSet::new();
        let mut tasks: JoinSet<Option<String>> = JoinSet::new();
        for name in doubtful {
            let Ok(object) = name.parse() else { continue };
            let (account, container) = (path.account.clone(), path.container.clone());
            let object = ObjectPath {
                account,
                container,
                object,
            };
            let core = Arc::clone(self);
            if tasks.len() >= DOUBTS_AT_ONCE
                && let Some(Ok(Some(name))) = tasks.join_next().await
            {
                gone.insert(name);
            }
            tasks.spawn(async move {
                let is_gone = matches!(core.head(policy, &object).await, Err(Fault::NotFound));
                is_gone.then_some(name)
            });
        }
        while let Some(done) = tasks.join_next().await {
            gone.extend(done.ok().flatten());
        }
        gone
    }

    fn container_metadata(&self, request: &Head) -> Result<StampedMetadata, Fault> {
        let headers = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let stamp = self.cluster.clock.stamp();
        let metadata = StampedMetadata::from_headers(MetadataKind::Container, headers, stamp)
            .map_err(|error| Fault::BadRequest(error.to_string()))?;
        access::check_acls(&metadata)?;
        Ok(metadata)
    }

    /// The policy a request asks for, if it does.
    fn asked_policy(&self, request: &Head) -> Result<Option<PolicyIndex>, Fault> {
        let Some(value) = request.headers.get("x-storage-policy") else {
            return Ok(None);
        };
        let name = value.to_str().unwrap_or_default();
        if name.is_empty() {
            return Ok(None);
        }
        let found = self
            .cluster
            .policies()
            .iter()
            .find(|policy| policy.is_named(name));
        let unknown =
            || Fault::BadRequest("Invalid X-Storage-Policy: there is no such policy".to_owned());
        found.map(|policy| Some(policy.index)).ok_or_else(unknown)
    }

    async fn put_container(&self, path: &ContainerPath, request: &Head) -> Result<Response, Fault> {
        let metadata = self.container_metadata(request)?;
        let policy = self.asked_policy(request)?;
        self.ensure_account(&path.account).await?;
        // What is there is looked at first: a deletion by a clock that is ahead must be older than this.
        if let Some(known) = self.fetch_container(path).await? {
            let mut sum = known.metadata;
            sum.merge(&metadata);
            let checked = sum.check(MetadataKind::Container);
            checked.map_err(|error| Fault::BadRequest(error.to_string()))?;
        }
        let written = self.write_container(path, policy, metadata).await;
        match written.outcome {
            Outcome::Stored { existed: false, .. } => Ok(status_only(StatusCode::CREATED)),
            Outcome::Stored { existed: true, .. } => Ok(status_only(StatusCode::ACCEPTED)),
            Outcome::Failed(Failure::Conflict) => Err(Fault::Conflict(
                "the container is there with another storage policy".to_owned(),
            )),
            Outcome::Failed(_) => Err(Fault::Unavailable),
        }
    }

    async fn write_container(
        &self,
        path: &ContainerPath,
        policy: Option<PolicyIndex>,
        metadata: StampedMetadata,
    ) -> Written<ContainerAnswer> {
        let base = container::Put {
            path: path.clone(),
            timestamp: self.cluster.clock.stamp(),
            policy,
            default_policy: self.cluster.default_policy(),
            metadata,
            account: Vec::new(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Place, told: Vec<Place>| {
            let (nodes, put) = (
                nodes.clone(),
                container::Put {
                    account: told,
                    ..base.clone()
                },
            );
            driver::boxed(async move { nodes.put_container(&place, &put).await })
        };
        let replicas = self.cluster.container(path);
        let told = self.cluster.account(&path.account).places();
        let written = self
            .cluster
            .write(&replicas, &told, send, roster_reply)
            .await;
        self.cache.forget_container(path);
        written
    }

    async fn post_container(
        &self,
        path: &ContainerPath,
        request: &Head,
    ) -> Result<Response, Fault> {
        let metadata = self.container_metadata(request)?;
        let known = self.fetch_container(path).await?.ok_or(Fault::NotFound)?;
        let mut sum = known.metadata;
        sum.merge(&metadata);
        sum.check(MetadataKind::Container)
            .map_err(|error| Fault::BadRequest(error.to_string()))?;
        let post = container::Post {
            path: path.clone(),
            metadata,
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Place, _told| {
            let (nodes, post) = (nodes.clone(), post.clone());
            driver::boxed(async move { nodes.post_container(&place, &post).await })
        };
        let replicas = self.cluster.container(path);
        let written = self.cluster.write(&replicas, &[], send, roster_reply).await;
        self.cache.forget_container(path);
        match written.outcome {
            Outcome::Stored { .. } => Ok(status_only(StatusCode::NO_CONTENT)),
            Outcome::Failed(Failure::Missing) => Err(Fault::NotFound),
            Outcome::Failed(_) => Err(Fault::Unavailable),
        }
    }

    async fn delete_container(self: &Arc<Self>, path: &ContainerPath) -> Result<Response, Fault> {
        let not_empty = || {
            Fault::Conflict("There was a conflict when trying to complete your request.".to_owned())
        };
        let (info, page) = self.page(path, ListingQuery::page(1)).await?;
        if !page.entries.is_empty() {
            return Err(not_empty());
        }
        let base = container::Delete {
            path: path.clone(),
            timestamp: self.cluster.clock.stamp(),
            account: Vec::new(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Place, told: Vec<Place>| {
            let (nodes, delete) = (
                nodes.clone(),
                container::Delete {
                    account: told,
                    ..base.clone()
                },
            );
            driver::boxed(async move { nodes.delete_container(&place, &delete).await })
        };
        let replicas = self.cluster.container(path);
        let told = self.cluster.account(&path.account).places();
        let written = self
            .cluster
            .write(&replicas, &told, send, roster_reply)
            .await;
        self.cache.forget_container(path);
        match written.outcome {
            Outcome::Stored { .. } => Ok(status_only(StatusCode::NO_CONTENT)),
            Outcome::Failed(Failure::Missing) => Err(Fault::NotFound),
            Outcome::Failed(Failure::Conflict) => {
                // Something came in meanwhile. Replicas that have deleted it already get it back, newer.
                let again = self
                    .write_container(path, Some(info.policy), info.metadata)
                    .await;
                if matches!(again.outcome, Outcome::Failed(_)) {
                    return Err(Fault::Unavailable);
                }
                Err(not_empty())
            }
            Outcome::Failed(_) => Err(Fault::Unavailable),
        }
    }
}

//! Containers: making, changing, deleting, and listing what is in them.

use crate::access::{self, Rights};
use crate::driver::{self, Written};
use crate::fault::{Fault, set};
use crate::filling::Filling;
use crate::middleware::container_versions::{as_version_link, show_versions};
use crate::proxy::{Asking, Core};
use crate::roster::{
    OWNER_HEADERS, infos, is_found, listing_faults, listing_format, listing_response, pages,
    put_stamped_metadata, put_total, roster_reply, vary,
};
use crate::subrequest::parameter;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::Response;
use onggi_common_units::Timestamp;
use onggi_object_client::{ContainerAnswer, InfoAnswer, ListAnswer};
use onggi_object_model::limits::CONTAINER_LISTING_MAX;
use onggi_object_model::precondition::last_modified;
use onggi_object_model::{
    ContainerInfo, ContainerPath, Listing, ListingEntry, ListingQuery, MetadataKind, ObjectEntry,
    ObjectPath, PolicyIndex, Resource, StampedMetadata, StampedValue,
};
use onggi_object_replica::merge::{self, MergedListing};
use onggi_object_replica::{Answer, Failure, Outcome};
use onggi_object_wire::{Place, container};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::task::JoinSet;

mod deletion;

/// Objects a container may have for its totals to be counted anew when its replicas do not agree. Totals of larger ones
/// are the larger count meanwhile.
const RECOUNT_MAX: usize = 1_000;
/// Lookups of names that replicas do not agree about, at a time.
const DOUBTS_AT_ONCE: usize = 16;

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

/// Metadata said anew: a deletion forgets what was said before it.
fn restamped(metadata: &StampedMetadata, at: Timestamp) -> StampedMetadata {
    let mut anew = StampedMetadata::default();
    for (name, item) in metadata.stamped() {
        let value = item.value.clone();
        let item = StampedValue {
            timestamp: at,
            value,
        };
        anew.insert(name, item);
    }
    anew
}

/// Puts what a listing of everything says in the place of totals; a listing that is cut off says nothing.
fn count_lines(info: &mut ContainerInfo, page: &Listing<ObjectEntry>) {
    if page.entries.len() > RECOUNT_MAX {
        return;
    }
    let bytes = page.entries.iter().map(|entry| match entry {
        ListingEntry::Item(item) => item.bytes,
        ListingEntry::Subdir(_) => 0,
    });
    info.bytes_used = bytes.fold(0, u64::saturating_add);
    info.object_count = u64::try_from(page.entries.len()).unwrap_or(u64::MAX);
}

/// When a container or its metadata was last changed.
fn changed(info: &ContainerInfo) -> Timestamp {
    let items = info.metadata.stamped().map(|(_, item)| item.timestamp);
    items.fold(info.put_timestamp, Timestamp::max)
}

pub(crate) use crate::object::put::plain as status_only;

impl Asking {
    pub(crate) async fn container(
        &self,
        path: &ContainerPath,
        request: &Head,
    ) -> Result<Response, Fault> {
        let resource = Resource::Container(path.clone());
        let rights = self
            .authorize(&request.method, &resource, &request.headers)
            .await?;
        let core = &self.core;
        // A PUT would make the account, and says that it cannot.
        if request.method != Method::PUT && core.is_account_deleted(&path.account).await {
            return Err(Fault::NotFound);
        }
        match request.method {
            Method::PUT | Method::POST => {
                let headers = self.container_headers(path, request, rights).await?;
                if request.method == Method::PUT {
                    let domain = self.new_account_domain(&path.account).await?;
                    core.put_container(path, &headers, domain).await
                } else {
                    core.post_container(path, &headers).await
                }
            }
            Method::DELETE => self.delete_versioned_container(path).await,
            Method::HEAD => {
                let info = core.fetch_container(path).await?.ok_or(Fault::NotFound)?;
                let info = core.with_settled_totals(path, info).await?;
                let info = self.with_versions_counted(path, info).await?;
                let mut response = core.container_response(&info, rights);
                let kind = listing_format(request)?.content_type();
                set(response.headers_mut(), header::CONTENT_TYPE, kind);
                vary(request, response.headers_mut());
                Ok(response)
            }
            _ if parameter(request, "versions").is_some() => {
                self.list_versions(path, request, rights).await
            }
            _ => self.list_container(path, request, rights).await,
        }
    }

    async fn list_container(
        &self,
        path: &ContainerPath,
        request: &Head,
        rights: Rights,
    ) -> Result<Response, Fault> {
        let raw = request.uri.query().unwrap_or_default();
        let query = ListingQuery::parse(raw, CONTAINER_LISTING_MAX).map_err(listing_faults)?;
        let format = listing_format(request)?;
        let (info, page) = self.core.page(path, query).await?;
        let info = self.core.with_settled_totals(path, info).await?;
        let info = self.with_versions_counted(path, info).await?;
        let page = page.map(|entry| as_version_link(path, entry));
        let head = self.core.container_response(&info, rights);
        let root = ("container", path.container.as_str());
        let mut response = listing_response(head, &page, format, root);
        vary(request, response.headers_mut());
        Ok(response)
    }
}

impl Core {
    /// A container, as remembered or as its nodes know it; `None` when it is not there.
    pub(crate) async fn container_info(
        &self,
        path: &ContainerPath,
    ) -> Result<Option<Arc<ContainerInfo>>, Fault> {
        let now = self.cluster.clock.monotonic();
        if let Some(known) = self.cache.container(path, now) {
            return Ok(Some(known));
        }
        let (is_gone, info) = tokio::join!(
            self.is_account_deleted(&path.account),
            self.fetch_container(path)
        );
        let Some(info) = info?.filter(|_| !is_gone) else {
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
        let send = |place: Arc<Place>, _first| {
            let (nodes, head) = (nodes.clone(), head.clone());
            driver::boxed(async move { nodes.head_container(&place, &head).await })
        };
        let replicas = self.cluster.container(path);
        let asked = self.cluster.read(&replicas, send, info_answer).await;
        let found = is_found(&asked)?;
        let info = merged(infos(asked.answers));
        if let Some(info) = &info {
            self.cluster
                .clock
                .observe(info.put_timestamp.max(info.delete_timestamp));
        }
        Ok(info.filter(|info| found && info.exists()))
    }

    /// The same with totals that leave no acknowledged write out, and no deletion: replicas that have not heard the same
    /// are asked for their lines, and these are counted.
    pub(crate) async fn with_settled_totals(
        self: &Arc<Self>,
        path: &ContainerPath,
        mut info: ContainerInfo,
    ) -> Result<ContainerInfo, Fault> {
        let is_small = usize::try_from(info.object_count).is_ok_and(|count| count <= RECOUNT_MAX);
        if info.records.is_some() || !is_small {
            return Ok(info);
        }
        let all = ListingQuery {
            with_reserved: true,
            ..ListingQuery::page(RECOUNT_MAX + 1)
        };
        let (_, page) = self.page(path, all).await?;
        count_lines(&mut info, &page);
        Ok(info)
    }

    pub(crate) fn container_response(&self, info: &ContainerInfo, rights: Rights) -> Response {
        let mut response = status_only(StatusCode::NO_CONTENT);
        let headers = response.headers_mut();
        let name = HeaderName::from_static;
        put_total(headers, name("x-container-object-count"), info.object_count);
        put_total(headers, name("x-container-bytes-used"), info.bytes_used);
        set(headers, name("x-timestamp"), &info.put_timestamp.normal());
        set(
            headers,
            header::LAST_MODIFIED,
            &last_modified(changed(info)),
        );
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(policy) = self.cluster.policy(info.policy) {
            set(headers, name("x-storage-policy"), &policy.name);
        }
        // ACLs and sync keys are the owner's business.
        put_stamped_metadata(headers, &info.metadata, |name| {
            rights.is_owner || !OWNER_HEADERS.contains(&name)
        });
        show_versions(headers, &info.metadata);
        response
    }

    /// A page of a container's listing, without the names that only replicas that lag behind still have.
    pub(crate) async fn page(
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
                let page = self.encryption.open_page(path, filling.into_page());
                return Ok((info, page));
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
        let send = |place: Arc<Place>, _first| {
            let (nodes, list) = (nodes.clone(), list.clone());
            driver::boxed(async move { nodes.list_container(&place, &list).await })
        };
        let replicas = self.cluster.container(path);
        let asked = self.cluster.read(&replicas, send, list_answer).await;
        let found = is_found(&asked)?;
        let (infos, pages) = pages(asked.answers);
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
                let is_gone = matches!(core.row(policy, &object).await, Err(Fault::NotFound));
                is_gone.then_some(name)
            });
        }
        while let Some(done) = tasks.join_next().await {
            gone.extend(done.ok().flatten());
        }
        gone
    }

    fn container_metadata(&self, headers: &HeaderMap) -> Result<StampedMetadata, Fault> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let stamp = self.cluster.clock.stamp();
        let mut metadata = StampedMetadata::from_headers(MetadataKind::Container, headers, stamp)
            .map_err(|error| Fault::BadRequest(error.to_string()))?;
        access::check_acls(&metadata)?;
        access::clean_acls(&mut metadata);
        Ok(metadata)
    }

    /// The policy a request asks for, if it does.
    fn asked_policy(&self, headers: &HeaderMap) -> Result<Option<PolicyIndex>, Fault> {
        let Some(value) = headers.get("x-storage-policy") else {
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
        let unknown = || Fault::BadRequest(format!("Invalid X-Storage-Policy '{name}'"));
        found.map(|policy| Some(policy.index)).ok_or_else(unknown)
    }

    pub(crate) async fn put_container(
        &self,
        path: &ContainerPath,
        headers: &HeaderMap,
        of_account: StampedMetadata,
    ) -> Result<Response, Fault> {
        let metadata = self.container_metadata(headers)?;
        let policy = self.asked_policy(headers)?;
        self.ensure_account(&path.account, of_account).await?;
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
            // It is there with another storage policy.
            Outcome::Failed(Failure::Conflict) => Err(Fault::Conflict(String::new())),
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
        let send = |place: Arc<Place>, told: Vec<Place>| {
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
        headers: &HeaderMap,
    ) -> Result<Response, Fault> {
        let metadata = self.container_metadata(headers)?;
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
        let send = |place: Arc<Place>, _told| {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_object_model::{Etag, Metadata};

    fn page(count: usize) -> Listing<ObjectEntry> {
        let line = |n: usize| {
            ListingEntry::Item(ObjectEntry {
                name: format!("{n:05}"),
                hash: Etag::EMPTY,
                bytes: 2,
                content_type: String::new(),
                last_modified: Timestamp::ZERO,
                annotations: Metadata::default(),
            })
        };
        Listing {
            entries: (0..count).map(line).collect(),
        }
    }

    #[test]
    fn a_whole_listing_is_counted_and_one_that_is_cut_off_is_not() {
        let mut info = ContainerInfo {
            object_count: 9,
            bytes_used: 9,
            ..ContainerInfo::default()
        };
        count_lines(&mut info, &page(RECOUNT_MAX + 1));
        assert_eq!((info.object_count, info.bytes_used), (9, 9));
        count_lines(&mut info, &page(3));
        assert_eq!((info.object_count, info.bytes_used), (3, 6));
        count_lines(&mut info, &page(0));
        assert_eq!((info.object_count, info.bytes_used), (0, 0));
    }
}

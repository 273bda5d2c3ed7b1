//! Accounts: totals, metadata, and the listing of containers. They come into being with their first container.

use crate::access::{ACCOUNT_ACL, Rights};
use crate::container::status_only;
use crate::driver;
use crate::fault::{Fault, set, set_named};
use crate::filling::Filling;
use crate::middleware::{filters, quota, rate_limit};
use crate::policy_totals;
use crate::project_domain;
use crate::proxy::{Asking, Core};
use crate::roster::{
    OWNER_HEADERS, infos, is_found, listing_faults, listing_format, listing_response, pages,
    put_stamped_metadata, put_total, roster_reply, vary,
};
use crate::subrequest::text;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::{Response, empty};
use onggi_common_units::Timestamp;
use onggi_object_client::{InfoAnswer, ListAnswer};
use onggi_object_model::acl::AccountAcl;
use onggi_object_model::limits::ACCOUNT_LISTING_MAX;
use onggi_object_model::{
    AccountEntry, AccountInfo, AccountLine, AccountName, ContainerPath, Listing, ListingFormat,
    ListingQuery, MetadataKind, Policy, Resource, StampedMetadata,
};
use onggi_object_replica::merge::{self, MergedListing};
use onggi_object_replica::{Answer, Failure, Outcome};
use onggi_object_wire::account;
use std::collections::HashSet;
use std::sync::Arc;

mod deletion;
mod versions;

use deletion::there;
use versions::add_bytes;

/// How a replica's word that an account is not there counts: one that was deleted is known to be.
fn missing(info: Option<&AccountInfo>) -> Answer {
    let deleted = info.map(|info| info.delete_timestamp);
    Answer::Missing {
        tombstone: deleted.filter(|at| *at > Timestamp::ZERO),
    }
}

fn info_answer(answer: &InfoAnswer<AccountInfo>) -> Answer {
    match answer {
        InfoAnswer::Found(info) => Answer::Found {
            data: info.put_timestamp,
            healthy: true,
        },
        InfoAnswer::Missing(info) => missing(info.as_deref()),
        InfoAnswer::Failed { .. } => Answer::Failed,
    }
}

fn list_answer(answer: &ListAnswer<AccountInfo, AccountEntry>) -> Answer {
    match answer {
        ListAnswer::Found { info, .. } => Answer::Found {
            data: info.put_timestamp,
            healthy: true,
        },
        ListAnswer::Missing(info) => missing(info.as_deref()),
        ListAnswer::Failed { .. } => Answer::Failed,
    }
}

fn merged(infos: impl IntoIterator<Item = AccountInfo>) -> AccountInfo {
    let mut infos = infos.into_iter();
    let mut sum = infos.next().unwrap_or_default();
    for info in infos {
        merge::account_info(&mut sum, &info);
    }
    sum
}

impl Asking {
    pub(crate) async fn account(
        &self,
        account: &AccountName,
        request: &Head,
    ) -> Result<Response, Fault> {
        let resource = Resource::Account(account.clone());
        let rights = self
            .authorize(&request.method, &resource, &request.headers)
            .await?;
        let core = &self.core;
        match request.method {
            Method::PUT | Method::POST => self.write_account(account, request).await,
            // A query is a verb that went astray, and no reason to delete everything.
            Method::DELETE if request.uri.query().is_some_and(|query| !query.is_empty()) => Err(
                Fault::BadRequest("an account is deleted without a query".to_owned()),
            ),
            Method::DELETE => core.delete_account(account).await,
            Method::HEAD => {
                let info = there(core.fetch_account(account).await?)?;
                let totals = core.policy_totals(account, &info).await?;
                let mut response = account_response(&info, rights, core.cluster.policies());
                policy_totals::tell(response.headers_mut(), core.cluster.policies(), &totals);
                vary(request, response.headers_mut());
                let format = listing_format(request)?;
                set(
                    response.headers_mut(),
                    header::CONTENT_TYPE,
                    format.content_type(),
                );
                Ok(response)
            }
            _ => core.list_account(account, request, rights).await,
        }
    }

    async fn write_account(
        &self,
        account: &AccountName,
        request: &Head,
    ) -> Result<Response, Fault> {
        let may_set_quota = self
            .caller
            .as_deref()
            .is_some_and(onggi_common_identity::Caller::is_reseller_admin);
        let core = &self.core;
        let headers = account_headers(&request.headers, core.cluster.policies(), may_set_quota)?;
        let metadata = core.account_metadata(&headers)?;
        let info = core.fetch_account(account).await?;
        let domain = self.domain_told(account, &info);
        if request.method == Method::PUT {
            core.make_account(account, &info, (metadata, domain)).await
        } else {
            core.post_account(account, info, (metadata, domain)).await
        }
    }

    /// What the account of a new container begins with, should it not be there.
    pub(crate) async fn new_account_domain(
        &self,
        account: &AccountName,
    ) -> Result<StampedMetadata, Fault> {
        let info = self.core.account_info(account).await?;
        Ok(self.domain_told(account, &info))
    }
}

/// An account's ACL, quotas and limits, as users name them and as they are kept.
const KEPT: [(&str, &str); 5] = [
    ("x-account-access-control", ACCOUNT_ACL),
    ("x-account-read-only", filters::READ_ONLY),
    (
        "x-account-global-write-ratelimit",
        rate_limit::ACCOUNT_WRITES,
    ),
    ("x-account-quota-bytes", quota::ACCOUNT_BYTES),
    ("x-account-quota-count", quota::ACCOUNT_COUNT),
];

/// A POST's headers with what users name otherwise under its own name. Quotas and limits are for who reaches every account.
fn account_headers(
    headers: &HeaderMap,
    policies: &[Policy],
    may_set_quota: bool,
) -> Result<HeaderMap, Fault> {
    let mut kept = headers.clone();
    let asks_quota = headers.keys().any(|name| {
        let name = name.as_str();
        name.starts_with("x-account-quota-")
            || name.starts_with("x-remove-account-quota-")
            || ["read-only", "global-write-ratelimit"]
                .iter()
                .any(|what| name.ends_with(&format!("-account-{what}")))
            || name == "x-account-meta-quota-bytes"
            || name == "x-remove-account-meta-quota-bytes"
    });
    if asks_quota && !may_set_quota {
        return Err(Fault::Forbidden);
    }
    for (shown, name) in quota::of_policies(policies)
        .into_iter()
        .chain(KEPT.map(|(shown, name)| (shown.to_owned(), name.to_owned())))
    {
        let (shown, name) = (shown.as_str(), name.as_str());
        let removes = headers.contains_key(shown.replacen("x-", "x-remove-", 1).as_str());
        let value = match text(headers, shown) {
            Some(value) => value.to_owned(),
            None if removes => String::new(),
            None => continue,
        };
        let value = if name == ACCOUNT_ACL {
            AccountAcl::parse(&value)
                .map_err(|error| Fault::BadRequest(error.to_string()))?
                .text()
        } else {
            if name != filters::READ_ONLY && name != rate_limit::ACCOUNT_WRITES {
                quota::check(&value)?;
            }
            value
        };
        set_named(&mut kept, name, &value);
    }
    if let Some(value) = text(headers, "x-account-meta-quota-bytes") {
        quota::check(value)?;
    }
    Ok(kept)
}

impl Core {
    /// An account, as remembered or as its nodes know it; one that was never made is empty.
    pub(crate) async fn account_info(
        &self,
        account: &AccountName,
    ) -> Result<Arc<AccountInfo>, Fault> {
        let now = self.cluster.clock.monotonic();
        if let Some(known) = self.cache.account(account, now) {
            return Ok(known);
        }
        let info = Arc::new(self.fetch_account(account).await?);
        self.cache.put_account(account, now, &info);
        Ok(info)
    }

    async fn fetch_account(&self, account: &AccountName) -> Result<AccountInfo, Fault> {
        let head = account::Head {
            account: account.clone(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Arc<onggi_object_wire::Place>, _first| {
            let (nodes, head) = (nodes.clone(), head.clone());
            driver::boxed(async move { nodes.head_account(&place, &head).await })
        };
        let replicas = self.cluster.account(account);
        let asked = self.cluster.read(&replicas, send, info_answer).await;
        is_found(&asked)?;
        Ok(merged(infos(asked.answers)))
    }

    async fn list_account(
        self: &Arc<Self>,
        account: &AccountName,
        request: &Head,
        rights: Rights,
    ) -> Result<Response, Fault> {
        let raw = request.uri.query().unwrap_or_default();
        let query = ListingQuery::parse(raw, ACCOUNT_LISTING_MAX).map_err(listing_faults)?;
        let format = listing_format(request)?;
        let (info, mut page) = self.account_lines(account, query.clone()).await?;
        if format != ListingFormat::Plain {
            let kept = self.bytes_of_versions(account, &query, &page).await?;
            add_bytes(&mut page, &kept);
        }
        let page = page.map(|entry| {
            let policy = entry.policy.and_then(|index| self.cluster.policy(index));
            let storage_policy = policy.map(|policy| policy.name.clone());
            AccountLine {
                entry,
                storage_policy,
            }
        });
        let totals = self.policy_totals(account, &info).await?;
        let mut head = account_response(&info, rights, self.cluster.policies());
        policy_totals::tell(head.headers_mut(), self.cluster.policies(), &totals);
        let root = ("account", account.as_str());
        let mut response = listing_response(head, &page, format, root);
        vary(request, response.headers_mut());
        Ok(response)
    }

    /// A page of an account's listing.
    pub(crate) async fn account_lines(
        &self,
        account: &AccountName,
        query: ListingQuery,
    ) -> Result<(AccountInfo, Listing<AccountEntry>), Fault> {
        let mut filling = Filling::new(query);
        loop {
            let (info, round) = self.account_page(account, filling.query()).await?;
            let doubts = filling.doubts(round.doubtful);
            let gone = self.containers_gone(account, doubts).await;
            if !filling.add(round.page, &gone) {
                return Ok((info, filling.into_page()));
            }
        }
    }

    /// What R replicas list, and about which names they do not agree.
    async fn account_page(
        &self,
        account: &AccountName,
        query: &ListingQuery,
    ) -> Result<(AccountInfo, MergedListing<AccountEntry>), Fault> {
        let list = account::List {
            account: account.clone(),
            query: query.clone(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Arc<onggi_object_wire::Place>, _first| {
            let (nodes, list) = (nodes.clone(), list.clone());
            driver::boxed(async move { nodes.list_account(&place, &list).await })
        };
        let replicas = self.cluster.account(account);
        let asked = self.cluster.read(&replicas, send, list_answer).await;
        is_found(&asked)?;
        let (infos, pages) = pages(asked.answers);
        let info = there(merged(infos))?;
        Ok((info, merge::listings(pages, query.limit, query.reverse)))
    }

    /// Which of these containers, that not every replica lists, are not there.
    async fn containers_gone(
        &self,
        account: &AccountName,
        doubtful: Vec<String>,
    ) -> HashSet<String> {
        let mut gone = HashSet::new();
        for name in doubtful {
            let Ok(container) = name.parse() else {
                continue;
            };
            let path = ContainerPath {
                account: account.clone(),
                container,
            };
            if matches!(self.fetch_container(&path).await, Ok(None)) {
                gone.insert(name);
            }
        }
        gone
    }

    fn account_metadata(&self, headers: &HeaderMap) -> Result<StampedMetadata, Fault> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let stamp = self.cluster.clock.stamp();
        StampedMetadata::from_headers(MetadataKind::Account, pairs, stamp)
            .map_err(|error| Fault::BadRequest(error.to_string()))
    }

    async fn post_account(
        &self,
        account: &AccountName,
        info: AccountInfo,
        (mut metadata, domain): (StampedMetadata, StampedMetadata),
    ) -> Result<Response, Fault> {
        if info.is_deleted() {
            return Err(Fault::NotFound);
        }
        let mut sum = info.metadata;
        sum.merge(&metadata);
        sum.check(MetadataKind::Account)
            .map_err(|error| Fault::BadRequest(error.to_string()))?;
        metadata.merge(&domain);
        self.put_account(account, metadata).await?;
        Ok(status_only(StatusCode::NO_CONTENT))
    }

    async fn make_account(
        &self,
        account: &AccountName,
        info: &AccountInfo,
        (mut metadata, domain): (StampedMetadata, StampedMetadata),
    ) -> Result<Response, Fault> {
        if info.is_deleted() {
            return Err(Fault::RecentlyDeleted);
        }
        let existed = info.put_timestamp > Timestamp::ZERO;
        metadata.merge(&domain);
        self.put_account(account, metadata).await?;
        Ok(status_only(if existed {
            StatusCode::ACCEPTED
        } else {
            StatusCode::CREATED
        }))
    }

    /// Makes the account if need be, and changes its metadata.
    pub(crate) async fn put_account(
        &self,
        account: &AccountName,
        metadata: StampedMetadata,
    ) -> Result<(), Fault> {
        let timestamp = self.cluster.clock.stamp();
        let put = account::Put {
            account: account.clone(),
            timestamp,
            metadata,
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: Arc<onggi_object_wire::Place>, _told| {
            let (nodes, put) = (nodes.clone(), put.clone());
            driver::boxed(async move { nodes.put_account(&place, &put).await })
        };
        let replicas = self.cluster.account(account);
        let written = self.cluster.write(&replicas, &[], send, roster_reply).await;
        self.cache.forget_account(account);
        match written.outcome {
            Outcome::Stored { .. } => Ok(()),
            Outcome::Failed(Failure::ConditionFailed) => Err(Fault::RecentlyDeleted),
            Outcome::Failed(Failure::Conflict | Failure::Newer { .. }) => Err(Fault::Conflict(
                "the account was changed at the same time".to_owned(),
            )),
            Outcome::Failed(_) => Err(Fault::Unavailable),
        }
    }

    /// Makes the account unless it is known to be there.
    pub(crate) async fn ensure_account(
        &self,
        account: &AccountName,
        metadata: StampedMetadata,
    ) -> Result<(), Fault> {
        let known = self.account_info(account).await?;
        if known.is_deleted() {
            // Swift's answer, when it cannot make the account that is missing.
            return Err(Fault::Unavailable);
        }
        if known.put_timestamp > Timestamp::ZERO {
            return Ok(());
        }
        self.put_account(account, metadata).await
    }
}

fn account_response(info: &AccountInfo, rights: Rights, policies: &[Policy]) -> Response {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let name = HeaderName::from_static;
    put_total(
        headers,
        name("x-account-container-count"),
        info.container_count,
    );
    put_total(headers, name("x-account-object-count"), info.object_count);
    put_total(headers, name("x-account-bytes-used"), info.bytes_used);
    // An account that was never written to has no time.
    if info.put_timestamp > Timestamp::ZERO {
        set(headers, name("x-timestamp"), &info.put_timestamp.normal());
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    put_stamped_metadata(headers, &info.metadata, |name| {
        rights.is_owner || !OWNER_HEADERS.contains(&name)
    });
    for (shown, kept) in quota::of_policies(policies) {
        if let Some(value) = info.metadata.get(&kept) {
            set_named(headers, &shown, value);
        }
    }
    if let Some(domain) = info.metadata.get(project_domain::KEPT) {
        set(headers, name(project_domain::SHOWN), domain);
    }
    for (shown, kept) in KEPT {
        let is_shown = rights.is_owner || kept != ACCOUNT_ACL;
        if let Some(value) = info.metadata.get(kept).filter(|_| is_shown) {
            set(headers, name(shown), value);
        }
    }
    response
}

//! Accounts: totals, metadata, and the listing of containers. They come into being with their first container.

use crate::container::{listing_faults, put_stamped_metadata, put_total, roster_reply};
use crate::driver::{self, Asked};
use crate::fault::{Fault, set};
use crate::filling::Filling;
use crate::proxy::Core;
use http::request::Parts as Head;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::{Response, empty, full};
use onggi_common_units::Timestamp;
use onggi_object_client::{InfoAnswer, ListAnswer};
use onggi_object_model::limits::ACCOUNT_LISTING_MAX;
use onggi_object_model::precondition::last_modified;
use onggi_object_model::{
    AccountEntry, AccountInfo, AccountName, ContainerPath, Listing, ListingFormat, ListingQuery,
    MetadataKind, StampedMetadata,
};
use onggi_object_replica::merge::{self, MergedListing};
use onggi_object_replica::{Answer, Failure, GetStep, Outcome};
use onggi_object_wire::account;
use std::collections::HashSet;
use std::sync::Arc;

fn info_answer(answer: &InfoAnswer<AccountInfo>) -> Answer {
    match answer {
        InfoAnswer::Found(info) => Answer::Found {
            data: info.put_timestamp,
            healthy: true,
        },
        InfoAnswer::Missing(_) => Answer::Missing { tombstone: None },
        InfoAnswer::Failed { .. } => Answer::Failed,
    }
}

fn list_answer(answer: &ListAnswer<AccountInfo, AccountEntry>) -> Answer {
    match answer {
        ListAnswer::Found { info, .. } => Answer::Found {
            data: info.put_timestamp,
            healthy: true,
        },
        ListAnswer::Missing(_) => Answer::Missing { tombstone: None },
        ListAnswer::Failed { .. } => Answer::Failed,
    }
}

fn merged<'a>(infos: impl Iterator<Item = &'a AccountInfo>) -> AccountInfo {
    let mut infos = infos.cloned();
    let mut sum = infos.next().unwrap_or_default();
    for info in infos {
        merge::account_info(&mut sum, &info);
    }
    sum
}

/// Whether a read found something; 503 when it cannot tell.
pub(crate) fn is_found<T>(asked: &Asked<T>) -> Result<bool, Fault> {
    match asked.step {
        GetStep::Read { .. } => Ok(true),
        GetStep::Missing { .. } => Ok(false),
        GetStep::Unavailable | GetStep::Wait | GetStep::Ask(_) | GetStep::AskHandoff => {
            Err(Fault::Unavailable)
        }
    }
}

impl Core {
    pub(crate) async fn account(
        self: &Arc<Self>,
        account: AccountName,
        request: &Head,
    ) -> Result<Response, Fault> {
        match request.method {
            Method::POST => self.post_account(&account, request).await,
            Method::HEAD => self.head_account(&account).await,
            _ => self.list_account(&account, request).await,
        }
    }

    async fn head_account(&self, account: &AccountName) -> Result<Response, Fault> {
        let head = account::Head {
            account: account.clone(),
        };
        let nodes = self.cluster.nodes.clone();
        let send = |place: onggi_object_wire::Place, _first| {
            let (nodes, head) = (nodes.clone(), head.clone());
            driver::boxed(async move { nodes.head_account(&place, &head).await })
        };
        let replicas = self.cluster.account(account);
        let asked = self.cluster.read(&replicas, send, info_answer).await;
        is_found(&asked)?;
        let infos = asked.answers.iter().filter_map(|(_, answer)| match answer {
            InfoAnswer::Found(info) => Some(&**info),
            InfoAnswer::Missing(_) | InfoAnswer::Failed { .. } => None,
        });
        let mut response = account_response(&merged(infos));
        let kind = ListingFormat::Plain.content_type();
        set(response.headers_mut(), header::CONTENT_TYPE, kind);
        Ok(response)
    }

    async fn list_account(
        self: &Arc<Self>,
        account: &AccountName,
        request: &Head,
    ) -> Result<Response, Fault> {
        let raw = request.uri.query().unwrap_or_default();
        let query = ListingQuery::parse(raw, ACCOUNT_LISTING_MAX).map_err(listing_faults)?;
        let accept = request
            .headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok());
        let format = ListingFormat::negotiate(raw, accept).map_err(listing_faults)?;
        let mut filling = Filling::new(query);
        let info = loop {
            let (info, round) = self.account_page(account, filling.query()).await?;
            let doubts = filling.doubts(round.doubtful);
            let gone = self.containers_gone(account, doubts).await;
            if !filling.add(round.page, &gone) {
                break info;
            }
        };
        Ok(listing_response(
            account_response(&info),
            &filling.into_page(),
            format,
            ("account", account.as_str()),
        ))
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
        let send = |place: onggi_object_wire::Place, _first| {
            let (nodes, list) = (nodes.clone(), list.clone());
            driver::boxed(async move { nodes.list_account(&place, &list).await })
        };
        let replicas = self.cluster.account(account);
        let asked = self.cluster.read(&replicas, send, list_answer).await;
        is_found(&asked)?;
        let (mut infos, mut pages) = (Vec::new(), Vec::new());
        for (_, answer) in asked.answers {
            if let ListAnswer::Found { info, listing } = answer {
                infos.push(*info);
                pages.push(listing);
            }
        }
        let page = merge::listings(pages, query.limit, query.reverse);
        Ok((merged(infos.iter()), page))
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

    async fn post_account(&self, account: &AccountName, request: &Head) -> Result<Response, Fault> {
        let headers = request
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let stamp = self.cluster.clock.stamp();
        let metadata = StampedMetadata::from_headers(MetadataKind::Account, headers, stamp)
            .map_err(|error| Fault::BadRequest(error.to_string()))?;
        self.put_account(account, metadata).await?;
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
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
        let send = |place: onggi_object_wire::Place, _told| {
            let (nodes, put) = (nodes.clone(), put.clone());
            driver::boxed(async move { nodes.put_account(&place, &put).await })
        };
        let replicas = self.cluster.account(account);
        let written = self.cluster.write(&replicas, &[], send, roster_reply).await;
        match written.outcome {
            Outcome::Stored { .. } => {
                self.cache.learn_account(account);
                Ok(())
            }
            Outcome::Failed(Failure::Conflict | Failure::Newer { .. }) => Err(Fault::Conflict(
                "the account was changed at the same time".to_owned(),
            )),
            Outcome::Failed(_) => Err(Fault::Unavailable),
        }
    }

    /// Makes the account unless it is known to be there.
    pub(crate) async fn ensure_account(&self, account: &AccountName) -> Result<(), Fault> {
        if self.cache.knows_account(account) {
            return Ok(());
        }
        self.put_account(account, StampedMetadata::default()).await
    }
}

fn account_response(info: &AccountInfo) -> Response {
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
        let stamp = info.put_timestamp.normal();
        set(headers, name("x-timestamp"), &stamp);
        set(headers, name("x-put-timestamp"), &stamp);
        set(
            headers,
            header::LAST_MODIFIED,
            &last_modified(info.put_timestamp),
        );
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    put_stamped_metadata(headers, &info.metadata, |_| true);
    response
}

/// A listing over the headers of what is listed: 204 when there is nothing to say as text.
pub(crate) fn listing_response<T: onggi_object_model::listing::Line>(
    mut response: Response,
    page: &Listing<T>,
    format: ListingFormat,
    root: (&str, &str),
) -> Response {
    let body = page.render(format, root);
    set(
        response.headers_mut(),
        header::CONTENT_TYPE,
        format.content_type(),
    );
    if body.is_empty() {
        *response.status_mut() = StatusCode::NO_CONTENT;
        return response;
    }
    *response.status_mut() = StatusCode::OK;
    put_total(
        response.headers_mut(),
        header::CONTENT_LENGTH,
        u64::try_from(body.len()).unwrap_or(u64::MAX),
    );
    *response.body_mut() = full(body);
    response
}

//! What accounts and containers have in common: how their replicas' answers count, and how listings are asked for and shown.

use crate::cluster::Member;
use crate::driver::Asked;
use crate::fault::{Fault, set, set_named};
use crate::subrequest::parameter;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use onggi_common_service::http::{Response, full};
use onggi_object_client::{ContainerAnswer, InfoAnswer, ListAnswer};
use onggi_object_model::listing::Line;
use onggi_object_model::{Listing, ListingFormat, ListingQueryError, StampedMetadata};
use onggi_object_replica::{GetStep, Reply};

/// How a node's answer to a container or account write counts.
pub(crate) fn roster_reply(answer: &ContainerAnswer) -> Reply {
    match answer {
        ContainerAnswer::Made { .. } => Reply::Stored { existed: false },
        ContainerAnswer::Done { .. } => Reply::Stored { existed: true },
        ContainerAnswer::NotFound => Reply::Missing,
        ContainerAnswer::Conflict => Reply::Conflict,
        ContainerAnswer::Deleted => Reply::ConditionFailed,
        ContainerAnswer::Full | ContainerAnswer::Failed { .. } => Reply::Failed,
    }
}

/// The same for a deletion, which one replica that still lists something makes fail.
pub(crate) fn deletion_reply(answer: &ContainerAnswer) -> Reply {
    match roster_reply(answer) {
        Reply::Conflict => Reply::ConditionFailed,
        other => other,
    }
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

/// What replicas that answered know of an account or container.
pub(crate) fn infos<I>(answers: Vec<(Member, InfoAnswer<I>)>) -> impl Iterator<Item = I> {
    answers.into_iter().filter_map(|(_, answer)| match answer {
        InfoAnswer::Found(info) | InfoAnswer::Missing(Some(info)) => Some(*info),
        InfoAnswer::Missing(None) | InfoAnswer::Failed { .. } => None,
    })
}

/// The same of those that were asked to list it, and the pages of those that have it.
pub(crate) fn pages<I, E>(answers: Vec<(Member, ListAnswer<I, E>)>) -> (Vec<I>, Vec<Listing<E>>) {
    let (mut infos, mut pages) = (Vec::new(), Vec::new());
    for (_, answer) in answers {
        match answer {
            ListAnswer::Found { info, listing } => {
                infos.push(*info);
                pages.push(listing);
            }
            ListAnswer::Missing(Some(info)) => infos.push(*info),
            ListAnswer::Missing(None) | ListAnswer::Failed { .. } => {}
        }
    }
    (infos, pages)
}

/// The format a listing request asks for.
pub(crate) fn listing_format(request: &Head) -> Result<ListingFormat, Fault> {
    let raw = request.uri.query().unwrap_or_default();
    let accept = request
        .headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    ListingFormat::negotiate(raw, accept).map_err(listing_faults)
}

/// What a malformed listing request is answered.
pub(crate) fn listing_faults(error: ListingQueryError) -> Fault {
    match error {
        ListingQueryError::LimitTooLarge { .. } => Fault::PreconditionFailed(error.to_string()),
        ListingQueryError::NotUtf8 { .. } | ListingQueryError::MalformedAccept => {
            Fault::BadRequest(error.to_string())
        }
        ListingQueryError::NotAcceptable => Fault::NotAcceptable,
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

/// Headers that only the account's owner sees and sets.
pub(crate) const OWNER_HEADERS: [&str; 8] = [
    "x-container-read",
    "x-container-write",
    "x-container-sync-key",
    "x-container-sync-to",
    "x-account-meta-temp-url-key",
    "x-account-meta-temp-url-key-2",
    "x-container-meta-temp-url-key",
    "x-container-meta-temp-url-key-2",
];

/// Says that the answer is another for who accepts another format, unless the URL says which.
pub(crate) fn vary(request: &Head, headers: &mut HeaderMap) {
    if parameter(request, "format").is_none() {
        headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    }
}

/// A listing over the headers of what is listed: 204 when there is nothing to say as text.
pub(crate) fn listing_response<T: Line>(
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

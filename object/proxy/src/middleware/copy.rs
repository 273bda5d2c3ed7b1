//! Server-side copies: `COPY` with `Destination`, and `PUT` with `X-Copy-From`.

use super::symlink;
use super::versions::VERSION_ID;
use crate::fault::{Fault, set, set_named};
use crate::object::arriving::is_empty;
use crate::proxy::Asking;
use crate::subrequest::{self, Trusted, bare, is_true, parameter, set_query, text};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use onggi_common_service::http::{Body, Response};
use onggi_object_model::limits::OBJECT_BYTES_MAX;
use onggi_object_model::metadata::STATIC_LARGE_OBJECT;
use onggi_object_model::path::{encode_rest, encode_segment, parse_container_and_object};
use onggi_object_model::{AccountName, ObjectPath};

const COPY_FROM: HeaderName = HeaderName::from_static("x-copy-from");
const COPY_FROM_ACCOUNT: HeaderName = HeaderName::from_static("x-copy-from-account");
/// What a copy takes from its source beside metadata, unless the request says otherwise.
const KEPT: [&str; 5] = [
    "content-type",
    "content-encoding",
    "content-disposition",
    "content-language",
    "x-delete-at",
];
/// Parameters of a copy that say how its source is read.
const OF_SOURCE: [&str; 4] = ["multipart-manifest", "part-number", "symlink", "version-id"];

/// An account named in a header.
fn account(headers: &HeaderMap, name: &str) -> Result<Option<AccountName>, Fault> {
    let Some(raw) = text(headers, name) else {
        return Ok(None);
    };
    let bad = || Fault::PreconditionFailed("Account name cannot contain slashes".to_owned());
    let decoded = percent_encoding::percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_invalid| bad())?;
    if decoded.contains('\0') {
        return Err(bad());
    }
    decoded.parse().map(Some).map_err(|_malformed| bad())
}

/// `container/object` of a header, in the account that stands beside it or in the request's own.
fn named(
    headers: &HeaderMap,
    (name, shown): (&str, &str),
    account_name: &str,
    own: &AccountName,
) -> Result<ObjectPath, Fault> {
    let bad = || {
        Fault::PreconditionFailed(format!(
            "{shown} header must be of the form <container name>/<object name>"
        ))
    };
    let missing = || Fault::PreconditionFailed(format!("{shown} header required"));
    let value = text(headers, name).ok_or_else(missing)?;
    let (container, object) = parse_container_and_object(value).map_err(|_malformed| bad())?;
    Ok(ObjectPath {
        account: account(headers, account_name)?.unwrap_or_else(|| own.clone()),
        container,
        object,
    })
}

impl Asking {
    /// The first of the middleware: turns copies into a read and a write.
    pub(crate) async fn object(
        &self,
        path: ObjectPath,
        mut head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        if head.method.as_str() == "COPY" {
            let own = path.account.clone();
            let target = named(
                &head.headers,
                ("destination", "Destination"),
                "destination-account",
                &own,
            )?;
            head.method = Method::PUT;
            head.headers.remove("destination");
            head.headers.remove("destination-account");
            head.headers.remove(header::TRANSFER_ENCODING);
            head.headers
                .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            return Box::pin(self.copy(path, target, head, body)).await;
        }
        let asks_copy = head.method == Method::PUT
            && text(&head.headers, COPY_FROM.as_str()).is_some_and(|source| !source.is_empty());
        if !asks_copy {
            return Box::pin(self.metered(path, head, body)).await;
        }
        let own = path.account.clone();
        let source = named(
            &head.headers,
            (COPY_FROM.as_str(), "X-Copy-From"),
            COPY_FROM_ACCOUNT.as_str(),
            &own,
        )?;
        head.headers.remove(COPY_FROM);
        head.headers.remove(COPY_FROM_ACCOUNT);
        let length = text(&head.headers, "content-length").unwrap_or("0");
        if length.trim() != "0" || !is_empty(body).await? {
            return Err(Fault::BadRequest(
                "Copy requests require a zero byte body".to_owned(),
            ));
        }
        Box::pin(self.copy(source, path, head, onggi_common_service::http::empty())).await
    }

    async fn copy(
        &self,
        source: ObjectPath,
        target: ObjectPath,
        mut head: Head,
        _body: Body,
    ) -> Result<Response, Fault> {
        let response = self.read_source(&source, &head).await?;
        if !response.status().is_success() {
            return Ok(response);
        }
        let length = text(response.headers(), "content-length")
            .and_then(|length| length.parse::<u64>().ok())
            .filter(|length| *length <= OBJECT_BYTES_MAX)
            .ok_or(Fault::TooLarge)?;
        let (from, body) = response.into_parts();
        head.headers.remove(header::RANGE);
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let is_large = from.headers.contains_key(STATIC_LARGE_OBJECT)
            || from.headers.contains_key("x-object-manifest");
        let takes_manifest = parameter(&head, "multipart-manifest").as_deref() == Some("get");
        if from.status == http::StatusCode::OK
            && (!is_large || takes_manifest)
            && !from.headers.contains_key(STATIC_LARGE_OBJECT)
            && let Some(etag) = from.headers.get(header::ETAG)
        {
            // What is copied whole must arrive as it was.
            head.headers.insert(header::ETAG, etag.clone());
        }
        let is_manifest = takes_manifest && from.headers.contains_key(STATIC_LARGE_OBJECT);
        if is_manifest {
            set_query(&mut head, &[("multipart-manifest", "put")]);
        } else {
            head.uri = http::Uri::from_static("/");
        }
        inherit(&from.headers, &mut head.headers, takes_manifest);
        symlink::settle_copy(&mut head.headers, &target)?;
        head.extensions.remove::<Trusted>();
        let mut written = head.clone();
        written.headers.remove("x-fresh-metadata");
        // Conditions were about the source, as in Swift, and held. Tags that must not match are refused for a PUT, also for
        // this one; `*` has come to nothing at the source.
        for name in subrequest::CONDITIONS {
            if name != header::IF_NONE_MATCH {
                written.headers.remove(name);
            }
        }
        let mut response = Box::pin(self.metered(target, written, body)).await?;
        announce(&source, &from.headers, &head.headers, &mut response);
        Ok(response)
    }

    async fn read_source(&self, source: &ObjectPath, head: &Head) -> Result<Response, Fault> {
        let mut read = bare(head, Method::GET);
        for name in subrequest::CONDITIONS.iter().chain([&header::RANGE]) {
            if let Some(value) = head.headers.get(name) {
                read.headers.insert(name.clone(), value.clone());
            }
        }
        let mut pairs: Vec<(&str, String)> = OF_SOURCE
            .iter()
            .filter_map(|name| Some((*name, parameter(head, name)?)))
            .collect();
        if pairs
            .iter()
            .any(|(name, value)| *name == "multipart-manifest" && value == "get")
        {
            pairs.push(("format", "raw".to_owned()));
        }
        let pairs: Vec<(&str, &str)> = pairs
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        if !pairs.is_empty() {
            set_query(&mut read, &pairs);
        }
        let body = onggi_common_service::http::empty();
        Box::pin(self.metered(source.clone(), read, body)).await
    }
}

/// Whether a header of a source is part of what is copied.
fn is_copied(name: &str, takes_manifest: bool) -> bool {
    let is_own_layer = [
        "x-object-sysmeta-slo-",
        "x-object-sysmeta-listing-",
        "x-object-sysmeta-version",
    ];
    let is_system = name.starts_with("x-object-sysmeta-")
        && !is_own_layer.iter().any(|prefix| name.starts_with(prefix));
    name.starts_with("x-object-meta-")
        || is_system
        || name.starts_with("x-object-sysmeta-listing-symlink")
        || KEPT.contains(&name)
        || (takes_manifest && name == "x-object-manifest")
}

/// Gives a copy its source's metadata where the request has none, unless only the request's is wanted.
fn inherit(from: &HeaderMap, to: &mut HeaderMap, takes_manifest: bool) {
    let is_fresh = text(to, "x-fresh-metadata").is_some_and(is_true);
    let has_expiry = to.contains_key("x-delete-after");
    for (name, value) in from {
        let is_system = name.as_str().starts_with("x-object-sysmeta-");
        let is_manifest = name.as_str() == "x-object-manifest";
        if !is_copied(name.as_str(), takes_manifest)
            || (is_fresh && !is_system && !is_manifest && *name != header::CONTENT_TYPE)
            || (has_expiry && name.as_str() == "x-delete-at")
        {
            continue;
        }
        let is_said = to.get(name).is_some_and(|said| !said.is_empty());
        if !is_said {
            to.insert(name.clone(), value.clone());
        }
    }
}

/// Says in an answer what was copied.
fn announce(source: &ObjectPath, from: &HeaderMap, to: &HeaderMap, response: &mut Response) {
    let headers = response.headers_mut();
    let path = format!(
        "{}/{}",
        encode_segment(source.container.as_str()),
        encode_rest(source.object.as_str())
    );
    set(headers, HeaderName::from_static("x-copied-from"), &path);
    set(
        headers,
        HeaderName::from_static("x-copied-from-account"),
        &encode_segment(source.account.as_str()),
    );
    if let Some(modified) = from.get(header::LAST_MODIFIED) {
        headers.insert("x-copied-from-last-modified", modified.clone());
    }
    if let Some(version) = from.get(VERSION_ID) {
        headers.insert("x-copied-from-version-id", version.clone());
    }
    for (name, value) in to {
        let is_shown =
            name.as_str().starts_with("x-object-meta-") || name.as_str() == "x-delete-at";
        if is_shown && let Ok(value) = core::str::from_utf8(value.as_bytes()) {
            set_named(headers, name.as_str(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(header).collect()
    }

    #[test]
    fn a_copy_inherits_what_the_request_does_not_say() {
        let source = headers(&[
            ("x-object-meta-a", "1"),
            ("x-object-meta-b", "1"),
            ("content-type", "text/a"),
            ("x-object-sysmeta-slo-etag", "e"),
            ("etag", "e"),
        ]);
        let mut copy = headers(&[("x-object-meta-b", "2")]);
        inherit(&source, &mut copy, false);
        assert_eq!(text(&copy, "x-object-meta-a"), Some("1"));
        assert_eq!(text(&copy, "x-object-meta-b"), Some("2"));
        assert_eq!(text(&copy, "content-type"), Some("text/a"));
        assert_eq!(copy.len(), 3);
        let mut fresh = headers(&[("x-fresh-metadata", "true")]);
        inherit(&source, &mut fresh, false);
        assert_eq!(text(&fresh, "x-object-meta-a"), None);
        assert_eq!(text(&fresh, "content-type"), Some("text/a"));
    }

    #[test]
    fn names_in_headers_are_decoded_once_and_checked() {
        let own: AccountName = "AUTH_a".parse().unwrap();
        let read = |value| {
            let headers = headers(&[("destination", value)]);
            named(&headers, ("destination", "Destination"), "x", &own)
        };
        assert_eq!(read("/c/o%20p").unwrap().object.as_str(), "o p");
        for bad in ["c", "", "/c/", "c/%00", "%ff/o"] {
            assert!(
                matches!(read(bad), Err(Fault::PreconditionFailed(_))),
                "{bad}"
            );
        }
    }
}

//! Server-side copies: `COPY` with `Destination`, and `PUT` with `X-Copy-From`.

use super::get::Opened;
use super::put::{NewObject, expiry, is_empty};
use super::{Container, text};
use crate::fault::{Fault, set};
use crate::proxy::Asking;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, Method, header};
use onggi_common_service::http::{Body, Response};
use onggi_common_units::Timestamp;
use onggi_object_model::path::{encode_rest, encode_segment, parse_container_and_object};
use onggi_object_model::precondition::last_modified;
use onggi_object_model::{AccountName, Metadata, MetadataError, ObjectPath, Resource};

const COPIED_FROM: HeaderName = HeaderName::from_static("x-copied-from");
const COPIED_FROM_MODIFIED: HeaderName = HeaderName::from_static("x-copied-from-last-modified");

/// `container/object` of a header, in the account that stands beside it or in the request's own.
fn named(
    headers: &HeaderMap,
    name: &str,
    account_name: &str,
    own: &AccountName,
) -> Result<ObjectPath, Fault> {
    let bad = |what: &str| {
        Fault::PreconditionFailed(format!(
            "{what} header must be of the form <container name>/<object name>"
        ))
    };
    let value = text(headers, name).ok_or_else(|| bad(name))?;
    let (container, object) = parse_container_and_object(value).map_err(|_malformed| bad(name))?;
    let account = match text(headers, account_name) {
        Some(account) => account.parse().map_err(|_malformed| {
            Fault::PreconditionFailed(format!("{account_name} header must be an account"))
        })?,
        None => own.clone(),
    };
    Ok(ObjectPath {
        account,
        container,
        object,
    })
}

/// A copy's metadata: the source's, unless none of it is wanted, and over it what the request says.
fn copied(source: &Metadata, headers: &HeaderMap, now: Timestamp) -> Result<Metadata, Fault> {
    let bad = |error: MetadataError| Fault::BadRequest(error.to_string());
    let pairs = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut changes = Metadata::from_headers(pairs).map_err(bad)?;
    expiry(headers, now, &mut changes)?;
    let is_fresh = text(headers, "x-fresh-metadata").is_some_and(|text| {
        matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "1" | "yes" | "on"
        )
    });
    if is_fresh {
        return Ok(changes);
    }
    let mut sum = source.clone();
    for (name, value) in changes.iter() {
        sum.insert(name, value);
    }
    // Each is within the limits; both together may not be.
    let pairs = sum.iter().map(|(name, value)| (name, value.as_bytes()));
    Metadata::from_headers(pairs).map_err(bad)
}

impl Asking {
    /// `COPY source` with `Destination: container/object`.
    pub(super) async fn copy_to(
        &self,
        source: ObjectPath,
        request: &Head,
    ) -> Result<Response, Fault> {
        let headers = &&request.headers;
        let target = named(
            headers,
            "destination",
            "destination-account",
            &source.account,
        )?;
        let resource = Resource::Object(target.clone());
        self.authorize(&Method::PUT, &resource, headers).await?;
        let container = self.core.container_info(&target.container_path()).await?;
        let container = container.ok_or(Fault::NotFound)?;
        self.copy(&container, source, target, headers).await
    }

    /// `PUT target` with `X-Copy-From: container/object`.
    pub(super) async fn copy_from(
        &self,
        container: &Container,
        target: ObjectPath,
        request: &Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let headers = &&request.headers;
        let is_announced =
            text(headers, "content-length").is_some_and(|length| length.trim() != "0");
        if is_announced || !is_empty(body).await? {
            return Err(Fault::BadRequest(
                "Copy requests require a zero byte body".to_owned(),
            ));
        }
        let source = named(
            headers,
            "x-copy-from",
            "x-copy-from-account",
            &target.account,
        )?;
        self.copy(container, source, target, headers).await
    }

    async fn copy(
        &self,
        container: &Container,
        source: ObjectPath,
        target: ObjectPath,
        headers: &HeaderMap,
    ) -> Result<Response, Fault> {
        let resource = Resource::Object(source.clone());
        self.authorize(&Method::GET, &resource, headers).await?;
        let from = self
            .core
            .container_info(&source.container_path())
            .await?
            .ok_or(Fault::NotFound)?;
        let range = text(headers, "range")
            .filter(|range| !range.contains(','))
            .map(str::to_owned);
        let Opened { info, range, body } = self.core.open(from.policy, &source, range).await?;
        let metadata = copied(&info.metadata, headers, self.core.cluster.clock.now())?;
        let content_type =
            text(headers, header::CONTENT_TYPE.as_str()).filter(|text| !text.is_empty());
        let mut new = NewObject {
            policy: container.policy,
            path: target,
            content_type: content_type.map_or(info.content_type, str::to_owned),
            metadata,
            // What is copied whole must arrive as it was.
            etag: range.is_none().then(|| info.etag.to_string()),
            length: Some(range.map_or(info.length, onggi_object_model::ByteRange::len)),
            if_absent: false,
        };
        new.if_absent = self.core.check_condition(&new, headers).await?;
        let mut response = self.core.store(new, body).await?;
        let source_name = source.container.as_str();
        let copied = format!(
            "{}/{}",
            encode_segment(source_name),
            encode_rest(source.object.as_str())
        );
        set(response.headers_mut(), COPIED_FROM, &copied);
        let modified = last_modified(info.data_timestamp);
        set(response.headers_mut(), COPIED_FROM_MODIFIED, &modified);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&'static str, &str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        pairs.iter().map(header).collect()
    }

    #[test]
    fn a_copys_metadata_is_the_sources_and_the_requests_within_the_limits() {
        let now: Timestamp = "1000".parse().unwrap();
        let mut source = Metadata::default();
        source.insert("x-object-meta-a", "1");
        let sum = copied(&source, &headers(&[("x-object-meta-b", "2")]), now).unwrap();
        assert_eq!(
            (sum.get("x-object-meta-a"), sum.get("x-object-meta-b")),
            (Some("1"), Some("2"))
        );
        let fresh = headers(&[("x-fresh-metadata", "true"), ("x-delete-after", "5")]);
        let fresh = copied(&source, &fresh, now).unwrap();
        assert_eq!((fresh.len(), fresh.get("x-delete-at")), (1, Some("1005")));
        for bad in [("x-delete-at", "999"), ("x-delete-after", "soon")] {
            assert!(
                matches!(
                    copied(&source, &headers(&[bad]), now),
                    Err(Fault::BadRequest(_))
                ),
                "{bad:?}"
            );
        }
        // 90 items are allowed: as many of the source, and one more of the request.
        for index in 1..90 {
            source.insert(format!("x-object-meta-{index}"), "v");
        }
        assert!(copied(&source, &HeaderMap::new(), now).is_ok());
        assert!(matches!(
            copied(&source, &headers(&[("x-object-meta-b", "2")]), now),
            Err(Fault::BadRequest(_))
        ));
    }
}

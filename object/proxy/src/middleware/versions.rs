//! Object versioning (`X-Versions-Enabled`): every PUT keeps its bytes as a version of its own in a container that only
//! the system names, and the object is a link to the newest one.
//!
//! | | |
//! |---|---|
//! | container of versions | NUL `versions` NUL *container* |
//! | version of an object | NUL *object* NUL *time, counted down*, so that the newest is listed first, and *its mark, counted down* |
//! | version id | the time, as a timestamp with its mark |
//!
//! The mark is that of the proxy's stamp: two proxies may put versions of an object in one tick, and neither's bytes may
//! take the other's name. Versions from before ids had marks, and what was put while no versions were kept, have none.

mod condition;

use self::condition::{Last, expects_of};
use super::symlink;
use crate::fault::{Fault, set, set_named};
use crate::proxy::Asking;
use crate::subrequest::{AnsweredBy, Answering, Expects, Trusted, bare, is_true, parameter, text};
use http::request::Parts as Head;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::{Body, Response, empty};
use onggi_common_units::Timestamp;
use onggi_object_model::path::{encode_rest, encode_segment};
use onggi_object_model::{ContainerInfo, ContainerName, ContainerPath, ObjectName, ObjectPath};

/// Marks a link the system made to a version.
pub(crate) const LINK: &str = "x-object-sysmeta-versions-link";
/// The container's item that says whether versions are kept.
pub(crate) const ENABLED: &str = "x-container-sysmeta-versions-enabled";
/// What clients send and see.
pub(crate) const HEADER: &str = "x-versions-enabled";
pub(crate) const VERSION_ID: HeaderName = HeaderName::from_static("x-object-version-id");
/// What a deletion leaves among the versions.
pub(crate) const DELETED: &str = "application/x-deleted;swift_versions_deleted=1";
/// The id of what was put while no versions were kept.
const NULL: &str = "null";
/// One more than the last tick of ten digits of seconds.
const TICKS_END: u64 = 10_000_000_000 * 100_000;

/// Begins the names of the containers that have versions; what follows is the name of the container whose they are.
pub(crate) const HIDDEN_PREFIX: &str = "\0versions\0";

/// The container that has the versions of a container's objects.
pub(crate) fn hidden(path: &ContainerPath) -> Option<ContainerPath> {
    let name = ContainerName::new(format!("{HIDDEN_PREFIX}{}", path.container)).ok()?;
    Some(ContainerPath {
        account: path.account.clone(),
        container: name,
    })
}

/// Digits of a time counted down, and of the mark within its tick, which a name need not have.
const DOWN_DIGITS: usize = 16;
const MARK_DIGITS: usize = 20;

/// The name of a version.
pub(crate) fn version_name(object: &ObjectName, id: Timestamp) -> Option<ObjectName> {
    let down = TICKS_END.checked_sub(id.ticks())?;
    let mut name = format!("\0{object}\0{down:0DOWN_DIGITS$}");
    if id.offset() > 0 {
        let mark = u64::MAX - id.offset();
        name.push_str(&format!("{mark:0MARK_DIGITS$}"));
    }
    ObjectName::new(name).ok()
}

/// The object and the id of a version's name.
pub(crate) fn parse_version_name(name: &str) -> Option<(&str, Timestamp)> {
    let (object, digits) = name.strip_prefix('\0')?.rsplit_once('\0')?;
    let (down, mark) = digits.split_at_checked(DOWN_DIGITS)?;
    let ticks = TICKS_END.checked_sub(down.parse().ok()?)?;
    let offset = match mark.len() {
        0 => 0,
        MARK_DIGITS => u64::MAX - mark.parse::<u64>().ok()?,
        _ => return None,
    };
    Some((object, Timestamp::from_ticks(ticks)?.with_offset(offset)))
}

/// What a version is asked for by.
enum Wanted {
    Null,
    Version(Timestamp),
}

fn wanted(text: &str) -> Result<Wanted, Fault> {
    if text == NULL {
        return Ok(Wanted::Null);
    }
    let bad = || Fault::BadRequest("Invalid version parameter".to_owned());
    let stamp: Timestamp = text.parse().map_err(|_malformed| bad())?;
    if stamp.to_string() == text {
        Ok(Wanted::Version(stamp))
    } else {
        Err(bad())
    }
}

/// Where an object's versions are.
struct Place {
    path: ObjectPath,
    hidden: ContainerPath,
}

impl Place {
    fn version(&self, id: Timestamp) -> Result<ObjectPath, Fault> {
        Ok(ObjectPath {
            account: self.hidden.account.clone(),
            container: self.hidden.container.clone(),
            object: version_name(&self.path.object, id).ok_or(Fault::NotFound)?,
        })
    }
}

pub(crate) fn is_enabled(info: &ContainerInfo) -> Option<bool> {
    info.metadata.get(ENABLED).map(is_true)
}

/// The id of the version a link leads to.
fn linked_version(headers: &http::HeaderMap, path: &ObjectPath) -> Option<Timestamp> {
    headers.get(LINK)?;
    let target = symlink::target(headers, &path.account)?;
    parse_version_name(target.object.as_str()).map(|(_, id)| id)
}

impl Asking {
    /// Keeps and finds versions, where the container asks for them.
    pub(crate) fn versioned(&self, path: ObjectPath, head: Head, body: Body) -> Answering<'_> {
        Box::pin(self.answer_versioned(path, head, body))
    }

    async fn answer_versioned(
        &self,
        path: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        if path.container.is_reserved() {
            return Box::pin(self.linked(path, head, body)).await;
        }
        let container = path.container_path();
        let info = self.core.container_info(&container).await?;
        let enabled = info.as_deref().and_then(is_enabled);
        let id = parameter(&head, "version-id").filter(|id| !id.is_empty());
        let Some(is_enabled) = enabled else {
            let reads_null =
                id.as_deref() == Some(NULL) && matches!(head.method, Method::GET | Method::HEAD);
            if id.as_deref().is_some_and(|id| id != NULL) && info.is_some() {
                return Err(Fault::BadRequest(
                    "version-aware operations require that the container is versioned".to_owned(),
                ));
            }
            let mut response = Box::pin(self.legacy_versioned(path, info, head, body)).await?;
            if reads_null {
                set(response.headers_mut(), VERSION_ID, NULL);
            }
            return Ok(response);
        };
        let hidden = hidden(&container).ok_or(Fault::NotFound)?;
        let place = Place { path, hidden };
        match (id, &head.method) {
            (Some(id), _) => {
                let wanted = wanted(&id)?;
                Box::pin(self.with_version(place, wanted, head, body)).await
            }
            (None, &Method::PUT) if is_enabled => {
                Box::pin(self.put_version(place, head, body)).await
            }
            (None, &Method::DELETE) if is_enabled => Box::pin(self.mark_deleted(place, head)).await,
            (None, &Method::POST) => Box::pin(self.post_version(place, head, body)).await,
            (None, &Method::GET | &Method::HEAD) => self.read_current(place, head, body).await,
            (None, _) => Box::pin(self.linked(place.path, head, body)).await,
        }
    }

    async fn read_current(&self, place: Place, head: Head, body: Body) -> Result<Response, Fault> {
        let mut response = Box::pin(self.linked(place.path.clone(), head.clone(), body)).await?;
        let by = response.extensions().get::<AnsweredBy>().cloned();
        let mut id = by
            .filter(|by| by.0.container == place.hidden.container)
            .and_then(|by| Some(parse_version_name(by.0.object.as_str())?.1));
        if id.is_none() {
            // The link itself was asked for, or the version is a link that led on.
            id = linked_version(response.headers(), &place.path);
            let is_elsewhere = response.extensions().get::<AnsweredBy>().is_some();
            if id.is_none() && is_elsewhere {
                id = self.current(&place, &head).await?;
            }
        }
        name_version(&mut response, &place.path, id);
        Ok(response)
    }

    /// The version the object is now; `None` when it is none, or not there.
    async fn current(&self, place: &Place, head: &Head) -> Result<Option<Timestamp>, Fault> {
        let found = self.stored_head(&place.path, head).await?;
        Ok(found.and_then(|found| linked_version(found.headers(), &place.path)))
    }

    /// What is stored under a name, a link as a link; whatever the caller's rights are.
    async fn stored_head(&self, path: &ObjectPath, head: &Head) -> Result<Option<Response>, Fault> {
        let mut asked = bare(head, Method::HEAD);
        asked.extensions.insert(Trusted);
        match self.stored(path.clone(), asked, empty()).await {
            Ok(response) => Ok(Some(response)),
            Err(Fault::NotFound) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn check(&self, path: &ObjectPath, method: &Method, head: &Head) -> Result<(), Fault> {
        if head.extensions.get::<Trusted>().is_some() {
            return Ok(());
        }
        let resource = onggi_object_model::Resource::Object(path.clone());
        self.authorize(method, &resource, &head.headers).await?;
        Ok(())
    }

    /// The owner of the account alone asks for versions by id.
    async fn check_owner(&self, path: &ObjectPath, head: &Head) -> Result<(), Fault> {
        if head.extensions.get::<Trusted>().is_some() {
            return Ok(());
        }
        let resource = onggi_object_model::Resource::Object(path.clone());
        let rights = self
            .authorize(&head.method, &resource, &head.headers)
            .await?;
        if rights.is_owner {
            Ok(())
        } else {
            Err(crate::access::denied(self.caller.as_deref(), &resource))
        }
    }

    async fn put_version(
        &self,
        place: Place,
        mut head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        self.check(&place.path, &Method::PUT, &head).await?;
        // A condition is about the object, and its version is new.
        let expects = self.check_conditions(&place, &head).await?;
        self.keep_null(&place, &head).await?;
        let id = self.core.cluster.clock.write_stamp();
        let version = place.version(id)?;
        let expiry: Vec<(HeaderName, HeaderValue)> = ["x-delete-at", "x-delete-after"]
            .into_iter()
            .filter_map(|name| {
                let value = head.headers.remove(name)?;
                Some((HeaderName::from_static(name), value))
            })
            .collect();
        // A version's name has another ending than the object's. A link takes its target's type, and knows how.
        let is_link = head.headers.contains_key("x-symlink-target");
        if !is_link && !head.headers.contains_key(header::CONTENT_TYPE) {
            let kind = crate::object::put::guess(place.path.object.as_str());
            set(&mut head.headers, header::CONTENT_TYPE, kind);
        }
        let mut asked = head.clone();
        asked.extensions.insert(Trusted);
        for name in crate::subrequest::CONDITIONS {
            asked.headers.remove(name);
        }
        let mut response = Box::pin(self.linked(version, asked, body)).await?;
        if !response.status().is_success() {
            return Ok(response);
        }
        let last = Last::Link(expiry);
        self.conclude(&place, id, &head, &last, expects).await?;
        set(response.headers_mut(), VERSION_ID, &id.to_string());
        Ok(response)
    }

    /// Makes the object a link to one of its versions.
    async fn link(
        &self,
        place: &Place,
        id: Timestamp,
        head: &Head,
        expiry: &[(HeaderName, HeaderValue)],
        expects: Option<Expects>,
    ) -> Result<Response, Fault> {
        let version = place.version(id)?;
        let there = self.stored_head(&version, head).await?;
        let there = there.ok_or(Fault::NotFound)?;
        let from = there.headers();
        let mut asked = bare(head, Method::PUT);
        asked.extensions.insert(Trusted);
        asked.extensions.extend(expects_of(expects));
        let headers = &mut asked.headers;
        for (name, value) in expiry {
            headers.insert(name.clone(), value.clone());
        }
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        if let Some(kind) = from.get(header::CONTENT_TYPE) {
            headers.insert(header::CONTENT_TYPE, kind.clone());
        }
        let target = format!(
            "{}/{}",
            encode_segment(version.container.as_str()),
            encode_rest(version.object.as_str())
        );
        set_named(headers, symlink::TARGET, &target);
        set_named(headers, LINK, "true");
        let bytes = text(from, "x-object-sysmeta-listing-bytes").or(text(from, "content-length"));
        let hash = text(from, "etag");
        let annotations = [
            ("bytes", bytes),
            ("hash", hash),
            ("version", Some(&*id.to_string())),
        ]
        .map(|(name, value)| (name, value.map(str::to_owned)));
        for (name, value) in annotations {
            if let Some(value) = value {
                set_named(headers, &format!("x-object-sysmeta-listing-{name}"), &value);
            }
        }
        for name in ["slo_etag", "symlink_path", "symlink_etag", "symlink_bytes"] {
            let name = format!("x-object-sysmeta-listing-{name}");
            if let Some(value) = text(from, &name).map(str::to_owned) {
                set_named(headers, &name, &value);
            }
        }
        let path = place.path.clone();
        let written = Box::pin(self.stored(path, asked, empty())).await?;
        if written.status().is_success() {
            Ok(written)
        } else {
            Err(Fault::Unavailable)
        }
    }

    /// Keeps as a version what was put while no versions were kept.
    async fn keep_null(&self, place: &Place, head: &Head) -> Result<(), Fault> {
        let mut asked = bare(head, Method::HEAD);
        asked.extensions.insert(Trusted);
        let found = match self
            .stored(place.path.clone(), asked.clone(), empty())
            .await
        {
            Ok(found) => found,
            Err(Fault::NotFound) => return Ok(()),
            Err(fault) => return Err(fault),
        };
        if found.headers().contains_key(LINK) {
            return Ok(());
        }
        asked.method = Method::GET;
        let found = self.stored(place.path.clone(), asked, empty()).await?;
        let id = text(found.headers(), "x-timestamp").and_then(|text| text.parse().ok());
        let version = place.version(id.ok_or(Fault::Unavailable)?)?;
        let mut copy = bare(head, Method::PUT);
        copy.extensions.insert(Trusted);
        let (from, body) = found.into_parts();
        super::legacy_versions::take_along(&from.headers, &mut copy.headers);
        let written = Box::pin(self.stored(version, copy, body)).await?;
        if written.status().is_success() {
            Ok(())
        } else {
            Err(Fault::Unavailable)
        }
    }

    async fn mark_deleted(&self, place: Place, head: Head) -> Result<Response, Fault> {
        self.check(&place.path, &Method::DELETE, &head).await?;
        let expects = self.check_conditions(&place, &head).await?;
        self.keep_null(&place, &head).await?;
        let id = self.core.cluster.clock.write_stamp();
        let mut marker = bare(&head, Method::PUT);
        marker.extensions.insert(Trusted);
        set(&mut marker.headers, header::CONTENT_TYPE, DELETED);
        let length = HeaderValue::from(0);
        marker.headers.insert(header::CONTENT_LENGTH, length);
        Box::pin(self.stored(place.version(id)?, marker, empty())).await?;
        let done = self.conclude(&place, id, &head, &Last::Delete, expects);
        let mut response = match done.await {
            Err(Fault::NotFound) => Fault::NotFound.response(false),
            other => other?,
        };
        set(response.headers_mut(), VERSION_ID, &id.to_string());
        Ok(response)
    }

    /// A POST changes the version, and the link when it is one.
    async fn post_version(&self, place: Place, head: Head, body: Body) -> Result<Response, Fault> {
        self.check(&place.path, &Method::POST, &head).await?;
        let Some(id) = self.current(&place, &head).await? else {
            return Box::pin(self.linked(place.path, head, body)).await;
        };
        let mut asked = head.clone();
        asked.extensions.insert(Trusted);
        // The link expires, its version stays.
        let mut of_version = asked.clone();
        of_version.headers.remove("x-delete-at");
        of_version.headers.remove("x-delete-after");
        let version = place.version(id)?;
        let mut response = Box::pin(self.linked(version, of_version, body)).await?;
        Box::pin(self.stored(place.path, asked, empty())).await?;
        set(response.headers_mut(), VERSION_ID, &id.to_string());
        Ok(response)
    }

    async fn with_version(
        &self,
        place: Place,
        wanted: Wanted,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        self.check_owner(&place.path, &head).await?;
        match (&head.method, wanted) {
            (&Method::PUT, Wanted::Version(id)) => self.restore(place, id, head, body).await,
            (&Method::PUT, Wanted::Null) => {
                Err(Fault::BadRequest("Invalid version parameter".to_owned()))
            }
            (&Method::POST, _) => Err(Fault::BadRequest(
                "POST to a specific version is not allowed".to_owned(),
            )),
            (&Method::DELETE, Wanted::Version(id)) => self.delete_version(place, id, head).await,
            (&Method::DELETE, Wanted::Null) => self.delete_null(place, head).await,
            (_, Wanted::Version(id)) => self.read_version(place, id, head).await,
            (_, Wanted::Null) => {
                let is_version = self.current(&place, &head).await?.is_some();
                if is_version {
                    return Err(Fault::NotFound);
                }
                let mut response = Box::pin(self.linked(place.path, head, body)).await?;
                set(response.headers_mut(), VERSION_ID, NULL);
                Ok(response)
            }
        }
    }

    async fn read_version(
        &self,
        place: Place,
        id: Timestamp,
        mut head: Head,
    ) -> Result<Response, Fault> {
        let is_head = head.method == Method::HEAD;
        head.extensions.insert(Trusted);
        let version = place.version(id)?;
        let mut response = Box::pin(self.linked(version, head, empty())).await?;
        let kind = response.headers().get(header::CONTENT_TYPE).cloned();
        if kind.as_ref().is_some_and(|kind| kind == DELETED) {
            let mut gone = Fault::NotFound.response(is_head);
            set(gone.headers_mut(), header::CONTENT_TYPE, DELETED);
            set(gone.headers_mut(), VERSION_ID, &id.to_string());
            return Ok(gone);
        }
        name_version(&mut response, &place.path, Some(id));
        Ok(response)
    }

    /// Makes a version the current one again.
    async fn restore(
        &self,
        place: Place,
        id: Timestamp,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let length = text(&head.headers, "content-length").unwrap_or("0");
        if length.trim() != "0" || !crate::object::arriving::is_empty(body).await? {
            return Err(Fault::BadRequest(
                "PUT version-id requests require a zero byte body".to_owned(),
            ));
        }
        self.keep_null(&place, &head).await?;
        let there = self.stored_head(&place.version(id)?, &head).await?;
        let linked = self.link(&place, id, &head, &[], None).await?;
        let mut response = crate::object::put::plain(StatusCode::CREATED);
        let tag = there
            .as_ref()
            .and_then(|there| there.headers().get(header::ETAG));
        let modified = linked.headers().get(header::LAST_MODIFIED);
        for (name, value) in [(header::ETAG, tag), (header::LAST_MODIFIED, modified)] {
            if let Some(value) = value {
                response.headers_mut().insert(name, value.clone());
            }
        }
        set(response.headers_mut(), VERSION_ID, &id.to_string());
        Ok(response)
    }

    async fn delete_version(
        &self,
        place: Place,
        id: Timestamp,
        head: Head,
    ) -> Result<Response, Fault> {
        let current = self.current(&place, &head).await?;
        let mut asked = bare(&head, Method::DELETE);
        asked.extensions.insert(Trusted);
        if current == Some(id) {
            // The link first: it must never lead to what is gone.
            match Box::pin(self.stored(place.path.clone(), asked.clone(), empty())).await {
                Ok(_) | Err(Fault::NotFound) => {}
                Err(fault) => return Err(fault),
            }
        }
        let version = place.version(id)?;
        let was_marker = self
            .stored_head(&version, &head)
            .await?
            .is_some_and(|found| text(found.headers(), "content-type") == Some(DELETED));
        let mut response = Box::pin(self.stored(version, asked, empty())).await?;
        set(response.headers_mut(), VERSION_ID, &id.to_string());
        let shown = match current {
            Some(now) if now != id => now.to_string(),
            Some(_) | None => NULL.to_owned(),
        };
        if was_marker {
            set_named(response.headers_mut(), "x-object-delete-marker", "true");
        }
        set_named(
            response.headers_mut(),
            "x-object-current-version-id",
            &shown,
        );
        Ok(response)
    }

    /// Deletes what was put while no versions were kept; a version that is current is only left.
    async fn delete_null(&self, place: Place, head: Head) -> Result<Response, Fault> {
        let mut asked = bare(&head, Method::DELETE);
        asked.extensions.insert(Trusted);
        let mut response = Box::pin(self.stored(place.path, asked, empty())).await?;
        set(response.headers_mut(), VERSION_ID, NULL);
        Ok(response)
    }
}

/// Says in an answer which version it is about.
fn name_version(response: &mut Response, path: &ObjectPath, id: Option<Timestamp>) {
    let shown = id.map_or_else(|| NULL.to_owned(), |id| id.to_string());
    let headers = response.headers_mut();
    set(headers, VERSION_ID, &shown);
    if id.is_some() {
        let place = format!("{}?version-id={shown}", symlink::request_path(path));
        set(headers, header::CONTENT_LOCATION, &place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::HybridClock;
    use onggi_common_host::{Clock, SystemEntropy};
    use onggi_common_units::UtcTime;
    use std::sync::Arc;

    #[test]
    fn versions_sort_newest_first_and_after_shorter_names() {
        let object: ObjectName = "o".parse().unwrap();
        let name = |stamp: &str| version_name(&object, stamp.parse().unwrap()).unwrap();
        let (old, new) = (name("1000.00001"), name("2000.00002"));
        assert!(new < old && new.is_reserved());
        let (object, id) = parse_version_name(new.as_str()).unwrap();
        assert_eq!((object, id.normal().as_str()), ("o", "0000002000.00002"));
        assert!(parse_version_name("o").is_none() && parse_version_name("\0o\0x").is_none());
    }

    #[test]
    fn versions_of_one_tick_have_names_of_their_own_and_sort_by_their_marks() {
        let object: ObjectName = "o".parse().unwrap();
        let tick: Timestamp = "1000.00001".parse().unwrap();
        let marks = [u64::MAX, 1 << 60, 2, 1, 0];
        let names = marks.map(|mark| version_name(&object, tick.with_offset(mark)).unwrap());
        for (mark, name) in marks.iter().zip(&names) {
            let found = parse_version_name(name.as_str());
            assert_eq!(found, Some(("o", tick.with_offset(*mark))));
        }
        assert!(
            names.iter().take(4).is_sorted(),
            "the newest is listed first"
        );
        // As it was named before there were marks.
        let plain = names.last().unwrap().as_str();
        assert_eq!(plain, "\0o\x000999999899999999");
        for bad in ["", "1", "00000000000000000000x", "99999999999999999999"] {
            assert!(parse_version_name(&format!("{plain}{bad}")).is_none() || bad.is_empty());
        }
    }

    /// A moment that does not pass, as two proxies may see it at once.
    struct Stopped;
    impl Clock for Stopped {
        fn now(&self) -> UtcTime {
            UtcTime::from_seconds(1_000)
        }
        fn monotonic(&self) -> core::time::Duration {
            core::time::Duration::ZERO
        }
    }

    #[test]
    fn two_proxies_that_put_a_version_in_one_tick_put_two() {
        let object: ObjectName = "o".parse().unwrap();
        let proxy = || HybridClock::new(Arc::new(Stopped), &SystemEntropy);
        let (one, other) = (proxy().write_stamp(), proxy().write_stamp());
        assert_eq!(one.ticks(), other.ticks());
        let named = |id| version_name(&object, id).unwrap();
        assert_ne!(named(one), named(other));
        for id in [one, other] {
            let asked = wanted(&id.to_string());
            assert!(
                matches!(asked, Ok(Wanted::Version(found)) if found == id),
                "{id}"
            );
        }
    }

    #[test]
    fn version_ids_are_null_or_a_timestamp_as_it_was_given() {
        assert!(matches!(wanted("null"), Ok(Wanted::Null)));
        for good in ["1234567890.12345", "1234567890.12345_00000000000000ab"] {
            assert!(matches!(wanted(good), Ok(Wanted::Version(_))), "{good}");
        }
        for bad in [
            "bad",
            "1",
            "1234567890.123450",
            "-1",
            "1234567890.12345_0000000000000000",
            "1234567890.12345_00000000000000AB",
            "1234567890.12345_ab",
        ] {
            assert!(wanted(bad).is_err(), "{bad}");
        }
    }
}

//! Symlinks: objects without bytes that lead to another object, whatever it is (dynamic) or one of a known tag (static).

use crate::fault::{Fault, set, set_named};
use crate::object::arriving::is_empty;
use crate::proxy::Asking;
use crate::subrequest::{
    AnsweredBy, Answering, Stamped, Trusted, bare, parameter, set_query, text,
};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_service::http::{Body, Response, empty};
use onggi_object_model::path::{
    encode_rest, encode_segment, parse_container_and_object, parse_kept_container_and_object,
};
use onggi_object_model::{AccountName, ObjectPath};

/// Links followed for one request.
pub(crate) const LOOPS_MAX: usize = 2;

pub(crate) const TARGET: &str = "x-object-sysmeta-symlink-target";
pub(crate) const TARGET_ACCOUNT: &str = "x-object-sysmeta-symlink-target-account";
pub(crate) const TARGET_ETAG: &str = "x-object-sysmeta-symlink-target-etag";
pub(crate) const TARGET_BYTES: &str = "x-object-sysmeta-symlink-target-bytes";
/// What clients send and see, and what is kept.
const SHOWN: [(&str, &str); 4] = [
    ("x-symlink-target", TARGET),
    ("x-symlink-target-account", TARGET_ACCOUNT),
    ("x-symlink-target-etag", TARGET_ETAG),
    ("x-symlink-target-bytes", TARGET_BYTES),
];

/// An object's path as requests name it.
pub(crate) fn request_path(path: &ObjectPath) -> String {
    format!(
        "/v1/{}/{}/{}",
        encode_segment(path.account.as_str()),
        encode_segment(path.container.as_str()),
        encode_rest(path.object.as_str())
    )
}

fn bad_target() -> Fault {
    Fault::PreconditionFailed(
        "X-Symlink-Target header must be of the form <container name>/<object name>".to_owned(),
    )
}

/// Where an answer's system headers lead, if it is a link's.
pub(crate) fn target(headers: &HeaderMap, own: &AccountName) -> Option<ObjectPath> {
    let (container, object) = parse_kept_container_and_object(text(headers, TARGET)?).ok()?;
    let account = match text(headers, TARGET_ACCOUNT) {
        Some(account) => percent_encoding::percent_decode_str(account)
            .decode_utf8()
            .ok()?
            .parse()
            .ok()?,
        None => own.clone(),
    };
    Some(ObjectPath {
        account,
        container,
        object,
    })
}

fn show(headers: &mut HeaderMap) {
    for (shown, kept) in SHOWN {
        if let Some(value) = headers.get(kept).cloned() {
            headers.insert(HeaderName::from_static(shown), value);
        }
    }
}

fn mismatch(found: &str, wanted: &str) -> Fault {
    Fault::Conflict(format!(
        "Object Etag '{found}' does not match X-Symlink-Target-Etag header '{wanted}'"
    ))
}

impl Asking {
    /// Follows links on reads, makes them on writes.
    pub(crate) fn linked(&self, path: ObjectPath, head: Head, body: Body) -> Answering<'_> {
        Box::pin(self.answer_linked(path, head, body))
    }

    async fn answer_linked(
        &self,
        path: ObjectPath,
        head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let is_link_wanted = parameter(&head, "symlink").as_deref() == Some("get");
        match head.method {
            Method::GET | Method::HEAD if is_link_wanted => {
                let mut response = self.stored(path, head, body).await?;
                show(response.headers_mut());
                Ok(response)
            }
            Method::GET | Method::HEAD => self.follow(path, head).await,
            Method::PUT if head.headers.contains_key("x-symlink-target") => {
                self.put_link(path, head, body).await
            }
            Method::PUT if head.headers.contains_key("x-symlink-target-etag") => Err(
                Fault::BadRequest("X-Symlink-Target-Etag needs X-Symlink-Target".to_owned()),
            ),
            Method::POST => self.post_link(path, head, body).await,
            _ => self.stored(path, head, body).await,
        }
    }

    async fn follow(&self, path: ObjectPath, head: Head) -> Result<Response, Fault> {
        let mut at = path.clone();
        let mut wanted: Option<String> = None;
        let mut head = head;
        let is_head = head.method == Method::HEAD;
        let mut loops = 0;
        while loops <= LOOPS_MAX {
            let response = match self.stored(at.clone(), head.clone(), empty()).await {
                Ok(response) => response,
                // Where the link leads is known even when nothing can be read there.
                Err(fault) if at != path && !at.container.is_reserved() => {
                    return Ok(pointed(&fault, &at, wanted.as_deref(), is_head));
                }
                Err(fault) => return Err(fault),
            };
            let is_version = response.headers().contains_key(super::versions::LINK);
            let next = target(response.headers(), &at.account);
            let found = text(response.headers(), TARGET_ETAG)
                .or_else(|| text(response.headers(), "etag"))
                .unwrap_or_default();
            // A link to a version stands for the version, a static link for the tag it demands.
            if let Some(wanted) = wanted.as_ref().filter(|_| !is_version)
                && found != wanted
            {
                let fault = mismatch(found, wanted);
                return Ok(pointed(&fault, &at, Some(wanted), is_head));
            }
            let Some(next) = next else {
                return Ok(arrived(response, &path, at));
            };
            if !is_version {
                wanted = text(response.headers(), TARGET_ETAG).map(str::to_owned);
            }
            // Only links the system made lead past the caller's own rights.
            if !next.container.is_reserved() {
                head.extensions.remove::<Trusted>();
                loops += 1;
            } else if is_version {
                head.extensions.insert(Trusted);
            } else {
                return Err(Fault::NotFound);
            }
            at = next;
        }
        Err(Fault::Conflict(format!(
            "Too many levels of symbolic links, maximum allowed is {LOOPS_MAX}"
        )))
    }

    async fn put_link(
        &self,
        path: ObjectPath,
        mut head: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        let is_chunked = head.headers.contains_key(header::TRANSFER_ENCODING);
        if !is_chunked && !head.headers.contains_key(header::CONTENT_LENGTH) {
            return Err(Fault::LengthRequired);
        }
        if text(&head.headers, "x-symlink-target").is_some_and(|target| target.starts_with('/')) {
            return Err(bad_target());
        }
        let length = text(&head.headers, "content-length").unwrap_or("0");
        if length.trim() != "0" || !is_empty(body).await? {
            return Err(Fault::BadRequest(
                "Symlink requests require a zero byte body".to_owned(),
            ));
        }
        let target = asked_target(&head.headers, &path)?;
        let wanted = text(&head.headers, "x-symlink-target-etag")
            .map(|etag| etag.trim().trim_matches('"').to_owned())
            .filter(|etag| !etag.is_empty());
        let mut annotations = vec![("symlink_path", request_path(&target))];
        if let Some(wanted) = wanted
            .as_ref()
            .filter(|_| head.extensions.get::<Stamped>().is_some())
        {
            // As another cluster has it: the target may come later, or never.
            let bytes = text(&head.headers, "x-symlink-target-bytes")
                .and_then(|text| text.parse::<u64>().ok());
            let bytes = bytes.unwrap_or(0).to_string();
            keep(&mut head, TARGET_ETAG, wanted);
            keep(&mut head, TARGET_BYTES, &bytes);
            annotations.push(("symlink_etag", wanted.clone()));
            annotations.push(("symlink_bytes", bytes));
        } else if let Some(wanted) = &wanted {
            let there = self.check_target(&target, &head, wanted).await?;
            let bytes = text(&there, "content-length").unwrap_or("0").to_owned();
            keep(&mut head, TARGET_ETAG, wanted);
            keep(&mut head, TARGET_BYTES, &bytes);
            if let Some(etag) = text(&there, super::static_large::ETAG) {
                annotations.push(("slo_etag", etag.to_owned()));
            }
            annotations.push(("symlink_etag", wanted.clone()));
            annotations.push(("symlink_bytes", bytes));
            if !head.headers.contains_key(header::CONTENT_TYPE)
                && let Some(kind) = there.get(header::CONTENT_TYPE)
            {
                head.headers.insert(header::CONTENT_TYPE, kind.clone());
            }
        }
        let encoded = format!(
            "{}/{}",
            encode_segment(target.container.as_str()),
            encode_rest(target.object.as_str())
        );
        keep(&mut head, TARGET, &encoded);
        if head.headers.contains_key("x-symlink-target-account") {
            let account = encode_segment(target.account.as_str());
            keep(&mut head, TARGET_ACCOUNT, &account);
        }
        for (name, value) in annotations {
            let name = format!("x-object-sysmeta-listing-{name}");
            set_named(&mut head.headers, &name, &value);
        }
        if !head.headers.contains_key(header::CONTENT_TYPE) {
            let kind = HeaderValue::from_static("application/symlink");
            head.headers.insert(header::CONTENT_TYPE, kind);
        }
        head.headers.remove(header::TRANSFER_ENCODING);
        head.headers
            .insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        self.stored(path, head, empty()).await
    }

    /// The target of a static link: it must be there, and have the tag. A target that is a static link itself has the tag
    /// it demands, and must lead to where that holds.
    async fn check_target(
        &self,
        target: &ObjectPath,
        head: &Head,
        wanted: &str,
    ) -> Result<HeaderMap, Fault> {
        let mut asked = bare(head, Method::HEAD);
        set_query(&mut asked, &[("symlink", "get")]);
        let mut headers = self.head_target(target, asked).await?;
        let (found, is_link) = tag_of_target(&headers);
        if found != wanted {
            return Err(mismatch(found, wanted));
        }
        if is_link {
            headers = self.head_target(target, bare(head, Method::HEAD)).await?;
        }
        let is_version = headers.contains_key(super::versions::LINK);
        let length = text(&headers, "x-object-sysmeta-listing-bytes")
            .filter(|_| is_version)
            .or_else(|| text(&headers, super::static_large::SIZE))
            .map(str::to_owned);
        if let Some(length) = length {
            set(&mut headers, header::CONTENT_LENGTH, &length);
        }
        Ok(headers)
    }

    /// What a HEAD of a static link's target says; a target that cannot be read is a conflict.
    async fn head_target(&self, target: &ObjectPath, asked: Head) -> Result<HeaderMap, Fault> {
        let answer = Box::pin(self.versioned(target.clone(), asked, empty())).await;
        match answer {
            Ok(response) if response.status().is_success() => Ok(response.into_parts().0.headers),
            Ok(_) | Err(Fault::NotFound) => Err(Fault::Conflict(
                "X-Symlink-Target does not exist".to_owned(),
            )),
            Err(fault) => Err(fault),
        }
    }

    /// A POST changes the link; the answer says where the target is.
    async fn post_link(&self, path: ObjectPath, head: Head, body: Body) -> Result<Response, Fault> {
        if head.headers.contains_key("x-symlink-target") {
            return Err(Fault::BadRequest(
                "A PUT request is required to set a symlink target".to_owned(),
            ));
        }
        let mut asked = bare(&head, Method::HEAD);
        let mut response = self.stored(path.clone(), head, body).await?;
        if !response.status().is_success() {
            return Ok(response);
        }
        asked.extensions.insert(Trusted);
        let there = self.stored(path.clone(), asked, empty()).await?;
        let Some(next) = target(there.headers(), &path.account) else {
            return Ok(response);
        };
        if next.container.is_reserved() {
            return Ok(response);
        }
        let words = "The requested POST was applied to a symlink. POST directly to the target to apply requested metadata.";
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        let wanted = text(there.headers(), TARGET_ETAG).map(str::to_owned);
        let headers = response.headers_mut();
        set(headers, header::LOCATION, &request_path(&next));
        if let Some(wanted) = wanted {
            set_named(headers, "x-symlink-target-etag", &wanted);
        }
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(words.len()));
        *response.body_mut() = onggi_common_service::http::full(words);
        Ok(response)
    }
}

/// The tag a static link's target has, and whether it has it as a static link.
fn tag_of_target(headers: &HeaderMap) -> (&str, bool) {
    let is_version = headers.contains_key(super::versions::LINK);
    let of_version = |name| text(headers, name).filter(|_| is_version);
    let of_link = match is_version {
        true => of_version("x-object-sysmeta-listing-symlink_etag"),
        false => text(headers, TARGET_ETAG),
    };
    let own = of_version("x-object-sysmeta-listing-hash").or_else(|| text(headers, "etag"));
    (of_link.or(own).unwrap_or_default(), of_link.is_some())
}

/// Makes what a copy of a link says fit its new place: a link without an account leads within the account it is in.
pub(super) fn settle_copy(headers: &mut HeaderMap, own: &ObjectPath) -> Result<(), Fault> {
    if !headers.contains_key(TARGET) {
        return Ok(());
    }
    if let Some(account) = asked_account(headers)? {
        let name = HeaderName::from_static(TARGET_ACCOUNT);
        set(headers, name, &encode_segment(account.as_str()));
        headers.remove("x-symlink-target-account");
    }
    let target = target(headers, &own.account).ok_or_else(bad_target)?;
    if target == *own {
        return Err(Fault::BadRequest("Symlink cannot target itself".to_owned()));
    }
    let name = "x-object-sysmeta-listing-symlink_path";
    set_named(headers, name, &request_path(&target));
    Ok(())
}

fn keep(head: &mut Head, name: &'static str, value: &str) {
    set(&mut head.headers, HeaderName::from_static(name), value);
}

/// The account a link is asked to lead to, when it is not its own.
fn asked_account(headers: &HeaderMap) -> Result<Option<AccountName>, Fault> {
    let Some(account) = text(headers, "x-symlink-target-account") else {
        return Ok(None);
    };
    let bad = || Fault::PreconditionFailed("Account name cannot contain slashes".to_owned());
    percent_encoding::percent_decode_str(account)
        .decode_utf8()
        .ok()
        .filter(|account| !account.contains('\0'))
        .and_then(|account| account.parse().ok())
        .map(Some)
        .ok_or_else(bad)
}

/// The target a PUT asks for.
fn asked_target(headers: &HeaderMap, own: &ObjectPath) -> Result<ObjectPath, Fault> {
    let raw = text(headers, "x-symlink-target").ok_or_else(bad_target)?;
    let (container, object) = parse_container_and_object(raw).map_err(|_malformed| bad_target())?;
    let account = asked_account(headers)?.unwrap_or_else(|| own.account.clone());
    let target = ObjectPath {
        account,
        container,
        object,
    };
    if target == *own {
        return Err(Fault::BadRequest("Symlink cannot target itself".to_owned()));
    }
    Ok(target)
}

/// A fault at a link's target, with where that is.
fn pointed(fault: &Fault, at: &ObjectPath, wanted: Option<&str>, is_head: bool) -> Response {
    let mut response = fault.response(is_head);
    let headers = response.headers_mut();
    set(headers, header::CONTENT_LOCATION, &request_path(at));
    if let Some(wanted) = wanted {
        set_named(headers, "x-symlink-target-etag", wanted);
    }
    response
}

/// The end of a chain of links.
fn arrived(mut response: Response, asked: &ObjectPath, at: ObjectPath) -> Response {
    if *asked != at {
        if !at.container.is_reserved() {
            set(
                response.headers_mut(),
                header::CONTENT_LOCATION,
                &request_path(&at),
            );
        }
        response.extensions_mut().insert(AnsweredBy(at));
    }
    response
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
    fn targets_are_parsed_and_never_the_link_itself() {
        let own = ObjectPath {
            account: "AUTH_a".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: "o".parse().unwrap(),
        };
        let ask = |pairs: &[_]| asked_target(&headers(pairs), &own);
        let there = ask(&[("x-symlink-target", "d/p%20q")]).unwrap();
        assert_eq!(request_path(&there), "/v1/AUTH_a/d/p%20q");
        assert!(matches!(
            ask(&[("x-symlink-target", "c/o")]),
            Err(Fault::BadRequest(_))
        ));
        for bad in ["c", "c/%00", "%00versions%00c/o", "//"] {
            assert!(ask(&[("x-symlink-target", bad)]).is_err(), "{bad}");
        }
        let slash = [
            ("x-symlink-target", "c/p"),
            ("x-symlink-target-account", "a%2Fb"),
        ];
        assert!(matches!(ask(&slash), Err(Fault::PreconditionFailed(_))));
    }

    #[test]
    fn a_copied_link_leads_within_its_new_account_unless_an_account_is_said() {
        let own = ObjectPath {
            account: "AUTH_b".parse().unwrap(),
            container: "c".parse().unwrap(),
            object: "o".parse().unwrap(),
        };
        let path = "x-object-sysmeta-listing-symlink_path";
        let mut copied = headers(&[(TARGET, "d/p"), (path, "/v1/AUTH_a/d/p")]);
        settle_copy(&mut copied, &own).unwrap();
        assert_eq!(text(&copied, path), Some("/v1/AUTH_b/d/p"));
        assert_eq!(text(&copied, TARGET_ACCOUNT), None);
        let mut copied = headers(&[(TARGET, "d/p"), ("x-symlink-target-account", "AUTH_a")]);
        settle_copy(&mut copied, &own).unwrap();
        assert_eq!(text(&copied, path), Some("/v1/AUTH_a/d/p"));
        assert_eq!(text(&copied, TARGET_ACCOUNT), Some("AUTH_a"));
        let mut own_target = headers(&[(TARGET, "c/o")]);
        assert!(settle_copy(&mut own_target, &own).is_err());
        let mut no_link = headers(&[("x-symlink-target-account", "a/b")]);
        assert_eq!(settle_copy(&mut no_link, &own), Ok(()));
    }

    #[test]
    fn a_static_link_has_the_tag_it_demands_and_a_version_its_own() {
        let link = headers(&[(TARGET, "c/o"), (TARGET_ETAG, "t"), ("etag", "e")]);
        assert_eq!(tag_of_target(&link), ("t", true));
        assert_eq!(tag_of_target(&headers(&[("etag", "e")])), ("e", false));
        let version = [
            (super::super::versions::LINK, "true"),
            ("x-object-sysmeta-listing-hash", "h"),
            ("etag", "e"),
        ];
        assert_eq!(tag_of_target(&headers(&version)), ("h", false));
    }
}

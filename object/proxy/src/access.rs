//! Who may do what: the account's owner everything, others what a container's ACLs say.

use crate::fault::Fault;
use http::{HeaderMap, Method, header};
use onggi_common_identity::Caller;
use onggi_object_model::acl::AclError;
use onggi_object_model::{AccessControl, ContainerInfo, Resource, StampedMetadata, Visitor};

/// The header, and the metadata item, that holds a container's read ACL.
pub(crate) const READ_ACL: &str = "x-container-read";
/// The same for the write ACL.
pub(crate) const WRITE_ACL: &str = "x-container-write";

/// What a caller may see beside what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Whether ACLs and other keys of the container are shown.
    pub(crate) is_owner: bool,
}

/// A COPY reads what its URL names; what it writes is in a header, and is judged as a PUT by itself.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || method.as_str() == "COPY"
}

/// Decides by the caller alone; `None` when a container's ACLs have to be asked.
pub(crate) fn by_caller(
    caller: Option<&Caller>,
    method: &Method,
    resource: &Resource,
) -> Option<Rights> {
    let (caller, account) = (caller?, resource.account().as_str());
    if caller.owns_account(account) {
        return Some(Rights { is_owner: true });
    }
    (is_read(method) && caller.reads_account(account)).then_some(Rights { is_owner: false })
}

/// Decides by a container's ACLs.
pub(crate) fn by_acl(
    caller: Option<&Caller>,
    method: &Method,
    resource: &Resource,
    container: Option<&ContainerInfo>,
    headers: &HeaderMap,
) -> Result<Rights, Fault> {
    let groups: &[String] = caller.map_or(&[], |caller| &caller.groups);
    let host = headers
        .get(header::REFERER)
        .and_then(|value| host(value.to_str().ok()?));
    let visitor = Visitor {
        groups,
        referrer_host: host,
    };
    let text = |name| {
        container
            .and_then(|info| info.metadata.get(name))
            .unwrap_or_default()
    };
    let allowed = match resource {
        Resource::Account(_) => false,
        Resource::Container(_) if !is_read(method) => false,
        Resource::Container(_) => {
            let acl = AccessControl::parse_read(text(READ_ACL)).unwrap_or_default();
            acl.admits_caller(&visitor)
                || (acl.lists_for_referrers() && acl.admits_referrer(&visitor))
        }
        Resource::Object(_) if is_read(method) => {
            let acl = AccessControl::parse_read(text(READ_ACL)).unwrap_or_default();
            acl.admits_caller(&visitor) || acl.admits_referrer(&visitor)
        }
        Resource::Object(_) => {
            let acl = AccessControl::parse_write(text(WRITE_ACL)).unwrap_or_default();
            acl.admits_caller(&visitor)
        }
    };
    if allowed {
        return Ok(Rights { is_owner: false });
    }
    Err(denied(caller, resource))
}

/// 401 to who is not known, 403 to who is.
pub(crate) fn denied(caller: Option<&Caller>, resource: &Resource) -> Fault {
    if caller.is_some() {
        Fault::Forbidden
    } else {
        Fault::Unauthorized {
            realm: resource.account().to_string(),
        }
    }
}

/// Refuses ACLs that would not mean what they say.
pub(crate) fn check_acls(changes: &StampedMetadata) -> Result<(), Fault> {
    let bad = |error: AclError| Fault::BadRequest(error.to_string());
    if let Some(text) = changes.get(READ_ACL) {
        AccessControl::parse_read(text).map_err(bad)?;
    }
    if let Some(text) = changes.get(WRITE_ACL) {
        AccessControl::parse_write(text).map_err(bad)?;
    }
    Ok(())
}

/// The host of a URL.
fn host(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed.split_once(']').map(|(host, _)| host);
    }
    Some(host.split_once(':').map_or(host, |(host, _)| host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrers_host_is_found_in_its_url() {
        assert_eq!(host("http://a.example:80/x?y"), Some("a.example"));
        assert_eq!(
            host("https://good.example@evil.example/"),
            Some("evil.example")
        );
        assert_eq!(host("http://[::1]:80/"), Some("::1"));
        assert_eq!(host("nonsense"), None);
    }

    #[test]
    fn strangers_are_told_apart_from_the_known() {
        let account = Resource::parse("/v1/AUTH_a").unwrap();
        let fault = by_acl(None, &Method::GET, &account, None, &HeaderMap::new()).unwrap_err();
        assert_eq!(
            fault,
            Fault::Unauthorized {
                realm: "AUTH_a".to_owned()
            }
        );
    }

    #[test]
    fn a_public_container_gives_objects_and_not_its_listing() {
        let mut info = ContainerInfo::default();
        let stamp = onggi_object_model::StampedValue {
            timestamp: onggi_common_units::Timestamp::ZERO,
            value: ".r:*".to_owned(),
        };
        info.metadata.insert(READ_ACL, stamp);
        let decide = |method: Method, path: &str| {
            let resource = Resource::parse(path).unwrap();
            by_acl(None, &method, &resource, Some(&info), &HeaderMap::new()).is_ok()
        };
        assert!(decide(Method::GET, "/v1/a/c/o"));
        assert!(!decide(Method::GET, "/v1/a/c"));
        assert!(!decide(Method::PUT, "/v1/a/c/o"));
        assert!(decide(Method::from_bytes(b"COPY").unwrap(), "/v1/a/c/o"));
        assert!(!decide(Method::GET, "/v1/a"));
    }
}

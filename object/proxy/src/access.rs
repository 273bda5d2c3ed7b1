//! Who may do what: the account's owner everything, others what account and container ACLs say.

use crate::fault::Fault;
use crate::middleware::temp_url::Scope;
use crate::project_domain;
use crate::proxy::Asking;
use http::{HeaderMap, Method, header};
use onggi_common_identity::Caller;
use onggi_object_model::acl::{self, AccountAcl, AccountRight, AclError};
use onggi_object_model::{
    AccessControl, AccountInfo, AccountName, ContainerInfo, Resource, StampedMetadata,
    StampedValue, Visitor,
};

/// The header, and the metadata item, that holds a container's read ACL.
pub(crate) const READ_ACL: &str = "x-container-read";
/// The same for the write ACL.
pub(crate) const WRITE_ACL: &str = "x-container-write";
/// The account's item that holds its ACL.
pub(crate) const ACCOUNT_ACL: &str = "x-account-sysmeta-core-access-control";

/// What a caller may see beside what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Whether ACLs and other keys are shown and may be changed.
    pub(crate) is_owner: bool,
}

/// A COPY reads what its URL names; what it writes is in a header, and is judged as a PUT by itself.
fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || method.as_str() == "COPY"
}

/// Whether an account itself is made or deleted: only who reaches every account may. A project may make its own account,
/// as with Keystone's middleware.
fn manages_account(method: &Method, resource: &Resource, caller: Option<&Caller>) -> bool {
    let is_v1 = caller.is_none_or(|caller| caller.is_v1_user);
    matches!(resource, Resource::Account(_))
        && (*method == Method::DELETE || (*method == Method::PUT && is_v1))
}

/// What the lists of an account and its containers may name a caller by.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// Groups, compared byte for byte.
    groups: Vec<String>,
    /// Roles the caller has where it is, which any case of letters names.
    roles: Vec<String>,
}

impl Named {
    fn new(caller: &Caller, account: &AccountName, info: &AccountInfo) -> Self {
        let mut named = Self {
            groups: caller.groups.clone(),
            roles: Vec::new(),
        };
        if project_domain::allows_names(caller, account, info) {
            named.groups.extend(caller.names.iter().cloned());
        }
        if caller.is_of_project(account.as_str()) {
            named.roles.clone_from(&caller.roles);
        }
        named
    }
}

impl Asking {
    /// Whether the caller may do this to that.
    pub(crate) async fn authorize(
        &self,
        method: &Method,
        resource: &Resource,
        headers: &HeaderMap,
    ) -> Result<Rights, Fault> {
        if let Some(scope) = &self.scope {
            return by_scope(scope, resource);
        }
        let caller = self.caller.as_deref();
        if manages_account(method, resource, caller) {
            return match caller {
                Some(caller) if caller.is_reseller_admin() => Ok(Rights { is_owner: true }),
                Some(_) | None => Err(denied(caller, resource)),
            };
        }
        if let Some(rights) = by_caller(caller, self.service.as_deref(), method, resource) {
            return Ok(rights);
        }
        // A name the system gave is nobody's but the system's.
        let is_reserved = match resource {
            Resource::Account(_) => false,
            Resource::Container(path) => path.container.is_reserved(),
            Resource::Object(path) => path.container.is_reserved(),
        };
        if is_reserved {
            return Err(denied(caller, resource));
        }
        let mut named = Named::default();
        if let Some(caller) = caller {
            let account = self.core.account_info(resource.account()).await?;
            named = Named::new(caller, resource.account(), &account);
            if let Some(rights) = by_account_acl(&named, method, resource, &account) {
                return Ok(rights);
            }
        }
        let container = match resource {
            Resource::Account(_) => None,
            Resource::Container(path) => self.core.container_info(path).await?,
            Resource::Object(path) => self.core.container_info(&path.container_path()).await?,
        };
        if by_acl(&named, method, resource, container.as_deref(), headers) {
            return Ok(Rights { is_owner: false });
        }
        Err(denied(caller, resource))
    }
}

/// Decides for the bearer of a signed URL.
fn by_scope(scope: &Scope, resource: &Resource) -> Result<Rights, Fault> {
    if scope.covers(resource) {
        return Ok(Rights { is_owner: false });
    }
    Err(denied(None, resource))
}

/// Decides by the caller alone; `None` when ACLs have to be asked.
pub(crate) fn by_caller(
    caller: Option<&Caller>,
    service: Option<&Caller>,
    method: &Method,
    resource: &Resource,
) -> Option<Rights> {
    let (caller, account) = (caller?, resource.account().as_str());
    if caller.owns_account(account) || caller.owns_service_account(account, service) {
        return Some(Rights { is_owner: true });
    }
    (is_read(method) && caller.reads_account(account)).then_some(Rights { is_owner: false })
}

/// Decides by the account's ACL.
fn by_account_acl(
    named: &Named,
    method: &Method,
    resource: &Resource,
    account: &AccountInfo,
) -> Option<Rights> {
    let acl = AccountAcl::parse(account.metadata.get(ACCOUNT_ACL)?).ok()?;
    let right = acl.right_of(&named.groups)?;
    let is_account = matches!(resource, Resource::Account(_));
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let allowed = match right {
        AccountRight::Admin => return Some(Rights { is_owner: true }),
        AccountRight::ReadWrite => !is_account || reads,
        AccountRight::ReadOnly => reads,
    };
    allowed.then_some(Rights { is_owner: false })
}

/// Decides by a container's ACLs.
fn by_acl(
    named: &Named,
    method: &Method,
    resource: &Resource,
    container: Option<&ContainerInfo>,
    headers: &HeaderMap,
) -> bool {
    let host = headers
        .get(header::REFERER)
        .and_then(|value| host(value.to_str().ok()?));
    let visitor = Visitor {
        groups: &named.groups,
        referrer_host: host,
    };
    let text = |name| {
        container
            .and_then(|info| info.metadata.get(name))
            .unwrap_or_default()
    };
    let named_by = |acl: &AccessControl| {
        acl.admits_caller(&visitor) || named.roles.iter().any(|role| acl.names_role(role))
    };
    match resource {
        Resource::Account(_) => false,
        Resource::Container(_) if !is_read(method) => false,
        Resource::Container(_) => {
            let acl = AccessControl::parse_read(text(READ_ACL)).unwrap_or_default();
            named_by(&acl) || (acl.lists_for_referrers() && acl.admits_referrer(&visitor))
        }
        Resource::Object(_) if is_read(method) => {
            let acl = AccessControl::parse_read(text(READ_ACL)).unwrap_or_default();
            named_by(&acl) || acl.admits_referrer(&visitor)
        }
        Resource::Object(_) => {
            let acl = AccessControl::parse_write(text(WRITE_ACL)).unwrap_or_default();
            named_by(&acl)
        }
    }
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

/// ACLs as they are kept: written as Swift writes them.
pub(crate) fn clean_acls(changes: &mut StampedMetadata) {
    for name in [READ_ACL, WRITE_ACL] {
        let kept = changes.stamped().find(|(known, _)| *known == name);
        let Some((_, item)) = kept.filter(|(_, item)| !item.value.is_empty()) else {
            continue;
        };
        let value = acl::cleaned(&item.value);
        let timestamp = item.timestamp;
        changes.insert(name, StampedValue { timestamp, value });
    }
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
        assert!(!by_acl(
            &Named::default(),
            &Method::GET,
            &account,
            None,
            &HeaderMap::new()
        ));
        assert_eq!(
            denied(None, &account),
            Fault::Unauthorized {
                realm: "AUTH_a".to_owned()
            }
        );
    }

    #[test]
    fn a_public_container_gives_objects_and_not_its_listing() {
        let mut info = ContainerInfo::default();
        let stamp = StampedValue {
            timestamp: onggi_common_units::Timestamp::ZERO,
            value: ".r:*".to_owned(),
        };
        info.metadata.insert(READ_ACL, stamp);
        let decide = |method: Method, path: &str| {
            let resource = Resource::parse(path).unwrap();
            let headers = HeaderMap::new();
            by_acl(&Named::default(), &method, &resource, Some(&info), &headers)
        };
        assert!(decide(Method::GET, "/v1/a/c/o"));
        assert!(!decide(Method::GET, "/v1/a/c"));
        assert!(!decide(Method::PUT, "/v1/a/c/o"));
        assert!(decide(Method::from_bytes(b"COPY").unwrap(), "/v1/a/c/o"));
        assert!(!decide(Method::GET, "/v1/a"));
    }
}

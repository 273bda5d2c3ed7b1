//! A call: who asks, in which project, in which microversion, and what was sent.

use crate::answer::Answer;
use crate::route::{Resource, Routed, resolve};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Method};
use onggi_block_cinder::{
    Fault, FaultKind, Links, ListQuery, Microversion, Rendering, json, microversion,
};
use onggi_block_volume::{Owner, OwnerError, Scope};
use onggi_common_identity::{Caller, Verifier, VerifyError};
use onggi_common_service::http::{Body, CollectError, collect};
use serde_json::Value;
use std::sync::Arc;

/// The header that carries the caller's token.
const TOKEN: &str = "x-auth-token";
/// Where a client reached the service that names no host.
const DEFAULT_HOST: &str = "localhost:8776";

/// An authenticated call.
#[derive(Debug)]
pub(crate) struct Call {
    /// Who makes things: the caller, in the project of its token.
    pub(crate) owner: Owner,
    /// Whether the caller may change what the project has.
    pub(crate) may_write: bool,
    /// For whom to render.
    pub(crate) rendering: Rendering,
    /// What is wanted.
    pub(crate) method: Method,
    /// Of what.
    pub(crate) resource: Resource,
    /// The path below the API's root and project, for links.
    pub(crate) path: String,
    /// The query string.
    pub(crate) query: String,
    /// What was sent.
    body: Bytes,
}

/// The links of a request that names no project.
pub(crate) fn links(headers: &HeaderMap, project: Option<&str>) -> Links {
    let host = headers
        .get(HOST)
        .and_then(|value| value.to_str().ok())
        .unwrap_or(DEFAULT_HOST);
    Links::new("http", host, project)
}

/// The microversion a request asks for.
///
/// # Errors
/// 400 or 406 when it asks for none that exists.
pub(crate) fn version(headers: &HeaderMap) -> Result<Microversion, Fault> {
    let text = |value: &http::HeaderValue| value.to_str().map(str::to_owned).ok();
    let values: Vec<String> = headers
        .get_all(microversion::HEADER)
        .iter()
        .filter_map(text)
        .collect();
    let joined = values.join(",");
    Microversion::negotiate((!joined.is_empty()).then_some(joined.as_str()))
}

/// Who asks.
///
/// # Errors
/// 401 without a valid token, 503 while nobody can tell.
pub(crate) fn authenticate(headers: &HeaderMap, verifier: &Verifier) -> Result<Arc<Caller>, Fault> {
    let refused = || {
        let message = "The request you have made requires authentication.";
        Fault::new(FaultKind::Unauthorized, message)
    };
    let token = headers
        .get(TOKEN)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(refused)?;
    verifier.verify(token).map_err(|error| match error {
        VerifyError::Token(_) | VerifyError::Expired | VerifyError::Revoked => refused(),
        VerifyError::NotReady => Fault::new(FaultKind::ServiceUnavailable, error.to_string()),
    })
}

impl Call {
    /// Puts a call together and checks that the caller may make calls of this kind at all.
    ///
    /// # Errors
    /// 400 for another project's path, 403 without a role in a project, 413 or 415 for a body that is none.
    pub(crate) async fn new(
        head: http::request::Parts,
        body: Body,
        routed: Routed,
        caller: &Caller,
    ) -> Result<Self, Fault> {
        let version = version(&head.headers)?;
        let owner = owner(caller, routed.project.as_deref())?;
        let method = if head.method == Method::HEAD {
            Method::GET
        } else {
            head.method
        };
        require_role(caller, &method)?;
        is_json(&head.headers)?;
        let links = links(&head.headers, routed.project.as_deref());
        let path = below_root(head.uri.path(), routed.project.as_deref());
        let is_admin = caller.is_admin();
        Ok(Self {
            owner,
            may_write: caller.is_member(),
            rendering: Rendering {
                version,
                is_admin,
                links,
            },
            method,
            resource: routed.resource,
            path,
            query: head.uri.query().unwrap_or("").to_owned(),
            body: read(body).await?,
        })
    }

    /// The microversion.
    pub(crate) const fn version(&self) -> Microversion {
        self.rendering.version
    }

    /// What a listing shows: everything when an admin asks for it, else what the project has.
    pub(crate) fn scope(&self, all_tenants: bool) -> Scope {
        if all_tenants && self.rendering.is_admin {
            Scope::All
        } else {
            Scope::Project(self.owner.project.clone())
        }
    }

    /// What can be named by its id: everything for admins, else what the project has.
    pub(crate) fn scope_of_one(&self) -> Scope {
        self.scope(true)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 400 when it is none.
    pub(crate) fn json(&self) -> Result<Value, Fault> {
        json::parse(&self.body)
    }

    /// The query of a listing.
    ///
    /// # Errors
    /// 400 when it cannot be understood.
    pub(crate) fn list_query(&self) -> Result<ListQuery, Fault> {
        ListQuery::parse(&self.query, self.version())
    }

    /// Refuses everybody but admins.
    ///
    /// # Errors
    /// 403.
    pub(crate) fn require_admin(&self) -> Result<(), Fault> {
        if self.rendering.is_admin {
            Ok(())
        } else {
            Err(forbidden(&self.path))
        }
    }

    /// Hides a path from clients that speak an older revision than it came with.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn require_version(&self, version: Microversion) -> Result<(), Fault> {
        if self.version() >= version {
            return Ok(());
        }
        let message =
            format!("The resource could not be found: it needs microversion {version} or newer.");
        Err(Fault::new(FaultKind::ItemNotFound, message))
    }
}

fn forbidden(what: &str) -> Fault {
    let what: String = what.chars().take(64).collect();
    Fault::new(
        FaultKind::Forbidden,
        format!("Policy doesn't allow {what} to be performed."),
    )
}

fn owner(caller: &Caller, in_path: Option<&str>) -> Result<Owner, Fault> {
    let no_project = || {
        let message = "The token is for no project: ask for one that is.";
        Fault::new(FaultKind::Forbidden, message)
    };
    let own = caller.project_id.as_deref().ok_or_else(no_project)?;
    // A project's id is written with and without hyphens.
    let plain = |id: &str| id.replace('-', "").to_ascii_lowercase();
    if in_path.is_some_and(|other| plain(other) != plain(own)) {
        return Err(Fault::bad_request("Malformed request url"));
    }
    let malformed = |error: OwnerError| Fault::new(FaultKind::Forbidden, error.to_string());
    Ok(Owner {
        project: own.parse().map_err(malformed)?,
        user: caller.user_id.parse().map_err(malformed)?,
    })
}

fn require_role(caller: &Caller, method: &Method) -> Result<(), Fault> {
    let may = if method == Method::GET {
        caller.is_reader()
    } else {
        caller.is_member()
    };
    if may {
        Ok(())
    } else {
        Err(forbidden(&format!("{method}")))
    }
}

fn is_json(headers: &HeaderMap) -> Result<(), Fault> {
    let Some(kind) = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return Ok(());
    };
    let kind = kind.split(';').next().unwrap_or("").trim();
    if kind.is_empty() || kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let kind: String = kind.chars().take(64).collect();
    Err(Fault::new(
        FaultKind::BadMediaType,
        format!("Unsupported Content-Type {kind}: send application/json"),
    ))
}

async fn read(body: Body) -> Result<Bytes, Fault> {
    collect(body, json::BODY_BYTES_MAX)
        .await
        .map_err(|error| match error {
            CollectError::TooLong { bytes_max } => Fault::new(
                FaultKind::OverLimit,
                format!("Request is too large: at most {bytes_max} bytes are read."),
            ),
            CollectError::Broken { .. } => Fault::bad_request("The request body broke off."),
        })
}

/// `volumes/detail` of `/v3/<project>/volumes/detail`.
fn below_root(path: &str, project: Option<&str>) -> String {
    let below = path.strip_prefix("/v3/").unwrap_or(path);
    let below = project
        .and_then(|project| below.strip_prefix(project))
        .unwrap_or(below);
    below.trim_matches('/').to_owned()
}

/// Takes a path apart; `Err` holds what to answer when the path or the method lead nowhere.
pub(crate) fn route(path: &str, method: &Method) -> Result<Routed, Box<Answer>> {
    let routed = resolve(path).ok_or_else(|| Box::new(Answer::nowhere()))?;
    let methods = routed.resource.methods();
    if methods.contains(method) || (method == Method::HEAD && methods.contains(&Method::GET)) {
        return Ok(routed);
    }
    Err(Box::new(Answer::bad_method(methods)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_follow_the_path_the_client_used() {
        assert_eq!(below_root("/v3/volumes/detail", None), "volumes/detail");
        assert_eq!(
            below_root("/v3/abc/volumes/detail/", Some("abc")),
            "volumes/detail"
        );
    }

    #[test]
    fn only_json_is_read() {
        let headers = |kind: &'static str| {
            HeaderMap::from_iter([(CONTENT_TYPE, http::HeaderValue::from_static(kind))])
        };
        assert!(is_json(&headers("application/json; charset=utf-8")).is_ok());
        assert_eq!(
            is_json(&headers("application/xml")).unwrap_err().code(),
            415
        );
        assert!(is_json(&HeaderMap::new()).is_ok());
    }
}

//! The public port's handler: parse, authorize, call, answer.

use crate::access::{self, Rights};
use crate::cache::Cache;
use crate::capabilities;
use crate::cluster::Cluster;
use crate::fault::{Fault, set};
use crate::options::{Options, Parts};
use crate::relay;
use crate::rings::RingsError;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_host::{Clock, Entropy};
use onggi_common_identity::{Caller, Verifier, VerifyError};
use onggi_common_service::Drain;
use onggi_common_service::http::{Body, Handler, Request, Response, full};
use onggi_object_model::{ContainerInfo, NameError, PathError, Resource};
use std::sync::Arc;
use tracing::Instrument as _;

const TRANS_ID: HeaderName = HeaderName::from_static("x-trans-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");
/// Characters of a client's own part of a transaction id.
const TRANS_ID_EXTRA_MAX: usize = 32;
/// The longest path and query.
const TARGET_BYTES_MAX: usize = 8 << 10;

/// What handlers share.
pub(crate) struct Core {
    pub(crate) cluster: Cluster,
    pub(crate) cache: Cache,
}

/// The front door.
pub struct Proxy {
    core: Arc<Core>,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    identity_address: String,
    capabilities: Vec<u8>,
}

impl core::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

impl Proxy {
    /// Puts a proxy together; reads the rings.
    ///
    /// # Errors
    /// When a ring file is missing or malformed, or no policy is the default.
    pub fn new(options: Options, parts: Parts) -> Result<Self, RingsError> {
        let cluster = Cluster::new(&options, &parts)?;
        Ok(Self {
            core: Arc::new(Core {
                cluster,
                cache: Cache::default(),
            }),
            verifier: parts.verifier,
            clock: parts.clock,
            entropy: parts.entropy,
            identity_address: options.identity_address,
            capabilities: capabilities::document(&options.policies),
        })
    }

    /// Loads rings again when their files change, until the drain begins. Run it beside the listener.
    pub async fn watch_rings(&self, drain: Drain) {
        Arc::clone(&self.core.cluster.rings).watch(drain).await;
    }

    /// `tx` and 21 digits, the time, and what the client adds.
    fn trans_id(&self, headers: &HeaderMap) -> String {
        let random = self.entropy.hex_id().to_string();
        let mut id = format!("tx{}-{:010x}", &random[..21], self.clock.now().seconds());
        let extra = headers
            .get("x-trans-id-extra")
            .and_then(|value| value.to_str().ok());
        let is_safe = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let extra: String = extra
            .unwrap_or_default()
            .chars()
            .filter(is_safe)
            .take(TRANS_ID_EXTRA_MAX)
            .collect();
        if !extra.is_empty() {
            id.push('-');
            id.push_str(&extra);
        }
        id
    }

    async fn route(&self, request: Request) -> Result<Response, Fault> {
        let (request, body) = request.into_parts();
        let target_length = request
            .uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if target_length > TARGET_BYTES_MAX {
            return Err(Fault::PreconditionFailed(format!(
                "the URL has {target_length} bytes, {TARGET_BYTES_MAX} are allowed"
            )));
        }
        match request.uri.path() {
            "/healthcheck" => text_page(&request.method, "text/plain; charset=UTF-8", "OK"),
            "/info" => {
                let page = self.capabilities.clone();
                text_page(&request.method, "application/json; charset=UTF-8", page)
            }
            path if path == "/auth" || path.starts_with("/auth/") => {
                relay::relay(&self.identity_address, &request).await
            }
            _ => self.storage(&request, body).await,
        }
    }

    async fn storage(&self, request: &Head, body: Body) -> Result<Response, Fault> {
        let resource = parse(request)?;
        let allowed = match resource {
            Resource::Account(_) => "GET, HEAD, POST",
            Resource::Container(_) => "GET, HEAD, PUT, POST, DELETE",
            Resource::Object(_) => "GET, HEAD, PUT, POST, DELETE, COPY",
        };
        if !allowed
            .split(", ")
            .any(|method| method == request.method.as_str())
        {
            return Err(Fault::MethodNotAllowed(allowed));
        }
        let caller = self.caller(&resource, &request.headers)?;
        let asking = Asking {
            core: Arc::clone(&self.core),
            caller,
        };
        let rights = asking
            .authorize(&request.method, &resource, &request.headers)
            .await?;
        match resource {
            Resource::Account(account) => asking.core.account(account, request).await,
            Resource::Container(path) => asking.core.container(path, request, rights).await,
            Resource::Object(path) => asking.object(path, request, body).await,
        }
    }

    fn caller(&self, resource: &Resource, headers: &HeaderMap) -> Result<Option<Caller>, Fault> {
        let token = headers
            .get("x-auth-token")
            .or_else(|| headers.get("x-storage-token"));
        let Some(token) = token else { return Ok(None) };
        let unknown = || Fault::Unauthorized {
            realm: resource.account().to_string(),
        };
        let token = token.to_str().map_err(|_not_ascii| unknown())?;
        match self.verifier.verify(token) {
            Ok(caller) => Ok(Some(caller)),
            Err(VerifyError::NotReady) => Err(Fault::Unavailable),
            Err(VerifyError::Token(_) | VerifyError::Expired | VerifyError::Revoked) => {
                Err(unknown())
            }
        }
    }
}

/// One request: who asks, and what answers.
pub(crate) struct Asking {
    pub(crate) core: Arc<Core>,
    pub(crate) caller: Option<Caller>,
}

impl Asking {
    /// Whether the caller may do this to that.
    pub(crate) async fn authorize(
        &self,
        method: &Method,
        resource: &Resource,
        headers: &HeaderMap,
    ) -> Result<Rights, Fault> {
        let caller = self.caller.as_ref();
        if let Some(rights) = access::by_caller(caller, method, resource) {
            return Ok(rights);
        }
        let container: Option<Arc<ContainerInfo>> = match resource {
            Resource::Account(_) => None,
            Resource::Container(path) => self.core.container_info(path).await?,
            Resource::Object(path) => self.core.container_info(&path.container_path()).await?,
        };
        access::by_acl(caller, method, resource, container.as_deref(), headers)
    }
}

fn parse(request: &Head) -> Result<Resource, Fault> {
    Resource::parse(request.uri.path()).map_err(|error| match error {
        PathError::Text | PathError::Shape => Fault::PreconditionFailed(error.to_string()),
        PathError::Version => Fault::BadRequest(error.to_string()),
        // What cannot be made can still be asked for: it is not there.
        PathError::Name(NameError::TooLong { .. })
            if matches!(request.method, Method::GET | Method::HEAD | Method::DELETE) =>
        {
            Fault::NotFound
        }
        PathError::Name(error) => Fault::BadRequest(error.to_string()),
    })
}

fn text_page(
    method: &Method,
    kind: &'static str,
    page: impl Into<bytes::Bytes>,
) -> Result<Response, Fault> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Fault::MethodNotAllowed("GET, HEAD"));
    }
    let page = page.into();
    let length = page.len();
    let mut response = Response::new(full(page));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    Ok(response)
}

impl Handler for Proxy {
    async fn handle(&self, request: Request) -> Response {
        let trans_id = self.trans_id(request.headers());
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("request", request_id = %trans_id);
        let started = self.clock.monotonic();
        let routed = self.route(request).instrument(span.clone()).await;
        let mut response = routed.unwrap_or_else(|fault| fault.response(method == Method::HEAD));
        let _entered = span.enter();
        let (status, took) = (
            response.status(),
            self.clock.monotonic().saturating_sub(started),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(%method, %path, "answered 503: too few storage nodes answer");
        }
        tracing::debug!(%method, %path, status = status.as_u16(), ?took, "answered");
        set(response.headers_mut(), TRANS_ID, &trans_id);
        set(response.headers_mut(), REQUEST_ID, &trans_id);
        response
    }
}

//! The public port's handler: parse, authorize, call, answer.

use crate::cache::Cache;
use crate::capabilities;
use crate::cluster::Cluster;
use crate::fault::Fault;
use crate::gate;
use crate::middleware::cname_lookup::{AskedHost, CnameLookup};
use crate::middleware::container_sync::{self, ContainerSync, Incoming};
use crate::middleware::encryption::Encryption;
use crate::middleware::filters::Filters;
use crate::middleware::temp_url::{Scope, TempUrl};
use crate::middleware::{domain_remap, endpoints, etag_quoter, form_post};
use crate::object::tag::Hashers;
use crate::options::{Options, Parts};
use crate::relay;
use crate::rings::RingsError;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use onggi_common_host::{Clock, Entropy};
use onggi_common_identity::{Caller, Verifier, VerifyError};
use onggi_common_service::http::{Body, Handler, Request, Response, full, said_empty};
use onggi_common_service::{Drain, telemetry};
use onggi_object_model::{NameError, PathError, Resource};
use std::sync::Arc;

const TRANS_ID: HeaderName = HeaderName::from_static("x-trans-id");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-openstack-request-id");
/// Characters of a client's own part of a transaction id.
const TRANS_ID_EXTRA_MAX: usize = 32;
/// Its 21 digits.
const TRANS_ID_MASK: u128 = (1 << (21 * 4)) - 1;
/// The longest path and query.
const TARGET_BYTES_MAX: usize = 8 << 10;

/// What handlers share.
pub(crate) struct Core {
    pub(crate) cluster: Cluster,
    pub(crate) cache: Cache,
    pub(crate) filters: Filters,
    pub(crate) encryption: Encryption,
    pub(crate) sync: ContainerSync,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) hashers: Arc<Hashers>,
}

/// The front door.
pub struct Proxy {
    core: Arc<Core>,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    /// Random, so that proxies and runs of them do not make the same ids.
    first_trans_id: u128,
    requests: AtomicU64,
    identity_address: String,
    storage_domain: Option<String>,
    cname_lookup: Option<CnameLookup>,
    capabilities: serde_json::Value,
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
    /// When a ring file is missing or malformed, no policy is the default, or a filter is malformed.
    pub fn new(options: Options, parts: Parts) -> Result<Self, RingsError> {
        let cluster = Cluster::new(&options, &parts)?;
        let cname_lookup = lookup(&options, &parts)?;
        let filters =
            Filters::new(options.filters).map_err(|source| RingsError::NameCheck { source })?;
        let encryption = Encryption::new(options.keymaster, Arc::clone(&parts.entropy));
        let remaps = options.storage_domain.is_some();
        let is_encrypting = encryption.is_on();
        let capabilities =
            capabilities::document(&options.policies, remaps, is_encrypting, &filters);
        Ok(Self {
            core: Arc::new(Core {
                cluster,
                cache: Cache::default(),
                filters,
                encryption,
                sync: ContainerSync::new(options.container_sync),
                entropy: Arc::clone(&parts.entropy),
                hashers: Arc::default(),
            }),
            verifier: parts.verifier,
            clock: parts.clock,
            first_trans_id: u128::from_be_bytes(parts.entropy.bytes()),
            requests: AtomicU64::new(0),
            entropy: parts.entropy,
            identity_address: options.identity_address,
            storage_domain: options.storage_domain,
            cname_lookup,
            capabilities,
        })
    }

    /// Loads rings again when their files change, until the drain begins. Run it beside the listener.
    pub async fn watch_rings(&self, drain: Drain) {
        Arc::clone(&self.core.cluster.rings).watch(drain).await;
    }

    /// `tx` and 21 digits, the time, and what the client adds.
    fn trans_id(&self, headers: &HeaderMap) -> String {
        // Nobody is kept from guessing the next one; no two are the same.
        let count = u128::from(self.requests.fetch_add(1, Ordering::Relaxed));
        let number = self.first_trans_id.wrapping_add(count) & TRANS_ID_MASK;
        let mut id = format!("tx{number:021x}-{:010x}", self.clock.now().seconds());
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
        let (mut request, body) = request.into_parts();
        if self.core.sync.is_of_node(&request, self.clock.now()) {
            return self.asking().read_for_sync(&request).await;
        }
        gate::join_repeated(&mut request.headers);
        gate::check(&request)?;
        let incoming = container_sync::take(&mut request.headers);
        if incoming.is_none() {
            gate::check_put(&request)?;
        }
        gate::inbound(&mut request.headers);
        if let Some(incoming) = incoming {
            request.extensions.insert(incoming);
        }
        if let Some(lookup) = &self.cname_lookup {
            lookup.apply(&mut request).await?;
        }
        domain_remap::apply(&mut request, self.storage_domain.as_deref())?;
        let target_length = request
            .uri
            .path_and_query()
            .map_or(0, |target| target.as_str().len());
        if target_length > TARGET_BYTES_MAX {
            return Err(Fault::UriTooLong);
        }
        self.core.filters.check_name(&request)?;
        match request.uri.path() {
            // Whatever the method: who asks wants to know whether somebody answers.
            "/healthcheck" => Ok(page("text/plain; charset=UTF-8", "OK")),
            "/info" => self.info(&request),
            path if path == "/auth" || path.starts_with("/auth/") => {
                relay::relay(&self.identity_address, &request).await
            }
            "/crossdomain.xml" => {
                let page = self.core.filters.cross_domain();
                text_page(&request.method, "application/xml", page)
            }
            path if path.starts_with(endpoints::PATH) && self.core.filters.lists_endpoints() => {
                self.core.endpoints(&request.method, path).await
            }
            _ => self.storage(request, body).await,
        }
    }

    /// What this service can do, to anybody; also to the script of a page from elsewhere.
    fn info(&self, request: &Head) -> Result<Response, Fault> {
        const ALLOWED: &str = "GET, HEAD, OPTIONS";
        match request.method {
            Method::GET | Method::HEAD => {}
            Method::OPTIONS => {
                let mut response = page("text/html; charset=UTF-8", "");
                let allowed = HeaderValue::from_static(ALLOWED);
                response.headers_mut().insert(header::ALLOW, allowed);
                return Ok(response);
            }
            _ => return Err(Fault::MethodNotAllowed(ALLOWED)),
        }
        let mut document = self.capabilities.clone();
        self.core.sync.tell(&mut document);
        let mut response = page("application/json; charset=UTF-8", document.to_string());
        if let Some(origin) = request.headers.get(header::ORIGIN) {
            let headers = response.headers_mut();
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let shown = HeaderValue::from_static("x-trans-id");
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
        }
        Ok(response)
    }

    /// A request of nobody yet.
    fn asking(&self) -> Asking {
        Asking {
            core: Arc::clone(&self.core),
            entropy: Arc::clone(&self.entropy),
            caller: None,
            service: None,
            scope: None,
        }
    }

    async fn storage(&self, mut request: Head, body: Body) -> Result<Response, Fault> {
        let resource = parse(&request)?;
        let own = token(&request.headers, &["x-auth-token", "x-storage-token"])?;
        let service = token(&request.headers, &["x-service-token"])?;
        if own.is_some() || service.is_some() {
            self.await_revocations().await;
        }
        let mut asking = self.asking();
        if let Some(incoming) = request.extensions.remove::<Incoming>() {
            return Box::pin(asking.synced(&incoming, &resource, request, body)).await;
        }
        if request.method == Method::OPTIONS {
            return asking.preflight(&resource, &request).await;
        }
        if let Some(scope) = asking.signed(&resource, &mut request).await? {
            asking.scope = Some(scope);
        } else {
            asking.caller = self.verify(own.as_deref(), &resource)?;
            asking.service = self.verify(service.as_deref(), &resource)?;
        }
        let by_url = request.extensions.get::<TempUrl>().cloned();
        let by_name = request.extensions.get::<AskedHost>().cloned();
        let origin = request.headers.get(header::ORIGIN).cloned();
        let filtered = Box::pin(asking.filtered(&request, &resource)).await?;
        etag_quoter::inbound(&resource, &mut request.headers);
        let mut answered = match (filtered, form_post::boundary(&request)) {
            (Some(refused), _) => Ok(refused),
            (None, Some(boundary)) => {
                Box::pin(asking.form_post(&resource, &boundary, &request, body)).await
            }
            (None, None) => Box::pin(asking.answer(&resource, request, body)).await,
        };
        if let Some(by_url) = by_url {
            answered = answered.and_then(|response| by_url.finish(response, &resource));
        }
        if let Ok(response) = answered {
            answered = Ok(asking.with_quoted_etag(&resource, response).await);
        }
        if let (Some(by_name), Ok(response)) = (by_name, &mut answered) {
            by_name.finish(response.headers_mut());
        }
        match origin {
            Some(origin) => asking.with_cors(&resource, &origin, answered).await,
            None => answered,
        }
    }

    /// No token can be judged before the first list of revoked ones has come, a moment after the start. Longer than this
    /// the identity service is away, which a client is told.
    async fn await_revocations(&self) {
        const STEP: Duration = Duration::from_millis(20);
        const STEPS_MAX: u32 = 150;
        for _ in 0..STEPS_MAX {
            if self.verifier.revocations().is_known() {
                return;
            }
            tokio::time::sleep(STEP).await;
        }
    }

    fn verify(
        &self,
        token: Option<&str>,
        resource: &Resource,
    ) -> Result<Option<Arc<Caller>>, Fault> {
        let Some(token) = token else { return Ok(None) };
        match self.verifier.verify(token) {
            Ok(caller) => Ok(Some(caller)),
            Err(VerifyError::NotReady) => Err(Fault::Unavailable),
            Err(VerifyError::Token(_) | VerifyError::Expired | VerifyError::Revoked) => {
                Err(Fault::Unauthorized {
                    realm: resource.account().to_string(),
                })
            }
        }
    }
}

/// Who looks up names, if somebody is to.
fn lookup(options: &Options, parts: &Parts) -> Result<Option<CnameLookup>, RingsError> {
    let Some(config) = &options.filters.cname_lookup else {
        return Ok(None);
    };
    let domain = options.storage_domain.as_deref();
    let domain = domain.ok_or(RingsError::NoStorageDomain)?;
    let (clock, entropy) = (Arc::clone(&parts.clock), Arc::clone(&parts.entropy));
    Ok(Some(CnameLookup::new(config, domain, clock, entropy)))
}

/// Whether a path is a single word, perhaps with a slash after it.
fn is_one_word(path: &str) -> bool {
    let word = path.strip_prefix('/').unwrap_or(path);
    let word = word.strip_suffix('/').unwrap_or(word);
    !word.is_empty() && !word.contains('/')
}

/// One request: who asks, and what answers.
#[derive(Clone)]
pub(crate) struct Asking {
    pub(crate) core: Arc<Core>,
    entropy: Arc<dyn Entropy>,
    pub(crate) caller: Option<Arc<Caller>>,
    /// The service that vouches for the caller.
    pub(crate) service: Option<Arc<Caller>>,
    /// What a signed URL allows, in the place of a caller's rights.
    pub(crate) scope: Option<Scope>,
}

impl Asking {
    /// Random hexadecimal digits, for names nobody guesses.
    pub(crate) fn random_hex(&self) -> String {
        self.entropy.hex_id().to_string()
    }

    /// Passes a request to what answers it.
    async fn answer(
        &self,
        resource: &Resource,
        request: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        if let Some(bulk) = self.bulk_wanted(&request)? {
            return Box::pin(self.bulk(bulk, resource, request, body)).await;
        }
        let allowed = match resource {
            Resource::Account(_) => "GET, HEAD, PUT, POST, DELETE, OPTIONS",
            Resource::Container(_) => "GET, HEAD, PUT, POST, DELETE, OPTIONS",
            Resource::Object(_) => "GET, HEAD, PUT, POST, DELETE, OPTIONS, COPY",
        };
        let method = request.method.as_str();
        if !allowed.split(", ").any(|known| method == known) {
            return Err(Fault::MethodNotAllowed(allowed));
        }
        if self.is_website(resource, &request) {
            return Box::pin(self.website(resource, request)).await;
        }
        self.answer_plain(resource, request, body).await
    }

    /// The same without pages made of containers.
    pub(crate) async fn answer_plain(
        &self,
        resource: &Resource,
        request: Head,
        body: Body,
    ) -> Result<Response, Fault> {
        match resource {
            Resource::Account(account) => Box::pin(self.account(account, &request)).await,
            Resource::Container(path) => Box::pin(self.container(path, &request)).await,
            Resource::Object(path) => Box::pin(self.object(path.clone(), request, body)).await,
        }
    }
}

/// The first of these headers, as a token.
fn token(headers: &HeaderMap, names: &[&str]) -> Result<Option<String>, Fault> {
    let value = names.iter().find_map(|name| headers.get(*name));
    let unreadable = |_not_ascii| Fault::Unauthorized {
        realm: "unknown".to_owned(),
    };
    value
        .map(|value| value.to_str().map(str::to_owned).map_err(unreadable))
        .transpose()
}

fn parse(request: &Head) -> Result<Resource, Fault> {
    Resource::parse(request.uri.path()).map_err(|error| match error {
        PathError::Text => Fault::PreconditionFailed(error.to_string()),
        // `/v1` and `/v1/` are nearly something.
        PathError::Shape if is_one_word(request.uri.path()) => {
            Fault::PreconditionFailed(error.to_string())
        }
        PathError::Version if !request.uri.path().starts_with("//") => {
            Fault::BadRequest(String::new())
        }
        PathError::Shape | PathError::Version => Fault::NotFound,
        // What cannot be made can still be asked for: it is not there.
        PathError::Name(NameError::TooLong { .. })
            if matches!(request.method, Method::GET | Method::HEAD | Method::DELETE) =>
        {
            Fault::NotFound
        }
        PathError::Name(error) if request.uri.path().splitn(5, '/').nth(4).is_none() => {
            Fault::BadContainerName(error.to_string())
        }
        PathError::Name(error) => Fault::BadRequest(error.to_string()),
    })
}

fn text_page(
    method: &Method,
    kind: &'static str,
    text: impl Into<bytes::Bytes>,
) -> Result<Response, Fault> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Fault::MethodNotAllowed("GET, HEAD"));
    }
    Ok(page(kind, text))
}

fn page(kind: &'static str, text: impl Into<bytes::Bytes>) -> Response {
    let text = text.into();
    let length = text.len();
    let mut response = Response::new(full(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// Says in an answer which request it is to.
fn name(headers: &mut HeaderMap, trans_id: &str) {
    if let Ok(id) = HeaderValue::from_str(trans_id) {
        headers.insert(TRANS_ID, id.clone());
        headers.insert(REQUEST_ID, id);
    }
}

impl Handler for Proxy {
    async fn handle(&self, request: Request) -> Response {
        let trans_id = self.trans_id(request.headers());
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let keeps_alive = request
            .headers()
            .get(header::CONNECTION)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
        let started = self.clock.monotonic();
        let routed = telemetry::of_request(trans_id.clone(), self.route(request)).await;
        let mut response = routed.unwrap_or_else(|fault| fault.response(method == Method::HEAD));
        let (status, took) = (
            response.status(),
            self.clock.monotonic().saturating_sub(started),
        );
        if status == StatusCode::SERVICE_UNAVAILABLE {
            tracing::warn!(%method, %path, request_id = trans_id, "answered 503: too few storage nodes answer");
        }
        tracing::debug!(%method, %path, request_id = trans_id, status = status.as_u16(), ?took, "answered");
        if response.status() == StatusCode::NO_CONTENT {
            // As Swift's answers have it; clients compare.
            let none = HeaderValue::from(0);
            response.headers_mut().insert(header::CONTENT_LENGTH, none);
            *response.body_mut() = said_empty();
        }
        if keeps_alive && !response.headers().contains_key(header::CONNECTION) {
            let kept = HeaderValue::from_static("keep-alive");
            response.headers_mut().insert(header::CONNECTION, kept);
        }
        gate::outbound(response.headers_mut());
        name(response.headers_mut(), &trans_id);
        response
    }

    fn refuse_target(&self, method: &Method) -> Option<Response> {
        let fault = Fault::PreconditionFailed(PathError::Text.to_string());
        let mut response = fault.response(*method == Method::HEAD);
        let trans_id = self.trans_id(&HeaderMap::new());
        name(response.headers_mut(), &trans_id);
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_name_nothing_are_refused_as_swift_refuses_them() {
        let status = |path: &str| {
            let request = http::Request::put(path).body(()).unwrap();
            parse(&request.into_parts().0)
                .unwrap_err()
                .status()
                .as_u16()
        };
        for (path, wanted) in [
            ("/", 404),
            ("//", 404),
            ("/v1//", 404),
            ("//v1/AUTH_a", 404),
            ("/v1/AUTH_a//o", 404),
            ("/v1", 412),
            ("/v1/", 412),
            ("/a", 412),
            ("/v1/AUTH_a/c/%ff", 412),
            ("/v2/AUTH_a", 400),
            ("/foo/bar", 400),
        ] {
            assert_eq!(status(path), wanted, "{path}");
        }
        let long = |path: String| {
            let request = http::Request::put(path).body(()).unwrap();
            parse(&request.into_parts().0).unwrap_err()
        };
        let container = long(format!("/v1/a/{}", "c".repeat(257)));
        assert!(matches!(container, Fault::BadContainerName(_)));
        let object = long(format!("/v1/a/c/{}", "o".repeat(1_025)));
        assert!(matches!(object, Fault::BadRequest(_)));
    }
}

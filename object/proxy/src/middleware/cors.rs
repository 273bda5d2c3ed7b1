//! Cross-origin requests: what a container says browsers of other sites may do.

use crate::fault::{Fault, set};
use crate::proxy::Asking;
use crate::subrequest::text;
use http::request::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use onggi_common_service::http::{Response, empty};
use onggi_object_model::{ContainerInfo, Resource};

const ALLOW_ORIGIN: &str = "x-container-meta-access-control-allow-origin";
const MAX_AGE: &str = "x-container-meta-access-control-max-age";
const EXPOSE: &str = "x-container-meta-access-control-expose-headers";
/// Headers of answers that scripts may always read.
const EXPOSED: [&str; 12] = [
    "cache-control",
    "content-language",
    "content-type",
    "expires",
    "last-modified",
    "pragma",
    "etag",
    "x-timestamp",
    "x-trans-id",
    "x-openstack-request-id",
    "x-object-version-id",
    "accept-ranges",
];

const fn methods(resource: &Resource) -> &'static str {
    match resource {
        Resource::Account(_) => "GET, HEAD, PUT, POST, DELETE, OPTIONS",
        Resource::Container(_) => "GET, HEAD, PUT, POST, DELETE, OPTIONS",
        Resource::Object(_) => "GET, HEAD, PUT, POST, DELETE, OPTIONS, COPY",
    }
}

fn allows(info: Option<&ContainerInfo>, origin: &str) -> Option<bool> {
    let list = info?.metadata.get(ALLOW_ORIGIN)?;
    let allowed: Vec<&str> = list.split_whitespace().collect();
    if allowed.contains(&"*") {
        return Some(true);
    }
    allowed.contains(&origin).then_some(false)
}

impl Asking {
    async fn container_of(
        &self,
        resource: &Resource,
    ) -> Result<Option<std::sync::Arc<ContainerInfo>>, Fault> {
        match resource {
            Resource::Account(_) => Ok(None),
            Resource::Container(path) => self.core.container_info(path).await,
            Resource::Object(path) => self.core.container_info(&path.container_path()).await,
        }
    }

    /// Answers OPTIONS, of browsers and of others.
    pub(crate) async fn preflight(
        &self,
        resource: &Resource,
        request: &Head,
    ) -> Result<Response, Fault> {
        let methods = methods(resource);
        let mut response = Response::new(empty());
        let headers = response.headers_mut();
        headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
        let Some(origin) = text(&request.headers, "origin") else {
            return Ok(response);
        };
        if matches!(resource, Resource::Account(_)) {
            // Nobody says for accounts who may ask; what stands here allows nothing.
            return Ok(response);
        }
        let info = self.container_of(resource).await?;
        let wanted = text(&request.headers, "access-control-request-method");
        let is_known =
            wanted.is_some_and(|wanted| methods.split(", ").any(|known| known == wanted));
        let allowed = allows(info.as_deref(), origin);
        let (Some(is_any), true) = (allowed, is_known) else {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            return Ok(response);
        };
        let shown = if is_any { "*" } else { origin };
        set(headers, header::ACCESS_CONTROL_ALLOW_ORIGIN, shown);
        set(headers, header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        if !is_any {
            headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(age) = info.as_deref().and_then(|info| info.metadata.get(MAX_AGE)) {
            set(headers, header::ACCESS_CONTROL_MAX_AGE, age);
        }
        if let Some(asked) = text(&request.headers, "access-control-request-headers") {
            set(headers, header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
            headers.append(
                header::VARY,
                HeaderValue::from_static("Access-Control-Request-Headers"),
            );
        }
        Ok(response)
    }

    /// Says in an answer what a browser's script may make of it.
    pub(crate) async fn with_cors(
        &self,
        resource: &Resource,
        origin: &HeaderValue,
        answered: Result<Response, Fault>,
    ) -> Result<Response, Fault> {
        let Ok(origin) = origin.to_str() else {
            return answered;
        };
        let info = self.container_of(resource).await.unwrap_or_default();
        let Some(is_any) = allows(info.as_deref(), origin) else {
            return answered;
        };
        let mut response = answered.unwrap_or_else(|fault| fault.response(false));
        let said = info.as_deref().and_then(|info| info.metadata.get(EXPOSE));
        let exposed = exposed(response.headers(), said.unwrap_or_default());
        let headers = response.headers_mut();
        set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, &exposed);
        let shown = if is_any { "*" } else { origin };
        set(headers, header::ACCESS_CONTROL_ALLOW_ORIGIN, shown);
        if !is_any {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        Ok(response)
    }
}

/// The headers a script may read: the usual ones, metadata, and those the container names.
fn exposed(headers: &HeaderMap, said: &str) -> String {
    let mut names: Vec<String> = EXPOSED.iter().map(|name| (*name).to_owned()).collect();
    let is_metadata = |name: &&HeaderName| {
        ["x-account-meta-", "x-container-meta-", "x-object-meta-"]
            .iter()
            .any(|prefix| name.as_str().starts_with(prefix))
    };
    names.extend(headers.keys().filter(is_metadata).map(ToString::to_string));
    names.extend(said.split_whitespace().map(str::to_ascii_lowercase));
    names.sort();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_object_model::StampedValue;

    #[test]
    fn origins_are_compared_whole() {
        let mut info = ContainerInfo::default();
        let mut allow = |list: &str| {
            let value = StampedValue {
                timestamp: onggi_common_units::Timestamp::ZERO,
                value: list.to_owned(),
            };
            info.metadata.insert(ALLOW_ORIGIN, value);
            allows(Some(&info), "http://a.example")
        };
        assert_eq!(allow("http://b.example http://a.example"), Some(false));
        assert_eq!(allow("*"), Some(true));
        for other in [
            "http://a.example.evil",
            "https://a.example",
            "a.example",
            "",
        ] {
            assert_eq!(allow(other), None, "{other}");
        }
    }
}

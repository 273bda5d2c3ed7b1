//! `/endpoints/`: which devices hold an account, container or object, for programs that run beside the data.
//!
//! Nobody is asked who wants to know, and the devices answer no request that is not signed: it tells where, and opens
//! nothing.

use crate::cluster::Replicas;
use crate::fault::Fault;
use crate::proxy::Core;
use http::{HeaderValue, Method, header};
use onggi_common_service::http::{Response, full};
use onggi_object_model::path::encode_rest;
use onggi_object_model::{PolicyIndex, Resource};

/// What stands before the version and the path.
pub(crate) const PATH: &str = "/endpoints/";

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    /// A list.
    One,
    /// The list, and headers that go with each request.
    Two,
}

/// The version and the path of a request; both as they are encoded.
fn parse(path: &str) -> Result<(Version, Resource), Fault> {
    let rest = path.strip_prefix(PATH).unwrap_or_default();
    let (first, behind) = rest.split_once('/').unwrap_or((rest, ""));
    let (version, rest) = match first {
        "v1" | "v1.0" => (Version::One, behind),
        "v2" | "v2.0" => (Version::Two, behind),
        other if other.starts_with('v') && !other.contains('_') => {
            return Err(Fault::BadRequest(format!("Unsupported version '{other}'")));
        }
        _ => (Version::One, rest),
    };
    let resource = Resource::parse(&format!("/v1/{rest}"));
    resource
        .map(|resource| (version, resource))
        .map_err(|_malformed| Fault::BadRequest("No account specified".to_owned()))
}

fn urls(replicas: &Replicas, path: &str) -> Vec<String> {
    let partition = replicas.partition();
    let url = |place: onggi_object_wire::Place| {
        let (address, device) = (place.address, place.device);
        format!("http://{address}/{device}/{partition}{}", encode_rest(path))
    };
    replicas.places().into_iter().map(url).collect()
}

impl Core {
    /// Answers a request below [`PATH`].
    pub(crate) async fn endpoints(&self, method: &Method, path: &str) -> Result<Response, Fault> {
        if *method != Method::GET {
            return Err(Fault::MethodNotAllowed("GET"));
        }
        let (version, resource) = parse(path)?;
        let (urls, policy) = self.held_at(&resource).await?;
        let document = match version {
            Version::One => serde_json::json!(urls),
            Version::Two => {
                let mut headers = serde_json::Map::new();
                if let Some(policy) = policy {
                    let policy = policy.to_string().into();
                    headers.insert("X-Backend-Storage-Policy-Index".to_owned(), policy);
                }
                serde_json::json!({ "endpoints": urls, "headers": headers })
            }
        };
        let page = document.to_string();
        let length = page.len();
        let mut response = Response::new(full(page));
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, kind);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(response)
    }

    async fn held_at(
        &self,
        resource: &Resource,
    ) -> Result<(Vec<String>, Option<PolicyIndex>), Fault> {
        let cluster = &self.cluster;
        Ok(match resource {
            Resource::Account(account) => (
                urls(&cluster.account(account), &format!("/{account}")),
                None,
            ),
            Resource::Container(path) => (urls(&cluster.container(path), &path.to_string()), None),
            Resource::Object(path) => {
                let container = self.container_info(&path.container_path()).await?;
                let policy = container.map_or_else(PolicyIndex::default, |info| info.policy);
                let replicas = cluster.object(policy, path).ok_or(Fault::Unavailable)?;
                (urls(&replicas, &path.to_string()), Some(policy))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_may_stand_before_the_path() {
        let of = parse;
        let object = Resource::parse("/v1/AUTH_a/c/o%20p/q").unwrap();
        assert_eq!(
            of("/endpoints/AUTH_a/c/o%20p/q"),
            Ok((Version::One, object.clone()))
        );
        assert_eq!(
            of("/endpoints/v1/AUTH_a/c/o%20p/q"),
            Ok((Version::One, object.clone()))
        );
        assert_eq!(
            of("/endpoints/v2/AUTH_a/c/o%20p/q"),
            Ok((Version::Two, object))
        );
        let account = Resource::parse("/v1/v_a").unwrap();
        assert_eq!(of("/endpoints/v_a"), Ok((Version::One, account)));
        for bad in [
            "/endpoints/",
            "/endpoints/v3/a",
            "/endpoints/v1/",
            "/endpoints/v1",
        ] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }
}

//! Logging in: a token and the address of the volume service.

use crate::environment::{Credentials, Domain, Reference};
use crate::http::{Answer, Call, send};
use anyhow::{Context as _, Result, bail};
use http::{Method, StatusCode};
use onggi_common_units::Secret;
use serde_json::{Value, json};

/// The catalogue's names for the volume service, best first.
const SERVICE_TYPES: [&str; 2] = ["block-storage", "volumev3"];

/// A token and where it is good for.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) token: Secret,
    /// The volume service's root, without a slash at its end.
    pub(crate) endpoint: String,
}

impl Session {
    /// Logs in.
    pub(crate) async fn open(credentials: Credentials) -> Result<Self> {
        match credentials {
            Credentials::Token { token, endpoint } => Ok(Self { token, endpoint }),
            Credentials::Password {
                auth_url,
                user,
                password,
                project,
                region,
                interface,
            } => {
                let body = token_request(&user, &password, &project);
                let url = format!("{}/auth/tokens", v3_root(&auth_url));
                let call = Call {
                    method: Method::POST,
                    url,
                    headers: Vec::new(),
                    body: Some(body),
                };
                let answer = send(call, "identity service").await?;
                Self::from_answer(&answer, region.as_deref(), &interface)
            }
        }
    }

    fn from_answer(answer: &Answer, region: Option<&str>, interface: &str) -> Result<Self> {
        match answer.status {
            StatusCode::CREATED | StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                bail!(
                    "the identity service refused the user, password or project: check OS_USERNAME, OS_PASSWORD and OS_PROJECT_NAME"
                )
            }
            status => bail!(
                "the identity service answered {status}: {}",
                answer.message()
            ),
        }
        let token = answer
            .headers
            .get("x-subject-token")
            .and_then(|value| value.to_str().ok());
        let token = token.context("the identity service gave no token")?;
        let endpoint = volume_endpoint(&answer.json()?, region, interface)?;
        Ok(Self {
            token: Secret::new(token),
            endpoint,
        })
    }
}

/// The root of the v3 API for what people write as `OS_AUTH_URL`.
fn v3_root(auth_url: &str) -> String {
    let trimmed = auth_url.trim_end_matches('/');
    if trimmed.ends_with("/v3") {
        trimmed.to_owned()
    } else {
        format!("{trimmed}/v3")
    }
}

fn reference(reference: &Reference) -> Value {
    match reference {
        Reference::Id(id) => json!({"id": id}),
        Reference::Name {
            name,
            domain: Domain::Id(id),
        } => json!({"name": name, "domain": {"id": id}}),
        Reference::Name {
            name,
            domain: Domain::Name(domain),
        } => json!({"name": name, "domain": {"name": domain}}),
    }
}

fn token_request(user: &Reference, password: &Secret, project: &Reference) -> Value {
    let mut user = reference(user);
    user["password"] = json!(password.expose());
    json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": reference(project)},
    }})
}

fn volume_endpoint(body: &Value, region: Option<&str>, interface: &str) -> Result<String> {
    let empty = Vec::new();
    let list = |value: &'_ Value| value.as_array().cloned();
    let catalog = body["token"]["catalog"].as_array().unwrap_or(&empty);
    let fits = |endpoint: &Value| {
        let in_region = region
            .is_none_or(|region| endpoint["region"] == *region || endpoint["region_id"] == *region);
        endpoint["interface"] == *interface && in_region
    };
    for kind in SERVICE_TYPES {
        let services = catalog.iter().filter(|service| service["type"] == *kind);
        let mut endpoints = services
            .filter_map(|service| list(&service["endpoints"]))
            .flatten();
        if let Some(endpoint) = endpoints.find(fits)
            && let Some(url) = endpoint["url"].as_str()
        {
            return Ok(url.trim_end_matches('/').to_owned());
        }
    }
    let region = region.map_or_else(String::new, |region| format!(" in region {region}"));
    bail!("the catalogue has no {interface} endpoint of a volume service{region}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Value {
        let endpoint = |interface: &str, url: &str| json!({"interface": interface, "region": "RegionOne", "url": url});
        json!({"token": {"catalog": [
            {"type": "identity", "endpoints": [endpoint("public", "http://h:5000/v3")]},
            {"type": "volumev3", "endpoints": [endpoint("public", "http://h:8776/v3/p")]},
            {"type": "block-storage", "endpoints": [endpoint("admin", "http://a"), endpoint("public", "http://h:8776/v3/")]},
        ]}})
    }

    #[test]
    fn the_endpoint_comes_from_the_catalogue() {
        assert_eq!(
            volume_endpoint(&catalog(), None, "public").unwrap(),
            "http://h:8776/v3"
        );
        assert_eq!(
            volume_endpoint(&catalog(), Some("RegionOne"), "admin").unwrap(),
            "http://a"
        );
        let error = volume_endpoint(&catalog(), Some("Elsewhere"), "public").unwrap_err();
        assert!(error.to_string().contains("in region Elsewhere"));
        assert!(volume_endpoint(&json!({}), None, "public").is_err());
    }

    #[test]
    fn the_identity_root_is_found_in_both_spellings() {
        assert_eq!(v3_root("http://h:5000"), "http://h:5000/v3");
        assert_eq!(v3_root("http://h:5000/v3/"), "http://h:5000/v3");
    }

    #[test]
    fn the_request_has_the_form_keystone_takes() {
        let user = Reference::Name {
            name: "u".to_owned(),
            domain: Domain::Name("Default".to_owned()),
        };
        let body = token_request(&user, &Secret::new("p"), &Reference::Id("i".to_owned()));
        let expected = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user":
                {"name": "u", "domain": {"name": "Default"}, "password": "p"}}},
            "scope": {"project": {"id": "i"}}}});
        assert_eq!(body, expected);
    }
}

//! From credentials to a storage URL and a token.

use crate::credentials::{Credentials, Domain, Project, V3};
use crate::http1::{Call, Client, Url, empty, full};
use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use onggi_common_units::Secret;
use serde_json::{Value, json};

/// A way into an account.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub(crate) storage: Url,
    pub(crate) storage_url: String,
    pub(crate) token: Secret,
}

/// Logs in.
pub(crate) async fn login(client: &Client, credentials: &Credentials) -> Result<Session> {
    match credentials {
        Credentials::Token { storage_url, token } => session(storage_url, token.clone()),
        Credentials::V1 { url, user, key } => v1(client, url, user, key).await,
        Credentials::V3(v3) => v3_login(client, v3).await,
    }
}

fn session(storage_url: &str, token: Secret) -> Result<Session> {
    Ok(Session {
        storage: Url::parse(storage_url)?,
        storage_url: storage_url.to_owned(),
        token,
    })
}

fn secret_header(secret: &Secret) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(secret.expose())
        .ok()
        .context("the key has a character no header can hold")?;
    value.set_sensitive(true);
    Ok(value)
}

async fn v1(client: &Client, url: &str, user: &str, key: &Secret) -> Result<Session> {
    let mut headers = HeaderMap::new();
    headers.insert(
        "x-auth-user",
        HeaderValue::from_str(user).context("ST_USER")?,
    );
    headers.insert("x-auth-key", secret_header(key)?);
    let url = Url::parse(url)?;
    let call = Call {
        method: Method::GET,
        url,
        headers,
        body: empty(),
    };
    let answer = client.ask(call).await?;
    check(answer.status, user)?;
    let storage_url = answer
        .header("x-storage-url")
        .context("the answer to the login names no storage URL")?;
    let token = answer
        .header("x-auth-token")
        .context("the answer to the login has no token")?;
    session(storage_url, Secret::new(token))
}

fn check(status: StatusCode, user: &str) -> Result<()> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::UNAUTHORIZED => bail!("user {user}: wrong name, password or project"),
        status => bail!("the login was answered {status}"),
    }
}

fn domain(domain: &Domain) -> Value {
    match domain {
        Domain::Name(name) => json!({ "name": name }),
        Domain::Id(id) => json!({ "id": id }),
    }
}

async fn v3_login(client: &Client, v3: &V3) -> Result<Session> {
    let project = match &v3.project {
        Project::Id(id) => json!({ "id": id }),
        Project::Name(name) => json!({ "name": name, "domain": domain(&v3.project_domain) }),
    };
    let user = json!({ "name": v3.user, "domain": domain(&v3.user_domain), "password": v3.password.expose() });
    let body = json!({ "auth": {
        "identity": { "methods": ["password"], "password": { "user": user } },
        "scope": { "project": project },
    }});
    let mut url = Url::parse(&v3.url)?;
    if !url.path.ends_with("/v3") {
        url = url.join("v3");
    }
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    let body = serde_json::to_vec(&body)?;
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    let call = Call {
        method: Method::POST,
        url: url.join("auth/tokens"),
        headers,
        body: full(body),
    };
    let mut answer = client.ask(call).await?;
    check(answer.status, &v3.user)?;
    let token = answer
        .header("x-subject-token")
        .context("the answer to the login has no token")?;
    let token = Secret::new(token);
    let document: Value =
        serde_json::from_slice(&answer.bytes().await?).context("the token's document")?;
    let url = storage_url(&document, v3.region.as_deref())
        .context("the catalogue has no object-store service: is it configured?")?;
    session(&url, token)
}

/// The public endpoint of the object store.
fn storage_url(document: &Value, region: Option<&str>) -> Option<String> {
    let services = document.get("token")?.get("catalog")?.as_array()?;
    let service = services
        .iter()
        .find(|service| service["type"] == "object-store")?;
    let endpoint = service
        .get("endpoints")?
        .as_array()?
        .iter()
        .find(|endpoint| {
            let here =
                |region: &str| endpoint["region"] == region || endpoint["region_id"] == region;
            endpoint["interface"] == "public" && region.is_none_or(here)
        })?;
    endpoint.get("url")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_endpoint_of_the_region_is_found() {
        let endpoint = |interface: &str, region: &str| json!({ "interface": interface, "region": region, "url": format!("http://{interface}.{region}/v1") });
        let endpoints = [
            endpoint("admin", "a"),
            endpoint("public", "a"),
            endpoint("public", "b"),
        ];
        let document =
            json!({ "token": { "catalog": [{ "type": "object-store", "endpoints": endpoints }] } });
        assert_eq!(
            storage_url(&document, None).as_deref(),
            Some("http://public.a/v1")
        );
        assert_eq!(
            storage_url(&document, Some("b")).as_deref(),
            Some("http://public.b/v1")
        );
        assert_eq!(storage_url(&document, Some("c")), None);
        assert_eq!(storage_url(&json!({}), None), None);
    }
}

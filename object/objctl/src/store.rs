//! The account as a store: requests with names, answers with types.

use crate::http1::{Answer, Body, Call, Client, Url, empty, full};
use crate::login::Session;
use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use onggi_object_model::path::{encode_rest, encode_segment};
use serde::Deserialize;

/// Lines of one page.
const PAGE: usize = 10_000;

/// The account, a container or an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Name {
    Account,
    Container(String),
    Object(String, String),
}

impl Name {
    pub(crate) fn of(container: Option<String>, object: Option<String>) -> Self {
        match (container, object) {
            (Some(container), Some(object)) => Self::Object(container, object),
            (Some(container), None) => Self::Container(container),
            (None, _) => Self::Account,
        }
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Account => f.write_str("the account"),
            Self::Container(container) => write!(f, "container {container}"),
            Self::Object(container, object) => write!(f, "object {container}/{object}"),
        }
    }
}

/// A line of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
pub(crate) struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subdir: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hash: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_modified: Option<String>,
    /// The tag of a large object, when the line is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slo_etag: Option<String>,
}

impl Line {
    pub(crate) fn text(&self) -> &str {
        self.name
            .as_deref()
            .or(self.subdir.as_deref())
            .unwrap_or_default()
    }
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    pub(crate) container: Option<String>,
    pub(crate) prefix: Option<String>,
    pub(crate) delimiter: Option<String>,
}

/// An account one is logged in to.
#[derive(Debug)]
pub(crate) struct Store {
    client: Client,
    session: Session,
}

impl Store {
    pub(crate) const fn new(client: Client, session: Session) -> Self {
        Self { client, session }
    }

    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }

    fn url(&self, name: &Name) -> Url {
        match name {
            Name::Account => self.session.storage.clone(),
            Name::Container(container) => self.session.storage.join(&encode_segment(container)),
            Name::Object(container, object) => {
                let path = format!("{}/{}", encode_segment(container), encode_rest(object));
                self.session.storage.join(&path)
            }
        }
    }

    fn call(&self, method: Method, name: &Name, headers: HeaderMap, body: Body) -> Result<Call> {
        let mut headers = headers;
        let token = HeaderValue::from_str(self.session.token.expose());
        let mut token = token
            .ok()
            .context("the token has a character no header can hold")?;
        token.set_sensitive(true);
        headers.insert("x-auth-token", token);
        Ok(Call {
            method,
            url: self.url(name),
            headers,
            body,
        })
    }

    /// Sends a request without a body; only a success comes back.
    pub(crate) async fn ask(
        &self,
        method: Method,
        name: &Name,
        mut headers: HeaderMap,
    ) -> Result<Answer> {
        if matches!(method, Method::PUT | Method::POST) {
            headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let answer = self
            .client
            .ask(self.call(method, name, headers, empty())?)
            .await?;
        success(answer, name).await
    }

    /// Sends a request without a body whose answer's body does not matter.
    pub(crate) async fn tell(&self, method: Method, name: &Name, headers: HeaderMap) -> Result<()> {
        let mut answer = self.ask(method, name, headers).await?;
        while answer.next().await?.is_some() {}
        self.client.give_back(answer);
        Ok(())
    }

    /// The same with a query behind the path.
    pub(crate) async fn ask_with(
        &self,
        method: Method,
        name: &Name,
        query: &str,
    ) -> Result<Answer> {
        let mut call = self.call(method, name, HeaderMap::new(), empty())?;
        call.url.path.push_str(query);
        success(self.client.ask(call).await?, name).await
    }

    /// Deletes an object, a large one with its segments.
    pub(crate) async fn delete_object(&self, name: &Name, is_large: bool) -> Result<()> {
        if !is_large {
            return self.tell(Method::DELETE, name, HeaderMap::new()).await;
        }
        let query = "?multipart-manifest=delete";
        let mut answer = self.ask_with(Method::DELETE, name, query).await?;
        let said = answer.bytes().await?;
        self.client.give_back(answer);
        // The status is that of the request; what came of the segments is in the text.
        let said = String::from_utf8_lossy(&said);
        let status = said
            .lines()
            .find_map(|line| line.strip_prefix("Response Status: "));
        match status {
            Some(status) if status.starts_with('2') => Ok(()),
            Some(status) => bail!("{name}: not all of its segments were deleted: {status}"),
            None => bail!("{name}: the answer does not say what was deleted"),
        }
    }

    /// Puts the manifest of a large object; the answer's ETag comes back.
    pub(crate) async fn put_manifest(
        &self,
        name: &Name,
        mut headers: HeaderMap,
        manifest: Vec<u8>,
    ) -> Result<Option<String>> {
        headers.insert(
            http::header::CONTENT_LENGTH,
            HeaderValue::from(manifest.len()),
        );
        let mut call = self.call(Method::PUT, name, headers, full(manifest))?;
        call.url.path.push_str("?multipart-manifest=put");
        self.etag_of(call, name).await
    }

    /// What the store says it can do.
    pub(crate) async fn capabilities(&self) -> Result<serde_json::Value> {
        let mut call = self.call(Method::GET, &Name::Account, HeaderMap::new(), empty())?;
        "/info".clone_into(&mut call.url.path);
        let mut answer = success(self.client.ask(call).await?, &Name::Account).await?;
        let body = answer.bytes().await?;
        self.client.give_back(answer);
        serde_json::from_slice(&body).context("what the store says it can do is malformed")
    }

    /// Stores an object; the answer's ETag comes back.
    pub(crate) async fn put(
        &self,
        name: &Name,
        headers: HeaderMap,
        body: Body,
    ) -> Result<Option<String>> {
        let call = self.call(Method::PUT, name, headers, body)?;
        self.etag_of(call, name).await
    }

    async fn etag_of(&self, call: Call, name: &Name) -> Result<Option<String>> {
        let answer = self.client.send(call).await?;
        let mut answer = success(answer, name).await?;
        while answer.next().await?.is_some() {}
        let etag = answer
            .header("etag")
            .map(|etag| etag.trim_matches('"').to_owned());
        self.client.give_back(answer);
        Ok(etag)
    }

    /// Reads an object.
    pub(crate) async fn get(&self, name: &Name) -> Result<Answer> {
        self.ask(Method::GET, name, HeaderMap::new()).await
    }

    /// An answer's body was read to its end.
    pub(crate) fn done_with(&self, answer: Answer) {
        self.client.give_back(answer);
    }

    /// One page of a listing, after a marker.
    pub(crate) async fn page(&self, what: &Listing, marker: &str) -> Result<Vec<Line>> {
        let name = what
            .container
            .clone()
            .map_or(Name::Account, Name::Container);
        let mut query = format!("?format=json&limit={PAGE}");
        let parts = [
            ("marker", Some(marker)),
            ("prefix", what.prefix.as_deref()),
            ("delimiter", what.delimiter.as_deref()),
        ];
        for (key, value) in parts {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                query.push_str(&format!("&{key}={}", encode_segment(value)));
            }
        }
        let mut call = self.call(Method::GET, &name, HeaderMap::new(), empty())?;
        call.url.path.push_str(&query);
        let mut answer = success(self.client.ask(call).await?, &name).await?;
        let body = answer.bytes().await?;
        self.client.give_back(answer);
        serde_json::from_slice(&body).with_context(|| format!("the listing of {name} is malformed"))
    }
}

/// What an answer that is no success means.
async fn success(mut answer: Answer, name: &Name) -> Result<Answer> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    match answer.status {
        StatusCode::NOT_FOUND => bail!("{name} was not found"),
        StatusCode::UNAUTHORIZED => bail!("{name}: the token is not valid, or has expired"),
        StatusCode::FORBIDDEN => bail!("{name}: you are not allowed to do this"),
        StatusCode::CONFLICT if matches!(name, Name::Container(_)) => {
            bail!("{name} is not empty, or is there with another storage policy")
        }
        StatusCode::PAYLOAD_TOO_LARGE => bail!("{name} is too large: 5 GiB are the most"),
        StatusCode::UNPROCESSABLE_ENTITY => {
            bail!("{name}: the bytes that arrived are not those that were sent")
        }
        StatusCode::INSUFFICIENT_STORAGE => bail!("{name}: there is no space left"),
        StatusCode::SERVICE_UNAVAILABLE => {
            bail!("{name}: the store is not available now, try again")
        }
        status => {
            let body = answer.bytes().await.unwrap_or_default();
            let text = String::from_utf8_lossy(&body);
            let first: String = text
                .lines()
                .next()
                .unwrap_or_default()
                .chars()
                .take(200)
                .collect();
            bail!("{name}: answered {status} {first}")
        }
    }
}

/// `NAME:VALUE` pairs as headers, each name after a prefix.
pub(crate) fn headers(pairs: &[String], prefix: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in pairs {
        let (name, value) = pair
            .split_once(':')
            .with_context(|| format!("{pair:?} is not NAME:VALUE"))?;
        let name = HeaderName::from_bytes(format!("{prefix}{}", name.trim()).as_bytes())
            .with_context(|| format!("{name:?} is no header name"))?;
        let value = HeaderValue::from_bytes(value.trim().as_bytes())
            .with_context(|| format!("the value of {name} has a character no header can hold"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_headers_and_bad_ones_are_named() {
        let made = headers(&["Jar: brown".to_owned()], "x-object-meta-").unwrap();
        assert_eq!(made.get("x-object-meta-jar").unwrap(), "brown");
        assert!(
            headers(&["jar".to_owned()], "")
                .unwrap_err()
                .to_string()
                .contains("NAME:VALUE")
        );
        assert!(headers(&["a b:c".to_owned()], "").is_err());
        assert!(headers(&["a:b\r\nx: y".to_owned()], "").is_err());
    }
}

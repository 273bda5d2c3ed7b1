//! The volume service's public API, as far as volctl uses it.

use crate::http::{Answer, Call, send};
use crate::session::Session;
use anyhow::{Context as _, Result, anyhow, bail};
use core::time::Duration;
use http::{Method, StatusCode};
use onggi_block_cinder::Microversion;
use onggi_common_units::Uuid;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

/// Volumes asked for at a time.
const PAGE: usize = 500;
/// How often a volume is looked at that is waited for: quickly at first, then every second.
const POLL_MIN: Duration = Duration::from_millis(50);
const POLL_MAX: Duration = Duration::from_secs(1);

/// A logged-in client.
#[derive(Debug)]
pub(crate) struct Client {
    session: Session,
}

/// An answer that was no success.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    message: String,
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

impl Client {
    pub(crate) const fn new(session: Session) -> Self {
        Self { session }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Answer> {
        let version = Microversion::MAX.header_value();
        let headers = vec![
            ("x-auth-token", self.session.token.expose()),
            (onggi_block_cinder::microversion::HEADER, version.as_str()),
        ];
        let url = format!("{}/{path}", self.session.endpoint);
        let answer = send(
            Call {
                method,
                url,
                headers,
                body,
            },
            "volume service",
        )
        .await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        let message = match answer.status {
            StatusCode::UNAUTHORIZED => {
                "the volume service does not accept the token: log in again".to_owned()
            }
            _ => answer.message(),
        };
        Err(Refused {
            status: answer.status,
            message,
        }
        .into())
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.call(Method::GET, path, None).await?.json()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.call(Method::POST, path, Some(body)).await?.json()
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Result<Value> {
        self.call(Method::PUT, path, Some(body)).await?.json()
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<Value> {
        self.call(Method::DELETE, path, None).await?.json()
    }

    /// All volumes, page after page.
    pub(crate) async fn volumes(&self, query: &str) -> Result<Vec<Value>> {
        let mut all: Vec<Value> = Vec::new();
        let mut marker = String::new();
        loop {
            let page = self
                .get(&format!("volumes/detail?limit={PAGE}{query}{marker}"))
                .await?;
            let items = page["volumes"]
                .as_array()
                .context("the answer has no volumes")?;
            all.extend(items.iter().cloned());
            match items.last().and_then(|last| last["id"].as_str()) {
                Some(id) if page.get("volumes_links").is_some() => marker = format!("&marker={id}"),
                _ => return Ok(all),
            }
        }
    }

    /// The one volume of this name or id.
    pub(crate) async fn find_volume(&self, wanted: &str) -> Result<Value> {
        if wanted.parse::<Uuid>().is_ok()
            && let Some(volume) = self.volume(wanted).await?
        {
            return Ok(volume);
        }
        let by_name = format!("&name={}", encode(wanted));
        let mut found = self.volumes(&by_name).await?;
        if found.is_empty() {
            // An admin may mean another project's; for anybody else this asks the same again.
            found = self.volumes(&format!("{by_name}&all_tenants=1")).await?;
        }
        if found.len() > 1 {
            let ids: Vec<&str> = found
                .iter()
                .filter_map(|volume| volume["id"].as_str())
                .collect();
            bail!(
                "{} volumes are named '{wanted}': use an ID ({})",
                ids.len(),
                ids.join(", ")
            );
        }
        found
            .pop()
            .ok_or_else(|| anyhow!("No volume with a name or ID of '{wanted}' exists."))
    }

    /// A volume by its id, if it exists.
    pub(crate) async fn volume(&self, id: &str) -> Result<Option<Value>> {
        match self.get(&format!("volumes/{}", encode(id))).await {
            Ok(body) => Ok(Some(body["volume"].clone())),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The id of the one volume of this name or id.
    pub(crate) async fn find_id(&self, wanted: &str) -> Result<String> {
        let volume = self.find_volume(wanted).await?;
        Ok(volume["id"]
            .as_str()
            .context("the volume has no id")?
            .to_owned())
    }

    /// Sends an action to a volume.
    pub(crate) async fn act(&self, id: &str, action: Value) -> Result<Value> {
        self.post(&format!("volumes/{id}/action"), action).await
    }

    /// Waits until a volume has left `passing`, at most `limit`. `None` when it is gone.
    pub(crate) async fn wait_while(
        &self,
        id: &str,
        passing: &[&str],
        limit: Duration,
    ) -> Result<Option<Value>> {
        let polling = async {
            let mut pause = POLL_MIN;
            loop {
                let Some(volume) = self.volume(id).await? else {
                    return Ok(None);
                };
                let status = volume["status"].as_str().unwrap_or("");
                if !passing.contains(&status) {
                    return Ok(Some(volume));
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(POLL_MAX);
            }
        };
        match tokio::time::timeout(limit, polling).await {
            Ok(outcome) => outcome,
            Err(_) => bail!(
                "volume {id} is still {} after {} s",
                passing.join(" or "),
                limit.as_secs()
            ),
        }
    }

    /// Makes an attachment without a host.
    pub(crate) async fn reserve(
        &self,
        volume: &str,
        instance: Option<Uuid>,
        mode: &str,
    ) -> Result<String> {
        let mut attachment = json!({"volume_uuid": volume, "mode": mode});
        if let Some(instance) = instance {
            attachment["instance_uuid"] = json!(instance);
        }
        let body = self
            .post("attachments", json!({"attachment": attachment}))
            .await?;
        Ok(body["attachment"]["id"]
            .as_str()
            .context("the attachment has no id")?
            .to_owned())
    }

    /// Says which host connects; the answer holds how.
    pub(crate) async fn connect(&self, attachment: &str, connector: Value) -> Result<Value> {
        let body = json!({"attachment": {"connector": connector}});
        let answer = self.put(&format!("attachments/{attachment}"), body).await?;
        Ok(answer["attachment"]["connection_info"].clone())
    }

    /// Says that the host is connected.
    pub(crate) async fn complete(&self, attachment: &str) -> Result<()> {
        self.post(
            &format!("attachments/{attachment}/action"),
            json!({"os-complete": {}}),
        )
        .await
        .map(drop)
    }

    /// Takes an attachment away; one that is gone already is fine.
    pub(crate) async fn release(&self, attachment: &str) -> Result<()> {
        match self.delete(&format!("attachments/{attachment}")).await {
            Err(error) if !is_not_found(&error) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The attachments of a volume, with their connection.
    pub(crate) async fn attachments(&self, volume: &str) -> Result<Vec<Value>> {
        let body = self
            .get(&format!("attachments/detail?volume_id={volume}"))
            .await?;
        Ok(body["attachments"].as_array().cloned().unwrap_or_default())
    }
}

/// Whether an error is the service's 404.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|refused| refused.status == StatusCode::NOT_FOUND)
}

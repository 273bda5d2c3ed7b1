//! The commands that are requests to the volume service and nothing else.

use crate::cli::{Create, Delete, Extend, List, Set, Wait};
use crate::client::Client;
use crate::table::{Column, Output, cell, column};
use anyhow::{Context as _, Result, bail};
use core::time::Duration;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

/// The columns of a volume list.
fn volume_columns(all_projects: bool) -> Vec<Column> {
    let mut columns = vec![
        column!("ID", "id"),
        column!("Status", "status"),
        column!("Name", "name"),
        column!("Size", "size"),
        column!("Volume Type", "volume_type"),
        column!("Bootable", "bootable"),
        Column {
            title: "Attached to",
            value: attached_to,
        },
    ];
    if all_projects {
        columns.insert(1, column!("Tenant ID", "os-vol-tenant-attr:tenant_id"));
    }
    columns
}

/// The servers a volume is attached to; a host where there is no server.
fn attached_to(volume: &Value) -> String {
    let attachments = volume["attachments"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let place = |attachment: &Value| match (&attachment["server_id"], &attachment["host_name"]) {
        (Value::String(server), _) => server.clone(),
        (_, Value::String(host)) => host.clone(),
        _ => "None".to_owned(),
    };
    attachments.iter().map(place).collect::<Vec<_>>().join(",")
}

/// A volume's table: everything but the links.
fn properties(volume: Value) -> Result<Output> {
    let Value::Object(mut map) = volume else {
        bail!("the answer has no volume")
    };
    map.remove("links");
    Ok(Output::Properties(map))
}

/// A volume's table as `show` prints it: attachments as two lists of ids.
fn shown(volume: Value) -> Result<Output> {
    let Output::Properties(mut map) = properties(volume)? else {
        bail!("the answer has no volume")
    };
    if let Some(Value::Array(attachments)) = map.remove("attachments") {
        let ids = |key: &str| {
            attachments
                .iter()
                .map(|attachment| attachment[key].clone())
                .collect::<Value>()
        };
        map.insert("attachment_ids".to_owned(), ids("attachment_id"));
        map.insert("attached_servers".to_owned(), ids("server_id"));
    }
    Ok(Output::Formatted(map))
}

/// A size as it goes to the service, which judges it.
fn size(text: &str) -> Value {
    text.parse::<i64>()
        .map_or_else(|_| json!(text), |number| json!(number))
}

fn metadata(pairs: &[(String, String)]) -> Value {
    Value::Object(
        pairs
            .iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect(),
    )
}

fn id_of(volume: &Value) -> Result<&str> {
    volume["id"].as_str().context("the volume has no id")
}

pub(crate) async fn create(client: &Client, request: Create) -> Result<Output> {
    let mut volume = Map::from_iter([
        ("name".to_owned(), json!(request.name)),
        ("size".to_owned(), size(&request.size)),
        ("metadata".to_owned(), metadata(&request.metadata)),
    ]);
    let optional = [
        ("volume_type", request.volume_type),
        ("description", request.description),
        ("availability_zone", request.availability_zone),
    ];
    volume.extend(
        optional
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))),
    );
    let made = client.post("volumes", json!({"volume": volume})).await?["volume"].take();
    let id = id_of(&made)?.to_owned();
    // As the cinder client does: what GET shows has more than what POST answered.
    let current = if request.wait.wait {
        wait_until_settled(client, &id, &["creating", "downloading"], request.wait).await?
    } else {
        client.volume(&id).await?.unwrap_or(made)
    };
    properties(current)
}

/// Waits until a volume has left its passing states, and fails when it ended in an error.
async fn wait_until_settled(
    client: &Client,
    id: &str,
    passing: &[&str],
    wait: Wait,
) -> Result<Value> {
    let limit = Duration::from_secs(wait.timeout);
    let volume = client.wait_while(id, passing, limit).await?;
    let volume = volume.with_context(|| format!("volume {id} is gone"))?;
    let status = volume["status"].as_str().unwrap_or("");
    if status.starts_with("error") {
        bail!(
            "volume {id} went to status {status}: {}",
            reason(client, id).await
        );
    }
    Ok(volume)
}

/// Why a volume is in an error state, as the service's messages tell it.
async fn reason(client: &Client, id: &str) -> String {
    let asked = client.get(&format!("messages/{id}")).await;
    let told = asked.ok().and_then(|answer| {
        let text = answer["message"]["user_message"].as_str();
        text.map(str::to_owned)
    });
    told.unwrap_or_else(|| "see the service's log".to_owned())
}

pub(crate) async fn list(client: &Client, request: List) -> Result<Output> {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut query = String::new();
    if request.all_projects {
        query.push_str("&all_tenants=1");
    }
    for (key, value) in [("name", request.name), ("status", request.status)] {
        if let Some(value) = value {
            query.push_str(&format!("&{key}={}", encode(&value)));
        }
    }
    let mut rows = client.volumes(&query).await?;
    rows.sort_by_key(|volume| cell(&volume["id"]));
    Ok(Output::Rows {
        columns: volume_columns(request.all_projects),
        rows,
    })
}

pub(crate) async fn show(client: &Client, volume: &str) -> Result<Output> {
    shown(client.find_volume(volume).await?)
}

/// Deletes each volume, and says so at once; `complain` hears about those that could not be.
pub(crate) async fn delete(
    client: &Client,
    request: &Delete,
    announce: impl Fn(&str) -> Result<()>,
    complain: impl Fn(&anyhow::Error),
) -> Result<Output> {
    let mut failed = 0;
    for wanted in &request.volumes {
        match delete_one(client, wanted, request.wait).await {
            Ok(()) => announce(&format!(
                "Request to delete volume {wanted} has been accepted."
            ))?,
            Err(error) => {
                failed += 1;
                complain(&error);
            }
        }
    }
    if failed > 0 && request.volumes.len() > 1 {
        bail!(
            "{failed} of {} volumes were not deleted",
            request.volumes.len()
        );
    }
    if failed > 0 {
        Err(Said.into())
    } else {
        Ok(Output::Nothing)
    }
}

/// An error that has been told already.
#[derive(Debug, thiserror::Error)]
#[error("")]
pub(crate) struct Said;

async fn delete_one(client: &Client, wanted: &str, wait: Wait) -> Result<()> {
    let id = client.find_id(wanted).await?;
    client.delete(&format!("volumes/{id}")).await?;
    if wait.wait
        && let Some(volume) = client
            .wait_while(&id, &["deleting"], Duration::from_secs(wait.timeout))
            .await?
    {
        bail!(
            "volume {wanted} went to status {} instead of being deleted",
            cell(&volume["status"])
        );
    }
    Ok(())
}

/// Makes a volume larger; `remark` hears its id afterwards.
pub(crate) async fn extend(
    client: &Client,
    request: Extend,
    remark: impl Fn(&str),
) -> Result<Output> {
    let id = client.find_id(&request.volume).await?;
    client
        .act(&id, json!({"os-extend": {"new_size": size(&request.size)}}))
        .await?;
    if request.wait.wait {
        wait_until_settled(client, &id, &["extending"], request.wait).await?;
    }
    remark(&id);
    Ok(Output::Nothing)
}

pub(crate) async fn set(client: &Client, request: Set) -> Result<Output> {
    let changes: Map<String, Value> =
        [("name", request.name), ("description", request.description)]
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), json!(value?))))
            .collect();
    if changes.is_empty() && request.metadata.is_empty() {
        bail!("nothing to change: give --name, --description or --metadata");
    }
    let id = client.find_id(&request.volume).await?;
    if !changes.is_empty() {
        client
            .put(&format!("volumes/{id}"), json!({"volume": changes}))
            .await?;
    }
    if !request.metadata.is_empty() {
        let body = json!({"metadata": metadata(&request.metadata)});
        client.post(&format!("volumes/{id}/metadata"), body).await?;
    }
    Ok(Output::Nothing)
}

pub(crate) async fn services(client: &Client) -> Result<Output> {
    let mut body = client.get("os-services").await?;
    let columns = vec![
        column!("Binary", "binary"),
        column!("Host", "host"),
        column!("Zone", "zone"),
        column!("Status", "status"),
        column!("State", "state"),
        column!("Updated_at", "updated_at"),
        column!("Cluster", "cluster"),
        column!("Disabled Reason", "disabled_reason"),
        column!("Backend State", "backend_state"),
    ];
    rows(columns, body["services"].take(), "binary")
}

pub(crate) async fn pools(client: &Client) -> Result<Output> {
    let mut body = client.get("scheduler-stats/get_pools?detail=true").await?;
    let columns = vec![
        column!("Name", "name"),
        column!("State", "capabilities"."backend_state"),
        column!("Total GiB", "capabilities"."total_capacity_gb"),
        column!("Free GiB", "capabilities"."free_capacity_gb"),
        column!("Provisioned GiB", "capabilities"."provisioned_capacity_gb"),
        column!("Volumes", "capabilities"."total_volumes"),
        column!("Thin", "capabilities"."thin_provisioning_support"),
        column!("Protocol", "capabilities"."storage_protocol"),
    ];
    rows(columns, body["pools"].take(), "name")
}

pub(crate) async fn types(client: &Client) -> Result<Output> {
    let mut body = client.get("types?is_public=None").await?;
    let columns = vec![
        column!("ID", "id"),
        column!("Name", "name"),
        column!("Description", "description"),
        column!("Is_Public", "is_public"),
    ];
    rows(columns, body["volume_types"].take(), "id")
}

fn rows(columns: Vec<Column>, list: Value, sort_by: &str) -> Result<Output> {
    let Value::Array(mut rows) = list else {
        bail!("the answer has no list")
    };
    rows.sort_by_key(|row| cell(&row[sort_by]));
    Ok(Output::Rows { columns, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_says_where_it_is_attached() {
        let volume = json!({"attachments": [{"server_id": "s", "host_name": "h"}, {"server_id": null, "host_name": "h"}]});
        assert_eq!(attached_to(&volume), "s,h");
        assert_eq!(attached_to(&json!({"attachments": []})), "");
    }

    #[test]
    fn show_lists_attachments_by_id_and_hides_links() {
        let volume = json!({"id": "v", "links": [], "attachments": [{"attachment_id": "a", "server_id": null}]});
        let Output::Formatted(map) = shown(volume).unwrap() else {
            panic!("no table")
        };
        let expected = json!({"id": "v", "attachment_ids": ["a"], "attached_servers": [null]});
        assert_eq!(Value::Object(map), expected);
    }

    #[test]
    fn sizes_go_to_the_service_as_they_were_written() {
        assert_eq!(size("1"), json!(1));
        assert_eq!(size("-1"), json!(-1));
        assert_eq!(size("x"), json!("x"));
        assert_eq!(size("99999999999999999999"), json!("99999999999999999999"));
    }
}

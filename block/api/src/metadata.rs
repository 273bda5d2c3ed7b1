//! `/volumes/{id}/metadata`: what people note on a volume.

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::Call;
use crate::volumes::volume_id;
use http::{Method, StatusCode};
use onggi_block_cinder::schema::{Fields, METADATA_ITEMS_MAX};
use onggi_block_cinder::{Fault, FaultKind};
use onggi_block_volume::VolumeChange;
use onggi_common_units::Uuid;
use serde_json::{Value, json};
use std::collections::BTreeMap;

type Metadata = BTreeMap<String, String>;

/// `GET`, `POST` (merge) and `PUT` (replace) of the whole.
pub(crate) async fn whole(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    let id = volume_id(id)?;
    let metadata = if call.method == Method::GET {
        backend.volume(call.scope_of_one(), id).await?.metadata
    } else {
        let fresh = sent(&call.json()?, "metadata")?;
        let change = if call.method == Method::PUT {
            VolumeChange::Describe {
                name: None,
                description: None,
                metadata: Some(fresh),
            }
        } else {
            merge(backend, call, id, fresh).await?
        };
        backend
            .change_volume(call.scope_of_one(), id, change)
            .await?
            .metadata
    };
    Ok(Answer::ok(json!({"metadata": metadata})))
}

/// `GET`, `PUT` and `DELETE` of one item.
pub(crate) async fn item(
    backend: &Backend,
    call: &Call,
    id: &str,
    key: &str,
) -> Result<Answer, Fault> {
    let id = volume_id(id)?;
    if call.method == Method::PUT {
        let fresh = sent(&call.json()?, "meta")?;
        if fresh.len() != 1 || !fresh.contains_key(key) {
            return Err(Fault::bad_request("Request body and URI mismatch"));
        }
        let change = merge(backend, call, id, fresh.clone()).await?;
        backend
            .change_volume(call.scope_of_one(), id, change)
            .await?;
        return Ok(Answer::ok(json!({"meta": fresh})));
    }
    let metadata = backend.volume(call.scope_of_one(), id).await?.metadata;
    let value = metadata.get(key).ok_or_else(|| no_such_key(key))?;
    if call.method == Method::DELETE {
        let change = VolumeChange::RemoveMetadata(key.to_owned());
        backend
            .change_volume(call.scope_of_one(), id, change)
            .await?;
        return Ok(Answer::status(StatusCode::OK));
    }
    Ok(Answer::ok(json!({"meta": {key: value}})))
}

/// Adds items to what is there, as long as that stays within bounds.
async fn merge(
    backend: &Backend,
    call: &Call,
    id: Uuid,
    fresh: Metadata,
) -> Result<VolumeChange, Fault> {
    let current = backend.volume(call.scope_of_one(), id).await?.metadata;
    let added = fresh
        .keys()
        .filter(|key| !current.contains_key(*key))
        .count();
    let total = current.len() + added;
    if total > METADATA_ITEMS_MAX {
        let message =
            format!("Invalid metadata: {total} items, at most {METADATA_ITEMS_MAX} are allowed.");
        return Err(Fault::bad_request(message));
    }
    Ok(VolumeChange::MergeMetadata(fresh))
}

/// The items in a request body, under `metadata` or `meta`.
fn sent(body: &Value, name: &str) -> Result<Metadata, Fault> {
    Fields::of(body, name)?;
    // The same rules as for metadata inside a volume.
    let wrapped = json!({"volume": {"metadata": body[name]}});
    let fields = Fields::of(&wrapped, "volume")?;
    Ok(fields.metadata("metadata")?.unwrap_or_default())
}

fn no_such_key(key: &str) -> Fault {
    let key: String = key.chars().take(64).collect();
    Fault::new(
        FaultKind::ItemNotFound,
        format!("Metadata item was not found: {key}"),
    )
}

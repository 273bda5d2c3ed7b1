//! `/messages`: why a volume that was accepted is in an error state (Cinder API, microversion 3.3).

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::Call;
use crate::volumes::volume_id;
use onggi_block_cinder::microversion::since;
use onggi_block_cinder::{Fault, MessageView};
use serde_json::{Value, json};

/// What messages can be filtered by.
const FILTERS: [&str; 5] = [
    "resource_uuid",
    "resource_type",
    "event_id",
    "request_id",
    "message_level",
];

fn detail(call: &Call, message: &MessageView) -> Value {
    message.detail(&call.rendering.links, call.rendering.is_admin)
}

/// `GET /messages`.
pub(crate) async fn list(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    call.require_version(since::MESSAGES)?;
    let mut query = call.list_query()?;
    query.allow_filters(&FILTERS, call.version())?;
    let volumes = backend.volumes(call.scope(query.all_tenants)).await?;
    let mut messages: Vec<MessageView> = volumes.into_iter().filter_map(|v| v.message).collect();
    messages.retain(|message| {
        let shown = detail(call, message);
        query.filters.iter().all(|filter| {
            let field = shown[filter.key.as_str()].as_str().unwrap_or_default();
            if filter.like {
                field.contains(&filter.value)
            } else {
                field == filter.value
            }
        })
    });
    messages.sort_by_key(|message| core::cmp::Reverse((message.created_at, message.volume)));
    let page = query.page(
        messages,
        |message| message.volume.to_string(),
        |id| Fault::not_found("Message", id),
    )?;
    let shown: Vec<Value> = page
        .items
        .iter()
        .map(|message| detail(call, message))
        .collect();
    Ok(Answer::ok(json!({"messages": shown})))
}

async fn the_message(backend: &Backend, call: &Call, id: &str) -> Result<MessageView, Fault> {
    call.require_version(since::MESSAGES)?;
    let missing = || Fault::not_found("Message", id);
    let volume = volume_id(id).map_err(|_fault| missing())?;
    let found = backend.volume(call.scope_of_one(), volume).await;
    found
        .ok()
        .and_then(|volume| volume.message)
        .ok_or_else(missing)
}

/// `GET /messages/{id}`.
pub(crate) async fn show(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    let message = the_message(backend, call, id).await?;
    Ok(Answer::ok(json!({"message": detail(call, &message)})))
}

/// `DELETE /messages/{id}`: refused. A message is the volume's own memory of what went wrong, and goes with the volume.
pub(crate) async fn delete(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    the_message(backend, call, id).await?;
    Err(Fault::not_implemented("delete messages"))
}

//! `/attachments`: reserve, connect, complete, release.

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::Call;
use http::Method;
use onggi_block_cinder::action::parse_attachment_action;
use onggi_block_cinder::attachment::FILTERS;
use onggi_block_cinder::microversion::since;
use onggi_block_cinder::{AttachmentView, CreateAttachment, Fault, Page, UpdateAttachment};
use onggi_common_units::Uuid;
use serde_json::{Value, json};

fn attachment_id(text: &str) -> Result<Uuid, Fault> {
    text.parse()
        .ok()
        .ok_or_else(|| Fault::not_found("Volume attachment", text))
}

/// An attachment in its long form. Who may only read is not told how to prove itself to the target.
fn detail(call: &Call, attachment: &AttachmentView) -> Value {
    let mut shown = attachment.detail();
    if !call.may_write
        && let Some(info) = shown["connection_info"].as_object_mut()
    {
        info.remove("auth_password");
    }
    shown
}

/// `GET /attachments` and `GET /attachments/detail`.
pub(crate) async fn list(backend: &Backend, call: &Call, detailed: bool) -> Result<Answer, Fault> {
    let mut query = call.list_query()?;
    query.allow_filters(&FILTERS, call.version())?;
    let mut attachments = backend.attachments(call.scope(query.all_tenants)).await?;
    attachments.retain(|attachment| query.filters.iter().all(|filter| attachment.passes(filter)));
    let missing = |id: &str| Fault::not_found("Volume attachment", id);
    let page = query.page(attachments, |attachment| attachment.id.to_string(), missing)?;
    let render = |attachment: &AttachmentView| {
        if detailed {
            detail(call, attachment)
        } else {
            attachment.summary()
        }
    };
    let shown = Page {
        items: page.items.iter().map(render).collect(),
        count: page.count,
        next_marker: page.next_marker,
    };
    Ok(Answer::ok(query.body(
        &shown,
        "attachments",
        &call.path,
        &call.rendering.links,
    )))
}

/// `POST /attachments`.
pub(crate) async fn create(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    let request = CreateAttachment::parse(&call.json()?, call.version())?;
    let attachment = backend.create_attachment(call, request).await?;
    Ok(Answer::ok(json!({"attachment": attachment.detail()})))
}

/// `GET`, `PUT` and `DELETE` of `/attachments/{id}`.
pub(crate) async fn one(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    let id = attachment_id(id)?;
    if call.method == Method::PUT {
        let request = UpdateAttachment::parse(&call.json()?)?;
        let attachment = backend
            .connect_attachment(call.scope_of_one(), id, request.connector)
            .await?;
        return Ok(Answer::ok(json!({"attachment": attachment.detail()})));
    }
    if call.method == Method::DELETE {
        let remaining = backend.delete_attachment(call.scope_of_one(), id).await?;
        let shown: Vec<Value> = remaining.iter().map(AttachmentView::summary).collect();
        return Ok(Answer::ok(json!({"attachments": shown})));
    }
    let attachment = backend.attachment(call.scope_of_one(), id).await?;
    Ok(Answer::ok(json!({"attachment": detail(call, &attachment)})))
}

/// `POST /attachments/{id}/action`.
pub(crate) async fn act(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    call.require_version(since::ATTACHMENT_COMPLETE)?;
    let id = attachment_id(id)?;
    parse_attachment_action(&call.json()?)?;
    backend.complete_attachment(call.scope_of_one(), id).await?;
    Ok(Answer::no_content())
}

//! `/volumes`: make, list, show, change, delete.

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::Call;
use http::StatusCode;
use onggi_block_cinder::microversion::since;
use onggi_block_cinder::volume::{ADMIN_FILTERS, FILTERS, summary_body};
use onggi_block_cinder::{CreateVolume, Fault, ListQuery, Page, UpdateVolume, VolumeView};
use onggi_common_units::Uuid;
use serde_json::json;

/// The id in a path; what is no UUID is nobody's.
pub(crate) fn volume_id(text: &str) -> Result<Uuid, Fault> {
    text.parse()
        .ok()
        .ok_or_else(|| Fault::not_found("Volume", text))
}

/// `GET /volumes` and `GET /volumes/detail`.
pub(crate) async fn list(backend: &Backend, call: &Call, detailed: bool) -> Result<Answer, Fault> {
    let query = filtered_query(call)?;
    let volumes = selected(backend, call, &query).await?;
    let page = query.page(
        volumes,
        |volume| volume.id.to_string(),
        |id| Fault::not_found("Volume", id),
    )?;
    let render = |volume: &VolumeView| {
        if detailed {
            volume.detail(&call.rendering)
        } else {
            volume.summary(&call.rendering)
        }
    };
    let shown = Page {
        items: page.items.iter().map(render).collect(),
        count: page.count,
        next_marker: page.next_marker,
    };
    Ok(Answer::ok(query.body(
        &shown,
        "volumes",
        &call.path,
        &call.rendering.links,
    )))
}

/// `GET /volumes/summary`.
pub(crate) async fn summary(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    call.require_version(since::SUMMARY)?;
    let query = filtered_query(call)?;
    let volumes = selected(backend, call, &query).await?;
    Ok(Answer::ok(summary_body(&volumes, call.version())))
}

fn filtered_query(call: &Call) -> Result<ListQuery, Fault> {
    let mut query = call.list_query()?;
    let admin_filters: &[&str] = if call.rendering.is_admin {
        &ADMIN_FILTERS
    } else {
        &[]
    };
    let allowed: Vec<&str> = FILTERS.iter().chain(admin_filters).copied().collect();
    query.allow_filters(&allowed, call.version())?;
    Ok(query)
}

/// The volumes a query selects, in its order.
async fn selected(
    backend: &Backend,
    call: &Call,
    query: &ListQuery,
) -> Result<Vec<VolumeView>, Fault> {
    let mut volumes = Vec::new();
    for volume in backend.volumes(call.scope(query.all_tenants)).await? {
        let mut passes = true;
        for filter in &query.filters {
            passes = passes && volume.passes(filter)?;
        }
        if passes {
            volumes.push(volume);
        }
    }
    query.order(&mut volumes, VolumeView::compare, VolumeView::newest_first)?;
    Ok(volumes)
}

/// `POST /volumes`.
pub(crate) async fn create(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    let request = CreateVolume::parse(&call.json()?, call.version())?;
    let volume = backend.create_volume(call, request).await?;
    let body = json!({"volume": volume.created(&call.rendering)});
    Ok(Answer::json(StatusCode::ACCEPTED, body))
}

/// `GET /volumes/{id}`.
pub(crate) async fn show(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    let volume = backend.volume(call.scope_of_one(), volume_id(id)?).await?;
    Ok(Answer::ok(
        json!({"volume": volume.detail(&call.rendering)}),
    ))
}

/// `PUT /volumes/{id}`.
pub(crate) async fn update(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    let changes = UpdateVolume::parse(&call.json()?, call.version())?;
    let volume = backend
        .update_volume(call.scope_of_one(), volume_id(id)?, changes)
        .await?;
    Ok(Answer::ok(
        json!({"volume": volume.created(&call.rendering)}),
    ))
}

/// `DELETE /volumes/{id}`.
pub(crate) async fn delete(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    backend
        .delete_volume(call.scope_of_one(), volume_id(id)?)
        .await?;
    Ok(Answer::accepted())
}

/// `GET /volumes/{id}/encryption`: no volume is encrypted.
pub(crate) async fn encryption(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    backend.volume(call.scope_of_one(), volume_id(id)?).await?;
    Ok(Answer::ok(json!({"encryption_key_id": null})))
}

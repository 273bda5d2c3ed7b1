//! What there is beside volumes: types, zones, limits, services, pools, and the collections that are empty.

use crate::answer::Answer;
use crate::backend::Backend;
use crate::call::Call;
use crate::route::Kept;
use http::Method;
use onggi_block_cinder::capacity::PoolView;
use onggi_block_cinder::list::parameters;
use onggi_block_cinder::microversion::since;
use onggi_block_cinder::schema::truth;
use onggi_block_cinder::service::availability_zones_body;
use onggi_block_cinder::volume_type::VolumeTypeView;
use onggi_block_cinder::{Fault, filter};
use serde_json::{Value, json};

/// The first value of a query parameter.
fn parameter(call: &Call, name: &str) -> Result<Option<String>, Fault> {
    Ok(parameters(&call.query)?
        .into_iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value))
}

/// `GET /types`.
pub(crate) fn types(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    let types = backend.volume_types();
    let is_admin = call.rendering.is_admin;
    let wanted = parameter(call, "is_public")?.and_then(|text| truth(&text));
    let listed = types
        .iter()
        .filter(|entry| wanted.is_none_or(|wanted| entry.is_public == wanted));
    let shown: Vec<Value> = listed.map(|entry| entry.detail(is_admin)).collect();
    Ok(Answer::ok(json!({"volume_types": shown})))
}

fn the_type(backend: &Backend, wanted: &str) -> Result<VolumeTypeView, Fault> {
    let types = backend.volume_types();
    let found = types
        .into_iter()
        .find(|entry| entry.id.to_string() == wanted);
    found.ok_or_else(|| Fault::not_found("Volume type", wanted))
}

/// `GET /types/{id}`.
pub(crate) fn volume_type(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    let found = the_type(backend, id)?;
    Ok(Answer::ok(
        json!({"volume_type": found.detail(call.rendering.is_admin)}),
    ))
}

/// `GET /types/default`.
pub(crate) fn default_type(backend: &Backend, call: &Call) -> Answer {
    let default = backend.default_volume_type();
    Answer::ok(json!({"volume_type": default.detail(call.rendering.is_admin)}))
}

/// `GET /types/{id}/extra_specs`.
pub(crate) fn extra_specs(backend: &Backend, call: &Call, id: &str) -> Result<Answer, Fault> {
    call.require_admin()?;
    let found = the_type(backend, id)?;
    Ok(Answer::ok(json!({"extra_specs": found.extra_specs})))
}

/// `GET /os-availability-zone`.
pub(crate) fn availability_zones(backend: &Backend) -> Answer {
    // The zone is there as long as this answers.
    Answer::ok(availability_zones_body([(
        backend.availability_zone(),
        true,
    )]))
}

/// `GET /limits`.
pub(crate) async fn limits(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    let other = parameter(call, "project_id")?.or(parameter(call, "tenant_id")?);
    let project = other
        .filter(|_| call.rendering.is_admin)
        .unwrap_or_else(|| call.owner.project.as_str().to_owned());
    Ok(Answer::ok(backend.quota(&project).await?.limits_body()))
}

/// `GET /os-quota-sets/{project}`.
pub(crate) async fn quota_set(
    backend: &Backend,
    call: &Call,
    project: &str,
) -> Result<Answer, Fault> {
    if project != call.owner.project.as_str() {
        call.require_admin()?;
    }
    let with_usage = parameter(call, "usage")?
        .and_then(|text| truth(&text))
        .unwrap_or(false);
    let set = backend.quota(project).await?;
    let types = backend.volume_types();
    let names: Vec<&str> = types.iter().map(|entry| entry.name.as_str()).collect();
    Ok(Answer::ok(set.body(project, with_usage, &names)))
}

/// `GET /os-quota-sets/{project}/defaults`.
pub(crate) async fn quota_defaults(
    backend: &Backend,
    call: &Call,
    project: &str,
) -> Result<Answer, Fault> {
    let types = backend.volume_types();
    let names: Vec<&str> = types.iter().map(|entry| entry.name.as_str()).collect();
    if project != call.owner.project.as_str() {
        call.require_admin()?;
    }
    Ok(Answer::ok(
        backend.quota(project).await?.body(project, false, &names),
    ))
}

/// `GET /os-services`.
pub(crate) async fn services(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    call.require_admin()?;
    let (binary, host) = (parameter(call, "binary")?, parameter(call, "host")?);
    let services = backend.services().await?;
    let wanted = services.iter().filter(|service| {
        let on_host =
            |host: &String| service.host == *host || service.host.split('@').next() == Some(host);
        binary
            .as_ref()
            .is_none_or(|binary| service.binary == *binary)
            && host.as_ref().is_none_or(on_host)
    });
    let shown: Vec<Value> = wanted
        .map(|service| service.detail(call.version()))
        .collect();
    Ok(Answer::ok(json!({"services": shown})))
}

/// `GET /scheduler-stats/get_pools`.
pub(crate) async fn pools(backend: &Backend, call: &Call) -> Result<Answer, Fault> {
    call.require_admin()?;
    let detailed = parameter(call, "detail")?
        .and_then(|text| truth(&text))
        .unwrap_or(false);
    let name = parameter(call, "name")?;
    let pools = backend.pools().await?;
    let wanted = |pool: &&PoolView| name.as_ref().is_none_or(|name| pool.name == *name);
    let shown: Vec<Value> = pools
        .iter()
        .filter(wanted)
        .map(|pool| pool.render(detailed))
        .collect();
    Ok(Answer::ok(json!({"pools": shown})))
}

/// `GET /extensions`: everything is in the core API.
pub(crate) fn extensions() -> Answer {
    Answer::ok(json!({"extensions": []}))
}

/// `GET /resource_filters`.
pub(crate) fn resource_filters(call: &Call) -> Result<Answer, Fault> {
    call.require_version(since::RESOURCE_FILTERS)?;
    Ok(Answer::ok(filter::body(
        parameter(call, "resource")?.as_deref(),
    )))
}

/// A collection nothing can be in yet: its listing is empty, and making one is refused.
pub(crate) fn empty_collection(call: &Call, kept: Kept) -> Result<Answer, Fault> {
    if call.method == Method::GET {
        call.list_query()?;
        return Ok(Answer::ok(json!({kept.plural: []})));
    }
    Err(Fault::not_implemented(kept.making))
}

//! `/v3/services`, `/v3/endpoints`, `/v3/regions`: what the catalogue is made of.

use crate::call::{Answer, Call};
use crate::directory::row::{EndpointRow, Entity, Interface, RegionRow, ServiceRow};
use crate::fault::Fault;
use http::Method;
use onggi_common_meta::control::Versioned;
use serde_json::{Value, json};

/// Characters of names, types, ids and URLs in the catalogue.
const NAME_CHARS_MAX: usize = 255;
const URL_CHARS_MAX: usize = 2_048;

fn find<E: Entity>(call: &Call<'_>, id: &str) -> Result<Versioned<E>, Fault> {
    call.realm
        .directory
        .get::<E>(id)?
        .ok_or_else(|| Fault::not_found(E::KIND, id))
}

fn short(text: String, field: &str, chars_max: usize) -> Result<String, Fault> {
    let count = text.chars().count();
    if count == 0 || count > chars_max || text.chars().any(char::is_control) {
        return Err(Fault::bad(format!(
            "Invalid input for field '{field}': it has 1 to {chars_max} characters."
        )));
    }
    Ok(text)
}

fn service_view(call: &Call<'_>, service: &ServiceRow) -> Value {
    json!({
        "id": service.id,
        "type": service.kind,
        "name": service.name,
        "description": service.description,
        "enabled": service.enabled,
        "links": {"self": call.link(&format!("services/{}", service.id))},
    })
}

pub(crate) fn services(call: &Call<'_>, rest: &[&str]) -> Result<Answer, Fault> {
    let show = |service: &ServiceRow| json!({"service": service_view(call, service)});
    match (rest, &call.method) {
        ([], &Method::GET) => {
            call.admin("identity:list_services")?;
            let has =
                |filter: &str, value: &str| call.query(filter).is_none_or(|wanted| wanted == value);
            let services = call.realm.directory.list::<ServiceRow>()?;
            let found = services
                .iter()
                .filter(|service| has("type", &service.kind) && has("name", &service.name));
            Ok(call.list(
                "services",
                found.map(|service| service_view(call, service)).collect(),
            ))
        }
        ([], &Method::POST) => {
            call.admin("identity:create_service")?;
            let service = new_service(call)?;
            call.realm.directory.create(&service)?;
            Ok(Answer::created(show(&service)))
        }
        ([id], &Method::GET) => {
            call.admin("identity:get_service")?;
            Ok(Answer::ok(show(&find(call, id)?.record)))
        }
        ([id], &Method::PATCH) => {
            call.admin("identity:update_service")?;
            let old = find::<ServiceRow>(call, id)?;
            let service = changed_service(call, &old.record)?;
            call.realm.directory.update(&old, &service)?;
            Ok(Answer::ok(show(&service)))
        }
        ([id], &Method::DELETE) => {
            call.admin("identity:delete_service")?;
            let service = find::<ServiceRow>(call, id)?;
            call.realm.directory.delete(&service)?;
            delete_endpoints_of(call, id)?;
            Ok(Answer::no_content())
        }
        ([] | [_], _) => Err(Fault::MethodNotAllowed),
        _ => Err(Fault::NoSuchPath),
    }
}

fn new_service(call: &Call<'_>) -> Result<ServiceRow, Fault> {
    let mut fields = call.fields("service")?;
    Ok(ServiceRow {
        id: call.realm.entropy.hex_id().to_string(),
        kind: short(fields.required_text("type")?, "type", NAME_CHARS_MAX)?,
        name: fields.name(NAME_CHARS_MAX)?.unwrap_or_default(),
        description: fields.text("description")?,
        enabled: fields.flag("enabled")?.unwrap_or(true),
    })
}

fn changed_service(call: &Call<'_>, old: &ServiceRow) -> Result<ServiceRow, Fault> {
    let mut fields = call.fields("service")?;
    let mut service = old.clone();
    if let Some(kind) = fields.text("type")? {
        service.kind = short(kind, "type", NAME_CHARS_MAX)?;
    }
    if let Some(name) = fields.name(NAME_CHARS_MAX)? {
        service.name = name;
    }
    if let Some(description) = fields.text_or_null("description")? {
        service.description = description;
    }
    if let Some(enabled) = fields.flag("enabled")? {
        service.enabled = enabled;
    }
    Ok(service)
}

fn delete_endpoints_of(call: &Call<'_>, service_id: &str) -> Result<(), Fault> {
    let endpoints = call.realm.directory.list::<EndpointRow>()?;
    for endpoint in endpoints
        .iter()
        .filter(|endpoint| endpoint.service_id == service_id)
    {
        if let Some(found) = call.realm.directory.get::<EndpointRow>(&endpoint.id)? {
            call.realm.directory.delete(&found)?;
        }
    }
    Ok(())
}

fn endpoint_view(call: &Call<'_>, endpoint: &EndpointRow) -> Value {
    json!({
        "id": endpoint.id,
        "service_id": endpoint.service_id,
        "interface": endpoint.interface,
        "region_id": endpoint.region_id,
        "region": endpoint.region_id,
        "url": endpoint.url,
        "enabled": endpoint.enabled,
        "links": {"self": call.link(&format!("endpoints/{}", endpoint.id))},
    })
}

pub(crate) fn endpoints(call: &Call<'_>, rest: &[&str]) -> Result<Answer, Fault> {
    let show = |endpoint: &EndpointRow| json!({"endpoint": endpoint_view(call, endpoint)});
    match (rest, &call.method) {
        ([], &Method::GET) => {
            call.admin("identity:list_endpoints")?;
            let endpoints = call.realm.directory.list::<EndpointRow>()?;
            let found = endpoints
                .iter()
                .filter(|endpoint| is_wanted(call, endpoint));
            Ok(call.list(
                "endpoints",
                found
                    .map(|endpoint| endpoint_view(call, endpoint))
                    .collect(),
            ))
        }
        ([], &Method::POST) => {
            call.admin("identity:create_endpoint")?;
            let endpoint = new_endpoint(call)?;
            call.realm.directory.create(&endpoint)?;
            Ok(Answer::created(show(&endpoint)))
        }
        ([id], &Method::GET) => {
            call.admin("identity:get_endpoint")?;
            Ok(Answer::ok(show(&find(call, id)?.record)))
        }
        ([id], &Method::PATCH) => {
            call.admin("identity:update_endpoint")?;
            let old = find::<EndpointRow>(call, id)?;
            let endpoint = changed_endpoint(call, &old.record)?;
            call.realm.directory.update(&old, &endpoint)?;
            Ok(Answer::ok(show(&endpoint)))
        }
        ([id], &Method::DELETE) => {
            call.admin("identity:delete_endpoint")?;
            call.realm
                .directory
                .delete(&find::<EndpointRow>(call, id)?)?;
            Ok(Answer::no_content())
        }
        ([] | [_], _) => Err(Fault::MethodNotAllowed),
        _ => Err(Fault::NoSuchPath),
    }
}

fn interface(text: &str) -> Result<Interface, Fault> {
    match text.strip_suffix("URL").unwrap_or(text) {
        "public" => Ok(Interface::Public),
        "internal" => Ok(Interface::Internal),
        "admin" => Ok(Interface::Admin),
        _ => Err(Fault::bad(
            "Invalid input for field 'interface': it is public, internal or admin.",
        )),
    }
}

fn is_wanted(call: &Call<'_>, endpoint: &EndpointRow) -> bool {
    let has = |filter: &str, value: &str| call.query(filter).is_none_or(|wanted| wanted == value);
    let own = match endpoint.interface {
        Interface::Public => "public",
        Interface::Internal => "internal",
        Interface::Admin => "admin",
    };
    let region = endpoint.region_id.as_deref().unwrap_or("");
    has("interface", own)
        && has("service_id", &endpoint.service_id)
        && has("region_id", region)
        && has("region", region)
}

/// The region a body names (`region_id`, or `region` as older clients say); it comes into being when it is new.
fn region(call: &Call<'_>, id: Option<String>) -> Result<Option<String>, Fault> {
    let Some(id) = id else { return Ok(None) };
    let id = short(id, "region_id", NAME_CHARS_MAX)?;
    if call.realm.directory.get::<RegionRow>(&id)?.is_none() {
        let region = RegionRow {
            id: id.clone(),
            description: String::new(),
            parent_region_id: None,
        };
        call.realm.directory.create(&region)?;
    }
    Ok(Some(id))
}

fn new_endpoint(call: &Call<'_>) -> Result<EndpointRow, Fault> {
    let mut fields = call.fields("endpoint")?;
    let service_id = fields.required_text("service_id")?;
    find::<ServiceRow>(call, &service_id)?;
    let interface = interface(&fields.required_text("interface")?)?;
    let url = short(fields.required_text("url")?, "url", URL_CHARS_MAX)?;
    let enabled = fields.flag("enabled")?.unwrap_or(true);
    let region_id = match fields.text("region_id")? {
        Some(id) => Some(id),
        None => fields.text("region")?,
    };
    Ok(EndpointRow {
        id: call.realm.entropy.hex_id().to_string(),
        service_id,
        interface,
        region_id: region(call, region_id)?,
        url,
        enabled,
        is_configured: false,
    })
}

fn changed_endpoint(call: &Call<'_>, old: &EndpointRow) -> Result<EndpointRow, Fault> {
    let mut fields = call.fields("endpoint")?;
    // From now on it is the operator's, and no longer follows the configuration.
    let mut endpoint = EndpointRow {
        is_configured: false,
        ..old.clone()
    };
    if let Some(id) = fields.text("service_id")? {
        find::<ServiceRow>(call, &id)?;
        endpoint.service_id = id;
    }
    if let Some(text) = fields.text("interface")? {
        endpoint.interface = interface(&text)?;
    }
    if let Some(url) = fields.text("url")? {
        endpoint.url = short(url, "url", URL_CHARS_MAX)?;
    }
    if let Some(enabled) = fields.flag("enabled")? {
        endpoint.enabled = enabled;
    }
    if let Some(id) = fields.text_or_null("region_id")? {
        endpoint.region_id = region(call, id)?;
    }
    Ok(endpoint)
}

fn region_view(call: &Call<'_>, region: &RegionRow) -> Value {
    json!({
        "id": region.id,
        "description": region.description,
        "parent_region_id": region.parent_region_id,
        "links": {"self": call.link(&format!("regions/{}", region.id))},
    })
}

pub(crate) fn regions(call: &Call<'_>, rest: &[&str]) -> Result<Answer, Fault> {
    let show = |region: &RegionRow| json!({"region": region_view(call, region)});
    match (rest, &call.method) {
        ([], &Method::GET) => {
            call.caller()?;
            let regions = call.realm.directory.list::<RegionRow>()?;
            Ok(call.list(
                "regions",
                regions
                    .iter()
                    .map(|region| region_view(call, region))
                    .collect(),
            ))
        }
        ([], &Method::POST) => {
            call.admin("identity:create_region")?;
            let region = new_region(call)?;
            call.realm.directory.create(&region)?;
            Ok(Answer::created(show(&region)))
        }
        ([id], &Method::GET) => {
            call.caller()?;
            Ok(Answer::ok(show(&find(call, id)?.record)))
        }
        ([id], &Method::PATCH) => {
            call.admin("identity:update_region")?;
            let old = find::<RegionRow>(call, id)?;
            let mut fields = call.fields("region")?;
            let mut region = old.record.clone();
            if let Some(description) = fields.text_or_null("description")? {
                region.description = description.unwrap_or_default();
            }
            call.realm.directory.update(&old, &region)?;
            Ok(Answer::ok(show(&region)))
        }
        ([id], &Method::DELETE) => {
            call.admin("identity:delete_region")?;
            let region = find::<RegionRow>(call, id)?;
            let endpoints = call.realm.directory.list::<EndpointRow>()?;
            if endpoints
                .iter()
                .any(|endpoint| endpoint.region_id.as_deref() == Some(*id))
            {
                return Err(Fault::Conflict {
                    message: "The region still has endpoints.".to_owned(),
                });
            }
            call.realm.directory.delete(&region)?;
            Ok(Answer::no_content())
        }
        ([] | [_], _) => Err(Fault::MethodNotAllowed),
        _ => Err(Fault::NoSuchPath),
    }
}

fn new_region(call: &Call<'_>) -> Result<RegionRow, Fault> {
    let mut fields = call.fields("region")?;
    let parent_region_id = fields.text("parent_region_id")?;
    if let Some(parent) = &parent_region_id {
        find::<RegionRow>(call, parent)?;
    }
    let id = fields
        .text("id")?
        .unwrap_or_else(|| call.realm.entropy.hex_id().to_string());
    Ok(RegionRow {
        id: short(id, "id", NAME_CHARS_MAX)?,
        description: fields.text("description")?.unwrap_or_default(),
        parent_region_id,
    })
}

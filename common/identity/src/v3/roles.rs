//! `/v3/roles`.

use crate::call::{Answer, Call};
use crate::caller::{ADMIN, MEMBER, READER, RESELLER_ADMIN, SERVICE};
use crate::directory::row::{Entity, RoleRow};
use crate::fault::Fault;
use crate::revocation::Subject;
use http::Method;
use onggi_common_meta::control::Versioned;
use serde_json::{Value, json};

/// Characters of a role's name.
const NAME_CHARS_MAX: usize = 255;
/// Roles that rules of this system name: they can be neither renamed nor deleted.
const BUILT_IN: [&str; 6] = [ADMIN, "manager", MEMBER, READER, SERVICE, RESELLER_ADMIN];

pub(crate) fn view(call: &Call<'_>, role: &RoleRow) -> Value {
    json!({
        "id": role.id,
        "name": role.name,
        "domain_id": null,
        "description": role.description,
        "options": {},
        "links": {"self": call.link(&format!("roles/{}", role.id))},
    })
}

pub(crate) fn route(call: &Call<'_>, rest: &[&str]) -> Result<Answer, Fault> {
    match (rest, &call.method) {
        ([], &Method::GET) => list(call),
        ([], &Method::POST) => create(call),
        ([id], &Method::GET) => show(call, id),
        ([id], &Method::PATCH) => update(call, id),
        ([id], &Method::DELETE) => delete(call, id),
        ([] | [_], _) => Err(Fault::MethodNotAllowed),
        _ => Err(Fault::NoSuchPath),
    }
}

fn find(call: &Call<'_>, id: &str) -> Result<Versioned<RoleRow>, Fault> {
    call.realm
        .directory
        .get::<RoleRow>(id)?
        .ok_or_else(|| Fault::not_found(RoleRow::KIND, id))
}

fn list(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:list_roles")?;
    let roles = call.realm.directory.list::<RoleRow>()?;
    // Roles of a domain do not exist: a filter for one finds nothing.
    let is_global = call.query("domain_id").is_none_or(str::is_empty);
    let name = call.query("name");
    let found = roles
        .iter()
        .filter(|role| is_global && name.is_none_or(|name| role.name == name));
    Ok(call.list("roles", found.map(|role| view(call, role)).collect()))
}

fn show(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:get_role")?;
    Ok(Answer::ok(
        json!({"role": view(call, &find(call, id)?.record)}),
    ))
}

fn create(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:create_role")?;
    let mut fields = call.fields("role")?;
    let role = RoleRow {
        id: call.realm.entropy.hex_id().to_string(),
        name: fields.required_name(NAME_CHARS_MAX)?,
        description: fields.text("description")?,
        implies: Vec::new(),
    };
    if fields.text("domain_id")?.is_some() {
        return Err(Fault::bad("Roles belong to no domain."));
    }
    if call
        .realm
        .directory
        .by_name::<RoleRow>(&role.name)?
        .is_some()
    {
        return Err(Fault::conflict(RoleRow::KIND, &role.name));
    }
    call.realm.directory.create(&role)?;
    tracing::info!(role = role.name, "a role was created");
    Ok(Answer::created(json!({"role": view(call, &role)})))
}

fn update(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:update_role")?;
    let old = find(call, id)?;
    let mut role = old.record.clone();
    let mut fields = call.fields("role")?;
    if let Some(name) = fields.name(NAME_CHARS_MAX)? {
        role.name = name;
    }
    if let Some(description) = fields.text_or_null("description")? {
        role.description = description;
    }
    let is_renamed = role.name != old.record.name;
    if is_renamed && BUILT_IN.contains(&old.record.name.as_str()) {
        return Err(Fault::Immutable {
            what: format!("Cannot rename the built-in role {}", old.record.name),
        });
    }
    call.realm.directory.update(&old, &role)?;
    if is_renamed {
        // Tokens carry names.
        call.realm.revoke(Subject::Role {
            role: old.record.name.clone(),
        })?;
    }
    Ok(Answer::ok(json!({"role": view(call, &role)})))
}

fn delete(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:delete_role")?;
    let role = find(call, id)?;
    if BUILT_IN.contains(&role.record.name.as_str()) {
        return Err(Fault::Immutable {
            what: format!("Cannot delete the built-in role {}", role.record.name),
        });
    }
    call.realm.directory.delete(&role)?;
    call.realm.revoke(Subject::Role {
        role: role.record.name.clone(),
    })?;
    call.realm.drop_grants(|grant| grant.role_id == id)?;
    tracing::info!(role = role.record.name, "a role was deleted");
    Ok(Answer::no_content())
}

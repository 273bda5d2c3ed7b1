//! `/v3/domains`: the namespaces of users and projects. The default one is made at first start.

use crate::call::{Answer, Call};
use crate::caller::DEFAULT_DOMAIN;
use crate::directory::row::{DomainRow, Entity, ProjectRow, Target, UserRow};
use crate::fault::Fault;
use crate::revocation::Subject;
use http::Method;
use onggi_common_meta::control::Versioned;
use serde_json::{Value, json};

/// Characters of a domain's name.
const NAME_CHARS_MAX: usize = 64;
/// Fields a client may send back from a view, which it cannot set.
const READ_ONLY: [&str; 4] = ["id", "links", "options", "tags"];

pub(crate) fn view(call: &Call<'_>, domain: &DomainRow) -> Value {
    json!({
        "id": domain.id,
        "name": domain.name,
        "description": domain.description,
        "enabled": domain.enabled,
        "tags": [],
        "options": {},
        "links": {"self": call.link(&format!("domains/{}", domain.id))},
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

fn list(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:list_domains")?;
    let name = call.query("name");
    let domains = call.realm.directory.list::<DomainRow>()?;
    let named = domains
        .iter()
        .filter(|domain| name.is_none_or(|name| domain.name == name));
    Ok(call.list("domains", named.map(|domain| view(call, domain)).collect()))
}

fn show(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    let caller = call.caller()?;
    let is_own = caller.user_domain_id == id || caller.project_domain_id.as_deref() == Some(id);
    if !caller.is_admin() && !is_own {
        return Err(Fault::Forbidden {
            action: "identity:get_domain",
        });
    }
    let domain = find(call, id)?.record;
    Ok(Answer::ok(json!({"domain": view(call, &domain)})))
}

fn find(call: &Call<'_>, id: &str) -> Result<Versioned<DomainRow>, Fault> {
    call.realm
        .directory
        .get::<DomainRow>(id)?
        .ok_or_else(|| Fault::not_found(DomainRow::KIND, id))
}

fn create(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:create_domain")?;
    let mut fields = call.fields("domain")?;
    fields.ignore(&READ_ONLY);
    let domain = DomainRow {
        id: call.realm.entropy.hex_id().to_string(),
        name: fields.required_name(NAME_CHARS_MAX)?,
        description: fields.text("description")?.unwrap_or_default(),
        enabled: fields.flag("enabled")?.unwrap_or(true),
    };
    let directory = &call.realm.directory;
    if directory.by_name::<DomainRow>(&domain.name)?.is_some() {
        return Err(Fault::conflict(DomainRow::KIND, &domain.name));
    }
    directory.create(&domain)?;
    tracing::info!(domain_id = domain.id, "a domain was created");
    Ok(Answer::created(json!({"domain": view(call, &domain)})))
}

fn update(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:update_domain")?;
    let old = find(call, id)?;
    let mut domain = old.record.clone();
    let mut fields = call.fields("domain")?;
    fields.ignore(&READ_ONLY);
    if let Some(name) = fields.name(NAME_CHARS_MAX)? {
        domain.name = name;
    }
    if let Some(description) = fields.text_or_null("description")? {
        domain.description = description.unwrap_or_default();
    }
    if let Some(enabled) = fields.flag("enabled")? {
        domain.enabled = enabled;
    }
    if !domain.enabled && id == DEFAULT_DOMAIN {
        return Err(Fault::Immutable {
            what: "Cannot disable the default domain".to_owned(),
        });
    }
    call.realm.directory.update(&old, &domain)?;
    if !domain.enabled {
        revoke_all(call, id)?;
    }
    let enabled = domain.enabled;
    tracing::info!(domain_id = id, enabled, "a domain was changed");
    Ok(Answer::ok(json!({"domain": view(call, &domain)})))
}

/// Those of a kind in a domain.
fn within<E: Entity>(
    call: &Call<'_>,
    domain_of: impl Fn(&E) -> &str,
    id: &str,
) -> Result<Vec<E>, Fault> {
    let mut all = call.realm.directory.list::<E>()?;
    all.retain(|one| domain_of(one) == id);
    Ok(all)
}

fn users(call: &Call<'_>, id: &str) -> Result<Vec<UserRow>, Fault> {
    within(call, |user: &UserRow| &user.domain_id, id)
}

fn projects(call: &Call<'_>, id: &str) -> Result<Vec<ProjectRow>, Fault> {
    within(call, |project: &ProjectRow| &project.domain_id, id)
}

/// Revokes the tokens of a domain's users, and those for it and its projects.
fn revoke_all(call: &Call<'_>, id: &str) -> Result<(), Fault> {
    for user in users(call, id)? {
        let user_id = user.id;
        call.realm.revoke(Subject::User { user_id })?;
    }
    for project in projects(call, id)? {
        let project_id = project.id;
        call.realm.revoke(Subject::Project { project_id })?;
    }
    let target = Target::Domain(id.to_owned());
    let grants = call.realm.directory.grants()?;
    for grant in grants.into_iter().filter(|grant| grant.target == target) {
        let (user_id, scope) = (grant.user_id, id.to_owned());
        call.realm.revoke(Subject::Grant { user_id, scope })?;
    }
    Ok(())
}

/// Deletes a domain that was disabled, with all that is in it. The domain goes last, so that what broke off can be asked
/// for again.
fn delete(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:delete_domain")?;
    let domain = find(call, id)?;
    if id == DEFAULT_DOMAIN || domain.record.enabled {
        return Err(Fault::Immutable {
            what: "Cannot delete a domain that is enabled; disable it first".to_owned(),
        });
    }
    // Between its disabling and now nobody could log in, but a project may have been made.
    revoke_all(call, id)?;
    let directory = &call.realm.directory;
    let (users, projects) = (users(call, id)?, projects(call, id)?);
    for user in &users {
        if let Some(found) = directory.get::<UserRow>(&user.id)? {
            directory.delete(&found)?;
        }
    }
    for project in &projects {
        if let Some(found) = directory.get::<ProjectRow>(&project.id)? {
            directory.delete(&found)?;
        }
    }
    call.realm.drop_grants(|grant| {
        let is_of = match &grant.target {
            Target::Project(project) => projects.iter().any(|gone| gone.id == *project),
            Target::Domain(domain) => domain == id,
            Target::System => false,
        };
        is_of || users.iter().any(|gone| gone.id == grant.user_id)
    })?;
    directory.delete(&domain)?;
    tracing::info!(domain_id = id, "a domain was deleted");
    Ok(Answer::no_content())
}

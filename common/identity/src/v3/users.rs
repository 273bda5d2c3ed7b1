//! `/v3/users`.

use crate::call::{Answer, Call, Fields};
use crate::caller::DEFAULT_DOMAIN;
use crate::directory::row::{DomainRow, Entity, ProjectRow, UserRow};
use crate::fault::Fault;
use crate::realm::UserName;
use crate::revocation::Subject;
use http::Method;
use onggi_common_meta::control::Versioned;
use onggi_common_units::Secret;
use serde_json::{Map, Value, json};

/// Characters of a user's name.
const NAME_CHARS_MAX: usize = 255;
/// Fields a client may send back from a view, which it cannot set.
const READ_ONLY: [&str; 4] = ["id", "links", "options", "password_expires_at"];

fn view(call: &Call<'_>, user: &UserRow) -> Value {
    let mut view = user.extra.clone();
    let own = json!({
        "id": user.id,
        "name": user.name,
        "domain_id": user.domain_id,
        "enabled": user.enabled,
        "password_expires_at": null,
        "options": {},
        "links": {"self": call.link(&format!("users/{}", user.id))},
    });
    if let Value::Object(own) = own {
        view.extend(own);
    }
    if let Some(project) = &user.default_project_id {
        view.insert("default_project_id".to_owned(), json!(project));
    }
    Value::Object(view)
}

/// Whether a request to this path has a password to hash.
pub(crate) fn hashes(method: &Method, rest: &[String]) -> bool {
    matches!(
        (method, rest.len()),
        (&Method::POST, 0 | 2) | (&Method::PATCH, 1)
    )
}

pub(crate) fn route(call: &Call<'_>, rest: &[&str]) -> Result<Answer, Fault> {
    match (rest, &call.method) {
        ([], &Method::GET) => list(call),
        ([], &Method::POST) => create(call),
        ([id], &Method::GET) => show(call, id),
        ([id], &Method::PATCH) => update(call, id),
        ([id], &Method::DELETE) => delete(call, id),
        ([id, "password"], &Method::POST) => change_password(call, id),
        ([id, "projects"], &Method::GET) => projects(call, id),
        ([] | [_] | [_, "password" | "projects"], _) => Err(Fault::MethodNotAllowed),
        _ => Err(Fault::NoSuchPath),
    }
}

fn find(call: &Call<'_>, id: &str) -> Result<Versioned<UserRow>, Fault> {
    call.realm
        .directory
        .get::<UserRow>(id)?
        .ok_or_else(|| Fault::not_found(UserRow::KIND, id))
}

fn list(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:list_users")?;
    let users = call.realm.directory.list::<UserRow>()?;
    let has = |filter: &str, value: &str| call.query(filter).is_none_or(|wanted| wanted == value);
    let enabled = |user: &UserRow| {
        let wanted = call
            .query("enabled")
            .map(|value| !matches!(value, "0" | "false" | "False"));
        wanted.is_none_or(|wanted| wanted == user.enabled)
    };
    let found = users.iter().filter(|user| {
        has("name", &user.name) && has("domain_id", &user.domain_id) && enabled(user)
    });
    Ok(call.list("users", found.map(|user| view(call, user)).collect()))
}

fn show(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin_or_user("identity:get_user", id)?;
    Ok(Answer::ok(
        json!({"user": view(call, &find(call, id)?.record)}),
    ))
}

fn check_default_project(call: &Call<'_>, id: Option<&String>) -> Result<(), Fault> {
    match id {
        Some(id) if call.realm.directory.get::<ProjectRow>(id)?.is_none() => {
            Err(Fault::not_found(ProjectRow::KIND, id))
        }
        Some(_) | None => Ok(()),
    }
}

fn hash(call: &Call<'_>, password: Option<Secret>) -> Result<Option<String>, Fault> {
    let hash = |password: Secret| {
        call.realm
            .passwords
            .hash(&password, call.realm.entropy.as_ref())
    };
    Ok(password.map(hash).transpose()?)
}

fn create(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:create_user")?;
    let mut fields = call.fields("user")?;
    fields.ignore(&READ_ONLY);
    let name = fields.required_name(NAME_CHARS_MAX)?;
    let domain_id = fields
        .text("domain_id")?
        .unwrap_or_else(|| DEFAULT_DOMAIN.to_owned());
    if call.realm.directory.get::<DomainRow>(&domain_id)?.is_none() {
        return Err(Fault::not_found("domain", &domain_id));
    }
    let default_project_id = fields.text("default_project_id")?;
    check_default_project(call, default_project_id.as_ref())?;
    let password = fields.text("password")?.map(Secret::new);
    let enabled = fields.flag("enabled")?.unwrap_or(true);
    let extra = fields.extra(&Map::new())?;
    if call
        .realm
        .directory
        .by_domain_and_name::<UserRow>(&domain_id, &name)?
        .is_some()
    {
        return Err(Fault::conflict(UserRow::KIND, &name));
    }
    let user = UserRow {
        id: call.realm.entropy.hex_id().to_string(),
        name,
        domain_id,
        enabled,
        password_hash: hash(call, password)?,
        default_project_id,
        extra,
    };
    call.realm.directory.create(&user)?;
    tracing::info!(user_id = user.id, "a user was created");
    Ok(Answer::created(json!({"user": view(call, &user)})))
}

fn check_domain(fields: &mut Fields, user: &UserRow) -> Result<(), Fault> {
    match fields.text("domain_id")? {
        Some(domain) if domain != user.domain_id => {
            Err(Fault::bad("A user's domain cannot be changed."))
        }
        Some(_) | None => Ok(()),
    }
}

fn update(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:update_user")?;
    let old = find(call, id)?;
    let mut user = old.record.clone();
    let mut fields = call.fields("user")?;
    fields.ignore(&READ_ONLY);
    check_domain(&mut fields, &user)?;
    if let Some(name) = fields.name(NAME_CHARS_MAX)? {
        user.name = name;
    }
    if let Some(enabled) = fields.flag("enabled")? {
        user.enabled = enabled;
    }
    if let Some(project) = fields.text_or_null("default_project_id")? {
        check_default_project(call, project.as_ref())?;
        user.default_project_id = project;
    }
    let password = fields.text("password")?.map(Secret::new);
    let has_new_password = password.is_some();
    if has_new_password {
        user.password_hash = hash(call, password)?;
    }
    user.extra = fields.extra(&user.extra)?;
    call.realm.directory.update(&old, &user)?;
    if has_new_password || !user.enabled || user.name != old.record.name {
        call.realm.revoke(Subject::User {
            user_id: user.id.clone(),
        })?;
    }
    tracing::info!(
        user_id = user.id,
        enabled = user.enabled,
        has_new_password,
        "a user was changed"
    );
    Ok(Answer::ok(json!({"user": view(call, &user)})))
}

fn delete(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:delete_user")?;
    let user = find(call, id)?;
    call.realm.directory.delete(&user)?;
    call.realm.revoke(Subject::User {
        user_id: id.to_owned(),
    })?;
    call.realm.drop_grants(|grant| grant.user_id == id)?;
    tracing::info!(user_id = id, "a user was deleted");
    Ok(Answer::no_content())
}

/// A user's own change: the old password is the proof, a token is not needed.
fn change_password(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    let mut fields = call.fields("user")?;
    let original = Secret::new(fields.required_text("original_password")?);
    let password = Secret::new(fields.required_text("password")?);
    call.realm
        .prove_by_password(&UserName::Id(id.to_owned()), &original)?;
    let old = find(call, id)?;
    let mut user = old.record.clone();
    user.password_hash = hash(call, Some(password))?;
    call.realm.directory.update(&old, &user)?;
    call.realm.revoke(Subject::User { user_id: user.id })?;
    tracing::info!(user_id = id, "a user changed its password");
    Ok(Answer::no_content())
}

fn projects(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin_or_user("identity:list_user_projects", id)?;
    find(call, id)?;
    let projects = call.realm.projects_of(id)?;
    Ok(call.list(
        "projects",
        projects
            .iter()
            .map(|project| super::projects::view(call, project))
            .collect(),
    ))
}

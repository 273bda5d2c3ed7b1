//! `/v3/projects`, with their tags.

use crate::call::{Answer, Call};
use crate::caller::DEFAULT_DOMAIN;
use crate::directory::row::{DomainRow, Entity, ProjectRow, Target};
use crate::fault::Fault;
use crate::revocation::Subject;
use http::Method;
use onggi_common_meta::control::Versioned;
use serde_json::{Map, Value, json};

/// Characters of a project's name.
const NAME_CHARS_MAX: usize = 64;
/// Tags of a project, and characters of one.
const TAGS_MAX: usize = 80;
const TAG_CHARS_MAX: usize = 255;
/// Fields a client may send back from a view, which it cannot set.
const READ_ONLY: [&str; 3] = ["id", "links", "options"];

pub(crate) fn view(call: &Call<'_>, project: &ProjectRow) -> Value {
    let mut view = project.extra.clone();
    let own = json!({
        "id": project.id,
        "name": project.name,
        "domain_id": project.domain_id,
        "description": project.description,
        "enabled": project.enabled,
        "parent_id": project.domain_id,
        "is_domain": false,
        "tags": project.tags,
        "options": {},
        "links": {"self": call.link(&format!("projects/{}", project.id))},
    });
    if let Value::Object(own) = own {
        view.extend(own);
    }
    Value::Object(view)
}

pub(crate) fn route(call: &Call<'_>, rest: &[&str]) -> Result<Answer, Fault> {
    match (rest, &call.method) {
        ([], &Method::GET) => list(call),
        ([], &Method::POST) => create(call),
        ([id], &Method::GET) => show(call, id),
        ([id], &Method::PATCH) => update(call, id),
        ([id], &Method::DELETE) => delete(call, id),
        ([id, "tags"], _) => tags(call, id),
        ([id, "tags", tag], _) => one_tag(call, id, tag),
        ([] | [_], _) => Err(Fault::MethodNotAllowed),
        _ => Err(Fault::NoSuchPath),
    }
}

fn find(call: &Call<'_>, id: &str) -> Result<Versioned<ProjectRow>, Fault> {
    call.realm
        .directory
        .get::<ProjectRow>(id)?
        .ok_or_else(|| Fault::not_found(ProjectRow::KIND, id))
}

fn list(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:list_projects")?;
    let projects = call.realm.directory.list::<ProjectRow>()?;
    let has = |filter: &str, value: &str| call.query(filter).is_none_or(|wanted| wanted == value);
    let switch = |filter: &str, value: bool| {
        let wanted = call
            .query(filter)
            .map(|value| !matches!(value, "0" | "false" | "False"));
        wanted.is_none_or(|wanted| wanted == value)
    };
    let tags: Vec<&str> = call
        .query("tags")
        .map(|tags| tags.split(',').collect())
        .unwrap_or_default();
    let found = projects.iter().filter(|project| {
        has("name", &project.name)
            && has("domain_id", &project.domain_id)
            && has("parent_id", &project.domain_id)
            && switch("enabled", project.enabled)
            && switch("is_domain", false)
            && tags
                .iter()
                .all(|tag| project.tags.iter().any(|own| own == tag))
    });
    Ok(call.list(
        "projects",
        found.map(|project| view(call, project)).collect(),
    ))
}

fn show(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    let caller = call.caller()?;
    if !caller.is_admin() && caller.project_id.as_deref() != Some(id) {
        return Err(Fault::Forbidden {
            action: "identity:get_project",
        });
    }
    Ok(Answer::ok(
        json!({"project": view(call, &find(call, id)?.record)}),
    ))
}

fn check_tags(tags: Vec<String>) -> Result<Vec<String>, Fault> {
    let mut unique: Vec<String> = Vec::new();
    for tag in tags {
        let is_fine = !tag.is_empty()
            && tag.chars().count() <= TAG_CHARS_MAX
            && !tag.chars().any(|c| c == ',' || c == '/' || c.is_control());
        if !is_fine {
            return Err(Fault::bad(
                "Invalid input for field 'tags': a tag has 1 to 255 characters, no comma and no slash.",
            ));
        }
        if !unique.contains(&tag) {
            unique.push(tag);
        }
    }
    if unique.len() > TAGS_MAX {
        return Err(Fault::bad(format!(
            "A project has at most {TAGS_MAX} tags."
        )));
    }
    Ok(unique)
}

fn create(call: &Call<'_>) -> Result<Answer, Fault> {
    call.admin("identity:create_project")?;
    let mut fields = call.fields("project")?;
    fields.ignore(&READ_ONLY);
    let name = fields.required_name(NAME_CHARS_MAX)?;
    let domain_id = fields
        .text("domain_id")?
        .unwrap_or_else(|| DEFAULT_DOMAIN.to_owned());
    if call.realm.directory.get::<DomainRow>(&domain_id)?.is_none() {
        return Err(Fault::not_found("domain", &domain_id));
    }
    if fields
        .text("parent_id")?
        .is_some_and(|parent| parent != domain_id)
    {
        return Err(Fault::bad(
            "A project's parent is its domain: projects are not nested.",
        ));
    }
    if fields.flag("is_domain")?.unwrap_or(false) {
        return Err(Fault::bad("A project cannot act as a domain."));
    }
    let project = ProjectRow {
        id: call.realm.entropy.hex_id().to_string(),
        description: fields.text("description")?.unwrap_or_default(),
        enabled: fields.flag("enabled")?.unwrap_or(true),
        tags: check_tags(fields.texts("tags")?.unwrap_or_default())?,
        extra: fields.extra(&Map::new())?,
        name,
        domain_id,
    };
    if call
        .realm
        .directory
        .by_domain_and_name::<ProjectRow>(&project.domain_id, &project.name)?
        .is_some()
    {
        return Err(Fault::conflict(ProjectRow::KIND, &project.name));
    }
    call.realm.directory.create(&project)?;
    tracing::info!(project_id = project.id, "a project was created");
    Ok(Answer::created(json!({"project": view(call, &project)})))
}

fn update(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:update_project")?;
    let old = find(call, id)?;
    let mut project = old.record.clone();
    let mut fields = call.fields("project")?;
    fields.ignore(&READ_ONLY);
    for field in ["domain_id", "parent_id"] {
        if fields
            .text(field)?
            .is_some_and(|domain| domain != project.domain_id)
        {
            return Err(Fault::bad("A project's domain cannot be changed."));
        }
    }
    if fields.flag("is_domain")?.unwrap_or(false) {
        return Err(Fault::bad("A project cannot act as a domain."));
    }
    if let Some(name) = fields.name(NAME_CHARS_MAX)? {
        project.name = name;
    }
    if let Some(description) = fields.text_or_null("description")? {
        project.description = description.unwrap_or_default();
    }
    if let Some(enabled) = fields.flag("enabled")? {
        project.enabled = enabled;
    }
    if let Some(tags) = fields.texts("tags")? {
        project.tags = check_tags(tags)?;
    }
    project.extra = fields.extra(&project.extra)?;
    call.realm.directory.update(&old, &project)?;
    if !project.enabled || project.name != old.record.name {
        call.realm.revoke(Subject::Project {
            project_id: project.id.clone(),
        })?;
    }
    tracing::info!(
        project_id = project.id,
        enabled = project.enabled,
        "a project was changed"
    );
    Ok(Answer::ok(json!({"project": view(call, &project)})))
}

fn delete(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    call.admin("identity:delete_project")?;
    let project = find(call, id)?;
    call.realm.directory.delete(&project)?;
    call.realm.revoke(Subject::Project {
        project_id: id.to_owned(),
    })?;
    let target = Target::Project(id.to_owned());
    call.realm.drop_grants(|grant| grant.target == target)?;
    tracing::info!(project_id = id, "a project was deleted");
    Ok(Answer::no_content())
}

/// Reads the tags for whoever may see the project; writes them for admins.
fn tags(call: &Call<'_>, id: &str) -> Result<Answer, Fault> {
    let wanted = match call.method {
        Method::GET => {
            show(call, id)?;
            return Ok(Answer::ok(json!({"tags": find(call, id)?.record.tags})));
        }
        Method::PUT => {
            call.admin("identity:update_project_tags")?;
            let mut body: Map<String, Value> = call.json()?;
            let tags = body
                .remove("tags")
                .and_then(|tags| serde_json::from_value(tags).ok());
            check_tags(tags.ok_or_else(|| Fault::bad("'tags' is a required property."))?)?
        }
        Method::DELETE => {
            call.admin("identity:delete_project_tags")?;
            Vec::new()
        }
        _ => return Err(Fault::MethodNotAllowed),
    };
    let old = find(call, id)?;
    call.realm.directory.update(
        &old,
        &ProjectRow {
            tags: wanted.clone(),
            ..old.record.clone()
        },
    )?;
    if call.method == Method::DELETE {
        return Ok(Answer::no_content());
    }
    Ok(Answer::ok(json!({"tags": wanted})))
}

fn one_tag(call: &Call<'_>, id: &str, tag: &str) -> Result<Answer, Fault> {
    if call.method == Method::GET {
        show(call, id)?;
        let has = find(call, id)?.record.tags.iter().any(|own| own == tag);
        return if has {
            Ok(Answer::no_content())
        } else {
            Err(Fault::not_found("project tag", tag))
        };
    }
    call.admin("identity:update_project_tags")?;
    let old = find(call, id)?;
    let mut project = old.record.clone();
    let (status, has) = (
        http::StatusCode::CREATED,
        project.tags.iter().any(|own| own == tag),
    );
    match call.method {
        Method::PUT => {
            project.tags.push(tag.to_owned());
            project.tags = check_tags(project.tags)?;
            call.realm.directory.update(&old, &project)?;
            Ok(Answer {
                status,
                ..Answer::no_content()
            })
        }
        Method::DELETE if has => {
            project.tags.retain(|own| own != tag);
            call.realm.directory.update(&old, &project)?;
            Ok(Answer::no_content())
        }
        Method::DELETE => Err(Fault::not_found("project tag", tag)),
        _ => Err(Fault::MethodNotAllowed),
    }
}

//! Roles granted to users on projects, domains and the system, and `/v3/role_assignments`.

use crate::call::{Answer, Call};
use crate::directory::row::{DomainRow, Entity, GrantRow, ProjectRow, RoleRow, Target, UserRow};
use crate::fault::Fault;
use crate::realm::with_implied;
use crate::revocation::Subject;
use http::Method;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};

pub(crate) fn on_project(id: &str) -> Target {
    Target::Project(id.to_owned())
}

pub(crate) fn on_domain(id: &str) -> Target {
    Target::Domain(id.to_owned())
}

pub(crate) const fn on_system() -> Target {
    Target::System
}

pub(crate) fn route(
    call: &Call<'_>,
    target: Target,
    user_id: &str,
    rest: &[&str],
) -> Result<Answer, Fault> {
    match (rest, &call.method) {
        ([], &Method::GET) => list(call, &target, user_id),
        ([role], method) => {
            let grant = GrantRow {
                user_id: user_id.to_owned(),
                target,
                role_id: (*role).to_owned(),
            };
            match *method {
                Method::PUT => grant_role(call, &grant),
                Method::GET => check(call, &grant),
                Method::DELETE => revoke(call, &grant),
                _ => Err(Fault::MethodNotAllowed),
            }
        }
        ([], _) => Err(Fault::MethodNotAllowed),
        _ => Err(Fault::NoSuchPath),
    }
}

fn must<E: Entity>(call: &Call<'_>, id: &str) -> Result<E, Fault> {
    let found = call.realm.directory.get::<E>(id)?;
    found
        .map(|found| found.record)
        .ok_or_else(|| Fault::not_found(E::KIND, id))
}

fn check_ends(call: &Call<'_>, target: &Target, user_id: &str) -> Result<(), Fault> {
    must::<UserRow>(call, user_id)?;
    match target {
        Target::Project(id) => must::<ProjectRow>(call, id).map(drop),
        Target::Domain(id) => must::<DomainRow>(call, id).map(drop),
        Target::System => Ok(()),
    }
}

fn list(call: &Call<'_>, target: &Target, user_id: &str) -> Result<Answer, Fault> {
    call.admin("identity:list_grants")?;
    check_ends(call, target, user_id)?;
    let grants = call.realm.directory.grants_of_user(user_id)?;
    let mut roles = Vec::new();
    for grant in grants.iter().filter(|grant| grant.target == *target) {
        roles.extend(call.realm.directory.get::<RoleRow>(&grant.role_id)?);
    }
    Ok(call.list(
        "roles",
        roles
            .iter()
            .map(|role| super::roles::view(call, &role.record))
            .collect(),
    ))
}

fn grant_role(call: &Call<'_>, grant: &GrantRow) -> Result<Answer, Fault> {
    call.admin("identity:create_grant")?;
    check_ends(call, &grant.target, &grant.user_id)?;
    let role = must::<RoleRow>(call, &grant.role_id)?;
    call.realm.directory.grant(grant)?;
    tracing::info!(
        user_id = grant.user_id,
        scope = grant.target.scope(),
        role = role.name,
        "a role was granted"
    );
    Ok(Answer::no_content())
}

fn must_be_granted(call: &Call<'_>, grant: &GrantRow) -> Result<(), Fault> {
    if call.realm.directory.has_grant(grant)? {
        return Ok(());
    }
    let cut = |text: &str| text.chars().take(64).collect();
    Err(Fault::NoGrant {
        role: cut(&grant.role_id),
        user: cut(&grant.user_id),
        target: cut(grant.target.scope()),
    })
}

fn check(call: &Call<'_>, grant: &GrantRow) -> Result<Answer, Fault> {
    call.admin("identity:check_grant")?;
    must_be_granted(call, grant)?;
    Ok(Answer::no_content())
}

fn revoke(call: &Call<'_>, grant: &GrantRow) -> Result<Answer, Fault> {
    call.admin("identity:revoke_grant")?;
    must_be_granted(call, grant)?;
    call.realm
        .directory
        .remove_grants(core::slice::from_ref(grant))?;
    let scope = grant.target.scope().to_owned();
    call.realm.revoke(Subject::Grant {
        user_id: grant.user_id.clone(),
        scope: scope.clone(),
    })?;
    tracing::info!(
        user_id = grant.user_id,
        scope,
        role_id = grant.role_id,
        "a role was taken back"
    );
    Ok(Answer::no_content())
}

/// What `/v3/role_assignments` needs to look up, read once.
struct Names {
    users: HashMap<String, UserRow>,
    projects: HashMap<String, ProjectRow>,
    domains: HashMap<String, DomainRow>,
    roles: Vec<RoleRow>,
}

fn by_id<E: Entity>(call: &Call<'_>) -> Result<HashMap<String, E>, Fault> {
    let entities = call.realm.directory.list::<E>()?;
    Ok(entities
        .into_iter()
        .map(|entity| (entity.id().to_owned(), entity))
        .collect())
}

impl Names {
    fn read(call: &Call<'_>) -> Result<Self, Fault> {
        Ok(Self {
            users: by_id(call)?,
            projects: by_id(call)?,
            domains: by_id(call)?,
            roles: call.realm.directory.list()?,
        })
    }

    /// A grant whose user or target is gone means nothing.
    fn is_live(&self, grant: &GrantRow) -> bool {
        let has_target = match &grant.target {
            Target::Project(id) => self.projects.contains_key(id),
            Target::Domain(id) => self.domains.contains_key(id),
            Target::System => true,
        };
        has_target && self.users.contains_key(&grant.user_id)
    }

    fn domain(&self, id: &str) -> Value {
        let name = self
            .domains
            .get(id)
            .map_or(id, |domain| domain.name.as_str());
        json!({"id": id, "name": name})
    }

    fn user(&self, id: &str, with_names: bool) -> Value {
        match self.users.get(id).filter(|_| with_names) {
            Some(user) => {
                json!({"id": id, "name": user.name, "domain": self.domain(&user.domain_id)})
            }
            None => json!({"id": id}),
        }
    }

    fn scope(&self, target: &Target, with_names: bool) -> Value {
        match target {
            Target::System => json!({"system": {"all": true}}),
            Target::Domain(id) if with_names => json!({"domain": self.domain(id)}),
            Target::Domain(id) => json!({"domain": {"id": id}}),
            Target::Project(id) => match self.projects.get(id).filter(|_| with_names) {
                Some(project) => json!({"project": {
                    "id": id,
                    "name": project.name,
                    "domain": self.domain(&project.domain_id),
                }}),
                None => json!({"project": {"id": id}}),
            },
        }
    }
}

fn assignment_link(call: &Call<'_>, grant: &GrantRow) -> String {
    let (user, role) = (&grant.user_id, &grant.role_id);
    let on = match &grant.target {
        Target::Project(id) => format!("projects/{id}"),
        Target::Domain(id) => format!("domains/{id}"),
        Target::System => "system".to_owned(),
    };
    call.link(&format!("{on}/users/{user}/roles/{role}"))
}

fn is_wanted(call: &Call<'_>, grant: &GrantRow) -> bool {
    let has = |filter: &str, value: Option<&str>| {
        call.query(filter)
            .is_none_or(|wanted| wanted.is_empty() || Some(wanted) == value)
    };
    let (project, domain, is_system) = match &grant.target {
        Target::Project(id) => (Some(id.as_str()), None, false),
        Target::Domain(id) => (None, Some(id.as_str()), false),
        Target::System => (None, None, true),
    };
    has("user.id", Some(&grant.user_id))
        && has("group.id", None)
        && has("scope.project.id", project)
        && has("scope.domain.id", domain)
        && (call.query("scope.system").is_none_or(str::is_empty) || is_system)
}

pub(crate) fn assignments(call: &Call<'_>) -> Result<Answer, Fault> {
    if call.method != Method::GET {
        return Err(Fault::MethodNotAllowed);
    }
    call.admin("identity:list_role_assignments")?;
    let names = Names::read(call)?;
    let grants = call.realm.directory.grants()?;
    let (with_names, effective) = (
        call.has_switch("include_names"),
        call.has_switch("effective"),
    );
    let role_filter = call.query("role.id").filter(|role| !role.is_empty());
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for grant in grants
        .iter()
        .filter(|grant| names.is_live(grant) && is_wanted(call, grant))
    {
        let granted = names
            .roles
            .iter()
            .filter(|role| role.id == grant.role_id)
            .cloned();
        let roles = if effective {
            with_implied(core::iter::once(grant.role_id.clone()), &names.roles)
        } else {
            granted.collect()
        };
        for role in roles
            .iter()
            .filter(|role| role_filter.is_none_or(|wanted| wanted == role.id))
        {
            let key = (grant.user_id.clone(), grant.target.clone(), role.id.clone());
            // Two grants may imply the same role.
            if !seen.insert(key) {
                continue;
            }
            let role = if with_names {
                json!({"id": role.id, "name": role.name})
            } else {
                json!({"id": role.id})
            };
            entries.push(json!({
                "role": role,
                "user": names.user(&grant.user_id, with_names),
                "scope": names.scope(&grant.target, with_names),
                "links": {"assignment": assignment_link(call, grant)},
            }));
        }
    }
    Ok(call.list("role_assignments", entries))
}

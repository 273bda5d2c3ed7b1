//! `/v3/auth`: tokens, and what they reach.

use crate::call::{Answer, Call};
use crate::directory::row::{DomainRow, EndpointRow, RoleRow, ServiceRow, Target};
use crate::fault::Fault;
use crate::realm::{DomainName, Issued, LoginError, Proven, Realm, ScopeName, UserName};
use crate::token::{Claims, Scope};
use http::Method;
use onggi_common_units::Secret;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
pub(crate) struct LoginBody {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    identity: IdentityPart,
    scope: Option<ScopePart>,
}

#[derive(Deserialize)]
struct IdentityPart {
    methods: Vec<String>,
    password: Option<PasswordPart>,
    token: Option<TokenPart>,
}

#[derive(Deserialize)]
struct PasswordPart {
    user: UserPart,
}

#[derive(Deserialize)]
struct UserPart {
    id: Option<String>,
    name: Option<String>,
    domain: Option<DomainPart>,
    password: Secret,
}

#[derive(Deserialize)]
struct TokenPart {
    id: Secret,
}

#[derive(Deserialize)]
struct DomainPart {
    id: Option<String>,
    name: Option<String>,
}

impl DomainPart {
    fn parse(self) -> Option<DomainName> {
        self.id
            .map(DomainName::Id)
            .or_else(|| self.name.map(DomainName::Name))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ScopePart {
    Word(String),
    Fields(ScopeFields),
}

#[derive(Deserialize)]
struct ScopeFields {
    project: Option<ProjectPart>,
    domain: Option<DomainPart>,
    system: Option<SystemPart>,
}

#[derive(Deserialize)]
struct ProjectPart {
    id: Option<String>,
    name: Option<String>,
    domain: Option<DomainPart>,
}

#[derive(Deserialize)]
struct SystemPart {
    #[serde(default)]
    all: bool,
}

fn malformed(what: &str) -> Fault {
    Fault::bad(format!(
        "Expecting to find {what} in request body. The server could not comply with the request since it is either malformed or otherwise incorrect. The client is assumed to be in error."
    ))
}

impl ScopePart {
    fn parse(self) -> Result<ScopeName, Fault> {
        let fields = match self {
            Self::Word(word) if word == "unscoped" => return Ok(ScopeName::Unscoped),
            Self::Word(_) => return Err(malformed("a valid scope")),
            Self::Fields(fields) => fields,
        };
        match (fields.project, fields.domain, fields.system) {
            (Some(project), None, None) => project.parse(),
            (None, Some(domain), None) => domain
                .parse()
                .map(ScopeName::Domain)
                .ok_or_else(|| malformed("the domain's id or name")),
            (None, None, Some(SystemPart { all: true })) => Ok(ScopeName::System),
            _ => Err(malformed("exactly one scope")),
        }
    }
}

impl ProjectPart {
    fn parse(self) -> Result<ScopeName, Fault> {
        if let Some(id) = self.id {
            return Ok(ScopeName::ProjectId(id));
        }
        let name = self
            .name
            .ok_or_else(|| malformed("the project's id or name"))?;
        let domain = self.domain.and_then(DomainPart::parse);
        let domain = domain.ok_or_else(|| malformed("the project's domain"))?;
        Ok(ScopeName::Project { name, domain })
    }
}

impl UserPart {
    fn parse(self) -> Result<(UserName, Secret), Fault> {
        if let Some(id) = self.id {
            return Ok((UserName::Id(id), self.password));
        }
        let name = self
            .name
            .ok_or_else(|| malformed("the user's id or name"))?;
        let domain = self.domain.and_then(DomainPart::parse);
        let domain = domain.ok_or_else(|| malformed("the user's domain"))?;
        Ok((UserName::Named { name, domain }, self.password))
    }
}

impl From<LoginError> for Fault {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Refused => Self::Unauthorized,
            LoginError::Directory(error) => error.into(),
            LoginError::TooLong(error) => Self::bad(error.to_string()),
        }
    }
}

impl LoginBody {
    /// Whether a password has to be hashed to answer it.
    pub(crate) fn has_password(&self) -> bool {
        self.auth.identity.password.is_some()
    }

    fn log_in(self, realm: &Realm) -> Result<Issued, Fault> {
        let scope = self
            .auth
            .scope
            .map_or(Ok(ScopeName::Default), ScopePart::parse)?;
        let identity = self.auth.identity;
        let mut proven: Option<Proven> = None;
        for method in &identity.methods {
            let next = match (method.as_str(), &identity.token) {
                ("token", Some(token)) => realm.prove_by_token(token.id.expose())?,
                ("token", None) => return Err(malformed("the token")),
                ("password", _) => continue,
                // Methods that this service does not have prove nothing.
                _ => return Err(Fault::Unauthorized),
            };
            proven = Some(next);
        }
        if identity.methods.iter().any(|method| method == "password") {
            let part = identity.password.ok_or_else(|| malformed("the password"))?;
            let (name, password) = part.user.parse()?;
            let by_password = realm.prove_by_password(&name, &password)?;
            // Two methods must prove the same user.
            if proven.is_some_and(|proven| proven.user.id != by_password.user.id) {
                return Err(Fault::Unauthorized);
            }
            proven = Some(by_password);
        }
        let proven = proven.ok_or_else(|| malformed("at least one method"))?;
        Ok(realm.issue(proven, &scope)?)
    }
}

pub(crate) fn route(call: &Call<'_>, rest: &[&str]) -> Result<Answer, Fault> {
    match (rest, &call.method) {
        (["tokens"], &Method::POST) => log_in(call),
        (["tokens"], &Method::GET) => validate(call),
        (["tokens"], &Method::DELETE) => revoke(call),
        (["catalog"], &Method::GET) => catalog(call),
        (["projects"], &Method::GET) => projects(call),
        (["domains"], &Method::GET) => domains(call),
        (["system"], &Method::GET) => system(call),
        (["tokens" | "catalog" | "projects" | "domains" | "system"], _) => {
            Err(Fault::MethodNotAllowed)
        }
        _ => Err(Fault::NoSuchPath),
    }
}

fn log_in(call: &Call<'_>) -> Result<Answer, Fault> {
    let body: LoginBody = call.json()?;
    let Issued { token, claims } = body.log_in(call.realm)?;
    let mut answer = Answer::created(token_body(call, &claims)?);
    answer.headers.push(("x-subject-token", token));
    Ok(answer)
}

/// The token a request is about, and what it says. Only its bearer, an admin or a service may ask.
fn subject(call: &Call<'_>, action: &'static str) -> Result<(String, Claims), Fault> {
    let caller = call.caller()?;
    let token = call
        .header("x-subject-token")
        .ok_or_else(|| Fault::bad("X-Subject-Token is missing."))?;
    let Ok(claims) = call.realm.verifier.claims(token) else {
        // Which of the three it is, and the token itself, are nobody's business.
        return Err(Fault::not_found(
            "token",
            "it is expired, revoked or none of ours",
        ));
    };
    if caller.is_admin() || caller.is_service() || claims.user_id == caller.user_id {
        Ok((token.to_owned(), claims))
    } else {
        Err(Fault::Forbidden { action })
    }
}

fn validate(call: &Call<'_>) -> Result<Answer, Fault> {
    let (token, claims) = subject(call, "identity:validate_token")?;
    let mut answer = Answer::ok(token_body(call, &claims)?);
    answer.headers.push(("x-subject-token", token));
    Ok(answer)
}

fn revoke(call: &Call<'_>) -> Result<Answer, Fault> {
    let (_, claims) = subject(call, "identity:revoke_token")?;
    call.realm.revoke_token(&claims)?;
    Ok(Answer::no_content())
}

fn domain_view(realm: &Realm, id: &str) -> Result<Value, Fault> {
    let domain = realm.directory.get::<DomainRow>(id)?;
    let name = domain.map_or_else(|| id.to_owned(), |domain| domain.record.name);
    Ok(json!({"id": id, "name": name}))
}

/// The body Keystone gives for a token.
fn token_body(call: &Call<'_>, claims: &Claims) -> Result<Value, Fault> {
    let realm = call.realm;
    let mut audit_ids = vec![claims.audit_id.to_string()];
    audit_ids.extend(claims.parent_audit_id.map(|id| id.to_string()));
    let mut token = Map::new();
    let mut put = |name: &str, value: Value| token.insert(name.to_owned(), value).is_none();
    put("methods", json!(claims.methods.names()));
    put(
        "user",
        json!({
            "domain": domain_view(realm, &claims.user_domain_id)?,
            "id": claims.user_id,
            "name": claims.user_name,
            "password_expires_at": null,
        }),
    );
    put("audit_ids", json!(audit_ids));
    put("expires_at", json!(claims.expires_at.iso_z()));
    put("issued_at", json!(claims.issued_at.iso_z()));
    let is_scoped = match &claims.scope {
        Scope::Unscoped | Scope::Account { .. } => false,
        Scope::Project {
            id,
            name,
            domain_id,
        } => {
            let domain = domain_view(realm, domain_id)?;
            put("project", json!({"domain": domain, "id": id, "name": name}));
            put("is_domain", json!(false));
            true
        }
        Scope::Domain { id, name } => put("domain", json!({"id": id, "name": name})),
        Scope::System => put("system", json!({"all": true})),
    };
    if is_scoped {
        let roles = realm.directory.list::<RoleRow>()?;
        let held = roles
            .iter()
            .filter(|role| claims.roles.contains(&role.name));
        put(
            "roles",
            held.map(|role| json!({"id": role.id, "name": role.name}))
                .collect(),
        );
        if !call.has_switch("nocatalog") {
            put("catalog", Value::Array(render_catalog(realm, claims)?));
        }
    }
    Ok(json!({"token": token}))
}

/// An endpoint's URL for one caller; `None` when it needs a project and there is none.
fn expand(url: &str, claims: &Claims) -> Option<String> {
    let mut url = url
        .replace("%(", "$(")
        .replace("$(user_id)s", &claims.user_id);
    if let Scope::Project { id, .. } = &claims.scope {
        url = url
            .replace("$(project_id)s", id)
            .replace("$(tenant_id)s", id);
    }
    (!url.contains("$(")).then_some(url)
}

fn render_catalog(realm: &Realm, claims: &Claims) -> Result<Vec<Value>, Fault> {
    let mut endpoints = realm.directory.list::<EndpointRow>()?;
    endpoints.sort_by_key(|endpoint| endpoint.interface);
    let mut services = realm.directory.list::<ServiceRow>()?;
    services.sort_by(|a, b| a.kind.cmp(&b.kind));
    let entries = services.iter().filter(|service| service.enabled).map(|service| {
        let own = endpoints.iter().filter(|endpoint| endpoint.enabled && endpoint.service_id == service.id);
        let own = own.filter_map(|endpoint| {
            let url = expand(&endpoint.url, claims)?;
            Some(json!({
                "id": endpoint.id,
                "interface": endpoint.interface,
                "region_id": endpoint.region_id,
                "region": endpoint.region_id,
                "url": url,
            }))
        });
        json!({"type": service.kind, "name": service.name, "id": service.id, "endpoints": own.collect::<Vec<_>>()})
    });
    Ok(entries.collect())
}

fn catalog(call: &Call<'_>) -> Result<Answer, Fault> {
    let claims = call.claims()?;
    match claims.scope {
        Scope::Project { .. } | Scope::Domain { .. } | Scope::System => Ok(Answer::ok(json!({
            "catalog": render_catalog(call.realm, &claims)?,
            "links": {"next": null, "self": call.link("auth/catalog"), "previous": null},
        }))),
        Scope::Unscoped | Scope::Account { .. } => Err(Fault::Forbidden {
            action: "identity:get_auth_catalog",
        }),
    }
}

fn projects(call: &Call<'_>) -> Result<Answer, Fault> {
    let caller = call.caller()?;
    let projects = call.realm.projects_of(&caller.user_id)?;
    let enabled = projects.iter().filter(|project| project.enabled);
    Ok(call.list(
        "projects",
        enabled
            .map(|project| super::projects::view(call, project))
            .collect(),
    ))
}

fn domains(call: &Call<'_>) -> Result<Answer, Fault> {
    let caller = call.caller()?;
    let mut entries = Vec::new();
    let mut grants = call.realm.directory.grants_of_user(&caller.user_id)?;
    grants.dedup_by(|a, b| a.target == b.target);
    for grant in grants {
        if let Target::Domain(id) = &grant.target {
            let domain = call.realm.directory.get::<DomainRow>(id)?;
            entries.extend(domain.map(|domain| super::domains::view(call, &domain.record)));
        }
    }
    Ok(call.list("domains", entries))
}

fn system(call: &Call<'_>) -> Result<Answer, Fault> {
    let caller = call.caller()?;
    let roles = call
        .realm
        .effective_roles(&caller.user_id, &Target::System)?;
    let entries = if roles.is_empty() {
        Vec::new()
    } else {
        vec![json!({"all": true})]
    };
    Ok(call.list("system", entries))
}

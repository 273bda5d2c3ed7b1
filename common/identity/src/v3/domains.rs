//! `/v3/domains`: the namespaces of users and projects. A deployment has the one made at first start.

use crate::call::{Answer, Call};
use crate::directory::row::DomainRow;
use crate::fault::Fault;
use http::Method;
use serde_json::{Value, json};

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
        ([id], &Method::GET) => show(call, id),
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
    let domain = call
        .realm
        .directory
        .get::<DomainRow>(id)?
        .ok_or_else(|| Fault::not_found("domain", id))?;
    Ok(Answer::ok(json!({"domain": view(call, &domain.record)})))
}

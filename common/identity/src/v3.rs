//! Keystone v3 over HTTP: which path means what.

use crate::call::{Answer, Call};
use crate::fault::Fault;
use http::{Method, StatusCode};
use serde_json::{Value, json};

pub(crate) mod auth;
mod catalog;
mod domains;
mod grants;
mod projects;
mod roles;
pub(crate) mod users;

/// The Keystone API version whose documents are answered.
const VERSION: &str = "v3.14";

/// Answers a request below `/`.
pub(crate) fn route(call: &Call<'_>) -> Result<Answer, Fault> {
    let path = call.segments();
    match path.as_slice() {
        [] => versions(call),
        ["v3"] => version(call),
        ["v3", "auth", rest @ ..] => auth::route(call, rest),
        ["v3", "users", rest @ ..] => users::route(call, rest),
        ["v3", "projects", project, "users", user, "roles", rest @ ..] => {
            grants::route(call, grants::on_project(project), user, rest)
        }
        ["v3", "domains", domain, "users", user, "roles", rest @ ..] => {
            grants::route(call, grants::on_domain(domain), user, rest)
        }
        ["v3", "system", "users", user, "roles", rest @ ..] => {
            grants::route(call, grants::on_system(), user, rest)
        }
        ["v3", "role_assignments"] => grants::assignments(call),
        ["v3", "projects", rest @ ..] => projects::route(call, rest),
        ["v3", "roles", rest @ ..] => roles::route(call, rest),
        ["v3", "domains", rest @ ..] => domains::route(call, rest),
        ["v3", "services", rest @ ..] => catalog::services(call, rest),
        ["v3", "endpoints", rest @ ..] => catalog::endpoints(call, rest),
        ["v3", "regions", rest @ ..] => catalog::regions(call, rest),
        _ => Err(Fault::NoSuchPath),
    }
}

fn entry(call: &Call<'_>) -> Value {
    json!({
        "id": VERSION,
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": format!("{}/v3/", call.base)}],
        "media-types": [{
            "base": "application/json",
            "type": "application/vnd.openstack.identity-v3+json",
        }],
    })
}

fn versions(call: &Call<'_>) -> Result<Answer, Fault> {
    only_get(call)?;
    let body = json!({"versions": {"values": [entry(call)]}});
    Ok(Answer::json(StatusCode::MULTIPLE_CHOICES, body))
}

fn version(call: &Call<'_>) -> Result<Answer, Fault> {
    only_get(call)?;
    Ok(Answer::ok(json!({"version": entry(call)})))
}

fn only_get(call: &Call<'_>) -> Result<(), Fault> {
    if call.method == Method::GET {
        Ok(())
    } else {
        Err(Fault::MethodNotAllowed)
    }
}

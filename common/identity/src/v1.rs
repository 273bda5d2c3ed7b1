//! v1 authentication, as Swift's tempauth answers it: user and key in headers, token and storage URL back.
//!
//! `account:user` names a user of the configuration; else `project:user` names one of the store, in the default domain,
//! whose token is then for that project. Both answers take the same work, whoever is named.

use crate::call::{Answer, AnswerBody, Call};
use crate::caller::{Caller, DEFAULT_DOMAIN};
use crate::fault::Fault;
use crate::realm::{DomainName, Issued, LoginError, ScopeName, UserName};
use http::uri::Authority;
use http::{Method, StatusCode};
use onggi_common_units::Secret;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Whether a path is one of those v1 clients log in at.
pub(crate) fn is_login(path: &[&str]) -> bool {
    matches!(path, ["auth", "v1.0"] | ["v1.0"] | ["auth"])
}

/// Answers a login.
pub(crate) fn route(call: &Call<'_>) -> Result<Answer, Fault> {
    if call.method != Method::GET {
        return Err(Fault::MethodNotAllowed);
    }
    let login = call
        .header("x-auth-user")
        .or_else(|| call.header("x-storage-user"));
    let key = call
        .header("x-auth-key")
        .or_else(|| call.header("x-storage-pass"));
    let (Some(login), Some(key)) = (login, key) else {
        return Ok(unauthorized(None));
    };
    let Some((account, user)) = login.split_once(':') else {
        return Ok(unauthorized(None));
    };
    let key = Secret::new(key);
    let issued = match call.realm.issue_v1(login, &key)? {
        Some(issued) => Ok(issued),
        None => log_in(call, account, user, &key),
    };
    match issued {
        Ok(issued) => Ok(granted(call, &issued)),
        Err(LoginError::Refused) => Ok(unauthorized(Some(account))),
        Err(error) => Err(error.into()),
    }
}

/// Logs a user of the store in, to a project.
fn log_in(call: &Call<'_>, project: &str, user: &str, key: &Secret) -> Result<Issued, LoginError> {
    let domain = || DomainName::Id(DEFAULT_DOMAIN.to_owned());
    let name = UserName::Named {
        name: user.to_owned(),
        domain: domain(),
    };
    let proven = call.realm.prove_by_password(&name, key)?;
    let scope = ScopeName::Project {
        name: project.to_owned(),
        domain: domain(),
    };
    call.realm.issue(proven, &scope)
}

fn granted(call: &Call<'_>, issued: &Issued) -> Answer {
    let caller = Caller::from_claims(&issued.claims);
    let account = caller.account.unwrap_or_default();
    let lifetime = issued.claims.expires_at.since(call.realm.now()).as_secs();
    let storage_url = format!("{}/v1/{account}", object_url(call));
    let mut answer = text(StatusCode::OK, String::new());
    answer.headers = vec![
        ("x-auth-token", issued.token.clone()),
        ("x-storage-token", issued.token.clone()),
        ("x-storage-url", storage_url),
        ("x-auth-token-expires", lifetime.to_string()),
    ];
    answer
}

/// Where the client reaches the object service: as configured, or, when nobody fixed that and the request came through
/// the object service's port, by the name the client itself used.
fn object_url(call: &Call<'_>) -> String {
    let options = &call.realm.options;
    let host = call
        .header("host")
        .and_then(|host| host.parse::<Authority>().ok());
    let configured = options
        .object_url
        .strip_prefix("http://")
        .and_then(|rest| rest.parse::<Authority>().ok());
    match (host, configured) {
        (Some(host), Some(configured))
            if !options.is_object_url_fixed
                && host.port_u16() == configured.port_u16()
                && !host.as_str().contains('@') =>
        {
            format!("http://{host}")
        }
        _ => options.object_url.clone(),
    }
}

fn unauthorized(account: Option<&str>) -> Answer {
    let realm = utf8_percent_encode(account.unwrap_or("unknown"), NON_ALPHANUMERIC);
    let mut answer = text(
        StatusCode::UNAUTHORIZED,
        "<html><h1>Unauthorized</h1><p>This server could not verify that you are authorized to access the document you requested.</p></html>".to_owned(),
    );
    answer
        .headers
        .push(("www-authenticate", format!("Swift realm=\"{realm}\"")));
    answer
}

fn text(status: StatusCode, text: String) -> Answer {
    let body = AnswerBody::Bytes {
        content_type: "text/html; charset=UTF-8",
        bytes: text.into_bytes(),
    };
    Answer {
        status,
        headers: Vec::new(),
        body,
    }
}

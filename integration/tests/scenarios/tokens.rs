//! Tokens: what was taken from their bearer is refused by processes that do not have the store.

use crate::{Outcome, Scenario};
use anyhow::{Context as _, Result, ensure};
use onggi_integration::system::{Options, System, run};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) const SCENARIOS: &[Scenario] = &[(
    "tokens::what_was_taken_away_is_refused_by_the_proxy",
    taken_away,
)];

/// How long the proxy is waited for; it asks for news every two seconds, and hears within five what was revoked.
const HEARD_WITHIN: Duration = Duration::from_secs(60);

/// The identity service, called as its admin.
struct Keystone {
    url: String,
    token: String,
}

/// A request's status, the token it was answered, and the document.
fn call(method: &str, url: &str, token: &str, body: &Value) -> Result<(u16, String, Value)> {
    let token = format!("X-Auth-Token: {token}");
    let subject = format!(
        "X-Subject-Token: {}",
        body["subject"].as_str().unwrap_or("none")
    );
    let body = body.to_string();
    let arguments = [
        "-sS",
        "-i",
        "-m",
        "30",
        "-X",
        method,
        "-H",
        &token,
        "-H",
        &subject,
        "-H",
        "Content-Type: application/json",
        "--data-binary",
        &body,
        url,
    ];
    let output = run(Path::new("curl"), &arguments, &[])?;
    let answer = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, document) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    let token = lines.find(|(name, _)| name.eq_ignore_ascii_case("x-subject-token"));
    let token = token.map(|(_, token)| token.trim().to_owned());
    let document = serde_json::from_str(document).unwrap_or(Value::Null);
    Ok((status, token.unwrap_or_default(), document))
}

fn login(url: &str, user: &str, password: &str, project: &str) -> Result<String> {
    let domain = json!({"id": "default"});
    let user = json!({"name": user, "password": password, "domain": domain});
    let body = json!({"auth": {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": {"name": project, "domain": domain}},
    }});
    let (status, token, said) = call("POST", &format!("{url}/auth/tokens"), "", &body)?;
    ensure!(status == 201, "{status} {said}");
    Ok(token)
}

impl Keystone {
    fn open(system: &System) -> Result<Self> {
        let said = system.openrc("admin")?;
        let value = |name: &str| {
            let found = said.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone()).context("openrc")
        };
        let url = value("OS_AUTH_URL")?;
        let (user, password) = (value("OS_USERNAME")?, value("OS_PASSWORD")?);
        let token = login(&url, &user, &password, &value("OS_PROJECT_NAME")?)?;
        Ok(Self { url, token })
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let (status, _, said) = call(method, &format!("{}/{path}", self.url), &self.token, body)?;
        ensure!(
            (200..300).contains(&status),
            "{method} {path}: {status} {said}"
        );
        Ok(said)
    }

    /// The id of something new.
    fn made(&self, kind: &str, fields: Value) -> Result<String> {
        let made = self.call("POST", &format!("{kind}s"), &json!({ kind: fields }))?;
        let id = made[kind]["id"].as_str();
        id.map(str::to_owned).context("no id")
    }
}

fn taken_away() -> Result<Outcome> {
    // The proxy is a process of its own: it has no store to look into.
    let system = System::start(Options::objects(1, 3))?;
    let keystone = Keystone::open(&system)?;
    let roles = keystone.call("GET", "roles?name=member", &Value::Null)?;
    let role = roles["roles"][0]["id"].as_str().context("no role")?;
    for what in ["token", "role", "user", "project", "nothing"] {
        let project = keystone.made("project", json!({"name": what}))?;
        let user = keystone.made("user", json!({"name": what, "password": "jar"}))?;
        let grant = format!("projects/{project}/users/{user}/roles/{role}");
        keystone.call("PUT", &grant, &Value::Null)?;
        let token = login(&keystone.url, what, "jar", what)?;
        let account = format!("http://{}/v1/AUTH_{project}", system.addresses.objects);
        let ask = || call("GET", &account, &token, &Value::Null).map(|(status, ..)| status);
        ensure!(ask()? == 204, "a new token of {what} does not serve");
        let disable = |kind: &str| json!({ kind: {"enabled": false} });
        let done = match what {
            "token" => keystone.call("DELETE", "auth/tokens", &json!({ "subject": token })),
            "role" => keystone.call("DELETE", &grant, &Value::Null),
            "user" => keystone.call("PATCH", &format!("users/{user}"), &disable("user")),
            "project" => {
                keystone.call("PATCH", &format!("projects/{project}"), &disable("project"))
            }
            _ => {
                ensure!(ask()? == 204, "a token nobody revoked is refused");
                continue;
            }
        };
        done?;
        let since = Instant::now();
        loop {
            let status = ask()?;
            if status == 401 {
                println!("{what}: heard after {:.1} s", since.elapsed().as_secs_f64());
                break;
            }
            ensure!(status == 204, "{what}: {status}");
            ensure!(since.elapsed() < HEARD_WITHIN, "{what}: it still serves");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(Outcome::Passed)
}

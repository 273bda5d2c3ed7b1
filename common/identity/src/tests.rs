//! The service as clients meet it: whole requests through the handler, over a store in memory.

use crate::{Bootstrap, Identity, KeyRing, Options, V1User};
use ::core::sync::atomic::{AtomicU64, Ordering};
use ::core::time::Duration;
use http::{Method, StatusCode};
use onggi_common_host::{Clock, SystemEntropy};
use onggi_common_meta::control::{Embedded, Store};
use onggi_common_service::http::{Handler, collect, full};
use onggi_common_units::{Secret, UtcTime};
use serde_json::{Value, json};
use std::sync::Arc;

mod attack;
mod feed;
mod first_start;
mod manage;
mod token;
mod v1;

/// A clock the test sets.
pub(crate) struct TestClock(AtomicU64);

impl TestClock {
    pub(crate) fn advance(&self, span: Duration) {
        self.0
            .fetch_add(u64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn go_back(&self, span: Duration) {
        self.0
            .fetch_sub(u64::try_from(span.as_micros()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UtcTime {
        UtcTime::from_micros(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// An identity service after its first start.
pub(crate) struct Bench {
    pub(crate) identity: Arc<Identity>,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ring: KeyRing,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) bootstrap: Bootstrap,
}

/// An answer, read.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn v1_user(account: &str, user: &str, key: &str, groups: &[&str]) -> V1User {
    V1User {
        account: account.to_owned(),
        user: user.to_owned(),
        key: Secret::new(key),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
    }
}

pub(crate) fn options() -> Options {
    Options {
        v1_users: vec![
            v1_user("test", "tester", "testing", &[".admin"]),
            v1_user("test", "tester3", "testing3", &[]),
        ],
        ..Options::default()
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(TestClock(AtomicU64::new(1_790_000_000_000_000)));
        let store = Arc::new(Embedded::in_memory(Arc::clone(&clock) as Arc<dyn Clock>));
        Self::over(
            store,
            clock,
            KeyRing::generate(&SystemEntropy),
            tempfile::tempdir().unwrap(),
            options(),
        )
    }

    fn over(
        store: Arc<dyn Store>,
        clock: Arc<TestClock>,
        ring: KeyRing,
        directory: tempfile::TempDir,
        options: Options,
    ) -> Self {
        let shared_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let entropy = Arc::new(SystemEntropy);
        let identity =
            Identity::open(Arc::clone(&store), &ring, shared_clock, entropy, options).unwrap();
        let bootstrap = identity.bootstrap(directory.path()).unwrap();
        Self {
            identity,
            clock,
            store,
            ring,
            directory,
            bootstrap,
        }
    }

    /// The same state in a new process.
    pub(crate) fn restart(self, options: Options) -> Self {
        Self::over(self.store, self.clock, self.ring, self.directory, options)
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Got {
        let mut request = http::Request::builder()
            .method(method)
            .uri(target)
            .header("host", "id.example:5000");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self
            .identity
            .handle(request.body(full(body.to_owned())).unwrap())
            .await;
        let (parts, body) = response.into_parts();
        let bytes = collect(body, 1 << 24).await.unwrap();
        assert!(
            parts.headers.contains_key("x-openstack-request-id"),
            "{target}"
        );
        assert_eq!(parts.headers["vary"], "X-Auth-Token", "{target}");
        Got {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Got {
        self.send(Method::GET, path, &[("x-auth-token", token)], "")
            .await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: &Value) -> Got {
        self.send(
            Method::POST,
            path,
            &[("x-auth-token", token)],
            &body.to_string(),
        )
        .await
    }

    pub(crate) async fn patch(&self, token: &str, path: &str, body: &Value) -> Got {
        self.send(
            Method::PATCH,
            path,
            &[("x-auth-token", token)],
            &body.to_string(),
        )
        .await
    }

    pub(crate) async fn put(&self, token: &str, path: &str) -> Got {
        self.send(Method::PUT, path, &[("x-auth-token", token)], "")
            .await
    }

    pub(crate) async fn delete(&self, token: &str, path: &str) -> Got {
        self.send(Method::DELETE, path, &[("x-auth-token", token)], "")
            .await
    }

    pub(crate) async fn log_in_raw(&self, user: &str, password: &str, project: &str) -> Got {
        self.post("", "/v3/auth/tokens", &login(user, password, Some(project)))
            .await
    }

    pub(crate) async fn log_in(&self, user: &str, password: &str, project: &str) -> String {
        let got = self.log_in_raw(user, password, project).await;
        assert_eq!(got.status, 201, "{got:?}");
        got.header("x-subject-token").to_owned()
    }

    pub(crate) fn admin_password(&self) -> String {
        self.bootstrap
            .admin
            .as_ref()
            .unwrap()
            .password
            .expose()
            .to_owned()
    }

    pub(crate) async fn admin(&self) -> String {
        self.log_in("admin", &self.admin_password(), "admin").await
    }

    pub(crate) async fn demo(&self) -> String {
        let password = self
            .bootstrap
            .demo
            .as_ref()
            .unwrap()
            .password
            .expose()
            .to_owned();
        self.log_in("demo", &password, "demo").await
    }

    /// Whether a token still serves.
    pub(crate) async fn serves(&self, token: &str) -> bool {
        let by_handler = self.get(token, "/v3/auth/projects").await.status == 200;
        assert_eq!(by_handler, self.identity.verifier().verify(token).is_ok());
        by_handler
    }

    /// A user with a role on a project, both new; gives their ids.
    pub(crate) async fn person(&self, name: &str, password: &str, role: &str) -> (String, String) {
        let admin = self.admin().await;
        let id = |got: &Got, kind: &str| {
            assert_eq!(got.status, 201, "{got:?}");
            got.json()[kind]["id"].as_str().unwrap().to_owned()
        };
        let project = json!({"project": {"name": format!("{name}-project")}});
        let project_id = id(
            &self.post(&admin, "/v3/projects", &project).await,
            "project",
        );
        let user = json!({"user": {"name": name, "password": password}});
        let user_id = id(&self.post(&admin, "/v3/users", &user).await, "user");
        let role_id = self.role_id(&admin, role).await;
        let grant = format!("/v3/projects/{project_id}/users/{user_id}/roles/{role_id}");
        assert_eq!(self.put(&admin, &grant).await.status, 204);
        (user_id, project_id)
    }

    pub(crate) async fn role_id(&self, admin: &str, name: &str) -> String {
        let roles = self
            .get(admin, &format!("/v3/roles?name={name}"))
            .await
            .json();
        roles["roles"][0]["id"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn login(user: &str, password: &str, project: Option<&str>) -> Value {
    let mut body = json!({"auth": {"identity": {"methods": ["password"], "password": {
        "user": {"name": user, "password": password, "domain": {"name": "Default"}},
    }}}});
    if let Some(project) = project {
        body["auth"]["scope"] = json!({"project": {"name": project, "domain": {"id": "default"}}});
    }
    body
}

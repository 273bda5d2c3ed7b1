//! The first start, starts after it, and starts that broke off.

use super::{Bench, TestClock, options};
use crate::{Identity, KeyRing, OpenError, Options};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;
use onggi_common_host::{Clock, Entropy as _, SystemEntropy};
use onggi_common_meta::control::{
    At, Embedded, LeaseError, LeaseId, Outcome, Page, ReadError, Revision, Row, Store, Transaction,
    TxnError, TxnId, Watch,
};
use onggi_common_meta::{KeyRange, StoreError, TableName};
use serde_json::json;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

#[tokio::test]
async fn a_second_start_changes_nothing() {
    let bench = Bench::new();
    let password = bench.admin_password();
    let admin = bench.admin().await;
    let before = bench.get(&admin, "/v3/users").await.text;
    let bench = bench.restart(options());
    assert_eq!(bench.admin_password(), password);
    assert_eq!(bench.get(&admin, "/v3/users").await.text, before);
    for name in [
        "admin-credentials.json",
        "admin-openrc",
        "demo-credentials.json",
        "demo-openrc",
    ] {
        let mode = bench
            .directory
            .path()
            .join(name)
            .metadata()
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let openrc = std::fs::read_to_string(bench.directory.path().join("admin-openrc")).unwrap();
    assert!(
        openrc.contains(&format!("export OS_PASSWORD='{password}'\n")),
        "{openrc}"
    );
    assert!(
        openrc.contains("export OS_AUTH_URL='http://127.0.0.1:5000/v3'\n"),
        "{openrc}"
    );
}

#[tokio::test]
async fn what_an_operator_changed_stays_changed() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let users = bench.get(&admin, "/v3/users?name=demo").await.json();
    let demo = users["users"][0]["id"].as_str().unwrap().to_owned();
    bench
        .patch(
            &admin,
            &format!("/v3/users/{demo}"),
            &json!({"user": {"password": "chosen"}}),
        )
        .await;
    let project = bench.get(&admin, "/v3/projects?name=demo").await.json();
    let project = project["projects"][0]["id"].as_str().unwrap().to_owned();
    let member = bench.role_id(&admin, "member").await;
    let reader = bench.role_id(&admin, "reader").await;
    let base = format!("/v3/projects/{project}/users/{demo}/roles");
    bench.put(&admin, &format!("{base}/{reader}")).await;
    bench.delete(&admin, &format!("{base}/{member}")).await;
    let bench = bench.restart(options());
    bench.log_in("demo", "chosen", "demo").await;
    assert_eq!(
        bench.get(&admin, &format!("{base}/{member}")).await.status,
        404
    );
    std::fs::remove_file(bench.directory.path().join("demo-credentials.json")).unwrap();
    let bench = bench.restart(options());
    assert!(bench.bootstrap.demo.is_none());
    bench.log_in("demo", "chosen", "demo").await;
}

#[tokio::test]
async fn the_first_admin_reaches_every_account_until_it_is_told_not_to() {
    let bench = Bench::new();
    let reaches = async |bench: &Bench| {
        let admin = bench.admin().await;
        let caller = bench.identity.verifier().verify(&admin).unwrap();
        caller.owns_account("AUTH_any")
    };
    assert!(reaches(&bench).await);
    // A store from before the role was given to anybody.
    let admin = bench.admin().await;
    let id =
        |found: serde_json::Value, kind: &str| found[kind][0]["id"].as_str().unwrap().to_owned();
    let user = id(
        bench.get(&admin, "/v3/users?name=admin").await.json(),
        "users",
    );
    let found = bench.get(&admin, "/v3/projects?name=admin").await.json();
    let project = id(found, "projects");
    let role = bench.role_id(&admin, "ResellerAdmin").await;
    let grant = format!("/v3/projects/{project}/users/{user}/roles/{role}");
    assert_eq!(bench.delete(&admin, &grant).await.status, 204);
    let bench = bench.restart(options());
    assert!(!reaches(&bench).await, "what was taken stays taken");
    let given = Transaction::new(TxnId(SystemEntropy.uuid()));
    let given = given.delete(TableName::new("identity_state"), "bootstrap-reseller");
    bench.store.commit(&given).unwrap();
    let bench = bench.restart(options());
    assert!(reaches(&bench).await);
}

#[tokio::test]
async fn endpoints_follow_the_configuration_until_someone_changes_them() {
    let bench = Bench::new();
    let admin = bench.admin().await;
    let list = bench
        .get(&admin, "/v3/endpoints?interface=admin")
        .await
        .json();
    let entries = list["endpoints"].as_array().unwrap();
    let own = entries
        .iter()
        .find(|entry| entry["url"].as_str().unwrap().contains(":8776/v3/$"))
        .unwrap();
    let id = own["id"].as_str().unwrap();
    bench
        .patch(
            &admin,
            &format!("/v3/endpoints/{id}"),
            &json!({"endpoint": {"url": "http://mine/"}}),
        )
        .await;
    let moved = Options {
        volume_url: "http://10.0.0.9:9776".to_owned(),
        ..options()
    };
    let bench = bench.restart(moved);
    let list = bench.get(&admin, "/v3/endpoints").await.text;
    assert!(
        list.contains("http://mine/") && !list.contains(":8776"),
        "{list}"
    );
    assert_eq!(list.matches("http://10.0.0.9:9776/v3").count(), 5, "{list}");
}

#[test]
fn options_out_of_bounds_are_refused() {
    let clock: Arc<dyn Clock> = Arc::new(TestClock(AtomicU64::new(1)));
    let open = |options: Options| {
        let store = Arc::new(Embedded::in_memory(Arc::clone(&clock)));
        let ring = KeyRing::generate(&SystemEntropy);
        Identity::open(
            store,
            &ring,
            Arc::clone(&clock),
            Arc::new(SystemEntropy),
            options,
        )
        .err()
    };
    for seconds in [0, 90_000] {
        let lifetime = Options {
            token_lifetime: Duration::from_secs(seconds),
            ..Options::default()
        };
        assert!(
            matches!(open(lifetime), Some(OpenError::Lifetime { .. })),
            "{seconds}"
        );
    }
    for (account, user, key) in [
        ("", "u", "k"),
        ("a:b", "u", "k"),
        ("a/b", "u", "k"),
        ("a", "", "k"),
        ("a", "u", ""),
    ] {
        let v1_users = vec![super::v1_user(account, user, key, &[])];
        let options = Options {
            v1_users,
            ..Options::default()
        };
        assert!(
            matches!(open(options), Some(OpenError::V1User { .. })),
            "{account}:{user}"
        );
    }
}

/// A store that stops taking transactions after some.
struct Failing {
    inner: Arc<dyn Store>,
    commits_left: AtomicUsize,
}

impl Failing {
    fn failure() -> StoreError {
        StoreError::OutOfService {
            store: "memory".into(),
            reason: "the test".to_owned(),
        }
    }
}

impl Store for Failing {
    fn get(&self, table: TableName, key: &[u8]) -> Result<Option<Row>, StoreError> {
        self.inner.get(table, key)
    }
    fn scan(
        &self,
        table: TableName,
        range: &KeyRange,
        at: At,
        limit: usize,
    ) -> Result<Page, ReadError> {
        self.inner.scan(table, range, at, limit)
    }
    fn commit(&self, transaction: &Transaction) -> Result<Revision, TxnError> {
        let take = |left: usize| left.checked_sub(1);
        match self
            .commits_left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
        {
            Ok(_) => self.inner.commit(transaction),
            Err(_) => Err(TxnError::Store(Self::failure())),
        }
    }
    fn outcome(&self, id: TxnId) -> Result<Outcome, StoreError> {
        self.inner.outcome(id)
    }
    fn watch(
        &self,
        table: TableName,
        prefix: &[u8],
        from: Revision,
    ) -> Result<Box<dyn Watch>, ReadError> {
        self.inner.watch(table, prefix, from)
    }
    fn lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease(ttl)
    }
    fn keep_alive(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.inner.keep_alive(lease)
    }
    fn revoke(&self, lease: LeaseId) -> Result<(), LeaseError> {
        self.inner.revoke(lease)
    }
}

#[tokio::test]
async fn a_first_start_that_broke_off_anywhere_is_completed_by_the_next() {
    let mut commits = 0;
    loop {
        let clock = Arc::new(TestClock(AtomicU64::new(1_790_000_000_000_000)));
        let shared_clock = Arc::clone(&clock) as Arc<dyn Clock>;
        let inner: Arc<dyn Store> = Arc::new(Embedded::in_memory(Arc::clone(&shared_clock)));
        let ring = KeyRing::generate(&SystemEntropy);
        let directory = tempfile::tempdir().unwrap();
        let failing = Arc::new(Failing {
            inner: Arc::clone(&inner),
            commits_left: AtomicUsize::new(commits),
        });
        let identity = Identity::open(
            failing,
            &ring,
            shared_clock,
            Arc::new(SystemEntropy),
            options(),
        )
        .unwrap();
        let is_complete = identity.bootstrap(directory.path()).is_ok();
        let bench = Bench::over(inner, clock, ring, directory, options());
        let admin = bench.admin().await;
        bench.demo().await;
        let count = async |list: &str| {
            let got = bench.get(&admin, &format!("/v3/{list}")).await.json();
            got[list].as_array().unwrap().len()
        };
        let counts = (
            (
                count("users").await,
                count("projects").await,
                count("roles").await,
            ),
            (
                count("services").await,
                count("endpoints").await,
                count("role_assignments").await,
            ),
        );
        assert_eq!(counts, ((2, 3, 6), (4, 12, 4)), "after {commits} commits");
        if is_complete {
            break;
        }
        commits += 1;
    }
    assert!(commits > 20, "{commits}");
}

//! `integration/serve`: a set-up of this build in the foreground, one JSON line when it is ready, an orderly end on SIGTERM.

use crate::system::{ObjectOptions, Options, System, User};
use anyhow::{Context as _, Result};
use onggi_common_service::Drain;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The account's administrator in every object set-up.
const LOGIN: &str = "test:tester";

/// The users Swift's own functional suite logs in as.
const SUITE_USERS: [User; 6] = [
    User {
        account: "test",
        user: "tester",
        key: Some("testing"),
        groups: &[".admin"],
    },
    User {
        account: "test2",
        user: "tester2",
        key: Some("testing2"),
        groups: &[".admin"],
    },
    User {
        account: "test",
        user: "tester2",
        key: Some("testing2"),
        groups: &[".admin"],
    },
    User {
        account: "test",
        user: "tester3",
        key: Some("testing3"),
        groups: &[],
    },
    User {
        account: "test5",
        user: "tester5",
        key: Some("testing5"),
        groups: &["service"],
    },
    User {
        account: "test",
        user: "tester6",
        key: Some("testing6"),
        groups: &[".reseller_admin"],
    },
];

/// An object cluster to serve.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Nodes, devices, copies, port.
    pub objects: ObjectOptions,
    /// A process per role instead of one for all.
    pub separate: bool,
    /// Whether objects are encrypted.
    pub encryption: bool,
    /// The users of Swift's functional suite instead of `test:tester` alone.
    pub suite_users: bool,
    /// The state folder; a temporary one when none is given.
    pub state: Option<PathBuf>,
}

/// The wish to end that SIGTERM and SIGINT bring.
#[derive(Debug)]
pub struct EndAsked {
    runtime: tokio::runtime::Runtime,
    drain: Drain,
}

impl EndAsked {
    /// Listens for the signals from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let drain = Drain::new();
        let guard = runtime.enter();
        drain.on_signals().context("installing signal handlers")?;
        drop(guard);
        Ok(Self { runtime, drain })
    }

    /// Waits for the first of them.
    pub fn wait(&self) {
        self.runtime.block_on(self.drain.requested());
    }
}

/// Starts an object cluster, passes its description to `ready`, and ends it once an end is asked for.
///
/// # Errors
/// When it does not start or does not end in order.
pub fn cluster(cluster: Cluster, ready: impl FnOnce(&Value)) -> Result<()> {
    let asked = EndAsked::listen()?;
    let users = if cluster.suite_users {
        SUITE_USERS.to_vec()
    } else {
        vec![User {
            account: "test",
            user: "tester",
            key: None,
            groups: &[".admin"],
        }]
    };
    let mut system = System::start(Options {
        object: Some(cluster.objects),
        object_encryption: cluster.encryption,
        single_process: !cluster.separate,
        users,
        state: cluster.state,
        ..Options::default()
    })?;
    ready(&describe(&system)?);
    asked.wait();
    system.stop()
}

fn describe(system: &System) -> Result<Value> {
    let pids = system.pids()?;
    let single = pids.get("all").copied();
    let nodes: Vec<_> = system
        .addresses
        .nodes
        .iter()
        .map(|(address, devices)| {
            let pid = single.or_else(|| pids.get(&format!("node-{address}")).copied());
            json!({ "address": address, "pid": pid, "devices": devices })
        })
        .collect();
    let objects = system.addresses.objects;
    Ok(json!({
        "auth_v1": format!("http://{objects}/auth/v1.0"),
        "user": LOGIN,
        "key": system.keys.get(LOGIN),
        "storage_url": format!("http://{objects}/v1/AUTH_test"),
        "pids": pids.values().collect::<Vec<_>>(),
        "processes": pids,
        "state": system.state,
        "nodes": nodes,
    }))
}

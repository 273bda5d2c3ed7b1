//! What a system is made of.

use std::path::PathBuf;

/// Volumes in a system.
#[derive(Debug, Clone)]
pub struct BlockOptions {
    /// `lvm` or `file`.
    pub pool: &'static str,
    /// The size of the volume group's backing file.
    pub pool_size: String,
}

/// Objects in a system.
#[derive(Debug, Clone)]
pub struct ObjectOptions {
    /// Storage nodes, at 127.0.0.1, 127.0.0.2 and so on; or each on a host of its own ([`Options::hosts`]).
    pub nodes: usize,
    /// Devices of all nodes together.
    pub devices: usize,
    /// Copies of everything.
    pub replicas: usize,
    /// The front door's port; 0 for a free one.
    pub port: u16,
    /// The domain whose hosts name accounts and containers, if any.
    pub storage_domain: Option<&'static str>,
    /// Names of storage policies, the default first; none for one without a name of its own.
    pub policies: &'static [&'static str],
}

/// A user of v1 auth.
#[derive(Debug, Clone)]
pub struct User {
    /// The account without its prefix.
    pub account: &'static str,
    /// The user.
    pub user: &'static str,
    /// The key; random when none is given.
    pub key: Option<&'static str>,
    /// Groups.
    pub groups: &'static [&'static str],
}

/// What a system is made of.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Volumes, if any.
    pub block: Option<BlockOptions>,
    /// Objects, if any.
    pub object: Option<ObjectOptions>,
    /// What stands in `[object.filters]`.
    pub object_filters: &'static str,
    /// Whether objects are encrypted; the root secret `k1` is made at the first start.
    pub object_encryption: bool,
    /// The realms file of container sync, if containers are copied, and which cluster this is (`//realm/cluster`).
    pub container_sync: Option<(PathBuf, &'static str)>,
    /// All roles in one process instead of one process each.
    pub single_process: bool,
    /// Each storage node on a host of its own, in a [`Network`](super::Network). Nobody supervises the processes then. It takes root.
    pub hosts: bool,
    /// Lines of `[object]` in place of those that make a test's cluster small and quick.
    pub object_settings: Option<&'static str>,
    /// Users of v1 auth.
    pub users: Vec<User>,
    /// The state folder; a temporary one when none is given.
    pub state: Option<PathBuf>,
    /// What is logged (`[log] level`), if not the default.
    pub log_level: Option<&'static str>,
    /// Environment of the daemons, for failpoints.
    pub environment: Vec<(String, String)>,
}

impl Options {
    /// Objects in three copies on so many nodes and devices, and a user `test:tester` who may do everything in the account.
    #[must_use]
    pub fn objects(nodes: usize, devices: usize) -> Self {
        Self {
            object: Some(ObjectOptions {
                nodes,
                devices,
                replicas: 3,
                port: 0,
                storage_domain: None,
                policies: &[],
            }),
            users: vec![User {
                account: "test",
                user: "tester",
                key: None,
                groups: &[".admin"],
            }],
            ..Self::default()
        }
    }
}

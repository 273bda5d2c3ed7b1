//! The one TOML file: parsed once into types that prove their validity.
//!
//! Unknown keys are errors that name the key and its line. Every key has a default, and every section that names a
//! role (`identity` and `block`, `object`) turns that role on by being there.

mod container_sync;
mod encryption;
mod filters;
mod target;

pub use container_sync::ContainerSync;
pub use encryption::Encryption;
pub use filters::{CnameLookup, Filters, NameCheck, RateLimit, RatePoint};
pub use target::{PortalGroup, Target, TargetLimits};

use crate::telemetry::LogFormat;
use core::num::{NonZeroU8, NonZeroU16};
use onggi_common_units::ByteCount;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// What the file says.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The folder that holds everything: default `/var/lib/onggi`; `ONGGI_STATE` overrides both.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// What is logged.
    #[serde(default)]
    pub log: Log,
    /// Who is calling.
    #[serde(default)]
    pub identity: Identity,
    /// Volumes, when this host serves them.
    pub block: Option<Block>,
    /// Objects, when this host serves them.
    pub object: Option<Object>,
    /// QEMU guests by name: the path of each one's QMP socket. `volctl attach --instance` reads it.
    #[serde(default)]
    pub instances: BTreeMap<String, PathBuf>,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,onggi_block_target=debug`.
    #[serde(default = "default_level")]
    pub level: String,
    /// `text` or `json`.
    #[serde(default = "default_format")]
    pub format: LogFormat,
}

/// `[identity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Where Keystone v3 and v1 auth are served.
    #[serde(default = "default_identity_listen")]
    pub listen: SocketAddr,
    /// The region in the catalogue.
    #[serde(default = "default_region")]
    pub region: String,
    /// The host name in the catalogue's URLs, for clients elsewhere; default: each listener's own address.
    pub public_host: Option<String>,
    /// Users of v1 auth whose keys stand in files, beside those that the store keeps.
    #[serde(default)]
    pub v1_users: Vec<V1User>,
}

/// `[[identity.v1_users]]`: one `account:user` of v1 auth.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct V1User {
    /// The account's name, without `AUTH_`.
    pub account: String,
    /// The user's name.
    pub user: String,
    /// The file whose first line is the key; only its owner may read it.
    pub key_file: PathBuf,
    /// Groups beside the account's own, such as `.admin` or `.reseller_admin`.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// `[block]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Block {
    /// Where the volume API is served.
    #[serde(default = "default_block_listen")]
    pub listen: SocketAddr,
    /// The name of this host in `host@backend#pool`; default: the machine's host name.
    pub host: Option<String>,
    /// The availability zone.
    #[serde(default = "default_zone")]
    pub availability_zone: String,
    /// Where volumes' bytes live.
    #[serde(default)]
    pub pool: Pool,
    /// The iSCSI target.
    #[serde(default)]
    pub target: Target,
}

/// Which pool holds the volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolKind {
    /// A volume group.
    Lvm,
    /// Sparse files.
    File,
}

/// `[block.pool]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// `lvm` or `file`.
    #[serde(default = "default_pool_kind")]
    pub kind: PoolKind,
    /// The backend's name in `host@backend#pool`.
    #[serde(default = "default_backend")]
    pub backend: String,
    /// The volume group (`lvm`).
    #[serde(default = "default_group")]
    pub volume_group: String,
    /// A disk to use instead of a loop device over a file (`lvm`). It is only ever initialised when it is blank.
    pub device: Option<PathBuf>,
    /// The size of the backing file when it is made (`lvm` without `device`).
    #[serde(default = "default_pool_size")]
    pub size: ByteCount,
    /// What is left unused on the file system that holds the volumes (`file`).
    #[serde(default = "default_reserve")]
    pub reserve: ByteCount,
}

/// `[object]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// Where the object API is served.
    #[serde(default = "default_object_listen")]
    pub listen: SocketAddr,
    /// Copies of every object, container and account.
    #[serde(default = "default_replicas")]
    pub replicas: NonZeroU8,
    /// 2 to this power partitions: fixed when the rings are made.
    #[serde(default = "default_part_power")]
    pub part_power: u8,
    /// Where the rings are; default: `object/rings` in the state folder.
    pub rings: Option<PathBuf>,
    /// The storage policies, in the order of their numbers; default: one.
    #[serde(default)]
    pub policies: Vec<Policy>,
    /// How many seconds after its `X-Delete-At` an object's copies are deleted; it is not served from that date on.
    #[serde(default = "default_expiry_delay_seconds")]
    pub expiry_delay_seconds: u32,
    /// The pause between passes over the accounts that were deleted.
    #[serde(default = "default_reap_interval_seconds")]
    pub reap_interval_seconds: u32,
    /// How many seconds a deleted account stays whole before what is in it is deleted.
    #[serde(default)]
    pub delay_reaping_seconds: u32,
    /// How many objects of deleted accounts are deleted in a second, for each device; 0 for none.
    #[serde(default = "default_reap_rate")]
    pub reap_rate: u32,
    /// The pause between passes over the objects that are under another policy than their container's.
    #[serde(default = "default_reconcile_interval_seconds")]
    pub reconcile_interval_seconds: u32,
    /// How many of them are looked at in a second, for each device; 0 for none.
    #[serde(default = "default_reconcile_rate")]
    pub reconcile_rate: u32,
    /// What is done with objects that no container lists.
    #[serde(default)]
    pub dark_data: DarkData,
    /// How many objects are looked at in a second to find those, for each device; 0 for none.
    #[serde(default = "default_dark_data_rate")]
    pub dark_data_rate: u32,
    /// How many whole days old an object is before it is looked at.
    #[serde(default = "default_dark_data_grace_days")]
    pub dark_data_grace_days: u16,
    /// How many whole days the trace of a deletion stays at least.
    #[serde(default = "default_reclaim_age_days")]
    pub reclaim_age_days: NonZeroU16,
    /// How much each device gives the others in a second to bring them up to date; 0 for as much as it can.
    #[serde(default = "default_replication_rate")]
    pub replication_rate: ByteCount,
    /// How much of each device is read again in a second to find damage; 0 for nothing.
    #[serde(default = "default_audit_rate")]
    pub audit_rate: ByteCount,
    /// The pause between two such readings of everything.
    #[serde(default = "default_audit_interval_seconds")]
    pub audit_interval_seconds: u32,
    /// Hosts below this domain name accounts and containers: `container.account.example.com`.
    pub storage_domain: Option<String>,
    /// What the front door refuses, slows down or tells by itself.
    #[serde(default)]
    pub filters: Filters,
    /// Whether objects are encrypted before they reach the nodes, and the root secrets for it.
    pub encryption: Option<Encryption>,
    /// How containers are copied to and from other clusters, if they are.
    pub container_sync: Option<ContainerSync>,
    /// The nodes of this host.
    #[serde(default = "default_nodes")]
    pub nodes: Vec<Node>,
}

/// What is done with objects that no container lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DarkData {
    /// They are logged.
    #[default]
    Log,
    /// Their containers are told of them again, where they are.
    Tell,
    /// They are deleted.
    Delete,
}

/// `[[object.policies]]`: a name for a way to keep objects. Its number is its place in the list, and never changes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What users call it.
    pub name: String,
    /// Copies of objects under it; default: those of `[object]`.
    pub replicas: Option<NonZeroU8>,
    /// Whether containers get it that ask for none; exactly one is.
    #[serde(default)]
    pub default: bool,
}

/// `[[object.nodes]]`: one storage node and its devices.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Where the node listens; the rings name it by this address.
    pub address: SocketAddr,
    /// The zone in the rings.
    #[serde(default = "default_node_zone")]
    pub zone: u32,
    /// Its devices: each a folder of that name, which a disk may be mounted on.
    pub devices: BTreeSet<String>,
    /// The folder its devices are in; default: `object/devices` in the state folder.
    pub directory: Option<PathBuf>,
}

fn default_state() -> PathBuf {
    PathBuf::from("/var/lib/onggi")
}
fn default_level() -> String {
    "info".to_owned()
}
const fn default_format() -> LogFormat {
    LogFormat::Text
}
const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}
const fn default_identity_listen() -> SocketAddr {
    loopback(5000)
}
fn default_region() -> String {
    "RegionOne".to_owned()
}
const fn default_block_listen() -> SocketAddr {
    loopback(8776)
}
fn default_zone() -> String {
    "nova".to_owned()
}
const fn default_pool_kind() -> PoolKind {
    PoolKind::Lvm
}
fn default_backend() -> String {
    "lvm".to_owned()
}
fn default_group() -> String {
    "cinder-volumes".to_owned()
}
const fn default_pool_size() -> ByteCount {
    ByteCount::from_gib(20)
}
const fn default_reserve() -> ByteCount {
    ByteCount::from_gib(1)
}
const fn default_object_listen() -> SocketAddr {
    loopback(8080)
}
const fn default_replicas() -> NonZeroU8 {
    match NonZeroU8::new(3) {
        Some(three) => three,
        None => NonZeroU8::MIN,
    }
}
const fn default_part_power() -> u8 {
    10
}
const fn default_expiry_delay_seconds() -> u32 {
    120
}
const fn default_reap_interval_seconds() -> u32 {
    60
}
const fn default_reap_rate() -> u32 {
    500
}
const fn default_reconcile_interval_seconds() -> u32 {
    30
}
const fn default_reconcile_rate() -> u32 {
    100
}
const fn default_dark_data_rate() -> u32 {
    10
}
const fn default_dark_data_grace_days() -> u16 {
    7
}
const fn default_reclaim_age_days() -> NonZeroU16 {
    match NonZeroU16::new(7) {
        Some(week) => week,
        None => NonZeroU16::MIN,
    }
}
const fn default_replication_rate() -> ByteCount {
    ByteCount::from_mib(100)
}
const fn default_audit_rate() -> ByteCount {
    ByteCount::from_mib(10)
}
const fn default_audit_interval_seconds() -> u32 {
    60
}
const fn default_node_zone() -> u32 {
    1
}
fn default_nodes() -> Vec<Node> {
    (1u8..=4)
        .map(|n| Node {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)), 6200),
            zone: u32::from(n),
            devices: BTreeSet::from([format!("d{n}")]),
            directory: None,
        })
        .collect()
}

// Each default is what an empty section says.
macro_rules! default_is_an_empty_section {
    ($($type:ty { $($field:ident: $value:expr),* $(,)? })*) => {$(
        impl Default for $type {
            fn default() -> Self {
                Self { $($field: $value),* }
            }
        }
    )*};
}
default_is_an_empty_section! {
    Log { level: default_level(), format: default_format() }
    Identity {
        listen: default_identity_listen(), region: default_region(), public_host: None, v1_users: Vec::new(),
    }
    Pool {
        kind: default_pool_kind(), backend: default_backend(), volume_group: default_group(), device: None,
        size: default_pool_size(), reserve: default_reserve(),
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading the configuration {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is no TOML, has an unknown key, or a value of the wrong form.
    #[error("{path}:{line}: {message}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Values that are fine alone and not together.
    #[error("{path}: {key}: {problem}", path = path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What is wrong, and what to write instead.
        problem: String,
    },
}

/// Partitions are the top bits of a 32-bit word; more than this many bits only cost memory.
const PART_POWER_MAX: u8 = 24;

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, has unknown keys or wrong values, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text, path)?;
        if let Some(state) = std::env::var_os("ONGGI_STATE") {
            config.state = PathBuf::from(state);
        }
        Ok(config)
    }

    /// Parses and checks a text; `path` is what errors call it.
    ///
    /// # Errors
    /// When the text has unknown keys or wrong values, or contradicts itself.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let before = error
                .span()
                .and_then(|span| text.get(..span.start))
                .unwrap_or_default();
            let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
            ConfigError::Syntax {
                path: path.to_owned(),
                line,
                message: error.message().to_owned(),
            }
        })?;
        match config.contradiction() {
            Some((key, problem)) => Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                problem,
            }),
            None => Ok(config),
        }
    }

    fn contradiction(&self) -> Option<(&'static str, String)> {
        if !self.state.is_absolute() {
            return Some(("state", format!("{:?} is not an absolute path", self.state)));
        }
        self.block
            .as_ref()
            .and_then(Block::contradiction)
            .or_else(|| self.object.as_ref().and_then(Object::contradiction))
            .or_else(|| self.listener_twice())
    }

    fn listener_twice(&self) -> Option<(&'static str, String)> {
        let mut seen = BTreeSet::new();
        let block = self.block.iter().flat_map(|block| {
            let portals = block
                .target
                .portals
                .iter()
                .map(|portal| ("block.target.portals", *portal));
            portals.chain([("block.listen", block.listen)])
        });
        let object = self.object.iter().flat_map(|object| {
            let nodes = object
                .nodes
                .iter()
                .map(|node| ("object.nodes.address", node.address));
            nodes.chain([("object.listen", object.listen)])
        });
        let all = block
            .chain(object)
            .chain([("identity.listen", self.identity.listen)]);
        all.filter(|(_, address)| address.port() != 0)
            .find(|(_, address)| !seen.insert(*address))
            .map(|(key, address)| {
                (
                    key,
                    format!("{address} is used twice; give each listener its own address"),
                )
            })
    }

    /// A path below the state folder.
    #[must_use]
    pub fn state_path(&self, relative: &str) -> PathBuf {
        self.state.join(relative)
    }
}

impl Block {
    fn contradiction(&self) -> Option<(&'static str, String)> {
        if self.target.portals.is_empty() {
            return Some((
                "block.target.portals",
                "name at least one portal, such as \"127.0.0.1:3260\"".to_owned(),
            ));
        }
        if self.pool.size < ByteCount::from_mib(16) {
            let problem = format!(
                "{} is too small for a volume group; 16MiB is the least",
                self.pool.size
            );
            return Some(("block.pool.size", problem));
        }
        let name_fits = |name: &str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
            !name.is_empty()
                && name.len() <= 100
                && !name.starts_with('-')
                && name.chars().all(legal)
        };
        if !name_fits(&self.pool.volume_group)
            || matches!(self.pool.volume_group.as_str(), "." | "..")
        {
            let problem = format!(
                "{:?} is no volume group name: use letters, digits, - _ . +",
                self.pool.volume_group
            );
            return Some(("block.pool.volume_group", problem));
        }
        if !name_fits(&self.pool.backend) {
            return Some((
                "block.pool.backend",
                format!("{:?}: use letters, digits, - _ . +", self.pool.backend),
            ));
        }
        None
    }
}

impl Object {
    fn contradiction(&self) -> Option<(&'static str, String)> {
        if !(1..=PART_POWER_MAX).contains(&self.part_power) {
            return Some((
                "object.part_power",
                format!("{} is not between 1 and {PART_POWER_MAX}", self.part_power),
            ));
        }
        let devices: usize = self.nodes.iter().map(|node| node.devices.len()).sum();
        // Whoever brings the rings along may have the other devices on other hosts.
        if self.rings.is_none() && devices < usize::from(self.replicas.get()) {
            let problem = format!(
                "{} copies need as many devices; the nodes have {devices}",
                self.replicas
            );
            return Some(("object.replicas", problem));
        }
        if let Some(problem) = self
            .container_sync
            .as_ref()
            .and_then(ContainerSync::contradiction)
        {
            return Some(problem);
        }
        let mut names = BTreeSet::new();
        let legal = |name: &str| {
            let letters = name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            !name.is_empty() && name.len() <= 64 && letters
        };
        for name in self.nodes.iter().flat_map(|node| &node.devices) {
            if !legal(name) {
                return Some((
                    "object.nodes.devices",
                    format!("{name:?}: use letters, digits, - and _"),
                ));
            }
            if !names.insert(name) {
                return Some((
                    "object.nodes.devices",
                    format!("device {name} is named twice"),
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("onggi.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn sections_turn_roles_on_and_defaults_fill_them() {
        let config = parse("[block]\n[object]\n").unwrap();
        assert_eq!(config.state, PathBuf::from("/var/lib/onggi"));
        let object = config.object.unwrap();
        assert_eq!(object.nodes.len(), 4);
        assert_eq!(object.nodes[3].address.to_string(), "127.0.0.4:6200");
        assert_eq!(config.block.unwrap().pool.volume_group, "cinder-volumes");
        assert!(parse("").unwrap().block.is_none());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse("[block]\n\n[block.pool]\nsise = \"1GiB\"\n").unwrap_err();
        assert!(
            error.starts_with("onggi.toml:4: ") && error.contains("sise"),
            "{error}"
        );
    }

    #[test]
    fn the_sample_says_every_default() {
        let sample = include_str!("../../../deploy/config/onggi.toml");
        let said = parse(sample).unwrap();
        let defaults = parse("[block]\n[object]\n").unwrap();
        assert_eq!(format!("{said:?}"), format!("{defaults:?}"));
    }

    #[test]
    fn rings_that_are_brought_along_may_have_their_devices_elsewhere() {
        let text = "[object]\nreplicas = 5\nrings = \"/etc/onggi/rings\"";
        assert_eq!(parse(text).unwrap().object.unwrap().replicas.get(), 5);
    }

    #[test]
    fn wrong_values_say_what_to_write() {
        for (text, wanted) in [
            (
                "[block.pool]\nsize = \"lots\"",
                "write an integer and a unit",
            ),
            ("[block.pool]\nkind = \"zfs\"", "expected `lvm` or `file`"),
            (
                "[block.pool]\nvolume_group = \"a/../b\"",
                "no volume group name",
            ),
            ("state = \"here\"", "absolute"),
            ("[object]\nreplicas = 5", "5 copies need as many devices"),
            ("[object]\nreplicas = 0", "onggi.toml:2"),
            ("[object]\nlisten = \"127.0.0.1:5000\"", "used twice"),
            ("[identity]\nlisten = \"localhost\"", "onggi.toml:2"),
            (
                "[[object.nodes]]\naddress = \"127.0.0.1:1\"\ndevices = [\"../x\", \"b\", \"c\"]",
                "letters",
            ),
            ("[log]\nlevel = 3", "onggi.toml:2"),
            ("key = [", "onggi.toml:1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(wanted), "{text:?} gave {error:?}");
        }
    }
}

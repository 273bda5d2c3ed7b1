//! What a manager is told at its start.

use onggi_block_pool::Pool;
use onggi_block_volume::QuotaLimits;
use onggi_common_host::{Clock, Entropy};
use onggi_common_meta::control::Store;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Called with the name of each point of a plan; a test ends the process there.
pub type FailPoint = Arc<dyn Fn(&str) + Send + Sync>;

/// A pool and the backend it is of.
#[derive(Clone)]
pub struct Backend {
    /// The backend's name: the middle of `host@backend#pool`.
    pub name: String,
    /// The pool.
    pub pool: Arc<dyn Pool>,
}

/// How a manager runs.
#[derive(Clone)]
pub struct Options {
    /// Where the catalogue is.
    pub store: Arc<dyn Store>,
    /// The pools.
    pub backends: Vec<Backend>,
    /// The target's control socket.
    pub target_socket: PathBuf,
    /// The portals to tell initiators, in place of those the target listens on.
    pub advertised: Vec<SocketAddr>,
    /// The file with the key that seals CHAP secrets; made at first start.
    pub key_file: PathBuf,
    /// The name of this host: the beginning of `host@backend#pool`.
    pub host: String,
    /// The one availability zone.
    pub availability_zone: String,
    /// What each project may have.
    pub limits: QuotaLimits,
    /// How many times its size a thin pool may promise, in hundredths.
    pub over_subscription_percent: u64,
    /// How many plans are carried out at a time.
    pub workers: usize,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where ids and secrets come from.
    pub entropy: Arc<dyn Entropy>,
    /// Called at each point of each plan; none outside tests.
    pub fail_point: Option<FailPoint>,
}

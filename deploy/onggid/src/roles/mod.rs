//! What each process of the system is made of.

mod control;
mod node;
pub(crate) mod pool;
mod proxy;
pub(crate) mod realms;
pub(crate) mod rings;
pub(crate) mod secrets;
mod target;

use crate::state::{Processes, StateFolder};
use anyhow::{Context as _, Result};
use onggi_common_host::{Clock as _, SystemClock, in_use};
use onggi_common_service::http::{self, Handler, Limits, WithHealthcheck};
use onggi_common_service::{Config, Drain, drain};
use onggi_object_client::LocalNodes;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

pub(crate) use control::control;
pub(crate) use node::node;
pub(crate) use proxy::proxy;
pub(crate) use target::{socket as target_socket, target};

/// Makes what every process needs and only one may make: the key ring and the rings.
///
/// # Errors
/// When one of them can be neither read nor made.
pub(crate) fn prepare(config: &Config) -> Result<()> {
    let path = config.state_path("run/prepare.lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let lock = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
        .with_context(|| format!("opening {}", path.display()))?;
    // Processes that are started at once wait here for the first of them.
    rustix::fs::flock(&lock, FlockOperation::LockExclusive)
        .with_context(|| format!("locking {}", path.display()))?;
    secrets::key_ring(config)?;
    if let Some(object) = &config.object {
        rings::make_missing(config, object, SystemClock::new().now())?;
    }
    Ok(())
}

/// All roles in this one process.
///
/// # Errors
/// When one of them cannot start, or ends with an error.
pub(crate) async fn all(config: &Config, folder: &StateFolder, drain: &Drain) -> Result<()> {
    let pids = BTreeMap::from([("all".to_owned(), std::process::id())]);
    folder.write_processes(&Processes {
        supervisor: std::process::id(),
        pids,
    })?;
    // The proxy and the nodes find each other here and need no connection.
    let local = Arc::new(LocalNodes::default());
    let mut roles = JoinSet::new();
    let parts = |config: &Config, drain: &Drain| (config.clone(), drain.clone());
    if config.block.is_some() {
        let (config, drain) = parts(config, drain);
        roles.spawn(async move { target(&config, &drain).await });
    }
    let (config_copy, drain_copy) = parts(config, drain);
    roles.spawn(async move { control(&config_copy, &drain_copy).await });
    for node_config in config.object.iter().flat_map(|object| &object.nodes) {
        let ((config, drain), address) = (parts(config, drain), node_config.address);
        let local = Arc::clone(&local);
        roles.spawn(async move { node(&config, address, Some(local), &drain).await });
    }
    if config.object.is_some() {
        let (config, drain) = parts(config, drain);
        roles.spawn(async move { proxy(&config, local, &drain).await });
    }
    let mut outcome = Ok(());
    while let Some(ended) = roles.join_next().await {
        let ended = ended.context("a role panicked")?;
        // The first to end takes the others with it; a clean end is what the drain asked for.
        drain.begin();
        outcome = outcome.and(ended);
    }
    folder.remove_processes();
    outcome
}

/// Binds a listener; the error says which key to change.
async fn bind(address: SocketAddr, key: &str) -> Result<TcpListener> {
    let listener = tokio::task::spawn_blocking(move || in_use::listen(address))
        .await
        .context("listening panicked")?;
    listener.and_then(TcpListener::from_std).with_context(|| {
        format!("listening on {address} ({key} in the configuration; `ss -ltnp` shows who uses it)")
    })
}

/// Serves a handler with a health check until the drain begins, and lets requests under way finish.
async fn serve<H: Handler>(listener: TcpListener, handler: H, drain: Drain) {
    http::serve(
        listener,
        Arc::new(WithHealthcheck(handler)),
        Limits::default(),
        drain,
    )
    .await;
}

/// Waits for requests under way once the drain has begun.
async fn finish(drain: &Drain) {
    if !drain.finished(drain::GRACE).await {
        tracing::warn!("some requests were still under way at the end");
    }
}

/// A program of this build: beside this one.
fn sibling(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("finding the path of onggid")?;
    Ok(own.with_file_name(name))
}

/// Where clients reach a listener: the configured host name, or the listener's own address.
fn public_url(config: &Config, listen: SocketAddr) -> String {
    match &config.identity.public_host {
        Some(host) => format!("http://{host}:{}", listen.port()),
        None => format!("http://{listen}"),
    }
}

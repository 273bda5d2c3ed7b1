//! A node from start to end.

use crate::container_sync::Sender;
use crate::disks::Disks;
use crate::machine::Machine;
use crate::options::Options;
use crate::rings::Rings;
use crate::server::Node;
use core::time::Duration;
use onggi_common_host::in_use;
use onggi_common_service::Drain;
use onggi_common_service::http::{self, Limits};
use onggi_object_client::{NodeClient, Nodes};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// How long a daemon that broke is left alone.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// A node that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Its address cannot be listened on.
    #[error("listening on {address}: {source}; is another process there? (ss -ltnp)")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// It was given no devices.
    #[error("the node has no devices: name at least one")]
    NoDevices,
    /// Listening, or opening the devices, was cut off.
    #[error("the start of the node was cut off")]
    CutOff,
}

/// Runs a node until the drain begins and requests under way are done.
///
/// # Errors
/// When its address is taken, or it was given no devices.
pub async fn run(options: Options, drain: Drain) -> Result<(), RunError> {
    let failed = |source| RunError::Listen {
        address: options.address.clone(),
        source,
    };
    let address = options.address.clone();
    let listener = tokio::task::spawn_blocking(move || in_use::listen(address)).await;
    let listener = listener.ok().ok_or(RunError::CutOff)?;
    let listener = listener.and_then(TcpListener::from_std).map_err(failed)?;
    serve(listener, options, drain).await
}

/// The same with a listener that is there already.
///
/// # Errors
/// When it was given no devices.
pub async fn serve(listener: TcpListener, options: Options, drain: Drain) -> Result<(), RunError> {
    let (node, daemons) = start(&options, &drain).await?;
    let this: Arc<dyn NodeClient> = Arc::<Node>::clone(&node);
    options.local.add(&options.address, this);
    http::serve(listener, node, Limits::default(), drain.clone()).await;
    options.local.remove(&options.address);
    for daemon in daemons {
        if let Err(error) = daemon.await {
            tracing::error!(%error, "a daemon of the node panicked");
        }
    }
    Ok(())
}

/// Opens the devices and starts the daemons.
pub(crate) async fn start(
    options: &Options,
    drain: &Drain,
) -> Result<(Arc<Node>, Vec<tokio::task::JoinHandle<()>>), RunError> {
    let opened = {
        let options = options.clone();
        tokio::task::spawn_blocking(move || Node::open(&options, &Machine::real(&options))).await
    };
    let node = Arc::new(opened.ok().ok_or(RunError::CutOff)??);
    let daemons = daemons(&node, options, drain);
    tracing::info!(address = options.address, "the node serves");
    Ok((node, daemons))
}

/// Starts what a node does by itself.
fn daemons(node: &Arc<Node>, options: &Options, drain: &Drain) -> Vec<tokio::task::JoinHandle<()>> {
    let wake = Arc::new(Notify::new());
    let (replication, update) = (options.replication_interval, options.update_interval);
    let (expiry, delay) = (options.expiry_interval, options.expiry_delay);
    let (reaping, reconciling) = (options.reaping, options.reconciling);
    let dark_data = options.dark_data;
    let (audit_rate, audit) = (options.audit_bytes_per_second, options.audit_interval);
    let start = Start { node, drain };
    let mut daemons = vec![
        start.one("sweeper", Node::sweep),
        start.one("rings", |node, drain| Arc::clone(&node.rings).watch(drain)),
        start.one("replicator", move |node, drain| {
            node.replicate(replication, Arc::clone(&wake), drain)
        }),
        start.one("updater", move |node, drain| node.update(update, drain)),
        start.one("expirer", move |node, drain| {
            node.expire(expiry, delay, drain)
        }),
        start.one("reaper", move |node, drain| node.reap(reaping, drain)),
        start.one("reconciler", move |node, drain| {
            node.reconcile(reconciling, drain)
        }),
        start.one("dark data", move |node, drain| {
            node.search_dark(dark_data, drain)
        }),
        start.one("auditor", move |node, drain| {
            node.audit(audit_rate, audit, drain)
        }),
    ];
    if let Some(options) = options.container_sync.clone() {
        daemons.push(start.one("container sync", move |node, drain| {
            Arc::new(Sender::new(node, options.clone())).run(drain)
        }));
    }
    daemons
}

/// What every daemon is started with.
struct Start<'a> {
    node: &'a Arc<Node>,
    drain: &'a Drain,
}

impl Start<'_> {
    fn one<F>(
        &self,
        name: &'static str,
        run: impl Fn(Arc<Node>, Drain) -> F + Send + 'static,
    ) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (node, drain) = (Arc::clone(self.node), self.drain.clone());
        kept(name, self.drain.clone(), move || {
            run(Arc::clone(&node), drain.clone())
        })
    }
}

/// Starts a daemon, and starts it again when it panicked: a node must not go on without it.
fn kept<F>(
    name: &'static str,
    drain: Drain,
    run: impl Fn() -> F + Send + 'static,
) -> tokio::task::JoinHandle<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        while let Err(error) = tokio::spawn(run()).await {
            tracing::error!(name, %error, "a daemon of the node broke and is started again");
            tokio::select! {
                () = tokio::time::sleep(RESTART_PAUSE) => {}
                () = drain.requested() => return,
            }
        }
    })
}

impl Node {
    /// Opens a node's devices. What it answers and what its daemons do is left to the caller: [`serve`] runs it all.
    ///
    /// # Errors
    /// When it was given no devices.
    pub fn open(options: &Options, machine: &Machine) -> Result<Self, RunError> {
        let disks = open(options, machine)?;
        let rings = Arc::new(Rings::new(options.rings_dir.clone()));
        let nodes = Nodes::new(Arc::clone(&machine.client), options.timeouts);
        let clock = Arc::clone(&machine.clock);
        Ok(Self::new(options, disks, rings, nodes, clock))
    }
}

/// A node lives on without devices that cannot be used, also when none can: its status says so, and it answers 507 for them.
fn open(options: &Options, machine: &Machine) -> Result<Disks, RunError> {
    if options.devices.is_empty() {
        return Err(RunError::NoDevices);
    }
    let (disks, failed) = Disks::open(options, machine);
    for (name, error) in &failed {
        tracing::error!(device = %name, %error, "a device is out of service");
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_panics_is_started_again_until_it_ends() {
        let starts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&starts);
        let daemon = kept("test", Drain::new(), move || {
            let start = counted.fetch_add(1, Ordering::Relaxed);
            async move { assert!(start >= 2, "this daemon breaks twice") }
        });
        daemon.await.unwrap();
        assert_eq!(starts.load(Ordering::Relaxed), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_what_always_panics() {
        let drain = Drain::new();
        let daemon = kept("test", drain.clone(), || async { panic!("as always") });
        tokio::time::sleep(RESTART_PAUSE / 2).await;
        drain.begin();
        daemon.await.unwrap();
    }
}

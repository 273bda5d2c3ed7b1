//! A node from start to end.

use crate::container_sync::Sender;
use crate::disks::Disks;
use crate::machine::Machine;
use crate::options::Options;
use crate::rings::Rings;
use crate::server::Node;
use onggi_common_host::in_use;
use onggi_common_service::Drain;
use onggi_common_service::http::{self, Limits};
use onggi_object_client::{NodeClient, Nodes};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Notify;

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
    let rings = Arc::clone(&node.rings);
    let wake = Arc::new(Notify::new());
    let mut daemons = vec![
        tokio::spawn(Arc::clone(&node).sweep(drain.clone())),
        tokio::spawn(rings.watch(drain.clone())),
        tokio::spawn(Arc::clone(&node).replicate(
            options.replication_interval,
            wake,
            drain.clone(),
        )),
        tokio::spawn(Arc::clone(&node).update(options.update_interval, drain.clone())),
        tokio::spawn(Arc::clone(&node).expire(
            options.expiry_interval,
            options.expiry_delay,
            drain.clone(),
        )),
        tokio::spawn(Arc::clone(&node).reap(options.reaping, drain.clone())),
        tokio::spawn(Arc::clone(&node).reconcile(options.reconciling, drain.clone())),
        tokio::spawn(Arc::clone(&node).search_dark(options.dark_data, drain.clone())),
        tokio::spawn(Arc::clone(&node).audit(
            options.audit_bytes_per_second,
            options.audit_interval,
            drain.clone(),
        )),
    ];
    if let Some(options) = options.container_sync.clone() {
        let sender = Arc::new(Sender::new(Arc::clone(&node), options));
        daemons.push(tokio::spawn(sender.run(drain.clone())));
    }
    tracing::info!(address = options.address, "the node serves");
    Ok((node, daemons))
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

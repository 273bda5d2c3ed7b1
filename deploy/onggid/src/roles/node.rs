//! One storage node.

use super::{realms, rings, secrets};
use anyhow::{Context as _, Result};
use core::time::Duration;
use onggi_common_host::durable;
use onggi_common_service::config::{DarkData, Object};
use onggi_common_service::{Config, Drain};
use onggi_object_client::LocalNodes;
use onggi_object_node::{Options, container_sync, dark_data, reaper, reconciler};
use std::net::SocketAddr;
use std::sync::Arc;

/// Runs the node at `address` until the drain begins. `local` are the nodes of this process; `None` when it serves nothing
/// else.
///
/// # Errors
/// When the configuration does not name it, it cannot listen, or a device cannot be opened.
pub(crate) async fn node(
    config: &Config,
    address: SocketAddr,
    local: Option<Arc<LocalNodes>>,
    drain: &Drain,
) -> Result<()> {
    let object = config
        .object
        .as_ref()
        .context("the configuration has no [object]")?;
    let node = object.nodes.iter().find(|node| node.address == address);
    let node = node
        .with_context(|| format!("the configuration names no node at {address} (object.nodes)"))?;
    let directory = node
        .directory
        .clone()
        .unwrap_or_else(|| config.state_path("object/devices"));
    for name in &node.devices {
        durable::create_dir_all(&directory.join(name))?;
    }
    let devices = node
        .devices
        .iter()
        .map(|name| name.parse())
        .collect::<Result<_, _>>()?;
    let ring = secrets::key_ring(config)?;
    let mut options = Options::new(
        address.to_string(),
        directory,
        devices,
        rings::folder(config, object),
        secrets::cluster_keys(&ring)?,
        secrets::hash_secrets(&ring),
    );
    options.is_alone = local.is_none();
    options.local = local.unwrap_or_default();
    let mut watcher = None;
    if let Some(sync) = &object.container_sync {
        let (realms, task) = realms::watch(sync.realms.clone(), drain.clone());
        watcher = Some(task);
        options.container_sync = Some(container_sync::Options {
            realms,
            proxy: sync
                .proxy
                .clone()
                .unwrap_or_else(|| object.listen.to_string()),
            keys: secrets::cluster_keys(&ring)?,
            interval: Duration::from_secs(sync.interval_seconds.into()),
            container_time: Duration::from_secs(sync.container_seconds.into()),
            concurrency: sync.concurrency,
            ca_file: sync.ca_file.clone(),
        });
    }
    set_daemons(&mut options, object);
    onggi_object_node::run(options, drain.clone())
        .await
        .with_context(|| format!("the storage node at {address}"))?;
    if let Some(watcher) = watcher {
        watcher.await.context("a task of the node panicked")?;
    }
    Ok(())
}

/// What the node does by itself, and how fast.
fn set_daemons(options: &mut Options, object: &Object) {
    options.expiry_delay = Duration::from_secs(object.expiry_delay_seconds.into());
    options.reaping = reaper::Options {
        interval: Duration::from_secs(object.reap_interval_seconds.into()),
        delay: Duration::from_secs(object.delay_reaping_seconds.into()),
        rate: object.reap_rate,
    };
    options.reconciling = reconciler::Options {
        interval: Duration::from_secs(object.reconcile_interval_seconds.into()),
        rate: object.reconcile_rate,
    };
    options.dark_data = dark_data::Options {
        action: match object.dark_data {
            DarkData::Log => dark_data::Action::Log,
            DarkData::Tell => dark_data::Action::Tell,
            DarkData::Delete => dark_data::Action::Delete,
        },
        interval: dark_data::DARK_DATA_INTERVAL,
        grace_age: Duration::from_secs(86_400) * u32::from(object.dark_data_grace_days),
        rate: object.dark_data_rate,
    };
    options.reclaim_age_days = object.reclaim_age_days.get();
    options.audit_bytes_per_second = object.audit_rate.bytes();
    options.replication_bytes_per_second = object.replication_rate.bytes();
    options.audit_interval = Duration::from_secs(object.audit_interval_seconds.into());
}

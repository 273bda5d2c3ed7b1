//! The iSCSI target process.

use anyhow::{Context as _, Result};
use core::num::NonZeroU16;
use onggi_block_target::{ChapPolicy, Limits, Options, PortalGroup};
use onggi_common_host::durable;
use onggi_common_service::config::TargetLimits;
use onggi_common_service::{Config, Drain};
use onggi_common_units::ByteCount;
use std::path::PathBuf;

/// The target's control socket.
pub(crate) fn socket(config: &Config) -> PathBuf {
    config.state_path("run/target.sock")
}

/// Runs the target until the drain begins.
///
/// # Errors
/// When a portal cannot be listened on, or the stored exports cannot be read.
pub(crate) async fn target(config: &Config, drain: &Drain) -> Result<()> {
    let block = config
        .block
        .as_ref()
        .context("the configuration has no [block]")?;
    let state_dir = config.state_path("block/target");
    durable::create_dir_all(&state_dir)?;
    let mut options = Options::new(block.target.portals.clone(), state_dir);
    options.advertised.clone_from(&block.target.advertised);
    options.other_groups = block
        .target
        .groups
        .iter()
        .map(|group| PortalGroup {
            tag: group.tag,
            portals: group.portals.clone(),
            advertised: group.advertised.clone(),
        })
        .collect();
    if !block.target.chap_md5 {
        options.chap = ChapPolicy::Sha256;
    }
    options.socket = socket(config);
    options.key_file = config.state_path("keys/target.key");
    options.data_threads = block
        .target
        .threads
        .map_or(0, |threads| usize::from(threads.get()));
    options.limits = limits(&block.target.limits);
    onggi_block_target::run(options, drain.requested())
        .await
        .context("the iSCSI target (block.target.portals)")?;
    Ok(())
}

// The target's own limits where the configuration says nothing.
fn limits(wanted: &TargetLimits) -> Limits {
    fn count(wanted: Option<NonZeroU16>, usual: usize) -> usize {
        wanted.map_or(usual, |count| usize::from(count.get()))
    }
    fn bytes(wanted: Option<ByteCount>, usual: usize) -> usize {
        wanted.map_or(usual, |wanted| {
            usize::try_from(wanted.bytes()).unwrap_or(usize::MAX)
        })
    }
    let usual = Limits::default();
    Limits {
        connections_max: count(wanted.connections, usual.connections_max),
        connections_per_portal_max: count(
            wanted.connections_per_portal,
            usual.connections_per_portal_max,
        ),
        sessions_per_target_max: count(wanted.sessions_per_volume, usual.sessions_per_target_max),
        sessions_per_initiator_max: count(
            wanted.sessions_per_initiator,
            usual.sessions_per_initiator_max,
        ),
        tasks_per_connection_max: wanted
            .commands_per_session
            .map_or(usual.tasks_per_connection_max, |count| {
                u32::from(count.get())
            }),
        connection_bytes_max: bytes(wanted.session_memory, usual.connection_bytes_max),
        bytes_max: bytes(wanted.memory, usual.bytes_max),
        sanitize_bytes_per_second: wanted
            .sanitize_speed
            .map_or(usual.sanitize_bytes_per_second, ByteCount::bytes),
        ..usual
    }
}

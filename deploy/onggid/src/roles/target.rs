//! The iSCSI target process.

use anyhow::{Context as _, Result};
use onggi_block_target::{ChapPolicy, Options, PortalGroup};
use onggi_common_host::durable;
use onggi_common_service::{Config, Drain};
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
    onggi_block_target::run(options, drain.requested())
        .await
        .context("the iSCSI target (block.target.portals)")?;
    Ok(())
}

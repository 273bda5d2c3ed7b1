//! The pool a configuration names.

use anyhow::{Context as _, Result};
use core::time::Duration;
use onggi_block_pool::lvm::{Activation, Backing, LvmOptions, VgName};
use onggi_block_pool::{FilePool, LvmPool, Pool, file::FileOptions};
use onggi_common_host::loopback;
use onggi_common_service::Config;
use onggi_common_service::config::{Block, PoolKind};
use onggi_common_units::ByteCount;
use std::path::PathBuf;
use std::sync::Arc;

/// How fast removed volumes are zeroed: below what a disk does, so that others keep their share.
const RECLAIM_PER_SECOND: ByteCount = ByteCount::from_mib(256);
/// How long an LVM command may take.
const LVM_TIME_MAX: Duration = Duration::from_secs(60);

/// Opens the pool; at first start it is made.
///
/// # Errors
/// When it can be neither made nor opened.
pub(crate) fn open(config: &Config, block: &Block, worker: PathBuf) -> Result<Arc<dyn Pool>> {
    match block.pool.kind {
        PoolKind::File => Ok(Arc::new(FilePool::open(FileOptions {
            name: block.pool.backend.clone(),
            directory: config.state_path("block/volumes"),
            reserve: block.pool.reserve,
        })?)),
        PoolKind::Lvm => Ok(Arc::new(LvmPool::open(&lvm_options(
            config, block, worker,
        )?)?)),
    }
}

fn backing_file(config: &Config, block: &Block) -> PathBuf {
    config.state_path(&format!("block/{}.img", block.pool.volume_group))
}

fn lvm_options(config: &Config, block: &Block, worker: PathBuf) -> Result<LvmOptions> {
    let backing = match &block.pool.device {
        Some(device) => Backing::Disk(device.clone()),
        None => Backing::LoopFile {
            path: backing_file(config, block),
            size: block.pool.size,
        },
    };
    Ok(LvmOptions {
        group: block.pool.volume_group.parse::<VgName>()?,
        backing,
        state_dir: config.state_path("block/lvm"),
        worker,
        lvm_as_program: false,
        activation: Activation::Auto,
        reclaim_per_second: RECLAIM_PER_SECOND,
        command_limit: LVM_TIME_MAX,
    })
}

/// Gives the pool's loop device back to the system.
///
/// # Errors
/// When the kernel still uses it.
pub(crate) fn release(config: &Config) -> Result<()> {
    let Some(block) = &config.block else {
        return Ok(());
    };
    let path = backing_file(config, block);
    if block.pool.kind == PoolKind::File || block.pool.device.is_some() || !path.exists() {
        return Ok(());
    }
    let pool = LvmPool::open(&lvm_options(
        config,
        block,
        super::sibling("onggi-lvm-worker")?,
    )?)?;
    pool.release()
        .context("stop Onggi and detach its volumes first")?;
    for device in loopback::find(&path)? {
        device.detach()?;
    }
    Ok(())
}

//! The control process: the control store, identity, the volume API and the manager behind it.

use super::{bind, finish, pool, public_url, secrets, serve, sibling, target};
use anyhow::{Context as _, Result};
use onggi_block_api::Api;
use onggi_block_manager::{Backend, Manager, Options as ManagerOptions};
use onggi_block_volume::QuotaLimits;
use onggi_common_host::durable;
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use onggi_common_identity::{Identity, Options as IdentityOptions, V1User};
use onggi_common_meta::control::{self as store, Store};
use onggi_common_service::config::Block;
use onggi_common_service::{Config, Drain};
use onggi_common_units::Secret;
use std::sync::Arc;

/// Plans carried out at a time.
const PLAN_WORKERS: usize = 4;
/// How many times its size a thin pool may promise, in hundredths: Cinder's default.
const OVER_SUBSCRIPTION_PERCENT: u64 = 2_000;

/// Runs the control process until the drain begins.
///
/// # Errors
/// When the store, the pool or a listener cannot be opened.
pub(crate) async fn control(config: &Config, drain: &Drain) -> Result<()> {
    let identity_listener = bind(config.identity.listen, "identity.listen").await?;
    let volume_listener = match &config.block {
        Some(block) => Some(bind(block.listen, "block.listen").await?),
        None => None,
    };
    let opened = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || open(&config))
            .await
            .context("opening the stores panicked")??
    };
    let identity = tokio::spawn(serve(
        identity_listener,
        Arc::clone(&opened.identity),
        drain.clone(),
    ));
    if let (Some(listener), Some(api)) = (volume_listener, opened.api) {
        serve(listener, api, drain.clone()).await;
    }
    identity.await.context("the identity listener panicked")?;
    finish(drain).await;
    // The last holder waits for the steps that are being carried out; what is left is in the journal.
    tokio::task::spawn_blocking(move || drop(opened.manager))
        .await
        .context("stopping the manager panicked")?;
    Ok(())
}

struct Opened {
    identity: Arc<Identity>,
    api: Option<Api>,
    manager: Option<Manager>,
}

fn open(config: &Config) -> Result<Opened> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let directory = config.state_path("meta/control");
    durable::create_dir_all(&config.state_path("meta"))?;
    let store: Arc<dyn Store> = Arc::new(store::rocks::open(&directory, Arc::clone(&clock))?);
    let identity = open_identity(config, &store, &clock, &entropy)?;
    let Some(block) = &config.block else {
        return Ok(Opened {
            identity,
            api: None,
            manager: None,
        });
    };
    let options = manager_options(config, block, &store, &clock, &entropy)?;
    let manager = Manager::start(options)?;
    let api = Api::new(
        Arc::new(manager.clone()),
        identity.verifier(),
        Arc::clone(&entropy),
    );
    Ok(Opened {
        identity,
        api: Some(api),
        manager: Some(manager),
    })
}

fn open_identity(
    config: &Config,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<Arc<Identity>> {
    let mut options = IdentityOptions {
        identity_url: public_url(config, config.identity.listen),
        region: config.identity.region.clone(),
        v1_users: v1_users(config)?,
        ..IdentityOptions::default()
    };
    if let Some(block) = &config.block {
        options.volume_url = public_url(config, block.listen);
    }
    if let Some(object) = &config.object {
        options.object_url = public_url(config, object.listen);
    }
    let ring = secrets::key_ring(config)?;
    let identity = Identity::open(
        Arc::clone(store),
        &ring,
        Arc::clone(clock),
        Arc::clone(entropy),
        options.clone(),
    )?;
    // The credentials made at first start stand in the state folder itself, where people look for them.
    identity.bootstrap(&config.state)?;
    Ok(identity)
}

fn v1_users(config: &Config) -> Result<Vec<V1User>> {
    let read = |user: &onggi_common_service::config::V1User| {
        let text = std::fs::read_to_string(&user.key_file).with_context(|| {
            format!(
                "reading the key of {}:{} in {}",
                user.account,
                user.user,
                user.key_file.display()
            )
        })?;
        Ok(V1User {
            account: user.account.clone(),
            user: user.user.clone(),
            key: Secret::new(text.lines().next().unwrap_or_default()),
            groups: user.groups.clone(),
        })
    };
    config.identity.v1_users.iter().map(read).collect()
}

fn manager_options(
    config: &Config,
    block: &Block,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    entropy: &Arc<dyn Entropy>,
) -> Result<ManagerOptions> {
    let host = match &block.host {
        Some(host) => host.clone(),
        None => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let pool = pool::open(config, block, sibling("onggi-lvm-worker")?)?;
    Ok(ManagerOptions {
        store: Arc::clone(store),
        backends: vec![Backend {
            name: block.pool.backend.clone(),
            pool,
        }],
        target_socket: target::socket(config),
        advertised: block.target.advertised.clone(),
        key_file: config.state_path("keys/volumes.key"),
        host,
        availability_zone: block.availability_zone.clone(),
        limits: QuotaLimits::default(),
        over_subscription_percent: OVER_SUBSCRIPTION_PERCENT,
        workers: PLAN_WORKERS,
        clock: Arc::clone(clock),
        entropy: Arc::clone(entropy),
        fail_point: None,
    })
}

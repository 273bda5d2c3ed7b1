//! The front door of the object store.

use super::{bind, finish, realms, rings, secrets, serve};
use anyhow::{Context as _, Result, ensure};
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use onggi_common_identity::Verifier;
use onggi_common_identity::feed::RevocationFeed;
use onggi_common_service::config::Object;
use onggi_common_service::{Config, Drain};
use onggi_object_client::{LocalNodes, Nodes, Timeouts, Transport};
use onggi_object_model::{Policy, PolicyIndex};
use onggi_object_proxy::{Options, Parts, Proxy, SyncOptions};
use onggi_object_wire::ClusterKeys;
use std::sync::Arc;

/// Runs the proxy until the drain begins.
///
/// # Errors
/// When it cannot listen, or the rings or keys cannot be read.
pub(crate) async fn proxy(config: &Config, local: Arc<LocalNodes>, drain: &Drain) -> Result<()> {
    let object = config
        .object
        .as_ref()
        .context("the configuration has no [object]")?;
    let listener = bind(object.listen, "object.listen").await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let ring = secrets::key_ring(config)?;
    let verifier = Arc::new(Verifier::new(&ring, Arc::clone(&clock)));
    let identity_url = format!("http://{}", config.identity.listen);
    let feed = RevocationFeed::new(
        &identity_url,
        &ring,
        &verifier,
        Arc::clone(&clock),
        Arc::clone(&entropy),
    )?;
    let feed = tokio::spawn(feed.run(drain.clone()));
    let parts = Parts {
        nodes: nodes(secrets::cluster_keys(&ring)?, &clock, &*entropy, local),
        verifier,
        secrets: secrets::hash_secrets(&ring),
        clock,
        entropy,
    };
    let mut options = Options::new(
        rings::folder(config, object),
        config.identity.listen.to_string(),
    );
    if !object.policies.is_empty() {
        options.policies = policies(object)?;
    }
    options.storage_domain.clone_from(&object.storage_domain);
    options.filters.clone_from(&object.filters);
    options.keymaster = Arc::new(secrets::keymaster(object)?);
    let mut tasks = vec![feed];
    if let Some(sync) = &object.container_sync {
        let (realms, task) = realms::watch(sync.realms.clone(), drain.clone());
        tasks.push(task);
        let own = object.listen.to_string();
        options.container_sync = Some(SyncOptions {
            realms,
            current: sync
                .current()
                .map(|(realm, cluster)| (realm.to_owned(), cluster.to_owned())),
            keys: secrets::cluster_keys(&ring)?,
            authorities: sync.proxy.iter().cloned().chain([own]).collect(),
        });
    }
    let proxy = Arc::new(Proxy::new(options, parts)?);
    let watcher = {
        let (proxy, drain) = (Arc::clone(&proxy), drain.clone());
        tokio::spawn(async move { proxy.watch_rings(drain).await })
    };
    serve(listener, proxy, drain.clone()).await;
    finish(drain).await;
    tasks.push(watcher);
    for task in tasks {
        task.await.context("a task of the proxy panicked")?;
    }
    Ok(())
}

/// The storage policies, numbered by their places.
fn policies(object: &Object) -> Result<Vec<Policy>> {
    let defaults = object.policies.iter().filter(|policy| policy.default);
    ensure!(
        defaults.count() == 1,
        "exactly one of object.policies must be the default"
    );
    let policies = object
        .policies
        .iter()
        .enumerate()
        .map(|(index, policy)| -> Result<Policy> {
            Ok(Policy {
                index: PolicyIndex::new(u16::try_from(index)?),
                name: policy.name.clone(),
                is_default: policy.default,
            })
        });
    policies.collect()
}

fn nodes(
    keys: ClusterKeys,
    clock: &Arc<dyn Clock>,
    entropy: &dyn Entropy,
    local: Arc<LocalNodes>,
) -> Nodes {
    let timeouts = Timeouts::default();
    let transport = Transport::new(keys, Arc::clone(clock), entropy, timeouts, local);
    Nodes::new(Arc::new(transport), timeouts)
}

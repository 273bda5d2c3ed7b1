//! Ring files: loaded at start, and again when they change.

use crate::cluster::Layout;
use core::time::Duration;
use onggi_common_service::Drain;
use onggi_object_model::{Policy, PolicyIndex};
use onggi_object_ring::{Ring, RingFileError};
use onggi_object_wire::DeviceName;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why rings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RingsError {
    /// A file cannot be read.
    #[error("reading {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no ring.
    #[error("{}: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RingFileError,
    },
    /// A device's name cannot be part of a request.
    #[error("{}: {device:?} is no device name", path.display())]
    Device {
        /// The file.
        path: PathBuf,
        /// The name.
        device: String,
    },
    /// There is no policy, or none is the default.
    #[error("the configuration names no default storage policy")]
    NoDefaultPolicy,
    /// Host names are to be looked up, and there is no domain they could lead to.
    #[error("object.filters.cname_lookup needs object.storage_domain")]
    NoStorageDomain,
    /// The expression of names that are refused is none.
    #[error("object.filters.name_check.forbidden_regexp: {source}")]
    NameCheck {
        /// Why.
        source: regex::Error,
    },
}

/// The rings of one moment.
#[derive(Debug)]
pub(crate) struct Rings {
    pub(crate) account: Arc<Layout>,
    pub(crate) container: Arc<Layout>,
    pub(crate) objects: BTreeMap<PolicyIndex, Arc<Layout>>,
}

/// The rings as they are now.
#[derive(Debug)]
pub(crate) struct RingStore {
    dir: PathBuf,
    policies: Vec<PolicyIndex>,
    current: RwLock<(Arc<Rings>, Vec<Option<SystemTime>>)>,
}

fn load(path: PathBuf) -> Result<Arc<Layout>, RingsError> {
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(source) => return Err(RingsError::Read { path, source }),
    };
    let ring = match Ring::from_bytes(&bytes) {
        Ok(ring) => ring,
        Err(source) => return Err(RingsError::Malformed { path, source }),
    };
    let bad = ring
        .devices()
        .find(|device| device.device.parse::<DeviceName>().is_err());
    if let Some(device) = bad.map(|device| device.device.clone()) {
        return Err(RingsError::Device { path, device });
    }
    Ok(Arc::new(Layout::new(ring)))
}

fn object_file(policy: PolicyIndex) -> String {
    match policy.get() {
        0 => "object.ring.gz".to_owned(),
        index => format!("object-{index}.ring.gz"),
    }
}

impl Rings {
    fn load(dir: &Path, policies: &[PolicyIndex]) -> Result<Self, RingsError> {
        let object = |policy: &PolicyIndex| Ok((*policy, load(dir.join(object_file(*policy)))?));
        Ok(Self {
            account: load(dir.join("account.ring.gz"))?,
            container: load(dir.join("container.ring.gz"))?,
            objects: policies
                .iter()
                .map(object)
                .collect::<Result<_, RingsError>>()?,
        })
    }
}

impl RingStore {
    pub(crate) fn open(dir: PathBuf, policies: &[Policy]) -> Result<Self, RingsError> {
        let policies: Vec<PolicyIndex> = policies.iter().map(|policy| policy.index).collect();
        let seen = changed(&dir, &policies);
        let rings = Arc::new(Rings::load(&dir, &policies)?);
        Ok(Self {
            dir,
            policies,
            current: RwLock::new((rings, seen)),
        })
    }

    pub(crate) fn current(&self) -> Arc<Rings> {
        Arc::clone(
            &self
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .0,
        )
    }

    /// Loads the files again when one of them changed. A file that is no ring leaves the rings as they are.
    pub(crate) fn refresh(&self) -> Result<bool, RingsError> {
        let seen = changed(&self.dir, &self.policies);
        if seen
            == self
                .current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .1
        {
            return Ok(false);
        }
        let rings = Arc::new(Rings::load(&self.dir, &self.policies)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (rings, seen);
        Ok(true)
    }

    pub(crate) async fn watch(self: Arc<Self>, drain: Drain) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = drain.requested() => return,
            }
            let store = Arc::clone(&self);
            match tokio::task::spawn_blocking(move || store.refresh()).await {
                Ok(Ok(true)) => tracing::info!("rings changed and were loaded"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the old rings stay in use"),
                Err(error) => tracing::error!(%error, "looking for new rings failed"),
            }
        }
    }
}

fn changed(dir: &Path, policies: &[PolicyIndex]) -> Vec<Option<SystemTime>> {
    let fixed = ["account.ring.gz".to_owned(), "container.ring.gz".to_owned()];
    let names = fixed
        .into_iter()
        .chain(policies.iter().map(|policy| object_file(*policy)));
    let modified = |name: String| std::fs::metadata(dir.join(name)).ok()?.modified().ok();
    names.map(modified).collect()
}

//! The manager: what it holds, and its start and end.

use crate::catalog::{Catalog, SealRow};
use crate::error::{StartError, VolumeError};
use crate::keeper::{Queue, Threads};
use crate::locks::Locks;
use crate::options::{FailPoint, Options};
use crate::seal::Seal;
use onggi_block_medium::MediumSpec;
use onggi_block_pool::Pool;
use onggi_block_target::Client;
use onggi_block_volume::{PoolAddress, ProjectId, QuotaLimits, QuotaUsage, VolumeId, VolumeType};
use onggi_common_host::{Clock, Entropy};
use onggi_common_units::Secret;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What the key is checked with: not a secret.
const SEAL_CHECK: &str = "onggi";
const SEAL_CHECK_PLACE: &[u8] = b"seal check";

/// The owner of the volume catalogue. Cheap to clone; when the last clone goes, its threads end after the steps they are
/// at, and the plans go on at the next start.
///
/// Its calls block: from async code use a blocking thread.
#[derive(Clone)]
pub struct Manager {
    pub(crate) inner: Arc<Inner>,
    /// Held for its end.
    _threads: Arc<Threads>,
}

/// One pool and where it is.
pub(crate) struct Place {
    pub(crate) address: PoolAddress,
    pub(crate) pool: Arc<dyn Pool>,
}

/// What the manager's threads share.
pub(crate) struct Inner {
    pub(crate) catalog: Catalog,
    pub(crate) places: Vec<Place>,
    pub(crate) target: Client,
    pub(crate) advertised: Vec<SocketAddr>,
    /// The portals the target last named.
    pub(crate) portals: Mutex<Vec<SocketAddr>>,
    /// What the target serves, as the pools last mapped it.
    pub(crate) served: Mutex<BTreeMap<VolumeId, MediumSpec>>,
    pub(crate) seal: Seal,
    pub(crate) host: String,
    pub(crate) availability_zone: String,
    pub(crate) limits: QuotaLimits,
    pub(crate) over_subscription_percent: u64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) locks: Locks,
    pub(crate) queue: Queue,
    pub(crate) fail_point: Option<FailPoint>,
}

impl Manager {
    /// Starts a manager: plans that an earlier one left are carried on at once, and the target is told again what it
    /// exports, as soon as it can be reached.
    ///
    /// # Errors
    /// When the catalogue cannot be read, the key of its secrets is missing or wrong, or a name is none.
    pub fn start(options: Options) -> Result<Self, StartError> {
        let workers = options.workers.max(1);
        let inner = Arc::new(Inner::new(options)?);
        for journal in inner.catalog.plans()? {
            tracing::info!(
                volume = %journal.plan.volume,
                operation = journal.plan.operation.name(),
                "resuming a plan that an earlier process began"
            );
            inner.queue.push(journal.plan.volume);
        }
        let threads =
            Threads::start(&inner, workers).map_err(|source| StartError::Thread { source })?;
        Ok(Self {
            inner,
            _threads: Arc::new(threads),
        })
    }

    /// Waits until no plan is waiting for a worker or being carried out by one. Plans that wait for the target to come
    /// back are not waited for.
    pub fn wait_idle(&self) {
        self.inner.queue.wait_idle();
    }

    /// The volume types.
    #[must_use]
    pub fn volume_types(&self) -> Vec<VolumeType> {
        vec![VolumeType::default_type()]
    }

    /// The one availability zone.
    #[must_use]
    pub fn availability_zone(&self) -> &str {
        &self.inner.availability_zone
    }

    /// What a project may have, and what it has.
    ///
    /// # Errors
    /// When the catalogue cannot answer.
    pub fn quota(&self, project: &ProjectId) -> Result<(QuotaLimits, QuotaUsage), VolumeError> {
        let (usage, _) = self.inner.catalog.usage(project)?;
        Ok((self.inner.limits, usage))
    }
}

impl Inner {
    fn new(options: Options) -> Result<Self, StartError> {
        let places = options.backends.into_iter().map(|backend| {
            let address = PoolAddress::new(&options.host, &backend.name, backend.pool.name())?;
            Ok(Place {
                address,
                pool: backend.pool,
            })
        });
        let places = places.collect::<Result<_, StartError>>()?;
        let catalog = Catalog::new(options.store, Arc::clone(&options.entropy));
        let seal = open_seal(&catalog, &options.key_file, options.entropy.as_ref())?;
        Ok(Self {
            catalog,
            places,
            target: Client::new(&options.target_socket),
            advertised: options.advertised,
            portals: Mutex::default(),
            served: Mutex::default(),
            seal,
            host: options.host,
            availability_zone: options.availability_zone,
            limits: options.limits,
            over_subscription_percent: options.over_subscription_percent,
            clock: options.clock,
            entropy: options.entropy,
            locks: Locks::default(),
            queue: Queue::default(),
            fail_point: options.fail_point,
        })
    }

    /// The pool at an address. The host is not compared: the catalogue has one owner, and a host may be renamed.
    pub(crate) fn pool(&self, address: &PoolAddress) -> Option<&Arc<dyn Pool>> {
        let same = |place: &&Place| {
            place.address.backend() == address.backend() && place.address.pool() == address.pool()
        };
        self.places.iter().find(same).map(|place| &place.pool)
    }

    /// The portals to tell initiators.
    pub(crate) fn portals(&self) -> Vec<SocketAddr> {
        if !self.advertised.is_empty() {
            return self.advertised.clone();
        }
        self.portals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A point of a plan that a test may end the process at.
    pub(crate) fn point(&self, operation: &str, point: &str) {
        if let Some(fail_point) = &self.fail_point {
            fail_point(&format!("{operation}:{point}"));
        }
    }
}

fn open_seal(
    catalog: &Catalog,
    key_file: &std::path::Path,
    entropy: &dyn Entropy,
) -> Result<Seal, StartError> {
    let check = catalog.seal_check()?;
    let seal = Seal::open(key_file, check.is_some(), entropy)?;
    match check {
        Some(SealRow(sealed)) => drop(seal.open_sealed(SEAL_CHECK_PLACE, &sealed)?),
        None => {
            let sealed = seal.seal(SEAL_CHECK_PLACE, &Secret::new(SEAL_CHECK), entropy);
            catalog.commit(&catalog.edit().set_seal_check(&SealRow(sealed)))?;
        }
    }
    Ok(seal)
}

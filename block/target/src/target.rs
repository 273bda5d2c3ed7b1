//! The target process: everything put together, started in order, stopped in order.
//!
//! Start: exports back from stable storage, portals bound, data threads, control socket, accept. Stop: portals closed,
//! initiators asked to log out, connections ended once their I/O is done, control socket removed.

use crate::control::ControlServer;
use crate::driver::{DataThread, Door};
use crate::export::PortalStatus;
use crate::mailbox::{Mailbox, Message};
use crate::media_pool::MediaPool;
use crate::medium::{Buffers, ShareIndex};
use crate::options::{Options, PortalGroup};
use crate::peer::{Shared, SharedEntropy, Thread};
use crate::portal::{Acceptor, Portal, Portals};
use crate::redirect::Redirects;
use crate::registry::{Registry, Surroundings};
use crate::sessions::Sessions;
use crate::store::{Store, StoreError};
use onggi_block_iscsi::TargetConfig;
use onggi_block_iscsi::login::ChapPolicy;
use onggi_block_scsi::inquiry::TRANSFER_BYTES_MAX;
use onggi_common_host::durable::{self, DurableError};
use onggi_common_host::{Clock, Entropy, SystemClock, SystemEntropy};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long initiators have to log out when the target stops.
const LOGOUT_TIME_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const LOGOUT_STEP: Duration = Duration::from_millis(20);
/// The most data threads that are taken without being asked for.
const DATA_THREADS_MAX: usize = 8;

/// Why a target cannot run.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Two portal groups have the same tag, or one has none.
    #[error("the portal group tag {tag} is there twice or zero: each group has one of its own")]
    PortalGroup {
        /// The tag.
        tag: u16,
    },
    /// There is no portal to listen on.
    #[error("no portal is configured: name at least one address to listen on")]
    NoPortal,
    /// A portal cannot be bound.
    #[error("listening on {address}: {source}")]
    Portal {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The control socket cannot be made.
    #[error("listening on the control socket {path}: {source}", path = path.display())]
    Control {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory cannot be made.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The exports cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread or its descriptors cannot be had.
    #[error("starting a thread: {source}")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

/// A running target.
#[derive(Debug)]
pub struct Target {
    shared: Arc<Shared>,
    portals: Vec<PortalStatus>,
    doors: Vec<Door>,
    threads: Vec<JoinHandle<()>>,
    acceptor: Acceptor,
    control: ControlServer,
}

/// Runs a target until `drain` resolves. It uses threads of its own and no runtime.
///
/// # Errors
/// When it cannot be started.
pub async fn run(options: Options, drain: impl Future<Output = ()>) -> Result<(), TargetError> {
    let target = Target::start(&options)?;
    drain.await;
    target.stop();
    Ok(())
}

impl Target {
    /// Starts a target: when this returns, all stored exports are served.
    ///
    /// # Errors
    /// When a portal or the control socket cannot be bound, or the state cannot be read.
    pub fn start(options: &Options) -> Result<Self, TargetError> {
        let thread_error = |source| TargetError::Thread { source };
        let groups = groups(options)?;
        let data_threads = match options.data_threads {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(DATA_THREADS_MAX),
            count => count,
        };
        durable::create_dir_all(&options.state_dir)?;
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        let store = Store::open(&options.state_dir, &options.key_file, &*entropy)?;
        let portals = Portals::bind(&wanted(&groups))
            .map_err(|(address, source)| TargetError::Portal { address, source })?;
        let shared = Arc::new(share(options, store, entropy, data_threads)?);
        let bound = portals.bound();
        shared
            .advertised
            .get_or_init(|| advertised(&groups, &bound));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (mut doors, mut threads) = (Vec::new(), Vec::new());
        for index in 0..data_threads {
            let (door, thread) =
                start_data_thread(&shared, &clock, options.chap, index).map_err(thread_error)?;
            doors.push(door);
            threads.push(thread);
        }
        let portal_status: Vec<PortalStatus> = bound
            .into_iter()
            .map(|Portal { address, group }| PortalStatus { address, group })
            .collect();
        let control =
            ControlServer::start(&options.socket, Arc::clone(&shared), portal_status.clone())
                .map_err(|source| TargetError::Control {
                    path: options.socket.clone(),
                    source,
                })?;
        let acceptor = portals
            .accept(doors.clone(), options.limits)
            .map_err(thread_error)?;
        tracing::info!(portals = ?portal_status, data_threads, "target started");
        Ok(Self {
            shared,
            portals: portal_status,
            doors,
            threads,
            acceptor,
            control,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn portals(&self) -> &[PortalStatus] {
        &self.portals
    }

    /// Stops: asks initiators to log out, then ends what is left, waiting for I/O under way.
    pub fn stop(self) {
        let Self {
            shared,
            doors,
            threads,
            acceptor,
            control,
            ..
        } = self;
        acceptor.stop();
        for door in &doors {
            door.mailbox.post(Message::Drain {
                within: LOGOUT_TIME_MAX,
            });
        }
        let is_busy = || {
            doors
                .iter()
                .any(|door| door.load.load(Ordering::Relaxed) > 0)
        };
        let mut waited = Duration::ZERO;
        while is_busy() && waited < LOGOUT_TIME_MAX {
            std::thread::sleep(LOGOUT_STEP);
            waited += LOGOUT_STEP;
        }
        for door in &doors {
            door.mailbox.post(Message::Stop);
        }
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a data thread panicked");
            }
        }
        shared.pool.stop();
        control.stop();
        tracing::info!("target stopped");
    }
}

/// The portal groups, the first of them from the plain options.
fn groups(options: &Options) -> Result<Vec<PortalGroup>, TargetError> {
    let mut groups = vec![PortalGroup {
        tag: options.portal_group,
        portals: options.portals.clone(),
        advertised: options.advertised.clone(),
    }];
    groups.extend(options.other_groups.iter().cloned());
    if groups.iter().any(|group| group.portals.is_empty()) {
        return Err(TargetError::NoPortal);
    }
    for (index, PortalGroup { tag, .. }) in groups.iter().enumerate() {
        if *tag == 0 || groups.iter().skip(index + 1).any(|other| other.tag == *tag) {
            return Err(TargetError::PortalGroup { tag: *tag });
        }
    }
    Ok(groups)
}

fn wanted(groups: &[PortalGroup]) -> Vec<Portal> {
    let portals = groups.iter().flat_map(|group| {
        let group_tag = group.tag;
        group.portals.iter().map(move |address| Portal {
            address: *address,
            group: group_tag,
        })
    });
    portals.collect()
}

/// What SendTargets tells: of each group what it advertises, or what it listens on.
fn advertised(groups: &[PortalGroup], bound: &[Portal]) -> Vec<(String, u16)> {
    let mut told = Vec::new();
    for group in groups {
        let own = bound.iter().filter(|portal| portal.group == group.tag);
        let addresses: Vec<SocketAddr> = if group.advertised.is_empty() {
            own.map(|portal| portal.address).collect()
        } else {
            group.advertised.clone()
        };
        told.extend(
            addresses
                .iter()
                .map(|address| (address.to_string(), group.tag)),
        );
    }
    told
}

fn share(
    options: &Options,
    store: Store,
    entropy: Arc<dyn Entropy>,
    data_threads: usize,
) -> Result<Shared, TargetError> {
    let sessions: Arc<Sessions> = Arc::default();
    let media_threads = options.media_threads.max(1);
    let surroundings = Surroundings {
        portal_groups: groups(options)?.iter().map(|group| group.tag).collect(),
        threads: data_threads + media_threads,
        sanitize_bytes_per_second: options.limits.sanitize_bytes_per_second,
    };
    let registry = Registry::restore(
        store,
        Arc::clone(&sessions),
        Arc::clone(&entropy),
        surroundings,
    )?;
    let pool = MediaPool::start(media_threads, data_threads)
        .map_err(|source| TargetError::Thread { source })?;
    let first_tsih = entropy.bytes();
    Ok(Shared {
        registry,
        sessions,
        pool,
        entropy: SharedEntropy(entropy),
        limits: options.limits,
        redirects: Redirects::default(),
        data_threads,
        advertised: OnceLock::new(),
        next_tsih: AtomicU16::new(u16::from_be_bytes([first_tsih[0], first_tsih[1]])),
    })
}

fn start_data_thread(
    shared: &Arc<Shared>,
    clock: &Arc<dyn Clock>,
    chap: ChapPolicy,
    index: usize,
) -> io::Result<(Door, JoinHandle<()>)> {
    let (limits, count) = (shared.limits, shared.data_threads);
    let config = TargetConfig {
        chap,
        commands_max: limits.tasks_per_connection_max,
        // COMPARE AND WRITE carries twice what it writes.
        transfer_bytes_max: TRANSFER_BYTES_MAX.saturating_mul(2),
        write_bytes_max: u64::try_from(limits.connection_bytes_max).unwrap_or(u64::MAX),
        transmit_bytes_max: limits.connection_bytes_max,
        login_time_max: limits.login_time_max,
        ping_after: limits.idle_time_max,
        answer_time_max: limits.answer_time_max,
        ..TargetConfig::default()
    };
    let mailbox = Arc::new(Mailbox::new()?);
    let load = Arc::new(AtomicUsize::new(0));
    let thread = Thread {
        shared: Arc::clone(shared),
        mailbox: Arc::clone(&mailbox),
        share: ShareIndex(index),
        now: clock.monotonic(),
        held_bytes: 0,
        bytes_max: limits.bytes_max.div_ceil(count),
        buffers: Arc::new(Buffers::default()),
    };
    let logins_max = limits.logins_max.div_ceil(count).max(1);
    let data = DataThread::new(
        thread,
        Arc::clone(clock),
        config,
        Arc::clone(&load),
        logins_max,
    )?;
    let handle = std::thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || data.run())?;
    Ok((Door { mailbox, load }, handle))
}

#[cfg(test)]
mod tests;

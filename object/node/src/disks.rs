//! The node's devices, and where their calls run: on blocking threads, or in place in simulation.

use crate::given::GivenBefore;
use crate::machine::{Calls, Machine, Off};
use crate::options::Options;
use crate::pace::Pace;
use crate::progress::Progress;
use crate::quick::Quick;
use crate::settle::Blocked;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use onggi_common_host::in_use;
use onggi_common_units::UtcTime;
use onggi_object_device::{
    Change, Committed, Device, DeviceError, DeviceOptions, OpenError, PendingObject,
};
use onggi_object_wire::DeviceName;
use onggi_object_wire::replication::Scope;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{Notify, Semaphore, oneshot};

/// Calls to one device at a time; more wait without a thread.
const CALLS_MAX: usize = 64;
/// Changes that wait for one device at a time; more wait without being queued.
const CHANGES_MAX: usize = 1_024;
/// Changes written together.
const GROUP_MAX: usize = 256;
/// How long changes nobody waits for wait for others.
const GATHER_MAX: Duration = Duration::from_millis(200);
/// Bytes written together: a group that has so many takes no more.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// One device and how many calls it may still take.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) name: DeviceName,
    device: Arc<Device>,
    slots: Arc<Semaphore>,
    commits: Arc<Commits>,
    calls: Calls,
    /// Whether it was away so long that it may hold what was deleted and reclaimed: it is not read from until it has been
    /// compared with its peers.
    is_rejoining: Arc<AtomicBool>,
    progress: Arc<Progress>,
    /// How fast it gives what peers lack.
    pace: Arc<Pace>,
    /// How fast small reads are.
    quick: Arc<Quick>,
    /// Whether the process serves nothing else.
    is_alone: bool,
    blocked: Arc<Mutex<BTreeMap<Scope, Blocked>>>,
    given: Arc<Mutex<GivenBefore>>,
}

/// Changes that wait for a device. While one group is written the next one gathers.
#[derive(Debug)]
struct Commits {
    waiting: Mutex<Waiting>,
    places: Semaphore,
    /// A change has come for which somebody waits.
    stirred: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: VecDeque<(Change, oneshot::Sender<Result<Committed, DeviceError>>)>,
    /// How many of them are not [`Change::Told`].
    awaited: usize,
    /// Whether somebody is writing, and will look again.
    is_led: bool,
}

type Answers = Vec<oneshot::Sender<Result<Committed, DeviceError>>>;

impl Default for Commits {
    fn default() -> Self {
        Self {
            waiting: Mutex::new(Waiting::default()),
            places: Semaphore::new(CHANGES_MAX),
            stirred: Notify::new(),
        }
    }
}

impl Commits {
    /// Adds a change. True when nobody is writing: the caller has to begin.
    fn push(
        &self,
        change: Change,
        answer: oneshot::Sender<Result<Committed, DeviceError>>,
    ) -> bool {
        let is_awaited = !matches!(change, Change::Told(_));
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.changes.push_back((change, answer));
        waiting.awaited += usize::from(is_awaited);
        let begins = !core::mem::replace(&mut waiting.is_led, true);
        let is_many = waiting.changes.len() >= GROUP_MAX;
        drop(waiting);
        if is_awaited || is_many {
            self.stirred.notify_one();
        }
        begins
    }

    /// Ends the work when nothing waits.
    fn rest(&self) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_led = !waiting.changes.is_empty();
        !waiting.is_led
    }

    /// Whether something waits that is waited for.
    fn is_awaited(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.awaited > 0
    }

    /// Writes the changes that have gathered and tells those who wait.
    fn write_group(&self, device: &Device) {
        let (changes, answers) = self.take();
        for (outcome, answer) in device.commit(changes).into_iter().zip(answers) {
            // Who asked may be gone.
            drop(answer.send(outcome));
        }
    }

    /// Waits a moment for changes that are waited for, or for so many that they are worth a group.
    async fn gather(&self) {
        let deadline = tokio::time::Instant::now() + GATHER_MAX;
        while !self.is_ripe() {
            let stirred = tokio::time::timeout_at(deadline, self.stirred.notified());
            if stirred.await.is_err() {
                return;
            }
        }
    }

    /// Whether there is no room for what nobody waits for.
    fn is_crowded(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.changes.len() >= CHANGES_MAX
    }

    fn is_ripe(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.awaited > 0 || waiting.changes.len() >= GROUP_MAX
    }

    /// The next group.
    fn take(&self) -> (Vec<Change>, Answers) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut group = (Vec::new(), Vec::new());
        let mut bytes = 0usize;
        while group.0.len() < GROUP_MAX && bytes < GROUP_BYTES_MAX {
            let Some((change, answer)) = waiting.changes.pop_front() else {
                break;
            };
            bytes = bytes.saturating_add(change.bytes());
            let is_awaited = !matches!(change, Change::Told(_));
            waiting.awaited = waiting.awaited.saturating_sub(usize::from(is_awaited));
            group.0.push(change);
            group.1.push(answer);
        }
        group
    }
}

/// Writes what waits, group by group, until nothing is left.
async fn commit_waiting(commits: Arc<Commits>, device: Weak<Device>, calls: Calls) {
    while !commits.rest() {
        // Nobody waits for pending rows to go: they go along with what comes next, and make no group of their own.
        commits.gather().await;
        // Meanwhile the node may have let go of the device.
        let Some(device) = device.upgrade() else {
            return;
        };
        if let Calls::InPlace(gate) = &calls {
            match gate.pass().await {
                Ok(()) => commits.write_group(&device),
                // Their answers fall with them, which those who wait are told.
                Err(Off) => drop(commits.take()),
            }
            continue;
        }
        let writing = Arc::clone(&commits);
        let written = tokio::task::spawn_blocking(move || {
            // One group after the other on one thread: no hop between them while changes keep coming.
            writing.write_group(&device);
            while writing.is_awaited() {
                // Where processors are few, those who were just answered come to run, and with what they ask next the group
                // is larger: a tenth more PUTs a second. Where there is nobody else this is nothing.
                std::thread::yield_now();
                writing.write_group(&device);
            }
        });
        // The answers of what was cut off fall, which those who wait are told.
        if let Err(error) = written.await {
            tracing::error!(%error, "changes of a device were cut off");
        }
    }
}

/// A call to a device that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiskError {
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The process is ending, or the call panicked.
    #[error("a call to the device was cut off")]
    CutOff,
}

impl DiskError {
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Device(error) if error.is_full())
    }

    /// Whether the device's machinery is what failed, not one object or the space.
    pub(crate) fn is_of_the_machine(&self) -> bool {
        matches!(self, Self::Device(error) if error.is_of_the_machine())
    }
}

impl Disk {
    /// Makes a call to the device, which blocks, where such calls run.
    pub(crate) async fn call<T, F>(&self, act: F) -> Result<T, DiskError>
    where
        T: Send + 'static,
        F: FnOnce(&Device) -> Result<T, DeviceError> + Send + 'static,
    {
        let slot = Arc::clone(&self.slots).acquire_owned().await;
        let slot = slot.ok().ok_or(DiskError::CutOff)?;
        let device = Arc::clone(&self.device);
        if let Calls::InPlace(gate) = &self.calls {
            gate.pass().await.ok().ok_or(DiskError::CutOff)?;
            return self.judged(act(&device));
        }
        let called = tokio::task::spawn_blocking(move || {
            let outcome = act(&device);
            drop(slot);
            outcome
        });
        self.judged(called.await.ok().ok_or(DiskError::CutOff)?)
    }

    /// Makes a small read where it is asked for, if the disk has been quick; `None` when it has not, or the read has to be
    /// made by who may block.
    pub(crate) fn in_place<T>(
        &self,
        read: impl FnOnce() -> Result<Option<T>, DeviceError>,
    ) -> Result<Option<T>, DiskError> {
        let is_threaded = matches!(self.calls, Calls::Threads);
        let leave = is_threaded.then(|| self.quick.in_place(self.is_alone));
        match leave.flatten() {
            Some(_leave) => self.judged(read()),
            None => Ok(None),
        }
    }

    /// How fast small reads are.
    pub(crate) fn quick(&self) -> Arc<Quick> {
        Arc::clone(&self.quick)
    }

    /// Counts failures of the device, and takes it out of service when they are too many.
    fn judged<T>(&self, outcome: Result<T, DeviceError>) -> Result<T, DiskError> {
        outcome.map_err(|error| {
            let error = DiskError::from(error);
            if self.progress.on_error(&error) {
                tracing::error!(device = %self.name, %error, "the device fails: it is out of service until it can be written again");
            }
            error
        })
    }

    /// Makes a change, written together with all others that wait for the device.
    pub(crate) async fn commit(&self, change: Change) -> Result<Committed, DiskError> {
        let place = self.commits.places.acquire().await;
        let _place = place.ok().ok_or(DiskError::CutOff)?;
        let (answer, answered) = oneshot::channel();
        if self.commits.push(change, answer) {
            // Whoever finds nobody at work begins; the request may go away, the work goes on.
            let commits = Arc::clone(&self.commits);
            let (device, calls) = (Arc::downgrade(&self.device), self.calls.clone());
            tokio::spawn(commit_waiting(commits, device, calls));
        }
        self.judged(answered.await.ok().ok_or(DiskError::CutOff)?)
    }

    /// Writes down that the device is alive, which proves that it can be written: then it is in service again.
    pub(crate) async fn mark_alive(&self, now: UtcTime) {
        match self.call(move |device| device.mark_alive(now)).await {
            Ok(()) if self.progress.on_proof() => {
                tracing::info!(device = %self.name, "the device can be written: it is in service again");
            }
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(device = %self.name, %error, "a device cannot be marked alive");
            }
        }
    }

    /// How fast it gives what peers lack.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// By scope, the slots that wait for peers that are away.
    pub(crate) fn blocked(&self) -> &Mutex<BTreeMap<Scope, Blocked>> {
        &self.blocked
    }

    /// What it has given to some primaries of partitions it stands in for.
    pub(crate) fn given(&self) -> &Mutex<GivenBefore> {
        &self.given
    }

    /// What has been done with it.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// A container was told: its pending row goes with one of the next changes. If it stays, the container is told again.
    pub(crate) fn forget_told(&self, told: PendingObject) {
        let (answer, _nobody) = oneshot::channel();
        if self.commits.is_crowded() {
            return;
        }
        if self.commits.push(Change::Told(Box::new(told)), answer) {
            let commits = Arc::clone(&self.commits);
            let (device, calls) = (Arc::downgrade(&self.device), self.calls.clone());
            tokio::spawn(commit_waiting(commits, device, calls));
        }
    }

    /// Whether reads of objects have to ask others.
    pub(crate) fn is_rejoining(&self) -> bool {
        self.is_rejoining.load(Ordering::Relaxed)
    }

    /// A pass of the replicator has compared all of it.
    pub(crate) fn on_compared(&self) {
        if self.is_rejoining.swap(false, Ordering::Relaxed) {
            tracing::info!(device = %self.name, "the device has been compared with its peers and is read from again");
        }
    }

    /// What needs no disk: digests are in memory.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}

/// Whether a device was away so long that others may have reclaimed tombstones it never saw.
fn was_away(device: &Device, options: &Options, now: UtcTime) -> bool {
    const DAY: Duration = Duration::from_secs(86_400);
    let age = DAY * u32::from(options.reclaim_age_days);
    match device.alive_at() {
        Ok(Some(alive)) => now.since(alive) >= age,
        // A device of a build before, or a new one: nobody reclaimed anything without it.
        Ok(None) => false,
        Err(error) => {
            tracing::warn!(%error, "when the device was alive last is not known");
            true
        }
    }
}

/// Opens a device; one that somebody else still has, such as the node's process before, a little later.
fn opened(options: &DeviceOptions, machine: &Machine) -> Result<Device, OpenError> {
    in_use::awaited(
        || (machine.open_device)(options, machine.entropy.as_ref()),
        OpenError::is_in_use,
    )
}

/// The devices that are there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disks {
    open: BTreeMap<DeviceName, Disk>,
    /// Those that could not be opened, and why.
    closed: BTreeMap<DeviceName, String>,
}

impl Disks {
    /// Opens the devices. One that cannot be opened is left out, with its reason: the node lives on.
    pub(crate) fn open(
        options: &Options,
        machine: &Machine,
    ) -> (Self, Vec<(DeviceName, OpenError)>) {
        let now = machine.clock.now();
        let mut disks = BTreeMap::new();
        let mut failed = Vec::new();
        for name in &options.devices {
            let directory = options.devices_dir.join(name.as_str());
            let device_options = DeviceOptions {
                directory,
                reserve: options.reserve,
            };
            match opened(&device_options, machine) {
                Ok(device) => {
                    let slots = Arc::new(Semaphore::new(CALLS_MAX));
                    let is_rejoining = was_away(&device, options, now);
                    if is_rejoining {
                        tracing::warn!(device = %name, "the device was away longer than reclaim_age: it is compared with its peers before it is read from");
                    }
                    let disk = Disk {
                        name: name.clone(),
                        device: Arc::new(device),
                        slots,
                        commits: Arc::new(Commits::default()),
                        calls: machine.calls.clone(),
                        is_rejoining: Arc::new(AtomicBool::new(is_rejoining)),
                        progress: Arc::new(Progress::default()),
                        pace: Arc::new(Pace::new(options.replication_bytes_per_second)),
                        quick: Arc::default(),
                        is_alone: options.is_alone && options.devices.len() == 1,
                        blocked: Arc::default(),
                        given: Arc::default(),
                    };
                    disks.insert(name.clone(), disk);
                }
                Err(error) => failed.push((name.clone(), error)),
            }
        }
        let closed = failed.iter();
        let closed = closed.map(|(name, error)| (name.clone(), error.to_string()));
        let disks = Self {
            open: disks,
            closed: closed.collect(),
        };
        (disks, failed)
    }

    /// A device that is in service.
    pub(crate) fn get(&self, name: &str) -> Option<&Disk> {
        self.open.get(name).filter(|disk| !disk.progress.is_out())
    }

    /// All that are open, also those that fail.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Disk> {
        self.open.values()
    }

    /// Those in service.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &Disk> {
        self.iter().filter(|disk| !disk.progress.is_out())
    }

    /// Those that could not be opened, and why.
    pub(crate) fn closed(&self) -> impl Iterator<Item = (&DeviceName, &str)> {
        self.closed
            .iter()
            .map(|(name, reason)| (name, reason.as_str()))
    }
}

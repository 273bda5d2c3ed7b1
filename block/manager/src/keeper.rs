//! The manager's threads: workers that carry plans out, and a keeper that brings back what had to wait.

use crate::manager::Inner;
use core::time::Duration;
use onggi_block_volume::VolumeId;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How long a plan waits for what is not there before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// After how many pauses the maps of exported volumes are looked at.
const VERIFY_PAUSES: u32 = 5;

/// Volumes whose plans are to be carried out. Each volume is in it once, so it is no longer than the catalogue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    ready: VecDeque<VolumeId>,
    running: usize,
    later: BTreeSet<VolumeId>,
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker carries the volume's plan out soon.
    pub(crate) fn push(&self, volume: VolumeId) {
        let mut state = self.lock();
        if !state.ready.contains(&volume) {
            state.ready.push_back(volume);
        }
        self.changed.notify_all();
    }

    /// The keeper pushes it again after a pause.
    pub(crate) fn push_later(&self, volume: VolumeId) {
        self.lock().later.insert(volume);
    }

    /// Waits until no plan is ready or running.
    pub(crate) fn wait_idle(&self) {
        let busy = |state: &mut QueueState| !state.ready.is_empty() || state.running > 0;
        drop(
            self.changed
                .wait_while(self.lock(), busy)
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn take(&self) -> Option<VolumeId> {
        let idle = |state: &mut QueueState| state.ready.is_empty() && !state.is_closed;
        let mut state = self
            .changed
            .wait_while(self.lock(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return None;
        }
        let volume = state.ready.pop_front()?;
        state.running += 1;
        Some(volume)
    }

    fn finished(&self) {
        let mut state = self.lock();
        state.running = state.running.saturating_sub(1);
        self.changed.notify_all();
    }

    fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits a pause, then makes ready what had to wait. False when the manager ends.
    fn pause(&self) -> bool {
        let open = |state: &mut QueueState| !state.is_closed;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(self.lock(), RETRY_PAUSE, open)
            .unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return false;
        }
        for volume in core::mem::take(&mut state.later) {
            if !state.ready.contains(&volume) {
                state.ready.push_back(volume);
            }
        }
        self.changed.notify_all();
        true
    }
}

/// Takes a worker off the count of those that run, however its plan ends.
struct Running<'a>(&'a Queue);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.finished();
    }
}

/// The threads; dropping this ends them.
pub(crate) struct Threads {
    inner: Arc<Inner>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn start(inner: &Arc<Inner>, workers: usize) -> std::io::Result<Self> {
        let mut threads = Self {
            inner: Arc::clone(inner),
            handles: Vec::new(),
        };
        for worker in 0..workers {
            let inner = Arc::clone(inner);
            threads.spawn(format!("volume-plan-{worker}"), move || work(&inner))?;
        }
        let keeper = Arc::clone(inner);
        threads.spawn("volume-keeper".to_owned(), move || keep(&keeper))?;
        Ok(threads)
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        self.handles
            .push(std::thread::Builder::new().name(name).spawn(run)?);
        Ok(())
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.inner.queue.close();
        for handle in self.handles.drain(..) {
            // A thread that panicked has said so on its way.
            drop(handle.join());
        }
    }
}

fn work(inner: &Inner) {
    while let Some(volume) = inner.queue.take() {
        let running = Running(&inner.queue);
        inner.run_plan(volume);
        drop(running);
    }
}

fn keep(inner: &Inner) {
    let mut is_target_told = inner.tell_target();
    inner.report_differences();
    let mut pauses = 0;
    while inner.queue.pause() {
        if !is_target_told {
            is_target_told = inner.tell_target();
        }
        pauses = (pauses + 1) % VERIFY_PAUSES;
        if pauses == 0 {
            inner.verify_served();
        }
    }
}

//! Time, chance, and the trace of what happened.

use crate::random::Random;
use core::fmt;
use core::sync::atomic::{AtomicI64, Ordering};
use core::time::Duration;
use onggi_common_host::{Clock, Entropy};
use onggi_common_units::UtcTime;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The moment a world begins: the eleventh day of 1970, before which nothing can have happened.
const BEGINNING: UtcTime = UtcTime::from_seconds(10 * 86_400);
/// Lines of the trace that are kept to be looked at.
const LINES_MAX: usize = 8_000;

/// What all parts of a simulation share.
#[derive(Debug)]
pub struct World {
    seed: u64,
    start: Instant,
    random: Mutex<Random>,
    trace: Mutex<Trace>,
}

#[derive(Debug)]
struct Trace {
    hash: u64,
    lines: VecDeque<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Trace {
    /// FNV-1a.
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Runs a simulation to its end: on this thread, in virtual time, every choice from the seed.
///
/// # Panics
/// When the runtime cannot be made.
pub fn run<F: Future>(seed: u64, simulation: impl FnOnce(Arc<World>) -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the machine");
    runtime.block_on(async { simulation(Arc::new(World::new(seed))).await })
}

impl World {
    fn new(seed: u64) -> Self {
        let lines = VecDeque::new();
        let hash = 0xcbf2_9ce4_8422_2325;
        Self {
            seed,
            start: Instant::now(),
            random: Mutex::new(Random::new(seed)),
            trace: Mutex::new(Trace { hash, lines }),
        }
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// Time since the beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Makes a choice.
    pub fn choose<T>(&self, choice: impl FnOnce(&mut Random) -> T) -> T {
        choice(&mut lock(&self.random))
    }

    /// A sequence of its own, whose use disturbs no other.
    pub fn fork(&self) -> Random {
        Random::new(self.choose(Random::next))
    }

    /// Adds what happened to the trace.
    pub fn note(&self, line: impl fmt::Display) {
        let line = format!("{:12.6} {line}", self.elapsed().as_secs_f64());
        let mut trace = lock(&self.trace);
        trace.mix(line.as_bytes());
        if trace.lines.len() >= LINES_MAX {
            trace.lines.pop_front();
        }
        trace.lines.push_back(line);
    }

    /// Adds numbers to the trace that nobody wants to read.
    pub fn count(&self, numbers: &[u64]) {
        let mut trace = lock(&self.trace);
        for number in numbers {
            trace.mix(&number.to_le_bytes());
        }
    }

    /// The hash of everything that happened: the same for the same seed.
    #[must_use]
    pub fn trace(&self) -> u64 {
        lock(&self.trace).hash
    }

    /// The last lines of the trace.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        lock(&self.trace).lines.iter().cloned().collect()
    }
}

/// A clock in virtual time, which may be wrong.
#[derive(Debug)]
pub struct SimClock {
    world: Arc<World>,
    skew_micros: AtomicI64,
}

impl SimClock {
    /// A clock that is right.
    #[must_use]
    pub const fn new(world: Arc<World>) -> Self {
        Self {
            world,
            skew_micros: AtomicI64::new(0),
        }
    }

    /// Sets how far it is ahead, in microseconds; behind when negative.
    pub fn set_skew_micros(&self, micros: i64) {
        self.skew_micros.store(micros, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> UtcTime {
        let right = BEGINNING.saturating_add(self.world.elapsed());
        let skew = self.skew_micros.load(Ordering::Relaxed);
        UtcTime::from_micros(right.micros().saturating_add_signed(skew))
    }

    fn monotonic(&self) -> Duration {
        self.world.elapsed()
    }
}

/// Random bytes that the seed decides.
#[derive(Debug)]
pub struct SimEntropy(Mutex<Random>);

impl SimEntropy {
    /// A sequence of its own.
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self(Mutex::new(world.fork()))
    }
}

impl Entropy for SimEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut random = lock(&self.0);
        for chunk in buffer.chunks_mut(8) {
            let bytes = random.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_costs_none_and_clocks_may_be_wrong() {
        run(1, async |world| {
            let clock = SimClock::new(Arc::clone(&world));
            let before = clock.now();
            tokio::time::sleep(Duration::from_secs(9 * 86_400)).await;
            assert_eq!(clock.now().since(before), Duration::from_secs(9 * 86_400));
            clock.set_skew_micros(-10 * 86_400_000_000);
            assert!(clock.now() < before);
        });
    }

    #[test]
    fn a_trace_is_of_what_happened() {
        let trace = |seed, line: &'static str| {
            run(seed, async move |world| {
                world.note(line);
                world.count(&[world.choose(Random::next)]);
                world.trace()
            })
        };
        assert_eq!(trace(1, "a"), trace(1, "a"));
        assert_ne!(trace(1, "a"), trace(2, "a"));
        assert_ne!(trace(1, "a"), trace(1, "b"));
    }
}

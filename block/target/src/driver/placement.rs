//! On which processor a data thread runs: for a connection that is served one small command at a time, on the one
//! where its packets arrive.
//!
//! With one command in flight, initiator and target wait for each other in turn. A thread on another processor than the
//! one that takes the packets is then woken through an interrupt to a processor that sleeps, which in a virtual machine
//! takes longer than the command itself. So a thread that has seen only such wake-ups for a while goes to where the
//! packets are (the initiator's own processor if it is on this host, the network card's otherwise), and leaves as soon
//! as there is more to do at a time, or it has to wait for that processor.

use rustix::fs::{Mode, OFlags};
use rustix::thread::CpuSet;
use std::os::fd::{AsFd, OwnedFd};

/// After so many quiet wake-ups in a row the thread follows the packets, the first time.
const STREAK_FIRST: u32 = 32;
/// Each time it had to leave again it waits twice as long, up to this.
const STREAK_LAST: u32 = 1 << 16;
/// So many busy wake-ups among those of a round, and it leaves.
const BUSY_MAX: u32 = 4;
/// Wake-ups of a round: after each it is judged whether it was right to follow.
const ROUND: u32 = 128;
/// After so many wake-ups it is looked where the packets arrive now. A scheduler likes to move an initiator on this host
/// to the processor that is idle, away from the thread that wakes it.
const LOOK_EVERY: u32 = 4;
/// A round without reason to leave counts as a success: after so many the thread may follow quickly again.
const GOOD_ROUNDS: u32 = 64;
/// Waiting for the processor longer than this per wake-up is a reason to leave.
const DELAY_MAX_NS: u64 = 40_000;

/// Where a thread may run, and why.
pub(super) struct Placement {
    /// Where it may run by itself.
    everywhere: Option<CpuSet>,
    /// `/proc/thread-self/schedstat`: how long the thread has waited for a processor.
    waited: Option<OwnedFd>,
    /// The connection of the last quiet wake-ups, and how many there were in a row.
    last: u64,
    streak: u32,
    streak_wanted: u32,
    followed: Option<Followed>,
}

#[derive(Debug, Clone, Copy)]
struct Followed {
    cpu: u32,
    wakes: u32,
    busy: u32,
    good_rounds: u32,
    waited_ns: Option<u64>,
}

/// What a wake-up of the thread was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WakeUp {
    /// One connection brought one small command, and it is answered.
    Quiet(u64),
    /// There was more to do.
    Busy,
}

impl Placement {
    /// Of the thread that calls.
    pub(super) fn new() -> Self {
        let path = "/proc/thread-self/schedstat";
        Self {
            everywhere: rustix::thread::sched_getaffinity(None)
                .ok()
                .filter(|cpus| cpus.count() > 1),
            waited: rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok(),
            last: 0,
            streak: 0,
            streak_wanted: STREAK_FIRST,
            followed: None,
        }
    }

    /// Takes note of a wake-up; `socket` is that of the connection it was about.
    pub(super) fn woke(&mut self, wake_up: WakeUp, socket: Option<impl AsFd>) {
        match (wake_up, self.followed) {
            (WakeUp::Quiet(id), None) => {
                self.streak = if id == self.last { self.streak + 1 } else { 1 };
                self.last = id;
                if self.streak >= self.streak_wanted
                    && let Some(socket) = socket
                {
                    self.streak = 0;
                    self.follow(socket);
                }
            }
            (WakeUp::Busy, None) => self.streak = 0,
            (_, Some(followed)) => {
                let is_busy = wake_up != WakeUp::Quiet(self.last);
                self.count(followed, is_busy, socket);
            }
        }
    }

    fn count(&mut self, mut followed: Followed, is_busy: bool, socket: Option<impl AsFd>) {
        followed.wakes += 1;
        followed.busy += u32::from(is_busy);
        if followed.busy >= BUSY_MAX {
            self.leave();
            return;
        }
        if followed.wakes < ROUND {
            self.followed = Some(followed);
            if followed.wakes.is_multiple_of(LOOK_EVERY)
                && let Some(socket) = socket
            {
                self.follow(socket);
            }
            return;
        }
        let waited_ns = self.waited_ns();
        let is_delayed = waited_ns
            .zip(followed.waited_ns)
            .is_some_and(|(now, before)| {
                now.saturating_sub(before) > DELAY_MAX_NS * u64::from(ROUND)
            });
        if is_delayed {
            self.leave();
            return;
        }
        let good_rounds = followed.good_rounds + 1;
        if good_rounds >= GOOD_ROUNDS {
            self.streak_wanted = STREAK_FIRST;
        }
        self.followed = Some(Followed {
            wakes: 0,
            busy: 0,
            good_rounds,
            waited_ns,
            ..followed
        });
        if let Some(socket) = socket {
            self.follow(socket);
        }
    }

    fn follow(&mut self, socket: impl AsFd) {
        let Some(everywhere) = &self.everywhere else {
            return;
        };
        let Ok(cpu) = rustix::net::sockopt::socket_incoming_cpu(socket) else {
            return;
        };
        if self.followed.is_some_and(|followed| followed.cpu == cpu) {
            return;
        }
        let Some(index) = usize::try_from(cpu)
            .ok()
            .filter(|index| *index < CpuSet::MAX_CPU && everywhere.is_set(*index))
        else {
            return;
        };
        let mut one = CpuSet::new();
        one.set(index);
        if rustix::thread::sched_setaffinity(None, &one).is_ok() {
            let before = self.followed.unwrap_or_else(|| Followed {
                cpu,
                wakes: 0,
                busy: 0,
                good_rounds: 0,
                waited_ns: self.waited_ns(),
            });
            self.followed = Some(Followed { cpu, ..before });
        }
    }

    fn leave(&mut self) {
        self.followed = None;
        self.streak = 0;
        self.streak_wanted = self.streak_wanted.saturating_mul(2).min(STREAK_LAST);
        if let Some(everywhere) = &self.everywhere
            && let Err(errno) = rustix::thread::sched_setaffinity(None, everywhere)
        {
            tracing::warn!(%errno, "a data thread must stay on its processor");
        }
    }

    // The second number of `running waiting slices`, in nanoseconds.
    fn waited_ns(&self) -> Option<u64> {
        let mut bytes = [0; 96];
        let count = rustix::io::pread(self.waited.as_ref()?, &mut bytes, 0).ok()?;
        let text = std::str::from_utf8(bytes.get(..count)?).ok()?;
        text.split_whitespace().nth(1)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn cpus() -> u32 {
        rustix::thread::sched_getaffinity(None).unwrap().count()
    }

    #[test]
    fn a_thread_follows_a_quiet_connection_and_leaves_when_there_is_more_to_do() {
        let before = cpus();
        if before < 2 {
            println!("skipped, because there is only one processor");
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut placement = Placement::new();
        for _ in 0..STREAK_FIRST {
            assert_eq!(cpus(), before);
            placement.woke(WakeUp::Quiet(1), Some(&client));
        }
        assert_eq!(cpus(), 1);
        for _ in 0..BUSY_MAX {
            assert_eq!(cpus(), 1);
            placement.woke(WakeUp::Busy, Some(&client));
        }
        assert_eq!(cpus(), before);
        // The next time it is slower to believe that nothing else comes.
        for _ in 0..STREAK_FIRST * 2 {
            assert_eq!(cpus(), before);
            placement.woke(WakeUp::Quiet(1), Some(&client));
        }
        assert_eq!(cpus(), 1);
        placement.leave();
    }

    #[test]
    fn two_connections_in_turn_are_not_followed() {
        let before = cpus();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut placement = Placement::new();
        for turn in 0..u64::from(STREAK_FIRST) * 4 {
            placement.woke(WakeUp::Quiet(turn % 2), Some(&client));
        }
        assert_eq!(cpus(), before);
    }
}

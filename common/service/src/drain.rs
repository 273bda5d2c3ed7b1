//! An orderly end: listeners close, requests under way finish, then the process goes.

use core::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// How long requests under way may take to finish once an end was asked for.
pub const GRACE: Duration = Duration::from_secs(25);

/// The wish to end, shared by everything in a process that serves.
///
/// Clones watch the same wish. `finished` resolves when no clone that called `hold` is left.
#[derive(Debug, Clone)]
pub struct Drain {
    wish: watch::Sender<bool>,
    held: watch::Sender<usize>,
}

/// Keeps the process from ending while work is under way.
#[derive(Debug)]
pub struct Hold {
    held: watch::Sender<usize>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.send_modify(|count| *count -= 1);
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// Nobody wishes to end yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            wish: watch::Sender::new(false),
            held: watch::Sender::new(0),
        }
    }

    /// Asks everything to end.
    pub fn begin(&self) {
        self.wish.send_replace(true);
    }

    /// Whether an end was asked for.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        *self.wish.borrow()
    }

    /// Resolves once an end is asked for.
    pub async fn requested(&self) {
        let mut wish = self.wish.subscribe();
        // The sender lives as long as `self`, so waiting fails never.
        drop(wish.wait_for(|requested| *requested).await);
    }

    /// Work that must finish before the process ends.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.held.send_modify(|count| *count += 1);
        Hold {
            held: self.held.clone(),
        }
    }

    /// Resolves when nothing is held any more, or after `grace`. True when everything finished.
    pub async fn finished(&self, grace: Duration) -> bool {
        let mut held = self.held.subscribe();
        tokio::time::timeout(grace, held.wait_for(|count| *count == 0))
            .await
            .is_ok()
    }

    /// Begins the drain at SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let drain = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            drain.begin();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_what_is_held() {
        let drain = Drain::new();
        let hold = drain.hold();
        assert!(!drain.finished(Duration::from_millis(5)).await);
        drain.begin();
        drain.requested().await;
        drop(hold);
        assert!(drain.finished(Duration::from_secs(5)).await);
    }
}

//! Reads in place: a disk whose small reads come from the page cache needs no thread that may block.
//!
//! A hop to a blocking thread and back costs more than such a read. Whether a disk is quick is measured, read by read: after
//! a row of quick ones the next is made where it is asked for, until one is slow. A disk that hangs may hold up whoever
//! reads in place, so never all threads of the runtime do, but where the node has nothing else to serve.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use core::time::Duration;
use std::time::Instant;

/// What a read from the page cache takes at most. Disks take longer, the fastest as well.
const QUICK_MAX: Duration = Duration::from_micros(60);
/// So many quick reads in a row make a disk a quick one.
const ROW: u32 = 32;
/// A read in place that takes so long says that the disk is not quick any more. A thread may be taken off its processor in
/// the middle of one.
const SLOW: Duration = Duration::from_millis(2);

/// How many reads this process is making in place.
static IN_PLACE: AtomicUsize = AtomicUsize::new(0);

/// How quick one disk has been.
#[derive(Debug, Default)]
pub(crate) struct Quick {
    row: AtomicU32,
}

/// A read that may be made in place, while this is held.
#[derive(Debug)]
pub(crate) struct InPlace<'a> {
    quick: &'a Quick,
    begun: Instant,
}

impl Quick {
    /// Whether the next read may be made in place. `is_alone` says that the node serves nothing but this disk.
    pub(crate) fn in_place(&self, is_alone: bool) -> Option<InPlace<'_>> {
        if self.row.load(Ordering::Relaxed) < ROW {
            return None;
        }
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let others = runtime.metrics().num_workers().saturating_sub(1);
        let most = others.max(usize::from(is_alone));
        if IN_PLACE.fetch_add(1, Ordering::Relaxed) >= most {
            IN_PLACE.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(InPlace {
            quick: self,
            begun: Instant::now(),
        })
    }

    /// Makes a small read on a thread of its own, and notes how long that took.
    pub(crate) fn timed<T, E>(
        &self,
        read: impl FnOnce() -> Result<Option<T>, E>,
    ) -> Result<Option<T>, E> {
        let begun = Instant::now();
        let outcome = read();
        if let Ok(Some(_)) = outcome {
            self.note(begun.elapsed());
        }
        outcome
    }

    fn note(&self, took: Duration) {
        if took > QUICK_MAX {
            self.row.store(0, Ordering::Relaxed);
        } else if self.row.load(Ordering::Relaxed) < ROW {
            self.row.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        IN_PLACE.fetch_sub(1, Ordering::Relaxed);
        if self.begun.elapsed() > SLOW {
            self.quick.row.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_row_of_quick_reads_makes_a_disk_quick_and_a_slow_one_ends_it() {
        let quick = Quick::default();
        for _ in 1..ROW {
            quick.note(Duration::from_micros(5));
        }
        assert!(quick.in_place(true).is_none());
        quick.note(Duration::from_micros(5));
        let first = quick.in_place(true).expect("quick");
        assert!(
            quick.in_place(true).is_none(),
            "one thread makes one read at a time"
        );
        drop(first);
        assert!(
            quick.in_place(false).is_none(),
            "the only thread would be held up for other disks"
        );
        quick.note(QUICK_MAX + Duration::from_nanos(1));
        assert!(quick.in_place(true).is_none());
    }
}

//! Reads in place: a disk whose small reads come from the page cache needs no thread that may block.
//!
//! A hop to a blocking thread and back costs more than such a read. Whether a disk is quick is measured, read by read: while
//! nearly all are quick the next is made where it is asked for. A disk that hangs holds up whoever reads in place: that is one
//! thread of the runtime at most, and none where it is the only one and there are other disks to serve.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;
use std::time::Instant;

/// What a read from the page cache takes at most. Disks take longer, the fastest as well.
const QUICK_MAX: Duration = Duration::from_micros(60);
/// A disk with so much credit is a quick one. Each quick read gives it one.
const CREDIT: u32 = 32;
const CREDIT_MAX: u32 = 2 * CREDIT;
/// What a read that was not quick takes away. A thread may be taken off its processor in the middle of a quick one, so it is
/// not all of it.
const SLOW_COSTS: u32 = CREDIT / 2;

/// How quick one disk has been.
#[derive(Debug, Default)]
pub(crate) struct Quick {
    credit: AtomicU32,
    /// Whether somebody is reading in place.
    is_taken: AtomicBool,
}

/// A read that may be made in place, while this is held.
#[derive(Debug)]
pub(crate) struct InPlace<'a> {
    quick: &'a Quick,
    begun: Instant,
}

impl Quick {
    /// Whether the next read may be made in place. `is_alone` says that the process serves nothing but
    /// this disk.
    pub(crate) fn in_place(&self, is_alone: bool) -> Option<InPlace<'_>> {
        if self.credit.load(Ordering::Relaxed) < CREDIT {
            return None;
        }
        let is_only_thread = || {
            tokio::runtime::Handle::try_current().is_ok_and(|here| here.metrics().num_workers() < 2)
        };
        if (!is_alone && is_only_thread()) || self.is_taken.swap(true, Ordering::Relaxed) {
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

    /// Who notes at the same time as others may lose his word: it is an estimate.
    fn note(&self, took: Duration) {
        let credit = self.credit.load(Ordering::Relaxed);
        let credit = if took > QUICK_MAX {
            credit.saturating_sub(SLOW_COSTS)
        } else {
            CREDIT_MAX.min(credit + 1)
        };
        self.credit.store(credit, Ordering::Relaxed);
    }
}

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        self.quick.is_taken.store(false, Ordering::Relaxed);
        self.quick.note(self.begun.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_micros(5);

    #[tokio::test]
    async fn quick_reads_make_a_disk_quick_and_slow_ones_end_it() {
        let quick = Quick::default();
        for _ in 1..CREDIT {
            quick.note(QUICK);
        }
        assert!(quick.in_place(true).is_none());
        quick.note(QUICK);
        let first = quick.in_place(true).expect("quick");
        assert!(quick.in_place(true).is_none(), "one at a time");
        drop(first);
        assert!(
            quick.in_place(false).is_none(),
            "the only thread would be held up for other disks"
        );
        for _ in 0..CREDIT_MAX {
            quick.note(QUICK);
        }
        let slow = QUICK_MAX + Duration::from_nanos(1);
        quick.note(slow);
        assert!(quick.in_place(true).is_some(), "one is an accident");
        quick.note(slow);
        quick.note(slow);
        assert!(quick.in_place(true).is_none());
    }

    #[tokio::test]
    async fn a_disk_that_is_slow_now_and_then_is_not_quick() {
        let quick = Quick::default();
        for read in 0..10_000 {
            let slow = if read % 10 == 0 { QUICK_MAX * 2 } else { QUICK };
            quick.note(slow);
            assert!(quick.in_place(true).is_none());
        }
    }
}

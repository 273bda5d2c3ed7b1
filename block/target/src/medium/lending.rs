//! Cached bytes that go to a socket from where they are, without a copy in between.
//!
//! What the initiator gets is then what the file holds when it takes them, not when the command was carried out. SCSI
//! allows that but for atomic writes, of which no reader may see a part. So a unit lends nothing any more once it has
//! seen an atomic write, and the first one is told to come again (BUSY) while an initiator may still be taking bytes:
//! until its next command or ping says that the status after them has arrived.

use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A file that may be lent from, and whether it is still ours.
#[derive(Debug)]
pub(crate) struct LentFile {
    pub(super) file: OwnedFd,
    pub(super) is_fenced: AtomicBool,
}

/// A range of a file, to be sent from there.
#[derive(Debug)]
pub(crate) struct Loan {
    file: Arc<LentFile>,
    start: u64,
    _lending: Lending,
}

impl Loan {
    pub(super) const fn new(file: Arc<LentFile>, start: u64, lending: Lending) -> Self {
        Self {
            file,
            start,
            _lending: lending,
        }
    }

    /// Sends so many bytes from this offset on; the number that the socket took. With an error other than a full
    /// socket the connection has to end: the header with the promise is sent already.
    pub(crate) fn send(
        &self,
        socket: impl AsFd,
        offset: u64,
        length: usize,
    ) -> Result<usize, Errno> {
        if self.file.is_fenced.load(Ordering::Acquire) {
            return Err(Errno::STALE);
        }
        let mut at = self.start.saturating_add(offset);
        match rustix::fs::sendfile(socket, &self.file.file, Some(&mut at), length) {
            // The file has become shorter.
            Ok(0) => Err(Errno::IO),
            Err(Errno::IO) => {
                tracing::warn!(
                    "bytes promised to an initiator cannot be read any more: its connection ends"
                );
                Err(Errno::IO)
            }
            sent => sent,
        }
    }
}

/// Whether the bytes of a unit may be lent, and how many loans there are.
#[derive(Debug, Default)]
pub(crate) struct Lender {
    loans: AtomicUsize,
    has_stopped: AtomicBool,
}

/// One loan, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lending(Arc<Lender>);

impl Lender {
    /// A loan, unless there are to be no more.
    pub(crate) fn lend(self: &Arc<Self>) -> Option<Lending> {
        if self.has_stopped.load(Ordering::Relaxed) {
            return None;
        }
        // Counted first and asked then: whoever stops sees the count, or is seen.
        self.loans.fetch_add(1, Ordering::SeqCst);
        let lending = Lending(Arc::clone(self));
        (!self.has_stopped.load(Ordering::SeqCst)).then_some(lending)
    }

    /// Lends nothing from now on. True if nothing is lent any more either.
    pub(crate) fn stop(&self) -> bool {
        self.has_stopped.store(true, Ordering::SeqCst);
        self.loans.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Lending {
    fn drop(&mut self) {
        self.0.loans.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_waits_for_loans_and_gets_no_new_ones() {
        let lender = Arc::new(Lender::default());
        let loan = lender.lend().unwrap();
        assert!(!lender.stop());
        assert!(lender.lend().is_none());
        drop(loan);
        assert!(lender.stop());
    }

    #[test]
    fn what_is_fenced_or_gone_is_not_sent() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let shared = Arc::new(LentFile {
            file: file.into(),
            is_fenced: AtomicBool::new(false),
        });
        let lender = Arc::new(Lender::default());
        let loan = Loan::new(Arc::clone(&shared), 4096, lender.lend().unwrap());
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(loan.send(&socket, 1024, 4096), Ok(3072));
        assert_eq!(loan.send(&socket, 4096, 1), Err(Errno::IO));
        shared.is_fenced.store(true, Ordering::Release);
        assert_eq!(loan.send(&socket, 0, 1), Err(Errno::STALE));
    }
}

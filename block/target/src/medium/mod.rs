//! Media: where the bytes of a logical unit are read and written.
//!
//! - **B1** after [`Medium::flush`] returned, every write that had returned before it began survives power loss.
//! - A flush that failed once poisons the medium: the kernel may have dropped the pages it could not write, so that a
//!   later flush would succeed without them. Nothing is promised any more until the medium is opened again.

mod buffers;
mod execute;
mod file;
mod lending;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use buffers::Buffers;
pub(crate) use execute::{
    Exclusion, Finished, Job, ShareIndex, Ticket, aborted, carry_out, failed, invert, lend, steps,
    try_inline,
};
pub(crate) use file::FileMedium;
pub(crate) use lending::{Lender, Lending, Loan};

use onggi_block_scsi::SpaceUsage;
use onggi_common_units::ByteCount;
use std::io;

/// Why a medium could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MediumError {
    /// It could not be opened, or is not what its spec says.
    #[error("opening the medium {path}: {source}")]
    Open {
        /// The file or device.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The medium is shorter than its extents reach.
    #[error("the medium {path} has {size}, its extents reach to {needed}")]
    TooShort {
        /// The file or device.
        path: String,
        /// How long it is.
        size: ByteCount,
        /// How long it must be.
        needed: ByteCount,
    },
    /// Reading failed.
    #[error("reading {length} bytes at {offset}: {source}")]
    Read {
        /// Where in the volume.
        offset: u64,
        /// How much.
        length: u64,
        /// Why.
        source: io::Error,
    },
    /// Writing, zeroing or flushing failed.
    #[error("writing {length} bytes at {offset}: {source}")]
    Write {
        /// Where in the volume.
        offset: u64,
        /// How much.
        length: u64,
        /// Why.
        source: io::Error,
    },
    /// A flush failed earlier.
    #[error("the medium lost writes when a flush failed: it must be opened again")]
    Poisoned,
    /// The bytes may belong to somebody else by now.
    #[error("the medium is fenced")]
    Fenced,
}

/// A run of bytes that all hold data, or all do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) length: u64,
    pub(crate) is_data: bool,
}

/// Bytes that can be read and written. Ranges were checked against the capacity before.
pub(crate) trait Medium: Send + Sync + std::fmt::Debug {
    /// Whether space can be given back.
    fn frees_space(&self) -> bool;

    /// Fills the buffer if that can be done without waiting for the disk.
    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, MediumError>;

    /// The range as a loan, if it is in the cache in one piece.
    fn lend(&self, _offset: u64, _length: u64, _lending: Lending) -> Option<Loan> {
        None
    }

    /// Reads so many bytes.
    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, MediumError>;

    /// Writes these bytes; they are durable after the next flush.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MediumError>;

    /// Makes all finished writes durable.
    fn flush(&self) -> Result<(), MediumError>;

    /// Makes the range read as zeros, giving its space back if `frees` and possible.
    fn zero(&self, offset: u64, length: u64, frees: bool) -> Result<(), MediumError>;

    /// Which parts of the range hold data, in order; it may stop early after `count_max` runs.
    fn mapped(
        &self,
        offset: u64,
        length: u64,
        count_max: usize,
    ) -> Result<Vec<Mapped>, MediumError>;

    /// How much space it uses, and how much more there is.
    fn usage(&self) -> Result<SpaceUsage, MediumError>;

    /// Brings the range into the cache if that is cheap.
    fn prefetch(&self, offset: u64, length: u64);

    /// Refuses all I/O from now on.
    fn fence(&self);
}

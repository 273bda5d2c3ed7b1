//! Media for tests: memory that loses what was not flushed, and one that fails when told.

use super::{Mapped, Medium, MediumError};
use onggi_block_scsi::SpaceUsage;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes in memory, in two states: as read, and as they would be after power loss.
#[derive(Debug)]
pub(crate) struct MemoryMedium {
    bytes: Mutex<(Vec<u8>, Vec<u8>)>,
    pub(crate) answers_cached: AtomicBool,
    /// A flush says that it is done and does nothing.
    pub(crate) skips_flush: AtomicBool,
}

impl MemoryMedium {
    pub(crate) fn new(size: usize) -> Self {
        Self {
            bytes: Mutex::new((vec![0; size], vec![0; size])),
            answers_cached: AtomicBool::new(true),
            skips_flush: AtomicBool::new(false),
        }
    }

    /// Power loss: everything that was not flushed is gone.
    pub(crate) fn cut_power(&self) {
        let mut bytes = self.bytes.lock().unwrap();
        bytes.0 = bytes.1.clone();
    }

    /// What power loss would leave now: of what was not flushed those blocks for which `keeps` is true.
    pub(crate) fn after_power_loss(&self, mut keeps: impl FnMut() -> bool) -> Vec<u8> {
        let bytes = self.bytes.lock().unwrap();
        let mut left = bytes.1.clone();
        for (stable, written) in left.chunks_mut(512).zip(bytes.0.chunks(512)) {
            if *stable != *written && keeps() {
                stable.copy_from_slice(written);
            }
        }
        left
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl Medium for MemoryMedium {
    fn frees_space(&self) -> bool {
        true
    }

    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Result<bool, MediumError> {
        if !self.answers_cached.load(Ordering::Relaxed) {
            return Ok(false);
        }
        buffer.copy_from_slice(&self.read(offset, buffer.len())?);
        Ok(true)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, MediumError> {
        Ok(self.bytes.lock().unwrap().0[at(offset)..][..length].to_vec())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MediumError> {
        self.bytes.lock().unwrap().0[at(offset)..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> Result<(), MediumError> {
        if self.skips_flush.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut bytes = self.bytes.lock().unwrap();
        bytes.1 = bytes.0.clone();
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64, _frees: bool) -> Result<(), MediumError> {
        self.write(offset, &vec![0; at(length)])
    }

    fn mapped(
        &self,
        offset: u64,
        length: u64,
        count_max: usize,
    ) -> Result<Vec<Mapped>, MediumError> {
        let bytes = self.read(offset, at(length))?;
        let mut runs: Vec<Mapped> = Vec::new();
        for chunk in bytes.chunks(256) {
            let (is_data, length) = (
                chunk.iter().any(|byte| *byte != 0),
                u64::try_from(chunk.len()).unwrap(),
            );
            match runs.last_mut() {
                Some(last) if last.is_data == is_data => last.length += length,
                _ => runs.push(Mapped { length, is_data }),
            }
        }
        runs.truncate(count_max);
        Ok(runs)
    }

    fn usage(&self) -> Result<SpaceUsage, MediumError> {
        Ok(SpaceUsage {
            used_bytes: 1 << 20,
            available_bytes: 2 << 20,
        })
    }

    fn prefetch(&self, _offset: u64, _length: u64) {}

    fn fence(&self) {}
}

/// A medium whose writes and flushes fail with this error kind.
#[derive(Debug)]
pub(crate) struct FaultyMedium(pub(crate) io::ErrorKind);

impl Medium for FaultyMedium {
    fn frees_space(&self) -> bool {
        true
    }

    fn try_read(&self, _offset: u64, _buffer: &mut [u8]) -> Result<bool, MediumError> {
        Ok(false)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, MediumError> {
        Err(MediumError::Read {
            offset,
            length: u64::try_from(length).unwrap(),
            source: self.0.into(),
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), MediumError> {
        let length = u64::try_from(bytes.len()).unwrap();
        Err(MediumError::Write {
            offset,
            length,
            source: self.0.into(),
        })
    }

    fn flush(&self) -> Result<(), MediumError> {
        Err(MediumError::Poisoned)
    }

    fn zero(&self, offset: u64, length: u64, _frees: bool) -> Result<(), MediumError> {
        Err(MediumError::Write {
            offset,
            length,
            source: self.0.into(),
        })
    }

    fn mapped(
        &self,
        offset: u64,
        length: u64,
        _count_max: usize,
    ) -> Result<Vec<Mapped>, MediumError> {
        Err(MediumError::Read {
            offset,
            length,
            source: self.0.into(),
        })
    }

    fn usage(&self) -> Result<SpaceUsage, MediumError> {
        Err(MediumError::Poisoned)
    }

    fn prefetch(&self, _offset: u64, _length: u64) {}

    fn fence(&self) {}
}

//! Buffers that reads go to, used again and again.
//!
//! A fresh buffer costs zeroing, and a large one also page faults: more than the copying from the page cache. So each
//! data thread keeps some. A buffer comes home when the last PDU with a part of it was sent, mostly on the same thread,
//! so the lock around the spare ones is practically never waited for; no other data thread takes it.

use bytes::Bytes;
use std::sync::{Arc, Mutex, PoisonError};

/// The smallest and the largest that is kept; between them every power of two.
const KEPT_BYTES_MIN: usize = 4 << 10;
const KEPT_BYTES_MAX: usize = 1 << 20;
const SIZES: usize = (KEPT_BYTES_MAX / KEPT_BYTES_MIN).ilog2() as usize + 1;
/// Of each size so many bytes are kept.
const SPARE_BYTES_MAX: usize = 2 << 20;

/// A thread's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: Mutex<[Vec<Vec<u8>>; SIZES]>,
}

/// A buffer on loan.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    home: Arc<Buffers>,
}

// The smallest kept size that holds this length.
fn size_index(length: usize) -> Option<usize> {
    let whole = length.checked_next_power_of_two()?.max(KEPT_BYTES_MIN);
    let index = usize::try_from((whole / KEPT_BYTES_MIN).ilog2()).ok()?;
    (index < SIZES).then_some(index)
}

impl Buffers {
    fn spare<T>(&self, act: impl FnOnce(&mut [Vec<Vec<u8>>; SIZES]) -> T) -> T {
        act(&mut self.spare.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A buffer of this length; what it holds is of no meaning.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let index = size_index(length);
        let bytes = index
            .and_then(|index| self.spare(|spare| spare[index].pop()))
            .unwrap_or_else(|| vec![0; index.map_or(length, |index| KEPT_BYTES_MIN << index)]);
        Buffer {
            bytes,
            length,
            home: Arc::clone(self),
        }
    }

    /// Gives the memory of the spare ones back.
    pub(crate) fn shrink(&self) {
        self.spare(|spare| *spare = Default::default());
    }
}

impl Buffer {
    /// To be filled.
    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// Its bytes, shared; it goes home when nobody holds them any more.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let Some(index) = size_index(bytes.len()).filter(|_| bytes.len() >= KEPT_BYTES_MIN) else {
            return;
        };
        let count_max = SPARE_BYTES_MAX / (KEPT_BYTES_MIN << index);
        self.home.spare(|spare| {
            if spare[index].len() < count_max {
                spare[index].push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spare_count(buffers: &Buffers) -> usize {
        buffers.spare(|spare| spare.iter().map(Vec::len).sum())
    }

    #[test]
    fn a_buffer_comes_home_when_its_last_part_is_gone() {
        let buffers = Arc::new(Buffers::default());
        let mut buffer = buffers.take(5000);
        buffer.as_mut().fill(7);
        let mut bytes = buffer.freeze();
        let part = bytes.split_to(100);
        drop(bytes);
        assert_eq!((spare_count(&buffers), part[99]), (0, 7));
        drop(part);
        assert_eq!(spare_count(&buffers), 1);
        assert_eq!(buffers.take(8192).as_ref().len(), 8192);
        buffers.shrink();
        assert_eq!(spare_count(&buffers), 0);
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let buffers = Arc::new(Buffers::default());
        let many: Vec<Buffer> = (0..10).map(|_| buffers.take(1 << 20)).collect();
        drop(many);
        assert_eq!(spare_count(&buffers), 2);
        drop(buffers.take((1 << 20) + 1));
        assert_eq!(spare_count(&buffers), 2);
        assert_eq!(size_index(0), Some(0));
        assert_eq!(size_index(4097), Some(1));
    }
}

//! MD5 (RFC 1321) of bodies, as Swift's clients want it: the entity tag of every object is one.
//!
//! Each step of MD5 waits for the one before it, so one stream cannot use what a processor has beside that: it is bound by
//! the latency of four instructions a step. Two things can be done. Those four can be the quickest there are: AVX-512 has
//! any function of three words, and a rotation, as one instruction each. And many streams can go through the lanes of a
//! vector beside each other, at the price of one: see [`Job`]. Elsewhere the portable code of `md-5` is used.

mod engine;
mod job;

pub use engine::LANES_MAX;
pub use job::{Job, advance};

/// Bytes that MD5 takes at a time.
const BLOCK_BYTES: usize = 64;
/// One of them.
type Block = [u8; BLOCK_BYTES];
/// What is known of a stream after some blocks.
type State = [u32; 4];

/// The MD5 of a stream so far.
#[derive(Clone)]
pub struct Md5 {
    state: State,
    /// The beginning of a block that is not whole.
    begun: Block,
    filled: usize,
    length: u64,
}

impl core::fmt::Debug for Md5 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Md5")
            .field("length", &self.length)
            .finish_non_exhaustive()
    }
}

impl Default for Md5 {
    fn default() -> Self {
        Self::new()
    }
}

impl Md5 {
    /// Before the first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476],
            begun: [0; BLOCK_BYTES],
            filled: 0,
            length: 0,
        }
    }

    /// The MD5 of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> [u8; 16] {
        let mut md5 = Self::new();
        md5.update(bytes);
        md5.finish()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let bytes = self.complete(bytes);
        let (blocks, rest) = bytes.as_chunks();
        engine::one(&mut self.state, blocks);
        let taken = blocks.len() * BLOCK_BYTES;
        self.length = self.length.wrapping_add(taken as u64);
        self.begin(rest);
    }

    /// The MD5 of all bytes.
    #[must_use]
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8).to_le_bytes();
        let mut end = [0; 2 * BLOCK_BYTES];
        let (filled, length_bytes) = (self.filled, bits.len());
        end[..filled].copy_from_slice(&self.begun[..filled]);
        end[filled] = 0x80;
        let blocks = (filled + 1 + length_bytes).div_ceil(BLOCK_BYTES);
        let whole = blocks * BLOCK_BYTES;
        end[whole - length_bytes..whole].copy_from_slice(&bits);
        engine::one(&mut self.state, end[..whole].as_chunks().0);
        let mut digest = [0; 16];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        digest
    }

    /// Fills the block that was begun; what is left of the bytes. Nothing is, or no block is begun any more.
    fn complete<'bytes>(&mut self, bytes: &'bytes [u8]) -> &'bytes [u8] {
        if self.filled == 0 {
            return bytes;
        }
        let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.filled));
        self.begun[self.filled..self.filled + now.len()].copy_from_slice(now);
        self.filled += now.len();
        self.length = self.length.wrapping_add(now.len() as u64);
        if self.filled == BLOCK_BYTES {
            self.filled = 0;
            engine::one(&mut self.state, &[self.begun]);
        }
        later
    }

    /// Begins a block with less than one, where none is begun.
    fn begin(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.begun[..rest.len()].copy_from_slice(rest);
            self.filled = rest.len();
            self.length = self.length.wrapping_add(rest.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests;

//! Streams that are hashed beside each other.

use crate::engine::{self, LANES_MAX};
use crate::{BLOCK_BYTES, Block, Md5};
use bytes::Bytes;
use std::collections::VecDeque;

/// A stream that is alone goes so many blocks at a time, so that others can join it.
const ALONE_BLOCKS: usize = 2_048;

/// A stream, and bytes that it goes on with.
#[derive(Debug)]
pub struct Job {
    md5: Md5,
    pieces: VecDeque<Bytes>,
}

impl Job {
    /// The stream so far, and how it goes on.
    #[must_use]
    pub fn new(md5: Md5, pieces: VecDeque<Bytes>) -> Self {
        Self { md5, pieces }
    }

    /// Whether it has taken all of them.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The stream now.
    #[must_use]
    pub fn into_md5(self) -> Md5 {
        self.md5
    }

    /// Takes what is not whole blocks, until whole blocks come next or nothing does.
    fn settle(&mut self) {
        while let Some(piece) = self.pieces.front_mut() {
            let left = self.md5.complete(piece).len();
            let rest = piece.split_off(piece.len() - left);
            if rest.len() >= BLOCK_BYTES {
                *piece = rest;
                return;
            }
            self.md5.begin(&rest);
            self.pieces.pop_front();
        }
    }

    fn blocks(&self) -> &[Block] {
        let piece = self.pieces.front();
        piece.map_or(&[], |piece| piece.as_chunks().0)
    }
}

/// Goes on with some streams beside each other, until one of them has come to the end of a piece. More than [`LANES_MAX`]
/// wait for those before them.
pub fn advance(jobs: &mut [Job]) {
    for job in jobs.iter_mut() {
        job.settle();
    }
    let mut going: Vec<&mut Job> = jobs.iter_mut().filter(|job| !job.is_done()).collect();
    going.truncate(LANES_MAX);
    let shortest = going.iter().map(|job| job.blocks().len()).min();
    let most = if going.len() == 1 {
        ALONE_BLOCKS
    } else {
        usize::MAX
    };
    let count = shortest.unwrap_or(0).min(most);
    let mut states: Vec<_> = going.iter().map(|job| job.md5.state).collect();
    let runs: Vec<&[Block]> = going
        .iter()
        .map(|job| job.blocks().get(..count).unwrap_or_default())
        .collect();
    engine::many(&mut states, &runs);
    let taken = count * BLOCK_BYTES;
    for (job, state) in going.into_iter().zip(states) {
        job.md5.state = state;
        job.md5.length = job.md5.length.wrapping_add(taken as u64);
        if let Some(piece) = job.pieces.front_mut() {
            drop(piece.split_to(taken));
        }
        job.settle();
    }
}

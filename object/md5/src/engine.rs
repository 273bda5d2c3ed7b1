//! The rounds themselves, for one stream and for many.
#![allow(
    unsafe_code,
    reason = "code for instructions that were found to be there is called"
)]

use crate::{Block, State};

/// Streams hashed beside each other at most.
pub const LANES_MAX: usize = 16;

/// Takes blocks of one stream.
pub(crate) fn one(state: &mut State, blocks: &[Block]) {
    #[cfg(target_arch = "x86_64")]
    if has_avx512() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { avx512::one(state, blocks) };
    }
    md5::block_api::compress(state, blocks);
}

/// Takes as many blocks of each of some streams, at most [`LANES_MAX`] of them. Runs are of one length.
pub(crate) fn many(states: &mut [State], runs: &[&[Block]]) {
    #[cfg(target_arch = "x86_64")]
    if states.len() > 1 {
        if has_avx512() {
            // SAFETY: as above.
            return unsafe { avx512::many(states, runs) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            for (states, runs) in states.chunks_mut(avx2::LANES).zip(runs.chunks(avx2::LANES)) {
                // SAFETY: as above.
                unsafe { avx2::many(states, runs) };
            }
            return;
        }
    }
    for (state, blocks) in states.iter_mut().zip(runs) {
        one(state, blocks);
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

/// Floor of 2^32 times the absolute sine of 1 to 64 (RFC 1321, section 3.4).
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// Four steps of a round, which are for one of the state's words each. They take the words of the block at `first`, and
/// then every `stride`th. What does not wait for the step before it is added first.
#[cfg(target_arch = "x86_64")]
macro_rules! four_steps {
    ($mix:ident, [$a:ident, $b:ident, $c:ident, $d:ident], $words:ident, $at:expr, $first:expr, $stride:expr,
     [$s0:literal, $s1:literal, $s2:literal, $s3:literal]) => {
        step!($mix, $a, $b, $c, $d, $words, $at, $first, $stride, $s0);
        step!($mix, $d, $a, $b, $c, $words, $at + 1, $first, $stride, $s1);
        step!($mix, $c, $d, $a, $b, $words, $at + 2, $first, $stride, $s2);
        step!($mix, $b, $c, $d, $a, $words, $at + 3, $first, $stride, $s3);
    };
}

#[cfg(target_arch = "x86_64")]
macro_rules! step {
    ($mix:ident, $a:ident, $b:ident, $c:ident, $d:ident, $words:ident, $at:expr, $first:expr, $stride:expr, $by:literal) => {
        let word = add(
            $words[($first + $stride * ($at % 16)) % 16],
            all(SINES[$at]),
        );
        $a = add($b, rotate::<$by>(add(add($a, word), $mix($b, $c, $d))));
    };
}

/// `compress` of RFC 1321, section 3.4, over whatever `V`, `add`, `all`, `rotate` and the four functions there are.
#[cfg(target_arch = "x86_64")]
macro_rules! compress {
    ($features:literal) => {
        #[target_feature(enable = $features)]
        #[inline]
        pub(super) fn compress(state: [V; 4], words: &[V; 16]) -> [V; 4] {
            let [mut a, mut b, mut c, mut d] = state;
            for at in 0..4 {
                four_steps!(f, [a, b, c, d], words, 4 * at, 0, 1, [7, 12, 17, 22]);
            }
            for at in 4..8 {
                four_steps!(g, [a, b, c, d], words, 4 * at, 1, 5, [5, 9, 14, 20]);
            }
            for at in 8..12 {
                four_steps!(h, [a, b, c, d], words, 4 * at, 5, 3, [4, 11, 16, 23]);
            }
            for at in 12..16 {
                four_steps!(i, [a, b, c, d], words, 4 * at, 0, 7, [6, 10, 15, 21]);
            }
            let [a0, b0, c0, d0] = state;
            [add(a, a0), add(b, b0), add(c, c0), add(d, d0)]
        }
    };
}

/// Runs in lanes. Those that are left over hash the first stream once more, for nothing.
#[cfg(target_arch = "x86_64")]
fn in_lanes<'a, const LANES: usize>(runs: &[&'a [Block]]) -> [&'a [Block]; LANES] {
    let mut lanes = [runs.first().copied().unwrap_or_default(); LANES];
    for (lane, run) in lanes.iter_mut().zip(runs) {
        *lane = run;
    }
    lanes
}

/// From a state in each lane to a word of all states in each row.
#[cfg(target_arch = "x86_64")]
fn columns<const LANES: usize>(states: &[State]) -> [[u32; LANES]; 4] {
    let mut columns = [[0; LANES]; 4];
    for (lane, state) in states.iter().enumerate() {
        for (column, word) in columns.iter_mut().zip(state) {
            column[lane] = *word;
        }
    }
    columns
}

/// The words of a block.
#[cfg(target_arch = "x86_64")]
#[inline]
fn words(block: &Block) -> [u32; 16] {
    let mut words = [0; 16];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(test)]
mod tests;

//! With AVX2: eight streams beside each other.

use super::SINES;
use crate::{Block, State};
use core::arch::x86_64::{
    __m256i, _mm_cvtsi32_si128, _mm256_add_epi32 as add, _mm256_and_si256 as and,
    _mm256_extract_epi32, _mm256_or_si256 as or, _mm256_set_epi32, _mm256_set1_epi32,
    _mm256_sll_epi32, _mm256_srl_epi32, _mm256_xor_si256 as xor,
};

/// Streams at most.
pub(super) const LANES: usize = 8;

type V = __m256i;

/// Up to eight streams. Lanes that are left over hash the first stream once more, for nothing.
#[target_feature(enable = "avx2")]
pub(super) fn many(states: &mut [State], runs: &[&[Block]]) {
    let lanes: [_; LANES] = super::in_lanes(runs);
    let count = lanes[0].len();
    let [a, b, c, d] = &super::columns(states);
    let mut vectors = [gather(a), gather(b), gather(c), gather(d)];
    for at in 0..count {
        let mut rows = [[0; LANES]; 16];
        for (lane, run) in lanes.iter().enumerate() {
            for (row, word) in rows.iter_mut().zip(super::words(&run[at])) {
                row[lane] = word;
            }
        }
        let mut words = [all(0); 16];
        for (word, row) in words.iter_mut().zip(&rows) {
            *word = gather(row);
        }
        vectors = compress(vectors, &words);
    }
    for (word, vector) in vectors.into_iter().enumerate() {
        for (state, value) in states.iter_mut().zip(spread(vector)) {
            state[word] = value;
        }
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn all(word: u32) -> V {
    _mm256_set1_epi32(word.cast_signed())
}

#[target_feature(enable = "avx2")]
#[inline]
fn gather(words: &[u32; LANES]) -> V {
    let [a, b, c, d, e, f, g, h] = words.map(u32::cast_signed);
    _mm256_set_epi32(h, g, f, e, d, c, b, a)
}

#[target_feature(enable = "avx2")]
#[inline]
fn spread(vector: V) -> [u32; LANES] {
    [
        _mm256_extract_epi32::<0>(vector),
        _mm256_extract_epi32::<1>(vector),
        _mm256_extract_epi32::<2>(vector),
        _mm256_extract_epi32::<3>(vector),
        _mm256_extract_epi32::<4>(vector),
        _mm256_extract_epi32::<5>(vector),
        _mm256_extract_epi32::<6>(vector),
        _mm256_extract_epi32::<7>(vector),
    ]
    .map(i32::cast_unsigned)
}

#[target_feature(enable = "avx2")]
#[inline]
fn rotate<const BY: i32>(x: V) -> V {
    let (left, right) = (_mm_cvtsi32_si128(BY), _mm_cvtsi32_si128(32 - BY));
    or(_mm256_sll_epi32(x, left), _mm256_srl_epi32(x, right))
}

#[target_feature(enable = "avx2")]
#[inline]
fn f(x: V, y: V, z: V) -> V {
    xor(z, and(x, xor(y, z)))
}

#[target_feature(enable = "avx2")]
#[inline]
fn g(x: V, y: V, z: V) -> V {
    f(z, x, y)
}

#[target_feature(enable = "avx2")]
#[inline]
fn h(x: V, y: V, z: V) -> V {
    xor(x, xor(y, z))
}

#[target_feature(enable = "avx2")]
#[inline]
fn i(x: V, y: V, z: V) -> V {
    xor(y, or(x, xor(z, all(u32::MAX))))
}

compress!("avx2");

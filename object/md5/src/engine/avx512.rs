//! With AVX-512: any function of three words is one instruction, and so is a rotation.

use crate::{Block, State};

/// One stream, in the first lane of short vectors.
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn one(state: &mut State, blocks: &[Block]) {
    use narrow::{all as lane, compress, first};
    let [a, b, c, d] = *state;
    let mut vectors = [lane(a), lane(b), lane(c), lane(d)];
    for block in blocks {
        let mut lanes = [lane(0); 16];
        for (to, word) in lanes.iter_mut().zip(super::words(block)) {
            *to = lane(word);
        }
        vectors = compress(vectors, &lanes);
    }
    let [a, b, c, d] = vectors;
    *state = [first(a), first(b), first(c), first(d)];
}

/// Up to sixteen streams. Lanes that are left over hash the first stream once more, for nothing.
#[target_feature(enable = "avx512f,avx512vl")]
pub(super) fn many(states: &mut [State], runs: &[&[Block]]) {
    use wide::{LANES, compress, gather, spread, transpose};
    let lanes: [_; LANES] = super::in_lanes(runs);
    let count = lanes[0].len();
    let [a, b, c, d] = &super::columns(states);
    let mut vectors = [gather(a), gather(b), gather(c), gather(d)];
    for at in 0..count {
        let mut rows = [gather(&[0; LANES]); LANES];
        for (row, run) in rows.iter_mut().zip(&lanes) {
            *row = gather(&super::words(&run[at]));
        }
        vectors = compress(vectors, &transpose(&rows));
    }
    for (word, vector) in vectors.into_iter().enumerate() {
        for (state, value) in states.iter_mut().zip(spread(vector)) {
            state[word] = value;
        }
    }
}

/// The functions of RFC 1321, section 3.4, by their tables of truth.
macro_rules! mixes {
    ($ternary:ident) => {
        #[target_feature(enable = "avx512f,avx512vl")]
        #[inline]
        fn f(x: V, y: V, z: V) -> V {
            $ternary::<0b1100_1010>(x, y, z)
        }

        #[target_feature(enable = "avx512f,avx512vl")]
        #[inline]
        fn g(x: V, y: V, z: V) -> V {
            $ternary::<0b1110_0100>(x, y, z)
        }

        #[target_feature(enable = "avx512f,avx512vl")]
        #[inline]
        fn h(x: V, y: V, z: V) -> V {
            $ternary::<0b1001_0110>(x, y, z)
        }

        #[target_feature(enable = "avx512f,avx512vl")]
        #[inline]
        fn i(x: V, y: V, z: V) -> V {
            $ternary::<0b0011_1001>(x, y, z)
        }
    };
}

/// One word in a vector.
mod narrow {
    use super::super::SINES;
    use core::arch::x86_64::{
        __m128i, _mm_add_epi32 as add, _mm_cvtsi32_si128, _mm_cvtsi128_si32,
        _mm_rol_epi32 as rotate, _mm_ternarylogic_epi32 as ternary,
    };

    type V = __m128i;

    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(super) fn all(word: u32) -> V {
        _mm_cvtsi32_si128(word.cast_signed())
    }

    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(super) fn first(vector: V) -> u32 {
        _mm_cvtsi128_si32(vector).cast_unsigned()
    }

    mixes!(ternary);
    compress!("avx512f,avx512vl");
}

/// Sixteen words in a vector.
mod wide {
    use super::super::SINES;
    use core::arch::x86_64::{
        __m512i, _mm512_add_epi32 as add, _mm512_extracti32x4_epi32, _mm512_rol_epi32 as rotate,
        _mm512_set_epi32, _mm512_set1_epi32, _mm512_shuffle_i32x4,
        _mm512_ternarylogic_epi32 as ternary, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
        _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    type V = __m512i;

    pub(super) const LANES: usize = 16;

    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    fn all(word: u32) -> V {
        _mm512_set1_epi32(word.cast_signed())
    }

    /// A vector of these words: one load.
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(super) fn gather(words: &[u32; LANES]) -> V {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = words.map(u32::cast_signed);
        _mm512_set_epi32(p, o, n, m, l, k, j, i, h, g, f, e, d, c, b, a)
    }

    /// Its words.
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(super) fn spread(vector: V) -> [u32; LANES] {
        use core::arch::x86_64::_mm_extract_epi32 as word;
        let quarters = [
            _mm512_extracti32x4_epi32::<0>(vector),
            _mm512_extracti32x4_epi32::<1>(vector),
            _mm512_extracti32x4_epi32::<2>(vector),
            _mm512_extracti32x4_epi32::<3>(vector),
        ];
        let mut words = [0; LANES];
        for (words, quarter) in words.chunks_exact_mut(4).zip(quarters) {
            let own = [
                word::<0>(quarter),
                word::<1>(quarter),
                word::<2>(quarter),
                word::<3>(quarter),
            ];
            words.copy_from_slice(&own.map(i32::cast_unsigned));
        }
        words
    }

    /// From a block in each vector to a word of all blocks in each.
    #[target_feature(enable = "avx512f,avx512vl")]
    #[inline]
    pub(super) fn transpose(rows: &[V; LANES]) -> [V; LANES] {
        // Within each quarter of a vector first: then vector 4 i + j has, in each quarter q, word 4 q + j of blocks 4 i to
        // 4 i + 3.
        let mut quarters = *rows;
        for four in quarters.as_chunks_mut::<4>().0 {
            let [a, b, c, d] = *four;
            let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            *four = [
                _mm512_unpacklo_epi64(ab_low, cd_low),
                _mm512_unpackhi_epi64(ab_low, cd_low),
                _mm512_unpacklo_epi64(ab_high, cd_high),
                _mm512_unpackhi_epi64(ab_high, cd_high),
            ];
        }
        // Then the quarters themselves.
        let mut words = *rows;
        for j in 0..4 {
            let [a, b, c, d] = [
                quarters[j],
                quarters[4 + j],
                quarters[8 + j],
                quarters[12 + j],
            ];
            let (ab_even, ab_odd) = (
                _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
            );
            let (cd_even, cd_odd) = (
                _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d),
            );
            words[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_even, cd_even);
            words[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_odd, cd_odd);
            words[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_even, cd_even);
            words[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_odd, cd_odd);
        }
        words
    }

    mixes!(ternary);
    compress!("avx512f,avx512vl");
}

//! Lanes beside each other, and one by one.

use super::*;

fn blocks(count: usize, seed: u8) -> Vec<Block> {
    (0..count)
        .map(|number| {
            core::array::from_fn(|at| {
                (number * 31 + at * 7)
                    .to_le_bytes()
                    .first()
                    .map_or(0, |byte| byte ^ seed)
            })
        })
        .collect()
}

fn starts(count: usize) -> Vec<State> {
    (0_u32..)
        .map(|lane| [lane, lane.wrapping_mul(0x9e37_79b9), !lane, 7])
        .take(count)
        .collect()
}

#[test]
fn any_number_of_lanes_is_as_one_by_one() {
    for count in 0..=LANES_MAX {
        let bodies: Vec<Vec<Block>> = (0_u8..).map(|seed| blocks(5, seed)).take(count).collect();
        let runs: Vec<&[Block]> = bodies.iter().map(Vec::as_slice).collect();
        let mut expected = starts(count);
        for (state, run) in expected.iter_mut().zip(&runs) {
            md5::block_api::compress(state, run);
        }
        let mut states = starts(count);
        many(&mut states, &runs);
        assert_eq!(states, expected, "{count}");
        let mut states = starts(count);
        for (state, run) in states.iter_mut().zip(&runs) {
            one(state, run);
        }
        assert_eq!(states, expected, "{count} one by one");
    }
}

/// What is taken where AVX-512 is not.
#[cfg(target_arch = "x86_64")]
#[test]
fn eight_lanes_of_avx2_are_as_one_by_one() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        println!("skipped, because this processor has no AVX2");
        return;
    }
    for count in 1..=avx2::LANES {
        let bodies: Vec<Vec<Block>> = (0_u8..).map(|seed| blocks(3, seed)).take(count).collect();
        let runs: Vec<&[Block]> = bodies.iter().map(Vec::as_slice).collect();
        let mut expected = starts(count);
        for (state, run) in expected.iter_mut().zip(&runs) {
            md5::block_api::compress(state, run);
        }
        let mut states = starts(count);
        // SAFETY: the processor has AVX2.
        unsafe { avx2::many(&mut states, &runs) };
        assert_eq!(states, expected, "{count}");
    }
}

//! MD5 beside the portable code, in pieces and beside each other.

use super::*;
use bytes::Bytes;
use md5::{Digest as _, Md5 as Portable};
use proptest::prelude::*;

fn hex(digest: [u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_test_suite_of_rfc_1321_passes() {
    for (text, digest) in [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("a", "0cc175b9c0f1b6a831c399e269772661"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (
            "abcdefghijklmnopqrstuvwxyz",
            "c3fcd3d76192e4007dfb496cca67e13b",
        ),
        (
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "d174ab98d277d9f5a5611c2c9f419d9f",
        ),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ] {
        assert_eq!(hex(Md5::of(text.as_bytes())), digest, "{text}");
    }
}

fn body(length: usize, seed: u8) -> Vec<u8> {
    (0..=250_u8)
        .map(|byte| byte.wrapping_mul(3).wrapping_add(seed))
        .cycle()
        .take(length)
        .collect()
}

#[test]
fn every_length_around_two_blocks_is_right() {
    for length in 0..=2 * BLOCK_BYTES + 1 {
        let body = body(length, 1);
        let expected: [u8; 16] = Portable::digest(&body).into();
        assert_eq!(Md5::of(&body), expected, "{length}");
    }
}

proptest! {
    #[test]
    fn pieces_do_not_change_it(lengths in prop::collection::vec(0..300_usize, 0..12)) {
        let whole = body(lengths.iter().sum(), 7);
        let (mut md5, mut rest) = (Md5::new(), whole.as_slice());
        for length in lengths {
            let (piece, later) = rest.split_at(length);
            md5.update(piece);
            rest = later;
        }
        prop_assert_eq!(md5.finish(), <[u8; 16]>::from(Portable::digest(&whole)));
    }

    #[test]
    fn streams_beside_each_other_do_not_change_each_other(
        streams in prop::collection::vec(prop::collection::vec(0..400_usize, 0..6), 1..40),
    ) {
        let mut expected = Vec::new();
        let mut jobs = Vec::new();
        for (seed, lengths) in (0_u8..).zip(&streams) {
            let whole = Bytes::from(body(lengths.iter().sum(), seed));
            expected.push(<[u8; 16]>::from(Portable::digest(&whole)));
            let (mut pieces, mut rest) = (Vec::new(), whole);
            for length in lengths {
                pieces.push(rest.split_to(*length));
            }
            // Some have taken bytes before.
            let mut md5 = Md5::new();
            if seed % 3 == 0 && !pieces.is_empty() {
                md5.update(&pieces.remove(0));
            }
            jobs.push(Job::new(md5, pieces.into()));
        }
        let pieces: usize = streams.iter().map(|lengths| lengths.len() + 1).sum();
        for _ in 0..pieces {
            advance(&mut jobs);
        }
        prop_assert!(jobs.iter().all(Job::is_done));
        let digests: Vec<_> = jobs.into_iter().map(|job| job.into_md5().finish()).collect();
        prop_assert_eq!(digests, expected);
    }
}

#[test]
fn a_stream_that_is_alone_can_be_joined() {
    let whole = Bytes::from(body(5 << 20, 0));
    let mut jobs = vec![Job::new(Md5::new(), [whole.clone()].into())];
    advance(&mut jobs);
    assert!(!jobs[0].is_done());
    jobs.push(Job::new(Md5::new(), [whole.slice(..1 << 20)].into()));
    while !jobs.iter().all(Job::is_done) {
        advance(&mut jobs);
    }
    let digests: Vec<_> = jobs
        .into_iter()
        .map(|job| job.into_md5().finish())
        .collect();
    let expected: [[u8; 16]; 2] = [
        Portable::digest(&whole).into(),
        Portable::digest(&whole[..1 << 20]).into(),
    ];
    assert_eq!(digests, expected);
}

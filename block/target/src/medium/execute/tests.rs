//! Tests of the medium execute module.

use super::*;
use crate::medium::testing::{FaultyMedium, MemoryMedium};
use onggi_block_scsi::BlockSize;
use onggi_common_units::ByteCount;
use proptest::prelude::*;

const SIZE: usize = 64 << 10;
const SHARE: ShareIndex = ShareIndex(0);

fn capacity() -> Capacity {
    Capacity::new(ByteCount::new(SIZE as u64), BlockSize::B512).unwrap()
}

fn range(first: u64, count: u64) -> LbaRange {
    capacity().range(first, count).unwrap()
}

fn job(medium: &Arc<dyn Medium>, op: MediaOp, data: &[u8]) -> Job {
    Job {
        op,
        data: Bytes::copy_from_slice(data),
        medium: Arc::clone(medium),
        exclusion: Arc::new(Exclusion::new(2)),
        ticket: Arc::default(),
        capacity: capacity(),
    }
}

fn memory() -> (Arc<MemoryMedium>, Arc<dyn Medium>) {
    let memory = Arc::new(MemoryMedium::new(SIZE));
    (Arc::clone(&memory), memory)
}

fn run(medium: &Arc<dyn Medium>, op: MediaOp, data: &[u8]) -> Finished {
    carry_out(&job(medium, op, data), SHARE)
}

#[test]
fn cached_reads_and_small_writes_are_done_at_once_and_the_rest_is_given_back() {
    let (memory, medium) = memory();
    let buffers = Arc::new(Buffers::default());
    let write = job(
        &medium,
        MediaOp::Write {
            range: range(1, 1),
            fua: true,
        },
        &[7; 512],
    );
    let finished = try_inline(write, SHARE, &buffers).ok().unwrap();
    assert!(finished.needs_flush, "FUA waits for a flush");
    let read = job(&medium, MediaOp::Read { range: range(1, 1) }, &[]);
    assert_eq!(
        try_inline(read, SHARE, &buffers).ok().unwrap().data_in,
        vec![7; 512]
    );
    memory.answers_cached.store(false, Ordering::Relaxed);
    let read = job(&medium, MediaOp::Read { range: range(1, 1) }, &[]);
    assert!(try_inline(read, SHARE, &buffers).is_err());
    let unmap = job(
        &medium,
        MediaOp::Unmap {
            ranges: vec![range(1, 1)],
        },
        &[],
    );
    assert!(try_inline(unmap, SHARE, &buffers).is_err());
}

#[test]
fn what_was_not_flushed_is_lost_with_power_and_what_was_is_not() {
    let (memory, medium) = memory();
    run(
        &medium,
        MediaOp::Write {
            range: range(0, 1),
            fua: false,
        },
        &[1; 512],
    );
    medium.flush().unwrap();
    run(
        &medium,
        MediaOp::Write {
            range: range(1, 1),
            fua: false,
        },
        &[2; 512],
    );
    memory.cut_power();
    assert_eq!(
        medium.read(0, 1_024).unwrap(),
        [vec![1; 512], vec![0; 512]].concat()
    );
}

#[test]
fn compare_and_write_writes_only_what_was_expected() {
    let (_, medium) = memory();
    let op = || MediaOp::CompareAndWrite {
        range: range(3, 2),
        fua: false,
    };
    let finished = run(&medium, op(), &[vec![0; 1_024], vec![9; 1_024]].concat());
    assert_eq!(finished.result, MediaResult::Done);
    let mut expected = vec![9; 1_024];
    expected[700] = 8;
    let finished = run(&medium, op(), &[expected, vec![1; 1_024]].concat());
    assert_eq!(finished.result, MediaResult::Miscompare { offset: 700 });
    assert_eq!(medium.read(3 * 512, 1_024).unwrap(), vec![9; 1_024]);
}

#[test]
fn write_same_or_write_and_compare_touch_exactly_their_range() {
    let (_, medium) = memory();
    let fill = Fill::Block;
    run(
        &medium,
        MediaOp::WriteSame {
            range: range(2, 3),
            fill,
            unmap: false,
            fua: false,
        },
        &[5; 512],
    );
    run(
        &medium,
        MediaOp::OrWrite {
            range: range(3, 1),
            fua: false,
        },
        &[2; 512],
    );
    let wanted = [
        vec![0; 512],
        vec![5; 512],
        vec![7; 512],
        vec![5; 512],
        vec![0; 512],
    ]
    .concat();
    assert_eq!(medium.read(512, 5 * 512).unwrap(), wanted);
    let compare = run(
        &medium,
        MediaOp::Compare {
            range: range(1, 5),
            repeated: false,
        },
        &wanted,
    );
    assert_eq!(compare.result, MediaResult::Done);
    let compare = run(
        &medium,
        MediaOp::Compare {
            range: range(2, 2),
            repeated: true,
        },
        &[5; 512],
    );
    assert_eq!(compare.result, MediaResult::Miscompare { offset: 0 });
    let fill = Fill::Zeros;
    run(
        &medium,
        MediaOp::WriteSame {
            range: range(2, 3),
            fill,
            unmap: true,
            fua: false,
        },
        &[],
    );
    assert_eq!(medium.read(0, SIZE).unwrap(), vec![0; SIZE]);
}

#[test]
fn lba_status_rounds_holes_to_whole_blocks() {
    let (_, medium) = memory();
    medium.write(512 + 256, &[1; 256]).unwrap();
    let op = MediaOp::Status {
        range: range(0, 8),
        allocation: 1_024,
    };
    let MediaResult::Status(extents) = run(&medium, op, &[]).result else {
        panic!()
    };
    let shown: Vec<_> = extents
        .iter()
        .map(|extent| {
            (
                extent.range.first().number(),
                extent.range.count(),
                extent.is_mapped,
            )
        })
        .collect();
    assert_eq!(shown, [(0, 1, false), (1, 1, true), (2, 6, false)]);
}

#[test]
fn failures_keep_their_kind() {
    for (kind, wanted) in [
        (io::ErrorKind::StorageFull, MediaFailure::OutOfSpace),
        (io::ErrorKind::QuotaExceeded, MediaFailure::OutOfSpace),
        (io::ErrorKind::Other, MediaFailure::Write),
    ] {
        let medium: Arc<dyn Medium> = Arc::new(FaultyMedium(kind));
        let finished = run(
            &medium,
            MediaOp::Write {
                range: range(0, 1),
                fua: true,
            },
            &[0; 512],
        );
        assert_eq!(finished.result, MediaResult::Failed(wanted));
        assert!(
            !finished.needs_flush,
            "what failed is not flushed and then called good"
        );
        let finished = run(&medium, MediaOp::Read { range: range(0, 1) }, &[]);
        assert_eq!(finished.result, MediaResult::Failed(MediaFailure::Read));
    }
}

#[test]
fn compare_and_write_is_alone_among_writers() {
    let (_, medium) = memory();
    let exclusion = Arc::new(Exclusion::new(2));
    let won = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..4usize)
            .map(|thread| {
                let (medium, exclusion) = (Arc::clone(&medium), Arc::clone(&exclusion));
                scope.spawn(move || {
                    let mut won = 0;
                    for step in 0..100u8 {
                        let (old, new) = (vec![step; 512], vec![step + 1; 512]);
                        let op = MediaOp::CompareAndWrite {
                            range: range(0, 1),
                            fua: false,
                        };
                        let mut job = job(&medium, op, &[old, new].concat());
                        job.exclusion = Arc::clone(&exclusion);
                        let finished = carry_out(&job, ShareIndex(thread));
                        won += u32::from(finished.result == MediaResult::Done);
                    }
                    won
                })
            })
            .collect();
        tries
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum::<u32>()
    });
    let reached = u32::from(medium.read(0, 1).unwrap()[0]);
    assert_eq!(won, reached, "each step was won by exactly one");
}

proptest! {
    #[test]
    fn the_medium_agrees_with_an_array(
        steps in prop::collection::vec((0u8..5, 0u64..120, 1u64..8, any::<u8>()), 1..40)
    ) {
        let (_, medium) = memory();
        let mut model = vec![0u8; SIZE];
        for (kind, first, count, byte) in steps {
            let range = range(first, count);
            let (start, length) = (usize_of(range.byte_offset()), usize_of(range.byte_length()));
            let data = vec![byte; length];
            match kind {
                0 | 1 => {
                    run(&medium, MediaOp::Write { range, fua: kind == 1 }, &data);
                    model[start..][..length].fill(byte);
                }
                2 => {
                    run(&medium, MediaOp::Unmap { ranges: vec![range] }, &[]);
                    model[start..][..length].fill(0);
                }
                3 => {
                    let fill = Fill::Block;
                    run(&medium, MediaOp::WriteSame { range, fill, unmap: true, fua: false }, &data[..512]);
                    model[start..][..length].fill(byte);
                }
                _ => {
                    run(&medium, MediaOp::OrWrite { range, fua: false }, &data);
                    model[start..][..length].iter_mut().for_each(|old| *old |= byte);
                }
            }
            let read = run(&medium, MediaOp::Read { range }, &[]).data_in;
            prop_assert_eq!(&read[..], &model[start..][..length]);
        }
        prop_assert_eq!(medium.read(0, SIZE).unwrap(), model);
    }
}

#[test]
fn a_command_that_others_have_ended_changes_nothing_wherever_it_waits() {
    let (_, medium) = memory();
    let write = || {
        let op = MediaOp::Write {
            range: range(0, 1),
            fua: false,
        };
        let job = job(&medium, op, &[7; 512]);
        job.ticket.void();
        job
    };
    let aborted = MediaResult::Failed(MediaFailure::Aborted);
    assert_eq!(carry_out(&write(), SHARE).result, aborted);
    let inline = try_inline(write(), SHARE, &Arc::default()).unwrap();
    assert_eq!(inline.result, aborted);
    let op = MediaOp::OrWrite {
        range: range(0, 1),
        fua: false,
    };
    let or_write = job(&medium, op, &[7; 512]);
    or_write.ticket.void();
    assert_eq!(carry_out(&or_write, SHARE).result, aborted);
    assert_eq!(medium.read(0, 512).unwrap(), vec![0; 512]);
}

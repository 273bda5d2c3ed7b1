//! Large reads, whose bytes go from the page cache to the socket.

use crate::harness::{Served, Session, Who, access, cdb10};

fn pattern(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(length)
    .collect()
}

#[test]
fn large_reads_of_all_lengths_and_places_give_what_was_written() {
    let (served, spec) = Served::with_volume();
    let mut session = served.login(&spec);
    session.attentions();
    let whole = pattern(1, 3 << 20);
    for (index, part) in whole.chunks(256 << 10).enumerate() {
        session.write(u32::try_from(index * 512).unwrap(), part);
    }
    for (lba, blocks) in [
        (0, 128),
        (1, 129),
        (7, 512),
        (1_000, 2_047),
        (3, 2_048),
        (99, 2_049),
    ] {
        let (from, length) = (lba * 512, blocks * 512);
        let read = session.read(u32::try_from(lba).unwrap(), length);
        assert!(
            read == whole[from..from + length],
            "{blocks} blocks at {lba}"
        );
    }
    // Fewer bytes than the command would give, not a whole number of words.
    let cut = session.run(&cdb10(0x28, 5, 1 << 20), &[], 300_001).unwrap();
    assert_eq!(cut.status, 0);
    assert!(cut.data == whole[2_560..2_560 + 300_001]);
    // Many at once, more than the socket takes.
    for lba in 0..24 {
        session.submit(&cdb10(0x28, lba * 64, 1 << 20), &[], 1 << 20);
    }
    let mut seen = 0;
    while seen < 24 {
        match session.next() {
            onggi_block_iscsi::initiator::InitiatorEvent::Completed(outcome) => {
                assert_eq!(outcome.status, 0);
                let found = (0..24).any(|lba| outcome.data == whole[lba * 32_768..][..1 << 20]);
                assert!(found, "bytes that are nowhere");
                seen += 1;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_atomic_write_waits_until_no_reader_can_see_a_part_of_it() {
    let (served, mut spec) = Served::with_volume();
    spec.access.push(access(2));
    served.client.put_export(&spec).unwrap();
    let mut reader = served.login(&spec);
    reader.attentions();
    let other = Who {
        isid: 2,
        ..Who::default()
    };
    let mut writer = Session::open(served.portal, other, Some(&spec.iqn)).unwrap();
    writer.attentions();
    writer.write(0, &pattern(2, 256 << 10));
    if !is_lent(served.dir.path()) {
        return;
    }
    assert!(reader.read(0, 256 << 10) == pattern(2, 256 << 10));
    // The reader has its bytes, but the target does not know.
    let atomic = [0x9c, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0];
    let bytes = pattern(3, 4_096);
    assert_eq!(writer.run(&atomic, &bytes, 0).unwrap().status, 0x08);
    reader.attentions();
    assert_eq!(writer.run(&atomic, &bytes, 0).unwrap().status, 0);
    // From now on reads are copied: nothing is in an atomic write's way.
    let read = reader.read(0, 256 << 10);
    assert!(read[..4_096] == bytes && read[4_096..] == pattern(2, 256 << 10)[4_096..]);
    assert_eq!(writer.run(&atomic, &bytes, 0).unwrap().status, 0);
}

// Where the kernel cannot tell what is cached, nothing is lent.
fn is_lent(dir: &std::path::Path) -> bool {
    let file = std::fs::File::open(dir).unwrap();
    match onggi_common_host::page_cache::cached_pages(&file, 0, 4_096) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            println!("skipped, because this kernel has no cachestat");
            false
        }
        Ok(_) | Err(_) => true,
    }
}

//! Archives of every way to write one, cut at any byte and damaged.

use super::*;
use proptest::prelude::*;

fn block(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut block = vec![0; BLOCK_BYTES];
    block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[156] = kind;
    block[257..263].copy_from_slice(b"ustar\0");
    sealed(block)
}

fn sealed(mut block: Vec<u8>) -> Vec<u8> {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn filled(bytes: &[u8]) -> Vec<u8> {
    let mut filled = bytes.to_vec();
    filled.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    filled
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    if name.len() > 100 {
        whole.extend(block(b"././@LongLink", b'L', name.len() as u64 + 1));
        whole.extend(filled(format!("{name}\0").as_bytes()));
    }
    whole.extend(block(name.as_bytes(), b'0', content.len() as u64));
    whole.extend(filled(content));
    whole
}

fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn with_pax(kind: u8, records: &str, file: Vec<u8>) -> Vec<u8> {
    let mut whole = block(b"pax", kind, records.len() as u64);
    whole.extend(filled(records.as_bytes()));
    whole.extend(file);
    whole
}

/// Entries with their bytes, from an archive that comes in pieces.
fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<(TarEntry, Vec<u8>)>, TarError> {
    let mut decoder = TarDecoder::default();
    let mut found: Vec<(TarEntry, Vec<u8>)> = Vec::new();
    for mut piece in pieces {
        while let Some(event) = decoder.next(&mut piece)? {
            match event {
                TarEvent::Entry(entry) => found.push((entry, Vec::new())),
                TarEvent::Bytes(bytes) => {
                    let (_, content) = found.last_mut().expect("bytes follow an entry");
                    content.extend_from_slice(bytes);
                }
                TarEvent::Hole(count) => {
                    let (_, content) = found.last_mut().expect("a hole is in an entry");
                    content.resize(content.len() + usize::try_from(count).unwrap(), 0);
                }
                TarEvent::End => return Ok(found),
            }
            assert!(decoder.held.len() as u64 <= EXTENSION_BYTES_MAX);
        }
    }
    decoder.finish()?;
    Ok(found)
}

fn names(archive: &[u8]) -> Vec<String> {
    let read = read([archive]).unwrap();
    let name = |(entry, _): &(TarEntry, Vec<u8>)| String::from_utf8(entry.name.clone()).unwrap();
    read.iter().map(name).collect()
}

#[test]
fn names_come_from_the_header_its_prefix_a_long_link_or_a_pax_record() {
    let long = format!("{}/x", "d".repeat(300));
    let mut split = block(b"name", b'0', 0);
    split[345..351].copy_from_slice(b"prefix");
    let archive = [
        file("plain", b"1"),
        sealed(split),
        file(&long, b"22"),
        with_pax(b'x', &record("path", "옹기"), file("short", b"333")),
        vec![0; 2 * BLOCK_BYTES],
    ]
    .concat();
    assert_eq!(names(&archive), ["plain", "prefix/name", &long, "옹기"]);
}

#[test]
fn attributes_are_kept_and_global_ones_hold_for_all_that_follow() {
    let global = record("SCHILY.xattr.user.meta.a", "all");
    let own = record("SCHILY.xattr.user.mime_type", "text/x") + &record("size", "3");
    let archive = [
        with_pax(b'g', &global, Vec::new()),
        with_pax(b'x', &own, block(b"a", b'0', 0)),
        filled(b"abc"),
        file("b", b""),
    ]
    .concat();
    let read = read([archive.as_slice()]).unwrap();
    let of = |at: usize, key: &str| read[at].0.attributes.get(key).cloned();
    assert_eq!(read[0].1, b"abc");
    assert_eq!(
        of(0, "SCHILY.xattr.user.mime_type").as_deref(),
        Some(&b"text/x"[..])
    );
    assert_eq!(
        of(1, "SCHILY.xattr.user.meta.a").as_deref(),
        Some(&b"all"[..])
    );
    assert_eq!(of(1, "SCHILY.xattr.user.mime_type"), None);
}

#[test]
fn only_files_are_files() {
    let mut old_directory = block(b"d/", 0, 0);
    old_directory[257..263].fill(0);
    let mut huge = block(b"huge", b'0', 0);
    huge[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    let archive = [
        block(b"link", b'2', 700),
        block(b"dir", b'5', 0),
        with_pax(b'x', &record("GNU.sparse.major", "2"), file("sparse", b"")),
        sealed(old_directory),
        sealed(huge),
        filled(b"1234567"),
    ]
    .concat();
    let read = read([archive.as_slice()]).unwrap();
    let kinds: Vec<(TarKind, u64)> = read
        .iter()
        .map(|(entry, _)| (entry.kind, entry.size))
        .collect();
    assert_eq!(
        kinds,
        [
            (TarKind::Other, 0),
            (TarKind::Other, 0),
            (TarKind::Sparse, 0),
            (TarKind::Other, 0),
            (TarKind::File, 7)
        ]
    );
}

#[test]
fn what_is_no_archive_is_refused_and_nothing_large_is_held() {
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut archive = file("name", b"content");
        change(&mut archive);
        read([archive.as_slice()]).unwrap_err()
    };
    let header = |what| TarError::Header { what };
    assert_eq!(broken(&|archive| archive[0] ^= 1), header("checksum"));
    assert_eq!(
        broken(&|archive| archive.truncate(515)),
        TarError::Truncated
    );
    assert_eq!(
        broken(&|archive| archive.truncate(100)),
        TarError::Truncated
    );
    let sized = |size: &[u8]| {
        let mut block = block(b"x", b'0', 0);
        block[124..124 + size.len()].copy_from_slice(size);
        read([sealed(block).as_slice()]).unwrap_err()
    };
    assert_eq!(sized(b"9"), header("size"));
    assert_eq!(sized(&[0xff; 12]), header("size"));
    assert_eq!(sized(&[0x80, 0xff]), header("size"));
    for kind in *b"LKxg" {
        let long = block(b"x", kind, EXTENSION_BYTES_MAX + 1);
        assert_eq!(read([long.as_slice()]), Err(TarError::ExtensionTooLong));
    }
    for bad in [
        "x", "5 a", "99 a=b\n", "6 ab\n\n", "0 a=b\n", "1 \n", "-1 a=b\n",
    ] {
        let archive = with_pax(b'x', bad, file("a", b""));
        assert_eq!(read([archive.as_slice()]), Err(TarError::Pax), "{bad:?}");
    }
    let many: String = (0..=ATTRIBUTES_MAX)
        .map(|at| record(&at.to_string(), ""))
        .collect();
    let archive = with_pax(b'x', &many, file("a", b""));
    assert_eq!(read([archive.as_slice()]), Err(TarError::ExtensionTooLong));
}

fn archives() -> impl Strategy<Value = Vec<u8>> {
    let entry = (
        "[a-z/]{1,130}",
        prop::collection::vec(any::<u8>(), 0..1_200),
        0..4u8,
    );
    let built = |(name, content, how): (String, Vec<u8>, u8)| match how {
        0 => with_pax(b'x', &record("path", &name), file("p", &content)),
        1 => with_pax(b'g', &record("comment", &name), file(&name, &content)),
        2 => block(b"dir", b'5', 0),
        _ => file(&name, &content),
    };
    prop::collection::vec(entry.prop_map(built), 0..5).prop_map(|entries| {
        let mut archive = entries.concat();
        archive.extend(vec![0; 2 * BLOCK_BYTES]);
        archive
    })
}

proptest! {
    #[test]
    fn a_cut_at_any_byte_gives_the_same_entries(archive in archives(), cut in any::<prop::sample::Index>()) {
        let whole = read([archive.as_slice()]).unwrap();
        let (front, back) = archive.split_at(cut.index(archive.len()));
        prop_assert_eq!(&read([front, back]).unwrap(), &whole);
        prop_assert_eq!(&read(archive.chunks(1)).unwrap(), &whole);
    }

    #[test]
    fn damage_is_an_error_or_other_entries_and_never_a_panic(
        archive in archives(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut archive = archive;
        for (at, byte) in damage {
            let at = at.index(archive.len());
            // Sums are made right again, so that what lies behind them is reached.
            archive[at] = byte;
            let start = at / BLOCK_BYTES * BLOCK_BYTES;
            let again = sealed(archive[start..start + BLOCK_BYTES].to_vec());
            archive[start..start + BLOCK_BYTES].copy_from_slice(&again);
        }
        let whole = read([archive.as_slice()]);
        prop_assert_eq!(read(archive.chunks(7)), whole);
    }
}

/// `ab`, a hole, `cde`, a hole: in each of the ways GNU tar writes it.
fn sparse_archives() -> Vec<(&'static str, Vec<u8>)> {
    let stored = b"abcde";
    let number = |block: &mut Vec<u8>, at: usize, value: u64| {
        block[at..at + 12].copy_from_slice(format!("{value:011o}\0").as_bytes());
    };
    let mut old = block(b"sparse", b'S', 5);
    let mut more = vec![0; BLOCK_BYTES];
    number(&mut old, 386, 0);
    number(&mut old, 398, 2);
    number(&mut old, 483, 2_000);
    let mut short = old.clone();
    for (at, value) in [(410, 1_000), (422, 3), (434, 2_000), (446, 0)] {
        number(&mut short, at, value);
    }
    old[482] = 1;
    for (at, value) in [(0, 1_000), (12, 3), (24, 2_000), (36, 0)] {
        number(&mut more, at, value);
    }
    let pieces = [("0", "2"), ("1000", "3"), ("2000", "0")];
    let mut first = record("GNU.sparse.size", "2000");
    for (start, count) in pieces {
        first.push_str(&record("GNU.sparse.offset", start));
        first.push_str(&record("GNU.sparse.numbytes", count));
    }
    let second = [
        record("GNU.sparse.name", "sparse"),
        record("GNU.sparse.size", "2000"),
        record("GNU.sparse.map", "0,2,1000,3,2000,0"),
    ];
    let third = [
        record("GNU.sparse.major", "1"),
        record("GNU.sparse.minor", "0"),
        record("GNU.sparse.name", "sparse"),
        record("GNU.sparse.realsize", "2000"),
    ];
    let mut with_map = filled(b"3\n0\n2\n1000\n3\n2000\n0\n");
    with_map.extend(stored);
    vec![
        ("old", [sealed(short), filled(stored)].concat()),
        ("old, goes on", [sealed(old), more, filled(stored)].concat()),
        ("0.0", with_pax(b'x', &first, file("sparse", stored))),
        (
            "0.1",
            with_pax(
                b'x',
                &second.concat(),
                file("GNUSparseFile.1/sparse", stored),
            ),
        ),
        (
            "1.0",
            with_pax(
                b'x',
                &third.concat(),
                file("GNUSparseFile.1/sparse", &with_map),
            ),
        ),
    ]
}

#[test]
fn the_holes_of_sparse_files_are_zeros() {
    let mut whole = vec![0; 2_000];
    whole[..2].copy_from_slice(b"ab");
    whole[1_000..1_003].copy_from_slice(b"cde");
    for (way, archive) in sparse_archives() {
        let archive = [archive, file("next", b"x")].concat();
        let read = read([archive.as_slice()]).unwrap();
        let (entry, content) = &read[0];
        assert_eq!((entry.kind, entry.size), (TarKind::File, 2_000), "{way}");
        assert_eq!(entry.name, b"sparse", "{way}");
        assert!(entry.attributes.is_empty() && *content == whole, "{way}");
        assert_eq!(read[1].1, b"x", "{way}");
    }
}

#[test]
fn sparse_maps_that_do_not_fit_are_refused() {
    let sparse = |size: &str, map: &str| {
        let said = record("GNU.sparse.size", size) + &record("GNU.sparse.map", map);
        let archive = with_pax(b'x', &said, file("sparse", b"abcde"));
        read([archive.as_slice()]).unwrap_err()
    };
    let malformed = TarError::Header { what: "sparse map" };
    for (size, map) in [
        ("2000", "0,4"),
        ("2000", "0,6"),
        ("4", "0,5"),
        ("2000", "5,3,0,2"),
        ("2000", "0,3,2,2"),
        ("2000", "18446744073709551615,5"),
        ("2000", "0,5,7"),
        ("2000", "0,-5"),
        ("9223372036854775808", "0,5"),
    ] {
        assert_eq!(sparse(size, map), malformed, "{size} {map}");
    }
}

proptest! {
    #[test]
    fn a_sparse_file_is_the_same_however_it_is_cut(cuts in prop::collection::vec(1usize..700, 1..40)) {
        for (way, archive) in sparse_archives() {
            let mut pieces = Vec::new();
            let mut rest = archive.as_slice();
            for cut in cuts.iter().cycle() {
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = left;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(read(pieces).unwrap(), read([archive.as_slice()]).unwrap(), "{}", way);
        }
    }
}

//! What the fuzz targets of the object API feed and what must hold. The ordinary tests replay the committed corpus
//! through the same functions, so nothing in here knows the fuzzer.

use onggi_common_units::Timestamp;
use onggi_object_model::acl::AccountAcl;
use onggi_object_model::limits::{OBJECT_NAME_BYTES_MAX, RANGES_MAX};
use onggi_object_model::listing::escape_xml;
use onggi_object_model::multipart::{Disposition, MultipartDecoder, MultipartEvent, boundary};
use onggi_object_model::tar::{TarDecoder, TarEvent};
use onggi_object_model::{
    AccessControl, Etag, ListingFormat, ListingQuery, Metadata, Precondition, RangeHeader,
    Resource, Selection, manifest,
};

/// Paths, queries, headers and documents: the same text through everything that reads one.
pub(crate) fn headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(Resource::Object(path)) = Resource::parse(&text) {
        assert!(path.object.as_str().len() <= OBJECT_NAME_BYTES_MAX);
        assert!(!path.container.is_reserved() && !path.object.as_str().contains('\0'));
    }
    if let Ok(query) = ListingQuery::parse(&text, 10_000) {
        assert!(query.limit <= 10_000);
    }
    let _format = ListingFormat::negotiate(&text, Some(&text));
    ranges(&text, bytes.len());
    let condition = Precondition::from_headers([
        ("if-match", &*text),
        ("if-none-match", &*text),
        ("if-modified-since", &*text),
    ]);
    let _read = condition.judge_read("etag", Timestamp::ZERO);
    let _written = condition.judge_write(Some((&text, Timestamp::ZERO)));
    let _tag: Result<Etag, _> = text.parse();
    let _stamp: Result<Timestamp, _> = text.parse();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let lines = lines.map(|(name, value)| (name, value.as_bytes()));
    if let Ok(metadata) = Metadata::from_headers(lines) {
        assert!(metadata.iter().all(|(name, _)| !name.contains("sysmeta")));
    }
    let _write = AccessControl::parse_write(&text);
    let _read = AccessControl::parse_read(&text);
    if let Ok(acl) = AccountAcl::parse(&text) {
        assert_eq!(
            AccountAcl::parse(&acl.text()).map(|again| again.text()),
            Ok(acl.text())
        );
    }
    let _asked = manifest::parse_asked(bytes);
    let _kept = manifest::parse_kept(bytes);
    let _disposition = Disposition::parse(&text);
    let _boundary = boundary(&text);
    assert!(!escape_xml(&text).contains(['<', '>', '"']));
}

fn ranges(text: &str, length: usize) {
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    let parsed = [
        RangeHeader::parse(text),
        RangeHeader::parse(&format!("bytes={text}")),
    ];
    for header in parsed.into_iter().flatten() {
        let chosen = match header.select(length) {
            Selection::One(range) => vec![range],
            Selection::Many(ranges) => ranges,
            Selection::Whole | Selection::Unsatisfiable => Vec::new(),
        };
        assert!(chosen.len() <= RANGES_MAX);
        for range in chosen {
            assert!(range.start() < range.end() && range.end() <= length);
        }
    }
}

/// An archive: however it is cut, it says the same.
pub(crate) fn tar(bytes: &[u8]) {
    let (cut, bytes) = bytes.split_first().unwrap_or((&1, &[]));
    let whole = untarred(bytes, bytes.len().max(1));
    assert_eq!(whole, untarred(bytes, usize::from(*cut).max(1)));
}

// What it says, bytes joined, and whether it ended as it should.
fn untarred(bytes: &[u8], cut: usize) -> (Vec<String>, usize, bool) {
    let mut decoder = TarDecoder::default();
    let (mut said, mut content) = (Vec::new(), 0);
    for mut piece in bytes.chunks(cut) {
        loop {
            match decoder.next(&mut piece) {
                Ok(Some(TarEvent::Entry(entry))) => said.push(format!("{entry:?}")),
                Ok(Some(TarEvent::Bytes(part))) => {
                    assert!(!part.is_empty());
                    content += part.len();
                }
                Ok(Some(TarEvent::End)) => return (said, content, true),
                Ok(None) => break,
                Err(error) => {
                    said.push(error.to_string());
                    return (said, content, false);
                }
            }
        }
        assert!(piece.is_empty());
    }
    let is_over = decoder.finish().is_ok();
    (said, content, is_over)
}

/// A browser's form: however it is cut, it says the same.
pub(crate) fn multipart(bytes: &[u8]) {
    let (cut, bytes) = bytes.split_first().unwrap_or((&1, &[]));
    let whole = parted(bytes, bytes.len().max(1));
    assert_eq!(whole, parted(bytes, usize::from(*cut).max(1)));
}

fn parted(bytes: &[u8], cut: usize) -> (Vec<String>, Vec<u8>, bool) {
    let mut decoder = MultipartDecoder::new("b").expect("a boundary");
    let (mut said, mut content) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(cut) {
        decoder.push(piece);
        loop {
            match decoder.read() {
                Ok(Some(MultipartEvent::Bytes(part))) => content.extend(part),
                Ok(Some(MultipartEvent::End)) => return (said, content, true),
                Ok(Some(MultipartEvent::Part(head))) => {
                    said.push(format!("{head:?} {:?}", head.disposition()));
                }
                Ok(Some(MultipartEvent::PartEnd)) => said.push("end".to_owned()),
                Ok(None) => break,
                Err(error) => {
                    said.push(error.to_string());
                    return (said, content, false);
                }
            }
        }
    }
    let is_over = decoder.finish().is_ok();
    (said, content, is_over)
}

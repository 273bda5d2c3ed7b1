//! What the fuzz targets of the object API feed and what must hold. The ordinary tests replay the committed corpus
//! through the same functions, so nothing in here knows the fuzzer.

use onggi_common_units::Timestamp;
use onggi_object_model::acl::AccountAcl;
use onggi_object_model::limits::{OBJECT_NAME_BYTES_MAX, RANGES_MAX};
use onggi_object_model::listing::escape_xml;
use onggi_object_model::multipart::{Disposition, MultipartDecoder, MultipartEvent, boundary};
use onggi_object_model::tar::{TarDecoder, TarEvent};
use onggi_object_model::{
    AccessControl, Etag, Listing, ListingEntry, ListingFormat, ListingQuery, Metadata, ObjectEntry,
    Precondition, RangeHeader, Resource, Selection, manifest,
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
        // Users may call theirs anything, also "x-object-meta-sysmeta".
        assert!(
            metadata
                .iter()
                .all(|(name, _)| !name.starts_with("x-object-sysmeta-"))
        );
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

/// A body's length and a `Range` header: what is chosen lies within the body and is little.
pub(crate) fn range(bytes: &[u8]) {
    let (length, text) = bytes.split_at_checked(2).unwrap_or((&[0, 9], bytes));
    let length = length
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    ranges(&String::from_utf8_lossy(text), length);
}

/// Names of a listing, one a line: the XML is well-formed and says each of them, and so is the JSON.
pub(crate) fn xml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.split('\u{1}');
    let root = lines.next().unwrap_or_default();
    let entry = |(index, name): (usize, &str)| {
        if index % 3 == 2 {
            return ListingEntry::Subdir(name.to_owned());
        }
        ListingEntry::Item(ObjectEntry {
            name: name.to_owned(),
            hash: Etag::EMPTY,
            bytes: 7,
            content_type: name.chars().rev().collect(),
            last_modified: Timestamp::ZERO,
            annotations: Metadata::default(),
        })
    };
    let listing = Listing {
        entries: lines.enumerate().map(entry).collect(),
    };
    let xml = listing.render(ListingFormat::Xml, ("container", root));
    let said = texts_of(&xml, "name");
    let names: Vec<String> = listing.names().map(kept).collect();
    assert_eq!(said, names);
    let json = listing.render(ListingFormat::Json, ("container", root));
    let json: Vec<serde_json::Value> = serde_json::from_str(&json).expect("JSON");
    let said = json.iter().map(|line| {
        let name = line.get("name").or(line.get("subdir"));
        name.and_then(serde_json::Value::as_str).expect("a name")
    });
    assert!(said.eq(listing.names()));
}

/// What XML 1.0 can hold of a text.
fn kept(text: &str) -> String {
    let held = |c: char| match c {
        '\t' | '\n' | '\r' => c,
        c if u32::from(c) < 0x20 || matches!(c, '\u{fffe}' | '\u{ffff}') => '\u{fffd}',
        c => c,
    };
    text.chars().map(held).collect()
}

/// The texts of all elements of this name. Every tag has to be closed by its own, and no character to be left raw.
fn texts_of(xml: &str, wanted: &str) -> Vec<String> {
    let mut rest = xml
        .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
        .expect("a declaration");
    let (mut open, mut texts) = (Vec::new(), Vec::new());
    while let Some(tag) = rest.strip_prefix('<') {
        let (tag, behind) = tag.split_once('>').expect("a tag ends");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "{xml}");
        } else {
            let (tag, is_empty) = match tag.strip_suffix(" /") {
                Some(tag) => (tag, true),
                None => (tag, false),
            };
            let (name, attribute) = tag.split_once(' ').unwrap_or((tag, ""));
            let value = attribute.strip_prefix("name=\"");
            let value = value.map(|value| value.strip_suffix('"').expect("a quote"));
            assert!(attribute.is_empty() || value.is_some(), "{xml}");
            drop(value.map(unescaped));
            if !is_empty {
                open.push(name);
            }
        }
        let (text, behind) = behind.split_at(behind.find('<').unwrap_or(behind.len()));
        if open.last() == Some(&wanted) {
            texts.push(unescaped(text));
        }
        rest = behind;
    }
    assert!(rest.is_empty() && open.is_empty(), "{xml}");
    texts
}

fn unescaped(text: &str) -> String {
    let (mut rest, mut plain) = (text, String::new());
    while let Some(at) = rest.find('&') {
        let (before, entity) = rest.split_at(at);
        plain.push_str(before);
        let (entity, behind) = entity.split_once(';').expect("an entity ends");
        plain.push(match entity {
            "&amp" => '&',
            "&lt" => '<',
            "&gt" => '>',
            "&quot" => '"',
            number => {
                let number = number.strip_prefix("&#").and_then(|text| text.parse().ok());
                number.and_then(char::from_u32).expect("a character")
            }
        });
        rest = behind;
    }
    plain.push_str(rest);
    assert!(!text.contains(['<', '>', '"', '\'']), "{text}");
    plain
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
                Ok(Some(TarEvent::Hole(count))) => said.push(format!("hole {count}")),
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

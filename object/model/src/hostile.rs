//! What comes from outside is generated, mostly from the pieces that mean something: every parser answers, and what it
//! lets through keeps its own rules.

use crate::acl::AccountAcl;
use crate::limits::{
    META_COUNT_MAX, META_NAME_BYTES_MAX, META_OVERALL_BYTES_MAX, META_VALUE_BYTES_MAX,
    OBJECT_NAME_BYTES_MAX, RANGES_MAX,
};
use crate::listing::escape_xml;
use crate::multipart::Disposition;
use crate::{
    AccessControl, Etag, ListingFormat, ListingQuery, Metadata, Precondition, RangeHeader,
    Resource, Selection, Visitor, manifest,
};
use onggi_common_units::Timestamp;
use proptest::prelude::*;

/// Texts of the pieces that headers, queries and paths are made of, and of anything.
fn text() -> impl Strategy<Value = String> {
    const PIECES: [&str; 40] = [
        "/",
        "//",
        "v1",
        "AUTH_a",
        "c",
        "..",
        ".",
        "%00",
        "%2F",
        "%",
        "%f",
        "%FF",
        "&",
        "=",
        ";",
        ",",
        "\"",
        "\\",
        "*",
        "-",
        "bytes=",
        "0",
        "9",
        "18446744073709551616",
        ".r:",
        ".rlistings",
        ":",
        "-.example",
        "{",
        "}",
        "[",
        "]",
        "null",
        "limit",
        "format=xml",
        "W/",
        " ",
        "\r\n",
        "\0",
        "옹",
    ];
    let piece = prop_oneof![
        6 => prop::sample::select(PIECES.to_vec()).prop_map(str::to_owned),
        1 => ".{0,8}",
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn stamp() -> Timestamp {
    Timestamp::ZERO
}

/// A document's text without its entities; `None` when there is a character that does not belong there.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['&', '<', '>', '"', '\'']) {
        out.push_str(&rest[..at]);
        let entity = rest[at..].strip_prefix('&')?.split_once(';')?;
        out.push_str(match entity.0 {
            "amp" => "&",
            "lt" => "<",
            "gt" => ">",
            "quot" => "\"",
            "#39" => "'",
            // Line ends and tabs, which stay what they are in an attribute.
            "#9" | "#10" | "#13" => "",
            _ => return None,
        });
        rest = entity.1;
    }
    out.push_str(rest);
    Some(out)
}

proptest! {
    #[test]
    fn paths_give_names_within_their_limits(raw in text()) {
        if let Ok(Resource::Object(path)) = Resource::parse(&raw) {
            prop_assert!(path.object.as_str().len() <= OBJECT_NAME_BYTES_MAX);
            prop_assert!(!path.container.as_str().contains('/') && !path.account.as_str().is_empty());
            // No request says a name of the system.
            prop_assert!(!path.container.is_reserved() && !path.object.as_str().contains('\0'));
        }
    }

    #[test]
    fn queries_never_ask_for_more_than_a_page(raw in text(), accept in text()) {
        if let Ok(query) = ListingQuery::parse(&raw, 10_000) {
            prop_assert!(query.limit <= 10_000);
        }
        let _format = ListingFormat::negotiate(&raw, Some(&accept));
    }

    #[test]
    fn ranges_lie_within_the_body_and_are_few(tail in text(), length in 0u64..1_000) {
        let Some(header) = RangeHeader::parse(&format!("bytes={tail}")) else {
            return Ok(());
        };
        let ranges = match header.select(length) {
            Selection::One(range) => vec![range],
            Selection::Many(ranges) => ranges,
            Selection::Whole | Selection::Unsatisfiable => Vec::new(),
        };
        prop_assert!(ranges.len() <= RANGES_MAX);
        for range in ranges {
            prop_assert!(range.start() < range.end() && range.end() <= length);
        }
    }

    #[test]
    fn conditions_are_judged_whatever_they_say(
        pairs in prop::collection::vec((prop::sample::select(vec!["if-match", "if-none-match", "if-modified-since", "if-unmodified-since"]), text()), 0..5),
        tag in text(),
    ) {
        let condition = Precondition::from_headers(pairs.iter().map(|(name, value)| (*name, value.as_str())));
        let _read = condition.judge_read(&tag, stamp());
        let _written = condition.judge_write(Some((&tag, stamp())));
        let _made = condition.judge_write(None);
        let _tag: Result<Etag, _> = tag.parse();
    }

    #[test]
    fn metadata_that_is_taken_is_within_its_limits(
        items in prop::collection::vec(("(X-Object-Meta-|x-object-sysmeta-|Content-)[A-Za-z0-9-]{0,140}", text()), 0..100),
    ) {
        let pairs = items.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let Ok(metadata) = Metadata::from_headers(pairs) else {
            return Ok(());
        };
        let users = metadata.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix("x-object-meta-")?, value))
        });
        let (mut count, mut bytes) = (0, 0);
        for (name, value) in users {
            count += 1;
            bytes += name.len() + value.len();
            prop_assert!(name.len() <= META_NAME_BYTES_MAX && value.len() <= META_VALUE_BYTES_MAX);
        }
        prop_assert!(count <= META_COUNT_MAX && bytes <= META_OVERALL_BYTES_MAX);
        // What only the system says is not taken from a client's headers.
        prop_assert!(metadata.iter().all(|(name, _)| !name.contains("sysmeta")));
    }

    #[test]
    fn no_acl_lets_in_who_has_neither_group_nor_referrer(raw in text(), header in text()) {
        let stranger = Visitor { groups: &[], referrer_host: None };
        if let Ok(acl) = AccessControl::parse_write(&raw) {
            prop_assert!(!acl.admits_caller(&stranger) && !acl.admits_referrer(&stranger));
        }
        if let Ok(acl) = AccessControl::parse_read(&raw) {
            prop_assert!(!acl.admits_caller(&stranger));
        }
        if let Ok(acl) = AccountAcl::parse(&raw) {
            prop_assert!(acl.right_of(&[]).is_none());
            prop_assert_eq!(AccountAcl::parse(&acl.text()).map(|again| again.text()), Ok(acl.text()));
        }
        let _disposition = Disposition::parse(&header);
    }

    #[test]
    fn no_text_breaks_out_of_a_document(raw in text()) {
        let escaped = escape_xml(&raw);
        let back = unescaped(&escaped);
        prop_assert!(back.is_some(), "{:?}", escaped);
        // What a document cannot hold becomes U+FFFD.
        let plain = |text: &str| -> String {
            let is_plain = |c: &char| !c.is_control() && !matches!(*c, '\u{fffd}'..='\u{ffff}');
            text.chars().filter(is_plain).collect()
        };
        let (back, kept) = (plain(&back.unwrap_or_default()), plain(&raw));
        prop_assert_eq!(back, kept);
    }

    #[test]
    fn manifests_are_taken_or_refused(raw in text()) {
        let _taken = manifest::parse_asked(raw.as_bytes());
        let _kept = manifest::parse_kept(raw.as_bytes());
        let _listed = manifest::parse_asked(format!("[{{\"path\":{raw:?},\"etag\":null}}]").as_bytes());
    }
}

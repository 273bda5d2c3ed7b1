//! Listings of a device against a sorted list and Swift's rules, said as plainly as can be.

use super::rosters::{blank, record};
use super::{at, open_memory, open_rocks};
use crate::roster::Decision;
use crate::{Device, RosterKey, RosterKind};
use onggi_object_model::path::encode_segment;
use onggi_object_model::{ListingEntry, ListingQuery, ObjectRecord};
use onggi_object_ring::PathHash;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;

/// What a client may ask, as its query says it.
#[derive(Debug, Clone)]
struct Asked {
    limit: usize,
    marker: String,
    end_marker: String,
    prefix: String,
    delimiter: String,
    path: Option<String>,
    reverse: bool,
}

impl Asked {
    fn query(&self) -> ListingQuery {
        let mut raw = format!("limit={}&reverse={}", self.limit, self.reverse);
        let path = self.path.iter().map(|path| ("path", path));
        let texts = [
            ("marker", &self.marker),
            ("end_marker", &self.end_marker),
            ("prefix", &self.prefix),
            ("delimiter", &self.delimiter),
        ];
        for (name, value) in texts.into_iter().chain(path) {
            raw.push_str(&format!("&{name}={}", encode_segment(value)));
        }
        ListingQuery::parse(&raw, 10_000).unwrap()
    }

    /// The lines, a common beginning in brackets.
    fn model(&self, names: &BTreeMap<String, bool>) -> Vec<String> {
        let (prefix, delimiter) = match self.path.as_deref() {
            None => (self.prefix.clone(), self.delimiter.clone()),
            Some("") => (String::new(), "/".to_owned()),
            Some(path) => (format!("{}/", path.trim_end_matches('/')), "/".to_owned()),
        };
        let (after, before) = if self.reverse {
            (&self.end_marker, &self.marker)
        } else {
            (&self.marker, &self.end_marker)
        };
        let mut lines: Vec<String> = Vec::new();
        for (name, is_live) in names {
            let inside = (after.is_empty() || name > after) && (before.is_empty() || name < before);
            let Some(rest) = name.strip_prefix(&prefix).filter(|_| inside && *is_live) else {
                continue;
            };
            let end = (!delimiter.is_empty())
                .then(|| rest.find(&delimiter))
                .flatten()
                .map(|at| at + delimiter.len());
            let line = match (end, &self.path) {
                (None, None) => Some(name.clone()),
                // The pseudo-directory itself is not in it, and only what is directly below is.
                (None, Some(_)) => (!rest.is_empty() || prefix.is_empty()).then(|| name.clone()),
                (Some(end), Some(_)) => (end == rest.len()).then(|| name.clone()),
                (Some(end), None) => {
                    let beginning = format!("{prefix}{}", &rest[..end]);
                    (beginning != self.marker).then(|| format!("[{beginning}]"))
                }
            };
            if let Some(line) = line.filter(|line| lines.last() != Some(line)) {
                lines.push(line);
            }
        }
        if self.reverse {
            lines.reverse();
        }
        lines.truncate(self.limit);
        lines
    }
}

fn lines(device: &Device, key: &RosterKey, query: &ListingQuery) -> Vec<String> {
    let listing = device.list::<ObjectRecord>(key, query).unwrap();
    let line = |entry| match entry {
        ListingEntry::Item(onggi_object_model::ObjectEntry { name, .. }) => name,
        ListingEntry::Subdir(name) => format!("[{name}]"),
    };
    listing.entries.into_iter().map(line).collect()
}

/// Few letters, so that names share beginnings: one, two, three and four bytes long, the first and the last there are.
const NAME: &str = "[ab/\u{1}é한\u{10ffff}]{1,5}";
const PART: &str = "[ab/\u{1}é한\u{10ffff}]{0,3}";

fn asked() -> impl Strategy<Value = Asked> {
    let delimiter = prop_oneof![
        3 => Just(String::new()),
        3 => Just("/".to_owned()),
        1 => Just("a".to_owned()),
        1 => Just("//".to_owned()),
        1 => Just("한".to_owned()),
        1 => Just("ab/".to_owned()),
    ];
    let path = prop_oneof![
        3 => Just(None),
        1 => PART.prop_map(Some),
    ];
    let texts = (PART, PART, PART, delimiter, path);
    (texts, prop_oneof![0usize..6, Just(10_000)], any::<bool>()).prop_map(
        |((marker, end_marker, prefix, delimiter, path), limit, reverse)| Asked {
            limit,
            marker,
            end_marker,
            prefix,
            delimiter,
            path,
            reverse,
        },
    )
}

#[test]
fn a_listing_is_what_the_rules_say() {
    let dir = tempfile::tempdir().unwrap();
    let devices = [
        open_memory(&dir.path().join("memory")),
        open_rocks(&dir.path().join("rocks")),
    ];
    // Making a device costs more than a case: each case has a container of its own instead.
    let case = core::cell::Cell::new(0u32);
    let names = proptest::collection::btree_map(NAME, proptest::bool::weighted(0.9), 0..24);
    let queries = proptest::collection::vec(asked(), 1..12);
    let mut runner = TestRunner::new(ProptestConfig::with_source_file(file!()));
    let run = runner.run(&(names, queries), |(names, queries)| {
        case.set(case.get() + 1);
        let mut hash = [9; 16];
        hash[4..8].copy_from_slice(&case.get().to_be_bytes());
        let key = RosterKey {
            kind: RosterKind::Container,
            hash: PathHash::new(hash),
        };
        let records: Vec<ObjectRecord> = names
            .iter()
            .map(|(name, is_live)| record(name, 2, 1, !is_live))
            .collect();
        for device in &devices {
            device
                .change_roster(&key, blank(), |row| {
                    row.put_timestamp = at(1);
                    Decision::Write
                })
                .unwrap();
            device.merge_records(&key, None, &records).unwrap();
            for asked in &queries {
                let listed = lines(device, &key, &asked.query());
                prop_assert_eq!(listed, asked.model(&names), "{:?}", asked);
            }
        }
        Ok(())
    });
    run.unwrap();
}

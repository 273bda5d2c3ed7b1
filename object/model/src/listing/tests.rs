//! Tests of listings: the walk against a plain model of Swift's rules, and the three forms.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn query(raw: &str) -> ListingQuery {
    ListingQuery::parse(raw, 10_000).unwrap()
}

/// Walks a sorted table as a device does: seeks past what a subdir stands for.
fn walk(names: &BTreeSet<String>, query: &ListingQuery) -> Vec<String> {
    let mut lines = Vec::new();
    let ordered: Vec<&String> = if query.reverse {
        names.iter().rev().collect()
    } else {
        names.iter().collect()
    };
    let mut folded: Option<String> = None;
    for name in ordered {
        if lines.len() == query.limit {
            break;
        }
        if folded
            .as_ref()
            .is_some_and(|subdir| name.starts_with(subdir.as_str()))
        {
            continue;
        }
        match query.visit(name) {
            Visit::Take => lines.push(name.clone()),
            Visit::Skip => {}
            Visit::Subdir {
                name: subdir,
                shown,
            } => {
                if shown {
                    lines.push(subdir.clone());
                }
                folded = Some(subdir);
            }
            Visit::End => break,
        }
    }
    lines
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn queries_are_read_as_swift_reads_them() {
    let all = query("limit=3&marker=a%2Fb&end_marker=z&prefix=p+q&delimiter=%2F&format=json&x=%ff");
    assert_eq!(
        (all.limit, all.marker.as_str(), all.end_marker.as_str()),
        (3, "a/b", "z")
    );
    assert_eq!((all.prefix.as_str(), all.delimiter.as_str()), ("p q", "/"));
    assert_eq!(query("limit=many").limit, 10_000);
    assert_eq!(query("limit=").limit, 10_000);
    assert!(query("reverse=On").reverse);
    for limit in ["10001", "99999999999999999999999"] {
        let error = ListingQuery::parse(&format!("limit={limit}"), 10_000).unwrap_err();
        assert_eq!(error.to_string(), "Maximum limit is 10000");
    }
    let error = ListingQuery::parse("marker=%ff", 10_000).unwrap_err();
    assert_eq!(error.to_string(), "\"marker\" parameter not valid UTF-8");
}

#[test]
fn the_format_comes_from_the_query_or_the_accept_header() {
    let negotiate = ListingFormat::negotiate;
    assert_eq!(
        negotiate("format=JSON", Some("text/xml")),
        Ok(ListingFormat::Json)
    );
    assert_eq!(negotiate("format=rubbish", None), Ok(ListingFormat::Plain));
    assert_eq!(negotiate("", Some("*/*")), Ok(ListingFormat::Plain));
    assert_eq!(
        negotiate("", Some("application/json")),
        Ok(ListingFormat::Json)
    );
    let weighted = Some("text/plain;q=0.1, application/xml;q=0.9");
    assert_eq!(negotiate("", weighted), Ok(ListingFormat::Xml));
    assert_eq!(
        negotiate("", Some("image/png")),
        Err(ListingQueryError::NotAcceptable)
    );
}

#[test]
fn delimiters_fold_and_markers_go_on_where_a_page_ended() {
    let all = names(&["a", "b/1", "b/2", "c", "d//x", "d/y"]);
    assert_eq!(walk(&all, &query("delimiter=/")), ["a", "b/", "c", "d/"]);
    assert_eq!(walk(&all, &query("delimiter=/&marker=b/")), ["c", "d/"]);
    assert_eq!(walk(&all, &query("delimiter=/&prefix=b/")), ["b/1", "b/2"]);
    assert_eq!(walk(&all, &query("delimiter=//&prefix=d")), ["d//", "d/y"]);
    assert_eq!(walk(&all, &query("marker=a&end_marker=c")), ["b/1", "b/2"]);
    assert_eq!(walk(&all, &query("limit=0")), Vec::<String>::new());
    assert_eq!(walk(&all, &query("reverse=true&limit=2")), ["d/y", "d//x"]);
    assert_eq!(
        walk(&all, &query("reverse=true&delimiter=/")),
        ["d/", "c", "b/", "a"]
    );
    assert_eq!(
        walk(&all, &query("reverse=1&marker=c&end_marker=b/1")),
        ["b/2"]
    );
}

#[test]
fn a_path_lists_one_level_without_its_subdirectories() {
    let all = names(&["p", "p/", "p/a", "p/b/", "p/b/c", "q"]);
    assert_eq!(walk(&all, &query("path=p")), ["p/a", "p/b/"]);
    assert_eq!(walk(&all, &query("path=")), ["p", "p/", "q"]);
}

fn page() -> Listing<ObjectEntry> {
    let entry = ObjectEntry {
        name: "a<b>\"&\n".to_owned(),
        hash: Etag::EMPTY,
        bytes: 0,
        content_type: "text/plain".to_owned(),
        last_modified: "1000000000.5".parse().unwrap(),
        annotations: Metadata::default(),
    };
    Listing {
        entries: vec![
            ListingEntry::Item(entry),
            ListingEntry::Subdir("한/".to_owned()),
        ],
    }
}

#[test]
fn containers_are_listed_with_their_policy_where_it_is_known() {
    let entry = AccountEntry {
        name: "c".to_owned(),
        count: 2,
        bytes: 3,
        last_modified: "1000000000.5".parse().unwrap(),
        policy: None,
    };
    let page = |storage_policy: Option<&str>| Listing {
        entries: vec![ListingEntry::Item(AccountLine {
            entry: entry.clone(),
            storage_policy: storage_policy.map(str::to_owned),
        })],
    };
    let json = page(Some("gold\"")).render(ListingFormat::Json, ("account", "a"));
    assert_eq!(
        json,
        "[{\"name\": \"c\", \"count\": 2, \"bytes\": 3, \
         \"last_modified\": \"2001-09-09T01:46:40.500000\", \"storage_policy\": \"gold\\\"\"}]"
    );
    let xml = page(Some("gold")).render(ListingFormat::Xml, ("account", "a"));
    assert!(
        xml.contains("<storage_policy>gold</storage_policy></container>"),
        "{xml}"
    );
    let unknown = page(None).render(ListingFormat::Xml, ("account", "a"));
    assert!(!unknown.contains("policy"), "{unknown}");
}

#[test]
fn listings_are_written_in_three_forms() {
    assert_eq!(
        page().render(ListingFormat::Plain, ("container", "c")),
        "a<b>\"&\n\n한/\n"
    );
    assert_eq!(
        page().render(ListingFormat::Json, ("container", "c")),
        "[{\"bytes\": 0, \"hash\": \"d41d8cd98f00b204e9800998ecf8427e\", \
         \"name\": \"a\\u003cb\\u003e\\\"\\u0026\\n\", \"content_type\": \"text/plain\", \
         \"last_modified\": \"2001-09-09T01:46:40.500000\"}, {\"subdir\": \"한/\"}]"
    );
    let xml = page().render(ListingFormat::Xml, ("container", "c\"<"));
    assert!(xml.starts_with(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<container name=\"c&quot;&lt;\">"
    ));
    assert!(
        xml.contains("<name>a&lt;b&gt;&quot;&amp;&#10;</name>"),
        "{xml}"
    );
    assert!(
        xml.ends_with("<subdir name=\"한/\"><name>한/</name></subdir></container>"),
        "{xml}"
    );
}

#[test]
fn the_end_of_a_prefix_is_found() {
    assert_eq!(past_prefix(b"ab"), Some(b"ac".to_vec()));
    assert_eq!(past_prefix(b"a\xff"), Some(b"b".to_vec()));
    assert_eq!(past_prefix(b"\xff"), None);
    assert_eq!(past_prefix(b""), None);
}

/// Swift's rules over a whole sorted list, said as plainly as can be.
fn model(names: &BTreeSet<String>, query: &ListingQuery) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for name in names {
        let (after, before) = if query.reverse {
            (&query.end_marker, &query.marker)
        } else {
            (&query.marker, &query.end_marker)
        };
        let inside = (after.is_empty() || name > after) && (before.is_empty() || name < before);
        if !inside || !name.starts_with(&query.prefix) {
            continue;
        }
        let rest = &name[query.prefix.len()..];
        let line = match rest.find(&query.delimiter) {
            Some(at) if !query.delimiter.is_empty() => {
                name[..query.prefix.len() + at + query.delimiter.len()].to_owned()
            }
            Some(_) | None => name.clone(),
        };
        let folded =
            line != *name || (!query.delimiter.is_empty() && rest.contains(&query.delimiter));
        if !(folded && line == query.marker) && lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    if query.reverse {
        lines.reverse();
    }
    lines.truncate(query.limit);
    lines
}

proptest! {
    #[test]
    fn a_walk_lists_what_the_rules_say(
        names in proptest::collection::btree_set("[ab/]{1,5}", 0..20),
        marker in "[ab/]{0,3}", end_marker in "[ab/]{0,3}", prefix in "[ab/]{0,2}",
        delimiter in prop_oneof![Just(""), Just("/"), Just("a"), Just("//")],
        limit in 0usize..6, reverse in any::<bool>(),
    ) {
        let query = ListingQuery {
            limit, marker, end_marker, prefix, delimiter: delimiter.to_owned(), path: None, reverse,
            with_reserved: false,
        };
        prop_assert_eq!(walk(&names, &query), model(&names, &query));
    }

    #[test]
    fn pages_put_together_are_the_whole(
        names in proptest::collection::btree_set("[ab/]{1,5}", 0..20), limit in 1usize..4,
    ) {
        let whole = walk(&names, &query("delimiter=/"));
        let mut pages: Vec<String> = Vec::new();
        loop {
            let marker = pages.last().cloned().unwrap_or_default();
            let query = ListingQuery { limit, marker, delimiter: "/".to_owned(), ..ListingQuery::default() };
            let page = walk(&names, &query);
            if page.is_empty() {
                break;
            }
            pages.extend(page);
        }
        // A name that is itself a folded beginning is listed by its line and not a second time.
        pages.dedup();
        prop_assert_eq!(pages, whole);
    }

    #[test]
    fn no_query_makes_parsing_panic(raw in ".{0,200}") {
        drop(ListingQuery::parse(&raw, 10_000));
        drop(ListingFormat::negotiate(&raw, Some(&raw)));
    }
}

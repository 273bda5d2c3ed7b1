//! Tests of the metadata rules.

use super::*;
use proptest::prelude::*;

fn object(headers: &[(&str, &str)]) -> Result<Metadata, MetadataError> {
    Metadata::from_headers(
        headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes())),
    )
}

fn container(headers: &[(&str, &str)], stamp: &str) -> StampedMetadata {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()));
    StampedMetadata::from_headers(MetadataKind::Container, headers, stamp.parse().unwrap()).unwrap()
}

#[test]
fn an_object_keeps_its_own_headers_only() {
    let kept = object(&[
        ("X-Object-Meta-Jar", "brown"),
        ("Content-Encoding", "gzip"),
        ("X-Container-Meta-A", "b"),
        ("X-Backend-Timestamp", "1"),
        ("X-Auth-Token", "t"),
    ])
    .unwrap();
    let items: Vec<_> = kept.iter().collect();
    assert_eq!(
        items,
        [("content-encoding", "gzip"), ("x-object-meta-jar", "brown")]
    );
}

#[test]
fn limits_are_exact() {
    let long_name = format!("X-Object-Meta-{}", "n".repeat(128));
    assert!(object(&[(&long_name, "v")]).is_ok());
    let error = object(&[(&format!("{long_name}n"), "v")]).unwrap_err();
    assert!(matches!(error, MetadataError::NameTooLong { .. }));
    assert!(object(&[("X-Object-Meta-A", &"v".repeat(256))]).is_ok());
    let error = object(&[("X-Object-Meta-A", &"v".repeat(257))]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Metadata value longer than 256: x-object-meta-a"
    );
    assert_eq!(
        object(&[("X-Object-Meta-", "v")]),
        Err(MetadataError::EmptyName)
    );
    let names: Vec<String> = (0..91).map(|n| format!("X-Object-Meta-{n}")).collect();
    let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert!(object(&all[..90]).is_ok());
    assert_eq!(object(&all), Err(MetadataError::TooMany));
    let value = "v".repeat(254);
    let large: Vec<(&str, &str)> = names
        .iter()
        .skip(10)
        .take(17)
        .map(|name| (name.as_str(), value.as_str()))
        .collect();
    assert!(object(&large[..16]).is_ok());
    assert_eq!(object(&large), Err(MetadataError::TooLarge));
}

#[test]
fn values_that_are_no_utf8_come_back_as_they_were_but_control_characters_are_refused() {
    let raw = b"caf\xe9 \xff";
    let kept = Metadata::from_headers([("x-object-meta-a", &raw[..])]).unwrap();
    let value = kept.get("x-object-meta-a").unwrap();
    assert_eq!(&*value_bytes(value), raw);
    assert_eq!(&*value_bytes("한"), "한".as_bytes());
    for bad in [&b"a\xff\n"[..], b"a\x01", b"\x01\xff"] {
        let bad = Metadata::from_headers([("x-object-meta-a", bad)]);
        assert_eq!(bad, Err(MetadataError::NotUtf8));
    }
    let at = Timestamp::from_ticks(1).unwrap();
    let container = StampedMetadata::from_headers(
        MetadataKind::Container,
        [("x-container-meta-a", &raw[..])],
        at,
    );
    assert_eq!(container, Err(MetadataError::NotUtf8));
}
#[test]
fn a_container_item_is_set_and_removed_in_two_ways() {
    let mut all = container(
        &[
            ("X-Container-Meta-A", "1"),
            ("X-Container-Meta-B", "2"),
            ("X-Container-Read", ".r:*"),
        ],
        "1",
    );
    all.merge(&container(
        &[
            ("X-Container-Meta-A", ""),
            ("X-Remove-Container-Meta-B", "x"),
        ],
        "2",
    ));
    all.merge(&container(&[("X-Remove-Container-Read", "x")], "0.5"));
    let items: Vec<_> = all.iter().collect();
    assert_eq!(items, [("x-container-read", ".r:*")]);
    all.merge(&container(&[("X-Container-Meta-A", "older")], "1.5"));
    assert_eq!(all.get("x-container-meta-a"), None);
    all.reclaim("3".parse().unwrap());
    assert_eq!(all.stamped().count(), 1);
}

#[test]
fn the_sum_after_many_posts_is_limited() {
    let mut all = StampedMetadata::default();
    for n in 0..91 {
        let name = format!("X-Container-Meta-{n}");
        all.merge(&container(&[(&name, "v")], "1"));
    }
    assert_eq!(
        all.check(MetadataKind::Container),
        Err(MetadataError::TooMany)
    );
}

#[test]
fn removals_are_remembered_up_to_a_limit_the_newest_ones_and_those_of_acls() {
    let mut all = container(&[("X-Remove-Container-Read", "x")], "1");
    let removal = |n: usize| {
        let name = format!("X-Remove-Container-Meta-{n}");
        container(&[(&name, "x")], &format!("{}", n + 2))
    };
    let mut backwards = StampedMetadata::default();
    for n in 0..5 * META_REMOVED_MAX {
        all.merge(&removal(n));
        backwards.merge(&removal(5 * META_REMOVED_MAX - 1 - n));
    }
    assert_eq!(all.stamped().count(), META_REMOVED_MAX + 1);
    assert!(
        all.stamped()
            .any(|(name, item)| name == "x-container-read" && item.value.is_empty())
    );
    let newest = format!("x-container-meta-{}", 5 * META_REMOVED_MAX - 1);
    assert!(all.stamped().any(|(name, _)| name == newest));
    // Whatever the order they come in, replicas remember the same.
    backwards.merge(&container(&[("X-Remove-Container-Read", "x")], "1"));
    assert_eq!(backwards, all);
    // What is there is not counted among them.
    all.merge(&container(&[("X-Container-Meta-Jar", "brown")], "1"));
    assert_eq!(all.get("x-container-meta-jar"), Some("brown"));
}

fn stamped() -> impl Strategy<Value = StampedMetadata> {
    let item = ("[abc]", 0u64..4, "[xy]?");
    proptest::collection::vec(item, 0..6).prop_map(|items| {
        let mut all = StampedMetadata::default();
        for (name, tick, value) in items {
            let timestamp = Timestamp::from_ticks(tick).unwrap();
            all.insert(name, StampedValue { timestamp, value });
        }
        all
    })
}

fn merged(a: &StampedMetadata, b: &StampedMetadata) -> StampedMetadata {
    let mut sum = a.clone();
    sum.merge(b);
    sum
}

proptest! {
    #[test]
    fn merging_commutes_associates_and_repeats_harmlessly(
        a in stamped(), b in stamped(), c in stamped()
    ) {
        prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        prop_assert_eq!(merged(&a, &a), a);
    }
}

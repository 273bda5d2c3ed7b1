//! Newest wins, group by group (O2): how several devices' answers about one thing become one.
//!
//! Every merge here is commutative, associative and idempotent. Of two groups of one moment the greater value wins, so
//! that all who merge decide alike.

use onggi_object_model::{
    AccountEntry, AccountInfo, ContainerInfo, Listing, ListingEntry, ObjectEntry, ObjectInfo,
};
use std::cmp::Ordering;

fn newer<T: Ord>(ours: &T, theirs: &T) -> bool {
    theirs > ours
}

/// Takes into `ours` each group of `theirs` that wins: data, content type, metadata.
pub fn object_info(ours: &mut ObjectInfo, theirs: &ObjectInfo) {
    if newer(
        &(ours.data_timestamp, ours.length, ours.etag),
        &(theirs.data_timestamp, theirs.length, theirs.etag),
    ) {
        ours.data_timestamp = theirs.data_timestamp;
        ours.length = theirs.length;
        ours.etag = theirs.etag;
    }
    if newer(
        &(ours.content_type_timestamp, &ours.content_type),
        &(theirs.content_type_timestamp, &theirs.content_type),
    ) {
        ours.content_type_timestamp = theirs.content_type_timestamp;
        ours.content_type.clone_from(&theirs.content_type);
    }
    if newer(
        &(ours.metadata_timestamp, &ours.metadata),
        &(theirs.metadata_timestamp, &theirs.metadata),
    ) {
        ours.metadata_timestamp = theirs.metadata_timestamp;
        ours.metadata.clone_from(&theirs.metadata);
    }
}

/// Takes into `ours` what wins of `theirs`. Totals are counts a replica makes for itself: the larger is shown, since a
/// replica that lags has not heard of writes yet.
pub fn container_info(ours: &mut ContainerInfo, theirs: &ContainerInfo) {
    // The policy is that of the first who made it since it was deleted last: later ones are corrected to it.
    let deleted = ours.delete_timestamp.max(theirs.delete_timestamp);
    let made = |info: &ContainerInfo| (info.chosen() <= deleted, info.chosen(), info.policy);
    let told = |info: &ContainerInfo| (info.put_timestamp, info.policy_timestamp, info.policy);
    if told(ours) != told(theirs) {
        let (_, chosen, policy) = made(ours).min(made(theirs));
        (ours.policy, ours.policy_timestamp) = (policy, chosen);
    }
    ours.put_timestamp = ours.put_timestamp.max(theirs.put_timestamp);
    ours.delete_timestamp = ours.delete_timestamp.max(theirs.delete_timestamp);
    ours.object_count = ours.object_count.max(theirs.object_count);
    ours.bytes_used = ours.bytes_used.max(theirs.bytes_used);
    if ours.records != theirs.records {
        ours.records = None;
    }
    ours.metadata.merge(&theirs.metadata);
}

/// Takes into `ours` what wins of `theirs`; totals as in [`container_info`].
pub fn account_info(ours: &mut AccountInfo, theirs: &AccountInfo) {
    ours.put_timestamp = ours.put_timestamp.max(theirs.put_timestamp);
    ours.delete_timestamp = ours.delete_timestamp.max(theirs.delete_timestamp);
    ours.container_count = ours.container_count.max(theirs.container_count);
    ours.object_count = ours.object_count.max(theirs.object_count);
    ours.bytes_used = ours.bytes_used.max(theirs.bytes_used);
    ours.metadata.merge(&theirs.metadata);
}

/// A line that two replicas may both have, one of them older.
pub trait Versioned {
    /// The name it is sorted by.
    fn name(&self) -> &str;
    /// Which of two lines of one name wins: the greater.
    fn compare(&self, other: &Self) -> Ordering;
}

impl Versioned for ObjectEntry {
    fn name(&self) -> &str {
        &self.name
    }

    fn compare(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| (entry.last_modified, entry.hash, entry.bytes);
        key(self)
            .cmp(&key(other))
            .then_with(|| self.content_type.cmp(&other.content_type))
    }
}

impl Versioned for AccountEntry {
    fn name(&self) -> &str {
        &self.name
    }

    fn compare(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| (entry.last_modified, entry.count, entry.bytes, entry.policy);
        key(self).cmp(&key(other))
    }
}

/// One page made of several replicas' pages of the same query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedListing<T> {
    /// The lines any replica has, in order, cut to the limit.
    pub page: Listing<T>,
    /// Names that not every replica lists: one has not heard of a write, or of a deletion. Whoever must know asks the
    /// object itself.
    pub doubtful: Vec<String>,
}

/// Merges pages of one query.
#[must_use]
pub fn listings<T: Versioned>(
    pages: Vec<Listing<T>>,
    limit: usize,
    reverse: bool,
) -> MergedListing<T> {
    let replicas = pages.len();
    // A full page says nothing about names past its last.
    let known_to = |page: &Listing<T>| {
        (page.entries.len() >= limit)
            .then(|| last_name(page))
            .flatten()
    };
    let ends: Vec<Option<String>> = pages.iter().map(known_to).collect();
    let mut lines: Vec<ListingEntry<T>> = pages.into_iter().flat_map(|page| page.entries).collect();
    // The pages are in order already, and the sort takes such runs as they are.
    if reverse {
        lines.sort_by(|left, right| key(right).cmp(&key(left)));
    } else {
        lines.sort_by(|left, right| key(left).cmp(&key(right)));
    }
    // Each with how many pages have it.
    let mut ordered: Vec<(usize, ListingEntry<T>)> =
        Vec::with_capacity(lines.len() / replicas.max(1));
    for entry in lines {
        match ordered.last_mut() {
            Some((count, known)) if key(known) == key(&entry) => {
                *count += 1;
                if let (ListingEntry::Item(old), ListingEntry::Item(new)) = (&*known, &entry)
                    && old.compare(new) == Ordering::Less
                {
                    *known = entry;
                }
            }
            Some(_) | None => ordered.push((1, entry)),
        }
    }
    let past = |name: &str, end: &str| if reverse { name < end } else { name > end };
    let mut merged = MergedListing {
        page: Listing::default(),
        doubtful: Vec::new(),
    };
    for (count, entry) in ordered.into_iter().take(limit) {
        let (name, is_subdir) = key(&entry);
        let silent = ends.iter().flatten().filter(|end| past(name, end)).count();
        if !is_subdir && count + silent < replicas {
            merged.doubtful.push(name.to_owned());
        }
        merged.page.entries.push(entry);
    }
    merged
}

fn last_name<T: Versioned>(page: &Listing<T>) -> Option<String> {
    page.entries.last().map(|entry| key(entry).0.to_owned())
}

/// What lines are ordered by: the name, and an object before what begins like it.
fn key<T: Versioned>(entry: &ListingEntry<T>) -> (&str, bool) {
    match entry {
        ListingEntry::Item(item) => (item.name(), false),
        ListingEntry::Subdir(name) => (name, true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_units::Timestamp;
    use onggi_object_model::{Etag, Metadata, PolicyIndex};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(ticks: u64) -> Timestamp {
        Timestamp::from_ticks(ticks).unwrap()
    }

    fn entry(name: &str, ticks: u64) -> ListingEntry<ObjectEntry> {
        ListingEntry::Item(ObjectEntry {
            name: name.to_owned(),
            hash: Etag::EMPTY,
            bytes: ticks,
            content_type: String::new(),
            last_modified: at(ticks),
            annotations: Metadata::default(),
        })
    }

    fn page(lines: &[(&str, u64)]) -> Listing<ObjectEntry> {
        Listing {
            entries: lines
                .iter()
                .map(|(name, ticks)| entry(name, *ticks))
                .collect(),
        }
    }

    #[test]
    fn pages_merge_to_the_newest_lines_and_say_what_is_in_doubt() {
        let merged = listings(
            vec![page(&[("a", 1), ("b", 2)]), page(&[("a", 3), ("c", 1)])],
            10,
            false,
        );
        assert_eq!(merged.page, page(&[("a", 3), ("b", 2), ("c", 1)]));
        assert_eq!(merged.doubtful, ["b", "c"]);
    }

    #[test]
    fn a_full_page_is_no_witness_for_names_past_its_end() {
        let merged = listings(
            vec![page(&[("a", 1), ("b", 1)]), page(&[("a", 1), ("c", 1)])],
            2,
            false,
        );
        assert_eq!(merged.page, page(&[("a", 1), ("b", 1)]));
        assert_eq!(merged.doubtful, ["b"]);
        let merged = listings(vec![page(&[("a", 1)]), page(&[("b", 1)])], 1, false);
        assert_eq!(
            (merged.page, merged.doubtful),
            (page(&[("a", 1)]), vec!["a".to_owned()])
        );
        let reversed = listings(vec![page(&[("c", 1)]), page(&[("b", 1)])], 1, true);
        assert_eq!(reversed.page, page(&[("c", 1)]));
    }

    fn info() -> impl Strategy<Value = ObjectInfo> {
        (0u64..3, 0u64..3, 0u64..3, 0u64..3, "[ab]?", "[xy]?").prop_map(
            |(d, c, m, length, kind, jar)| {
                let mut metadata = Metadata::default();
                metadata.insert("x-object-meta-jar", jar);
                ObjectInfo {
                    data_timestamp: at(d),
                    content_type_timestamp: at(c),
                    metadata_timestamp: at(m),
                    length,
                    etag: Etag::EMPTY,
                    content_type: kind,
                    metadata,
                }
            },
        )
    }

    fn container() -> impl Strategy<Value = ContainerInfo> {
        (0u64..3, 0u64..3, 0u64..3, 0u64..3, 0u16..2).prop_map(
            |(put, chosen, delete, count, policy)| ContainerInfo {
                put_timestamp: at(put),
                policy_timestamp: at(chosen.min(put)),
                delete_timestamp: at(delete),
                object_count: count,
                policy: PolicyIndex::new(policy),
                records: count.checked_sub(1),
                ..ContainerInfo::default()
            },
        )
    }

    fn with<T: Clone>(merge: impl Fn(&mut T, &T), a: &T, b: &T) -> T {
        let mut sum = a.clone();
        merge(&mut sum, b);
        sum
    }

    proptest! {
        #[test]
        fn merging_object_infos_is_commutative_associative_idempotent(a in info(), b in info(), c in info()) {
            let merge = |a: &ObjectInfo, b: &ObjectInfo| with(object_info, a, b);
            prop_assert_eq!(merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
            prop_assert_eq!(merge(&a, &a), a);
        }

        #[test]
        fn merging_container_infos_is_commutative_and_idempotent(a in container(), b in container()) {
            let merge = |a: &ContainerInfo, b: &ContainerInfo| with(container_info, a, b);
            prop_assert_eq!(merge(&a, &b), merge(&b, &a));
            prop_assert_eq!(merge(&a, &a), a);
        }

        #[test]
        fn merging_pages_does_not_depend_on_their_order(
            a in proptest::collection::btree_map("[a-e]", 0u64..3, 0..5),
            b in proptest::collection::btree_map("[a-e]", 0u64..3, 0..5),
            limit in 1usize..6,
        ) {
            let page = |lines: &BTreeMap<String, u64>| {
                let mut page = Listing { entries: Vec::new() };
                page.entries.extend(lines.iter().take(limit).map(|(name, ticks)| entry(name, *ticks)));
                page
            };
            let one = listings(vec![page(&a), page(&b)], limit, false);
            let two = listings(vec![page(&b), page(&a)], limit, false);
            prop_assert_eq!(&one, &two);
            let mut union = a.clone();
            for (name, ticks) in &b {
                let known = union.entry(name.clone()).or_insert(0);
                *known = (*known).max(*ticks);
            }
            let names: Vec<&str> = one.page.names().collect();
            let expected: Vec<&str> = union.keys().map(String::as_str).take(limit).collect();
            prop_assert_eq!(names, expected);
        }
    }
}

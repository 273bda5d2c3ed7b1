//! Newest wins, group by group, in any order of arrival (O2).
//!
//! Each merge is commutative, associative and idempotent: of two groups of one moment the greater value wins (a deletion
//! before a body), so that every replica decides alike.

use crate::row::ObjectRow;
use onggi_common_units::Timestamp;
use onggi_object_model::{ContainerRecord, Etag, Metadata, ObjectRecord};

/// What a merge of rows took from the other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Taken {
    /// The bytes, or their deletion.
    pub data: bool,
    /// The content type.
    pub content_type: bool,
    /// The metadata.
    pub metadata: bool,
}

impl Taken {
    /// Whether anything was taken.
    #[must_use]
    pub const fn any(self) -> bool {
        self.data || self.content_type || self.metadata
    }
}

fn newer<T: Ord>(ours: T, theirs: T) -> bool {
    theirs > ours
}

/// Takes into `ours` each group of `theirs` that wins.
pub fn object_rows(ours: &mut ObjectRow, theirs: &ObjectRow) -> Taken {
    let taken = Taken {
        data: data_wins(ours, theirs),
        content_type: newer(
            (ours.content_type_timestamp, &ours.content_type),
            (theirs.content_type_timestamp, &theirs.content_type),
        ),
        metadata: newer(
            (ours.metadata_timestamp, &ours.metadata),
            (theirs.metadata_timestamp, &theirs.metadata),
        ),
    };
    if taken.data {
        ours.data_timestamp = theirs.data_timestamp;
        ours.body.clone_from(&theirs.body);
    }
    if taken.content_type {
        ours.content_type_timestamp = theirs.content_type_timestamp;
        ours.content_type.clone_from(&theirs.content_type);
    }
    if taken.metadata {
        ours.metadata_timestamp = theirs.metadata_timestamp;
        ours.metadata.clone_from(&theirs.metadata);
    }
    taken
}

/// Whether the bytes (or the deletion) of `theirs` win over ours.
#[must_use]
pub fn data_wins(ours: &ObjectRow, theirs: &ObjectRow) -> bool {
    let key = |row: &ObjectRow| (row.data_timestamp, row.body.is_none());
    newer((key(ours), &ours.body), (key(theirs), &theirs.body))
}

/// Takes into `ours` what wins of `theirs`, group by group. True when anything changed.
pub fn object_records(ours: &mut ObjectRecord, theirs: &ObjectRecord) -> bool {
    fn data(record: &ObjectRecord) -> (Timestamp, bool, u64, Etag, &Metadata) {
        (
            record.data_timestamp,
            record.deleted,
            record.length,
            record.etag,
            &record.annotations,
        )
    }
    let mut changed = false;
    if newer(data(ours), data(theirs)) {
        ours.data_timestamp = theirs.data_timestamp;
        ours.deleted = theirs.deleted;
        ours.length = theirs.length;
        ours.etag = theirs.etag;
        ours.annotations.clone_from(&theirs.annotations);
        changed = true;
    }
    if newer(
        (ours.content_type_timestamp, &ours.content_type),
        (theirs.content_type_timestamp, &theirs.content_type),
    ) {
        ours.content_type_timestamp = theirs.content_type_timestamp;
        ours.content_type.clone_from(&theirs.content_type);
        changed = true;
    }
    if theirs.metadata_timestamp > ours.metadata_timestamp {
        ours.metadata_timestamp = theirs.metadata_timestamp;
        changed = true;
    }
    changed
}

/// Takes into `ours` what wins of `theirs`. True when anything changed.
///
/// The totals and the policy come with the moment their container told them; of two such the later wins.
pub fn container_records(ours: &mut CountedContainer, theirs: &CountedContainer) -> bool {
    let before = ours.clone();
    let record = &mut ours.record;
    record.put_timestamp = record.put_timestamp.max(theirs.record.put_timestamp);
    record.delete_timestamp = record.delete_timestamp.max(theirs.record.delete_timestamp);
    let totals = |counted: &CountedContainer| {
        (
            counted.counted_at,
            counted.record.object_count,
            counted.record.bytes_used,
            counted.record.policy,
        )
    };
    if newer(totals(&before), totals(theirs)) {
        ours.counted_at = theirs.counted_at;
        ours.record.object_count = theirs.record.object_count;
        ours.record.bytes_used = theirs.record.bytes_used;
        ours.record.policy = theirs.record.policy;
    }
    *ours != before
}

/// A container's record in its account, with the moment its totals were counted.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountedContainer {
    /// The record.
    pub record: ContainerRecord,
    /// When its totals were counted.
    pub counted_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::tests::row;
    use proptest::prelude::*;

    fn merged(mut ours: ObjectRow, theirs: &ObjectRow) -> ObjectRow {
        object_rows(&mut ours, theirs);
        ours
    }

    proptest! {
        #[test]
        fn merging_rows_is_commutative_associative_and_idempotent(a in row(), b in row(), c in row()) {
            prop_assert_eq!(merged(a.clone(), &b), merged(b.clone(), &a));
            prop_assert_eq!(merged(merged(a.clone(), &b), &c), merged(a.clone(), &merged(b, &c)));
            prop_assert_eq!(merged(a.clone(), &a), a);
        }

        #[test]
        fn records_of_merged_rows_are_merged_records(a in row(), b in row()) {
            let mut record = a.record();
            object_records(&mut record, &b.record());
            let mut swapped = b.record();
            object_records(&mut swapped, &a.record());
            prop_assert_eq!(&record, &swapped);
            prop_assert!(!object_records(&mut record.clone(), &b.record()));
        }
    }
}

//! What follows from the rows: the index of dates, the totals of containers and accounts, and the digests. It is built anew when a device comes from a format
//! before, and when it is repaired.

use crate::digests::{self, Sum};
use crate::error::DeviceError;
use crate::expiry;
use crate::key::{ObjectKey, RosterKey, RosterKind, digest_key};
use crate::listing::Listed;
use crate::roster;
use crate::roster_row::RosterRow;
use crate::stored::StoredObject;
use crate::tables::{DIGEST, EXPIRY, OBJECT, RECORD, ROSTER};
use core::ops::ControlFlow;
use onggi_common_meta::local::{Batch, Durability, Order, Store};
use onggi_common_meta::table::{self, Record};
use onggi_common_meta::{KeyRange, TableName};
use onggi_object_model::ObjectRecord;
use onggi_object_wire::Slot;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::replication::Scope;
use std::collections::BTreeMap;

/// Index rows written in one batch.
const BATCH_ROWS: usize = 4_096;

/// The digests of all rows of a store, by their places.
pub(crate) type Sums = BTreeMap<(Scope, Slot, u16), Sum>;

/// What is called with the key and the row.
type Visitor<'a, R> = &'a mut dyn FnMut(&[u8], R) -> Result<(), DeviceError>;

/// Shows every row of a table, decoded.
pub(crate) fn visit<R: Record>(
    store: &dyn Store,
    table: TableName,
    visitor: Visitor<'_, R>,
) -> Result<(), DeviceError> {
    let mut failed = None;
    store.visit(
        table,
        &KeyRange::all(),
        Order::Ascending,
        &mut |key, value| {
            let shown = table::decode::<R>(value)
                .map_err(DeviceError::from)
                .and_then(|row| visitor(key, row));
            match shown {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        },
    )?;
    failed.map_or(Ok(()), Err)
}

fn count(sums: &mut Sums, place: (Scope, Slot, u16), digest: onggi_object_wire::Digest) {
    let sum = sums.entry(place).or_default();
    sum.digest += digest;
    sum.count = sum.count.saturating_add(1);
}

/// Counts an object in.
pub(crate) fn count_object(sums: &mut Sums, key: &ObjectKey, stored: &StoredObject) {
    let place = (Scope::Objects(key.policy), key.slot(), stored.day());
    count(sums, place, stored.digest(key));
}

/// Counts a container or account in.
pub(crate) fn count_roster(sums: &mut Sums, key: &RosterKey, row: &RosterRow) {
    for part in roster::parts(key, row) {
        let place = (key.kind.scope(), key.slot(), part.day);
        count(sums, place, part.digest);
    }
}

/// Counts the records of a roster anew.
fn recount<R: Listed>(
    store: &dyn Store,
    key: &RosterKey,
    row: &RosterRow,
) -> Result<RosterRow, DeviceError> {
    let mut counted = row.uncounted();
    let mut failed = None;
    let range = KeyRange::prefix(key.record_prefix());
    store.visit(
        RECORD,
        &range,
        Order::Ascending,
        &mut |_, value| match roster::decode_record::<R>(value) {
            Ok((record, _)) => {
                counted.count(&record, true);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    failed.map_or(Ok(counted), |error| Err(error.into()))
}

/// Builds the index of dates, all totals and all digests anew. Done twice it does the same; a crash in between leaves work to be done
/// again.
pub(crate) fn all(store: &dyn Store) -> Result<(), DeviceError> {
    let mut batch = Batch::new();
    batch.delete_range(EXPIRY, KeyRange::all());
    batch.delete_range(DIGEST, KeyRange::all());
    let mut sums = Sums::new();
    visit::<StoredObject>(store, OBJECT, &mut |key, stored| {
        let Some(key) = ObjectKey::from_bytes(key) else {
            return Ok(());
        };
        count_object(&mut sums, &key, &stored);
        expiry::stage(&mut batch, &key, None, Some(&stored));
        if batch.writes().len() >= BATCH_ROWS {
            let full = core::mem::take(&mut batch);
            store.write(&full, Durability::Lazy)?;
        }
        Ok(())
    })?;
    visit::<RosterRow>(store, ROSTER, &mut |key, row| {
        let Some(key) = RosterKey::from_bytes(key) else {
            return Ok(());
        };
        let row = match key.kind {
            RosterKind::Container => recount::<ObjectRecord>(store, &key, &row)?,
            RosterKind::Account => recount::<CountedContainer>(store, &key, &row)?,
        };
        count_roster(&mut sums, &key, &row);
        batch.put(ROSTER, key.bytes(), table::encode(&row));
        if batch.writes().len() >= BATCH_ROWS {
            let full = core::mem::take(&mut batch);
            store.write(&full, Durability::Lazy)?;
        }
        Ok(())
    })?;
    for ((scope, slot, day), sum) in &sums {
        batch.put(
            DIGEST,
            digest_key(*scope, *slot, *day),
            digests::encode(*sum),
        );
    }
    Ok(store.write(&batch, Durability::Synced)?)
}

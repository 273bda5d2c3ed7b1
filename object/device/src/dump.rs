//! A device at rest as text: for whoever wants to know what it holds.

use crate::check;
use crate::error::{DeviceError, OpenError};
use crate::key::{ObjectKey, RosterKey, RosterKind};
use crate::pending::{self, PendingObject};
use crate::rebuild;
use crate::roster::decode_record;
use crate::roster_row::RosterRow;
use crate::stored::StoredObject;
use crate::tables::{OBJECT, PENDING, RECORD, ROSTER};
use core::ops::ControlFlow;
use onggi_common_meta::local::{Order, Read, RocksStore};
use onggi_common_meta::{KeyRange, TableName};
use onggi_object_model::ObjectRecord;
use onggi_object_wire::codec::CodecError;
use onggi_object_wire::merge::CountedContainer;
use onggi_object_wire::rows::Record;
use std::path::Path;

/// Takes a line.
type Line<'a> = &'a mut dyn FnMut(String);

/// Shows each row of a device at rest as a line of text: objects, containers and accounts with their records, and what
/// others have still to be told.
///
/// # Errors
/// When the device is in use, is none, its store cannot be opened, or a row is damaged.
pub fn dump(directory: &Path, line: Line<'_>) -> Result<(), OpenError> {
    let store = check::open(directory)?.store;
    rebuild::visit::<StoredObject>(&store, OBJECT, &mut |key, stored| {
        let key =
            ObjectKey::from_bytes(key).map_or_else(|| format!("{key:02x?}"), |key| key.text());
        line(format!("object {key} {}", object(&stored)));
        Ok(())
    })?;
    rebuild::visit::<RosterRow>(&store, ROSTER, &mut |key, row| {
        roster(&store, key, &row, line)
    })?;
    each(
        &store,
        PENDING,
        &pending::objects(),
        pending::decode,
        &mut |pending: PendingObject| {
            let record = record(&pending.record);
            line(format!("untold container {}: {record}", pending.container));
        },
    )?;
    Ok(())
}

fn roster(
    store: &RocksStore,
    key: &[u8],
    row: &RosterRow,
    line: Line<'_>,
) -> Result<(), DeviceError> {
    let name = row.container.as_ref().map_or_else(
        || format!("account {}", row.account),
        |container| format!("container {}/{container}", row.account),
    );
    line(format!(
        "{name} {} put {} deleted {} records {} objects {} bytes {}",
        state(row.exists()),
        row.put_timestamp,
        row.delete_timestamp,
        row.live_count,
        row.object_count,
        row.bytes_used
    ));
    let Some(key) = RosterKey::from_bytes(key) else {
        return Ok(());
    };
    let range = KeyRange::prefix(key.record_prefix());
    match key.kind {
        RosterKind::Container => each(
            store,
            RECORD,
            &range,
            |_, value| decode_record::<ObjectRecord>(value),
            &mut |(listed, _): (ObjectRecord, u64)| {
                line(format!("in {name}: {}", record(&listed)));
            },
        ),
        RosterKind::Account => each(
            store,
            RECORD,
            &range,
            |_, value| decode_record::<CountedContainer>(value),
            &mut |(listed, _): (CountedContainer, u64)| {
                line(format!(
                    "in {name}: {} {}",
                    listed.name(),
                    state(listed.is_live())
                ));
            },
        ),
    }
}

/// Shows the rows of a range, decoded.
fn each<T>(
    store: &RocksStore,
    table: TableName,
    range: &KeyRange,
    decode: impl Fn(&[u8], &[u8]) -> Result<T, CodecError>,
    visitor: &mut dyn FnMut(T),
) -> Result<(), DeviceError> {
    let mut failed = None;
    store.visit(
        table,
        range,
        Order::Ascending,
        &mut |key, value| match decode(key, value) {
            Ok(row) => {
                visitor(row);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

const fn state(is_there: bool) -> &'static str {
    if is_there { "there" } else { "deleted" }
}

fn object(stored: &StoredObject) -> String {
    let row = &stored.row;
    let what = row.body.as_ref().map_or_else(
        || "deleted".to_owned(),
        |body| {
            format!(
                "{} bytes, ETag {}, {:?}",
                body.length, body.etag, stored.location
            )
        },
    );
    format!(
        "{} {} {} {} {what}",
        row.path, row.data_timestamp, row.content_type_timestamp, row.metadata_timestamp
    )
}

fn record(record: &ObjectRecord) -> String {
    format!(
        "{} {} {} {} {}",
        record.name,
        record.data_timestamp,
        record.content_type_timestamp,
        record.metadata_timestamp,
        state(!record.deleted)
    )
}

//! What merging a row into the one that is there makes of it.

use crate::error::DeviceError;
use crate::stored::{Location, StoredObject};
use onggi_object_wire::ObjectRow;
use onggi_object_wire::merge::{self, Taken};

/// What is to be written, and what is left to do afterwards.
pub(crate) struct Plan {
    pub(crate) next: StoredObject,
    pub(crate) taken: Taken,
    /// The small body to write with the row.
    pub(crate) small: Option<Vec<u8>>,
    /// The file the old row named, if it does so no more.
    pub(crate) left_file: Option<String>,
    /// Whether the old row's small body has to go.
    pub(crate) drop_small: bool,
}

/// What merging a row into the old one makes of it; `None` when nothing changes.
pub(crate) fn plan(
    old: Option<&StoredObject>,
    row: ObjectRow,
    file_name: Option<&str>,
    small: Option<Vec<u8>>,
    is_post: bool,
) -> Result<Option<Plan>, DeviceError> {
    let Some(old) = old else {
        let taken = Taken {
            data: true,
            content_type: true,
            metadata: true,
        };
        let location = new_location(&row, file_name, small.is_some())?;
        let next = StoredObject { row, location };
        return Ok(Some(Plan {
            next,
            taken,
            small,
            left_file: None,
            drop_small: false,
        }));
    };
    let mut merged = old.row.clone();
    let mut taken = merge::object_rows(&mut merged, &row);
    // A quarantined copy takes the same bytes again: that is how it heals.
    let heals = old.location == Location::Quarantined
        && row.body.is_some()
        && row.body == merged.body
        && (file_name.is_some() || small.is_some());
    taken.data |= heals;
    if !taken.any() || (is_post && !taken.metadata) {
        return Ok(None);
    }
    if !taken.data {
        let next = StoredObject {
            row: merged,
            location: old.location.clone(),
        };
        let (left_file, drop_small) = (None, false);
        return Ok(Some(Plan {
            next,
            taken,
            small: None,
            left_file,
            drop_small,
        }));
    }
    let location = new_location(&merged, file_name, small.is_some())?;
    let left_file = match &old.location {
        Location::File(name) => Some(name.clone()),
        Location::Inline | Location::Nowhere | Location::Quarantined => None,
    };
    let drop_small = old.location == Location::Inline;
    let next = StoredObject {
        row: merged,
        location,
    };
    Ok(Some(Plan {
        next,
        taken,
        small,
        left_file,
        drop_small,
    }))
}

fn new_location(
    row: &ObjectRow,
    file_name: Option<&str>,
    is_small: bool,
) -> Result<Location, DeviceError> {
    match (&row.body, file_name) {
        (None, _) => Ok(Location::Nowhere),
        (Some(_), Some(name)) => Ok(Location::File(name.to_owned())),
        (Some(_), None) if is_small => Ok(Location::Inline),
        (Some(body), None) => Err(DeviceError::BodyMissing {
            length: body.length,
        }),
    }
}

//! A device's directory.
//!
//! | name | what |
//! |---|---|
//! | `DEVICE` | the device's id and the version of all this; written last when a device is made |
//! | `store/` | RocksDB |
//! | `bodies/00` … `bodies/ff` | large bodies, by the first byte of their path hash |
//! | `incoming/` | bodies on their way, where the file system has no unnamed files |
//! | `quarantine/` | bodies that failed their checksums |
//!
//! Beside the directory stands `<name>.id` with the same id: it remembers that a device belongs there, so that an empty
//! mount point is not taken for a new one.

use crate::error::{OpenError, open_at};
use crate::rebuild;
use onggi_common_host::Entropy;
use onggi_common_host::durable::{self, Visibility};
use onggi_common_meta::local::Store;
use onggi_common_meta::table::{self, PayloadError, Record};
use onggi_common_units::Uuid;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const MARKER: &str = "DEVICE";
pub(crate) const STORE: &str = "store";
pub(crate) const BODIES: &str = "bodies";
pub(crate) const INCOMING: &str = "incoming";
pub(crate) const QUARANTINE: &str = "quarantine";

/// The format of a device without an index of dates.
const BEFORE_EXPIRY: u16 = 1;
/// The format of a device whose containers and accounts count what was deleted together with what is there.
const BEFORE_TRACES: u16 = 2;

/// What the marker says. The version of its row is the format of the whole device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    /// The device's id.
    pub id: Uuid,
    /// The format the device is in.
    #[serde(skip)]
    pub format: u16,
}

impl Record for Marker {
    const NAME: &'static str = "device marker";
    const VERSION: u16 = 3;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        table::to_json(self, payload);
    }

    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
        match version {
            BEFORE_EXPIRY | BEFORE_TRACES | Self::VERSION => {
                let marker: Self = table::from_json(payload)?;
                Ok(Some(Self {
                    format: version,
                    ..marker
                }))
            }
            _ => Ok(None),
        }
    }
}

fn read_marker(path: &Path) -> Result<Option<Marker>, OpenError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(open_at("reading", path)(error)),
    };
    let marker = table::decode(&bytes);
    marker.map(Some).map_err(|source| OpenError::Marker {
        path: path.to_owned(),
        source,
    })
}

/// The file beside a device's directory that remembers its id.
#[must_use]
pub fn id_file(directory: &Path) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(".id");
    directory.with_file_name(name)
}

/// Makes sure that the expected device is in the directory, making a new one where none was ever. The store is opened
/// by `open_store` before a new device is marked as made: a marked device without a store has lost it.
pub(crate) fn prepare<S, E>(
    directory: &Path,
    entropy: &dyn Entropy,
    open_store: impl FnOnce(&Path) -> Result<S, E>,
) -> Result<(Marker, S), OpenError>
where
    OpenError: From<E>,
{
    let id_file = id_file(directory);
    let marker = find(directory, &id_file)?;
    let store_path = directory.join(STORE);
    match marker {
        Some(_) if !store_path.is_dir() => Err(OpenError::StoreLost {
            directory: directory.to_owned(),
        }),
        Some(marker) => Ok((marker, open_store(&store_path)?)),
        None => {
            make_directories(directory)?;
            let store = open_store(&store_path)?;
            let marker = Marker {
                id: entropy.uuid(),
                format: Marker::VERSION,
            };
            durable::replace(
                &directory.join(MARKER),
                &table::encode(&marker),
                Visibility::World,
            )?;
            remember(&id_file, &marker)?;
            Ok((marker, store))
        }
    }
}

impl Marker {
    /// The format this program makes.
    pub(crate) const CURRENT: u16 = <Self as Record>::VERSION;
}

/// Brings a device's store to the format of this program and says so in its marker. Programs before it refuse the device
/// from then on.
pub(crate) fn upgrade(
    directory: &Path,
    marker: &Marker,
    store: &dyn Store,
) -> Result<(), OpenError> {
    if marker.format >= Marker::VERSION {
        return Ok(());
    }
    tracing::info!(directory = %directory.display(), from = marker.format, to = Marker::VERSION, "bringing the device to a newer format");
    rebuild::all(store)?;
    Ok(durable::replace(
        &directory.join(MARKER),
        &table::encode(marker),
        Visibility::World,
    )?)
}

pub(crate) fn find(directory: &Path, id_file: &Path) -> Result<Option<Marker>, OpenError> {
    let expected = read_marker(id_file)?;
    let found = read_marker(&directory.join(MARKER))?;
    match (expected, found) {
        (Some(expected), Some(found)) if expected.id == found.id => Ok(Some(found)),
        (Some(expected), Some(found)) => Err(OpenError::OtherDevice {
            directory: directory.to_owned(),
            found: found.id.to_string(),
            expected: expected.id.to_string(),
        }),
        (Some(_), None) => {
            let id_file = id_file.to_owned();
            Err(OpenError::NotMounted {
                directory: directory.to_owned(),
                id_file,
            })
        }
        (None, Some(found)) => {
            remember(id_file, &found)?;
            Ok(Some(found))
        }
        (None, None) => Ok(None),
    }
}

fn remember(path: &Path, marker: &Marker) -> Result<(), OpenError> {
    Ok(durable::replace(
        path,
        &table::encode(marker),
        Visibility::World,
    )?)
}

fn make_directories(directory: &Path) -> Result<(), OpenError> {
    durable::create_dir_all(directory)?;
    let entries = std::fs::read_dir(directory).map_err(open_at("reading", directory))?;
    for entry in entries {
        let name = entry.map_err(open_at("reading", directory))?.file_name();
        // What a making that was cut short leaves is ours; a file system's own directory is nobody's.
        let ours = [STORE, BODIES, INCOMING, QUARANTINE, "lost+found"];
        let is_ours = ours.iter().any(|ours| name == *ours);
        let is_temporary =
            name.to_string_lossy().starts_with(MARKER) || name.to_string_lossy().starts_with('.');
        if !is_ours && !is_temporary {
            return Err(OpenError::NotEmpty {
                directory: directory.to_owned(),
            });
        }
    }
    for first in 0..=u8::MAX {
        let shelf = directory.join(BODIES).join(format!("{first:02x}"));
        std::fs::create_dir_all(&shelf).map_err(open_at("making", &shelf))?;
    }
    durable::sync_dir(&directory.join(BODIES))?;
    durable::create_dir_all(&directory.join(INCOMING))?;
    Ok(durable::create_dir_all(&directory.join(QUARANTINE))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use onggi_common_host::SystemEntropy;
    use onggi_common_host::durable::DurableError;

    fn prepare(directory: &Path) -> Result<Marker, OpenError> {
        let store = |path: &Path| durable::create_dir_all(path);
        super::prepare::<(), DurableError>(directory, &SystemEntropy, store)
            .map(|(marker, ())| marker)
    }

    #[test]
    fn a_marked_device_without_a_store_has_lost_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d1");
        prepare(&path).unwrap();
        std::fs::remove_dir(path.join(STORE)).unwrap();
        assert!(matches!(prepare(&path), Err(OpenError::StoreLost { .. })));
    }

    #[test]
    fn a_device_is_made_once_and_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d1");
        let made = prepare(&path).unwrap();
        assert_eq!(prepare(&path).unwrap(), made);
        std::fs::remove_file(id_file(&path)).unwrap();
        assert_eq!(prepare(&path).unwrap(), made);
    }

    #[test]
    fn a_marker_keeps_its_golden_bytes_in_each_format() {
        let id: Uuid = "6f6e6767-6900-4000-8000-000000000001".parse().unwrap();
        let marker = |format| Marker { id, format };
        for (format, golden) in [
            (1, include_str!("../golden/device-marker-1.hex")),
            (2, include_str!("../golden/device-marker-2.hex")),
            (3, include_str!("../golden/device-marker-3.hex")),
        ] {
            let bytes: Vec<u8> = golden
                .trim()
                .as_bytes()
                .chunks(2)
                .map(|pair| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect();
            assert_eq!(table::decode::<Marker>(&bytes).unwrap(), marker(format));
            if format == Marker::VERSION {
                assert_eq!(table::encode(&marker(format)), bytes);
            }
        }
    }

    #[test]
    fn an_empty_mount_point_and_another_device_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("d1"), dir.path().join("d2"));
        prepare(&one).unwrap();
        prepare(&two).unwrap();
        let kept = std::fs::read(one.join(MARKER)).unwrap();
        std::fs::remove_file(one.join(MARKER)).unwrap();
        assert!(matches!(prepare(&one), Err(OpenError::NotMounted { .. })));
        std::fs::copy(two.join(MARKER), one.join(MARKER)).unwrap();
        assert!(matches!(prepare(&one), Err(OpenError::OtherDevice { .. })));
        durable::replace(&one.join(MARKER), &kept[1..], Visibility::World).unwrap();
        assert!(matches!(prepare(&one), Err(OpenError::Marker { .. })));
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d1");
        durable::create_dir_all(&path.join("photos")).unwrap();
        assert!(matches!(prepare(&path), Err(OpenError::NotEmpty { .. })));
    }
}

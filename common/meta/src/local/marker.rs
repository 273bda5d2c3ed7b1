//! The marker beside a store's files: what says that there is a store here.

use crate::error::{ADVICE_DAMAGED, OpenError};
use crate::table::{self, DecodeError, PayloadError, Record};
use onggi_common_host::durable::{self, Visibility};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

/// The marker's name.
pub(super) const MARKER_FILE: &str = "FORMAT";
/// The directory of the engine's own files.
pub(super) const DB_DIR: &str = "db";

/// How far the store has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// It is being made and has acknowledged nothing yet.
    Making,
    /// It has been open.
    Ready,
}

/// What the marker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    pub(super) phase: Phase,
    pub(super) tables: BTreeSet<String>,
}

impl Record for Marker {
    const NAME: &'static str = "store marker";
    const VERSION: u16 = 1;

    fn encode_payload(&self, payload: &mut Vec<u8>) {
        table::to_json(self, payload);
    }

    fn decode_payload(version: u16, payload: &[u8]) -> Result<Option<Self>, PayloadError> {
        if version != Self::VERSION {
            return Ok(None);
        }
        table::from_json(payload).map(Some)
    }
}

impl Marker {
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, OpenError> {
        let file = directory.join(MARKER_FILE);
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let store = directory.to_owned();
                return Err(OpenError::Machine {
                    operation: "reading the marker of",
                    store,
                    source: error.into(),
                });
            }
        };
        match table::decode(&bytes) {
            Ok(marker) => Ok(Some(marker)),
            Err(DecodeError::UnknownVersion { version, known, .. }) => Err(OpenError::TooNew {
                file,
                found: version.into(),
                known: known.into(),
            }),
            Err(error) => Err(OpenError::Damaged {
                store: directory.to_owned(),
                file,
                detail: error.to_string(),
                advice: ADVICE_DAMAGED,
                source: Some(error.into()),
            }),
        }
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), OpenError> {
        let path = directory.join(MARKER_FILE);
        durable::replace(&path, &table::encode(self), Visibility::World).map_err(|source| {
            OpenError::Machine {
                operation: "writing the marker of",
                store: directory.to_owned(),
                source: source.into(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../../golden/marker.v1");

    #[test]
    fn version_1_markers_are_still_read_and_still_written_the_same() {
        let tables = ["log", "rows"].map(str::to_owned).into();
        let marker = Marker {
            phase: Phase::Ready,
            tables,
        };
        assert_eq!(table::decode::<Marker>(GOLDEN).unwrap(), marker);
        assert_eq!(table::encode(&marker), GOLDEN);
    }

    #[test]
    fn a_marker_of_a_newer_program_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = GOLDEN.to_vec();
        bytes[1] = 9;
        bytes.truncate(bytes.len() - 4);
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        durable::replace(&dir.path().join(MARKER_FILE), &bytes, Visibility::World).unwrap();
        let error = Marker::read(dir.path()).unwrap_err();
        assert!(
            matches!(
                error,
                OpenError::TooNew {
                    found: 9,
                    known: 1,
                    ..
                }
            ),
            "{error}"
        );
    }
}
